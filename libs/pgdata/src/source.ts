/** Where the parts of a data directory come from: the shards' pageservers and the timeline's safekeepers. */
import { assert, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import { isRetryable, realClock, realRng, retry } from '@understory/env'
import type { Clock, Rng } from '@understory/env'
import type { WalIdentity } from '@understory/postgres/wal'
import type { ShardRef, TimelineRef } from '@understory/rpc'

/** What a timeline's Postgres is. */
export interface PostgresOfPgdata {
  readonly major: 16 | 17 | 18
  readonly systemId: bigint
  readonly pgTimelineId: number
  readonly walSegmentBytes: number
}

export interface PgdataSource {
  readonly timeline: TimelineRef
  readonly postgres: PostgresOfPgdata
  /** Address of each shard's pageserver, by shard number. */
  readonly pageservers: readonly string[]
  readonly stripeBlocks: number
  /** Any of which may be down. */
  readonly safekeepers: readonly string[]
  /** How long storage may take to get to the LSN, and safekeepers to answer; 120,000 by default. */
  readonly patienceMs?: number
  readonly signal?: AbortSignal | undefined
  /** The real ones by default. */
  readonly seams?: { readonly clock: Clock; readonly rng: Rng }
}

const PATIENCE_DEFAULT_MS = 120_000

export const seamsOf = ({ seams }: PgdataSource): { readonly clock: Clock; readonly rng: Rng } =>
  seams ?? { clock: realClock, rng: realRng }

export function shardRefOf({ pageservers, stripeBlocks }: PgdataSource, number: number): ShardRef {
  return { number, count: pageservers.length, stripeBlocks }
}

export const walIdentityOf = ({ postgres }: PgdataSource): WalIdentity => ({
  major: postgres.major,
  systemId: postgres.systemId,
  timelineId: postgres.pgTimelineId,
  segmentBytes: postgres.walSegmentBytes,
})

/** Tries again while what stands in the way passes by itself: a shard that is behind, a node that starts again. */
export async function patiently<T>(
  source: PgdataSource,
  work: () => Promise<T>,
  mayRetry: (error: unknown) => boolean = isRetryable,
): Promise<T> {
  const seams = seamsOf(source)
  const untilMs = seams.clock.nowMs() + (source.patienceMs ?? PATIENCE_DEFAULT_MS)
  const isRetryableYet = (error: unknown): boolean => mayRetry(error) && seams.clock.nowMs() < untilMs
  const options = {
    attemptsMax: Infinity,
    pauseMsMax: 1_000,
    isRetryable: isRetryableYet,
    signal: source.signal,
  }
  return retry(seams, options, work)
}

export function checkSource(source: PgdataSource, at: Lsn): void {
  assert(source.pageservers.length > 0, () => 'a timeline has at least one shard')
  if (source.safekeepers.length === 0)
    throw refuse('bad_argument', 'no safekeeper is known for this timeline')
  if (at === 0) throw refuse('bad_lsn', 'lsn 0/0 is no position in WAL')
}
