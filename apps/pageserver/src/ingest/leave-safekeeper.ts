/**
 * When a shard leaves the safekeeper that it follows. A process that lives and answers says nothing of its WAL: its
 * disk may have failed, it may be at a quota, or the network between it and the compute may be cut. What the other
 * members have committed shows it.
 */
import { maxLsn } from '@understory/base'
import type { Lsn } from '@understory/base'

/** A safekeeper may be so long without WAL that another one has committed: many times what news of a commit take. */
export const BEHIND_MS_MAX = 3_000
/** Nothing may arrive for so long though WAL is committed: decoding one record takes less. */
export const SILENT_MS_MAX = 20_000

export interface Followed {
  /** What it is known to have committed. */
  readonly commitLsn: Lsn
  /** End of what it sent. */
  readonly receivedLsn: Lsn
  /** Since when its next batch is waited for; undefined while the shard itself is busy. */
  readonly waitsSinceMs: number | undefined
}

/** Where another member stood that the followed one has not reached, and since when. */
export interface Lag {
  readonly goalLsn: Lsn
  readonly sinceMs: number
}

export type Judgement =
  | { readonly kind: 'stay'; readonly lag: Lag | undefined }
  | { readonly kind: 'leave'; readonly reason: 'behind' | 'silent' }

/**
 * `otherLsns` is what the other members have committed, as far as they answered; `lag` comes from the judgement before.
 */
export function judgeSafekeeper(
  followed: Followed,
  otherLsns: readonly Lsn[],
  lag: Lag | undefined,
  nowMs: number,
): Judgement {
  const { commitLsn, receivedLsn, waitsSinceMs } = followed
  const furthestLsn = otherLsns.reduce(maxLsn, commitLsn)
  // A safekeeper that moves but is always behind reaches the old goal in time, and gets a new one.
  const isReached = lag === undefined || commitLsn >= lag.goalLsn
  if (!isReached && nowMs - lag.sinceMs >= BEHIND_MS_MAX) return { kind: 'leave', reason: 'behind' }
  const isSilent = waitsSinceMs !== undefined && nowMs - waitsSinceMs >= SILENT_MS_MAX
  if (isSilent && commitLsn > receivedLsn) return { kind: 'leave', reason: 'silent' }
  if (!isReached) return { kind: 'stay', lag }
  return {
    kind: 'stay',
    lag: furthestLsn > commitLsn ? { goalLsn: furthestLsn, sinceMs: nowMs } : undefined,
  }
}
