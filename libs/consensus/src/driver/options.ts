/** The parts that a driver is given, and its callbacks. */
import type { Lsn } from '@understory/base'
import type { Clock, Log, Rng } from '@understory/env'
import type { ElectionKind } from '../messages.ts'
import type { ProposerOptions } from '../proposer-state.ts'
import type { DriverLimits } from './limits.ts'
import type { KnownMembership } from './membership.ts'
import type { DriverObserver } from './observer.ts'
import type { Transport } from './transport.ts'

export interface DriverOptions {
  readonly transport: Transport
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  /** Runs `work` after the caller has handed in all that it has at hand: such as `process.nextTick`. */
  readonly defer: (work: () => void) => void
  /** Which safekeepers count, until `changeMembership`. */
  readonly membership: KnownMembership
  readonly timelineStartLsn: Lsn
  /** The term under which a Postgres that still lives was streamed. */
  readonly livingTerm: number | undefined
  /** Answers whether the living Postgres's WAL up to `endLsn` is what the donor, an address, has. */
  readonly compareLocalWal?: ((donor: string, term: number, endLsn: Lsn) => Promise<boolean>) | undefined
  /**
   * The highest term that this compute has ever asked for; undefined where it does not know. A safekeeper that has seen
   * a higher one was asked by another compute since: this one has a successor and does not run against it.
   */
  readonly ownTerm: number | undefined
  /** Makes a term durable as its own before any safekeeper is asked for it. */
  readonly rememberTerm: (term: number) => void
  /** Without an answer from a majority for so long, the lead counts as lost. */
  readonly contactTimeoutMs: number
  /** Undefined where nothing is measured. */
  readonly observer?: DriverObserver | undefined
  readonly limits?: Partial<DriverLimits>
  /** Limits of the rules; their own where it is left out. */
  readonly rules?: Pick<ProposerOptions, 'appendBytesMax' | 'inFlightBytesMax' | 'keptBytesMax'>
}

export interface Election {
  readonly term: number
  /** Where history ends and this term begins. */
  readonly startLsn: Lsn
  readonly kind: ElectionKind
}
