/**
 * The events that a driver reports to be measured. Called on the way of every commit, so each call is cheap and never
 * throws.
 */
import type { Lsn } from '@understory/base'
import type { ElectionKind } from '../messages.ts'
import type { ProposerInput, ProposerState } from '../proposer-state.ts'

export interface DriverObserver {
  /** A message of WAL came from Postgres; what is handed in next is it. */
  received(): void
  /** WAL of `bytes` bytes was handed in; it ends at `endLsn`. */
  pushed(endLsn: Lsn, bytes: number): void
  /** WAL up to `endLsn` leaves for a safekeeper: the trace context that goes with it, mostly empty. */
  sending(to: string, endLsn: Lsn): string
  acknowledged(from: string, flushLsn: Lsn, nowMs: number): void
  /** A quorum has more than before; the waiters are notified now. */
  decided(): void
  /** The waiters have been notified. */
  committed(lsn: Lsn): void
  elected(term: number, kind: ElectionKind, startLsn: Lsn): void
  /** The members that it speaks to at first. */
  begins(members: readonly string[]): void
  membershipChanged(members: readonly string[]): void
  /** Not after `close`. */
  lost(reason: 'fenced' | 'superseded' | 'staleMembership' | 'noContact'): void
  /** The rules have taken one input. */
  stepped?(before: ProposerState, input: ProposerInput, after: ProposerState): void
}
