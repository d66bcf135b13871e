/**
 * The candidacies of one compute, one after the other: what it knows of terms and of the safekeepers that count goes
 * from each to the next.
 */
import type { Lsn } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { initialMembership, readMembership } from '@understory/protocol'
import type { CheckedSpec, KnownMembership } from '@understory/protocol'
import type { ClientContext } from '@understory/rpc'
import type { ComputeObserver } from '../telemetry/compute-observer.ts'
import { WalProposer } from '../wal-proposer/wal-proposer.ts'
import type { WalProposerOptions } from '../wal-proposer/wal-proposer.ts'

export interface CandidateParts {
  readonly rpc: ClientContext
  readonly nodeId: string
  readonly contactTimeoutMs: number
  readonly observer: ComputeObserver | undefined
  readonly clock: Clock
  readonly log: Log
  /** The highest term that this compute has asked for; 0 before the first. */
  readonly ownTerm: number
  /** Durable when it returns. */
  readonly rememberTerm: (term: number) => void
}

/** A Postgres that lives, streamed under `livingTerm`, and how its WAL is compared. */
export type LivingPostgres = Pick<WalProposerOptions, 'compareLocalWal'> & { readonly livingTerm: number }

export class Candidates {
  readonly #parts: CandidateParts
  #spec: CheckedSpec
  #ownTerm: number | undefined
  /** The candidate, or the leader of the session. */
  #current: WalProposer | undefined
  /** As a safekeeper announced it, where that is newer than the spec's. */
  #announcedMembership: KnownMembership | undefined

  constructor(parts: CandidateParts, spec: CheckedSpec) {
    this.#parts = parts
    this.#spec = spec
    this.#ownTerm = parts.ownTerm === 0 ? undefined : parts.ownTerm
  }

  get membershipGeneration(): number {
    return this.#current?.membershipGeneration ?? this.#newestMembership().generation
  }

  updateSpec(spec: CheckedSpec): void {
    this.#spec = spec
    this.#current?.changeMembership(this.#newestMembership())
  }

  /** The caller closes it. */
  stand(postgres: PostgresIdentity, timelineStartLsn: Lsn, living?: LivingPostgres): WalProposer {
    const { rememberTerm, ownTerm: _, ...parts } = this.#parts
    const proposer = new WalProposer({
      ...parts,
      timeline: this.#spec.timeline,
      postgres,
      membership: this.#newestMembership(),
      timelineStartLsn,
      ...(living ?? { livingTerm: undefined }),
      ownTerm: this.#ownTerm,
      rememberTerm: (term) => {
        this.#ownTerm = term
        rememberTerm(term)
      },
    })
    this.#current = proposer
    void proposer.lost.then((loss) => {
      if (loss.kind === 'staleMembership')
        this.#announcedMembership = loss.membership ?? this.#announcedMembership
      if (this.#current === proposer) this.#current = undefined
    })
    return proposer
  }

  #newestMembership(): KnownMembership {
    const { membership, safekeepers } = this.#spec
    const requested = membership === undefined ? initialMembership(safekeepers) : readMembership(membership)
    const announced = this.#announcedMembership
    return announced !== undefined && announced.generation > requested.generation ? announced : requested
  }
}
