/** What a quorum tells whoever measures it. Called on the way of every commit, so each call is cheap and never throws. */
import type { Lsn } from '@understory/base'
import type { ElectionKind } from '@understory/consensus'

export interface QuorumObserver {
  /** A message of WAL came from Postgres; what is handed in next is it. */
  received(): void
  /** WAL of `bytes` bytes was handed in; it ends at `endLsn`. */
  pushed(endLsn: Lsn, bytes: number): void
  /** WAL up to `endLsn` leaves for a safekeeper: the trace context that goes with it, empty mostly. */
  sending(to: string, endLsn: Lsn): string
  acknowledged(from: string, flushLsn: Lsn, nowMs: number): void
  /** A quorum has more than before; whoever waits is told now. */
  decided(): void
  /** They were told. */
  committed(lsn: Lsn): void
  elected(term: number, kind: ElectionKind, startLsn: Lsn): void
  /** Whom it speaks to, from its beginning on. */
  begins(members: readonly string[]): void
  membershipChanged(members: readonly string[]): void
  /** Unless it was closed by its own compute. */
  lost(reason: 'fenced' | 'superseded' | 'staleMembership' | 'noContact'): void
}
