/** The password of the bootstrap superuser, as the control plane sets it: one that arrives late replaces none that is newer. */
import { refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Compute } from './compute.ts'
import { setVerifier } from './sql.ts'

export class PasswordSetter {
  /** Of the newest password that this process has set. */
  #generation = 0n
  #last: Promise<unknown> = Promise.resolve()

  /** Resolves once a quorum has the change. Errors: refused `stale`, `bad_argument`, `unavailable`. */
  async set(compute: Compute, verifier: string, generation: bigint, signal: AbortSignal): Promise<void> {
    // In turn: two at once could be committed in the other order.
    const turn = this.#last.then(() => this.#set(compute, verifier, generation))
    this.#last = turn.catch(() => undefined)
    await compute.waitForCommit(await turn, signal)
  }

  async #set(compute: Compute, verifier: string, generation: bigint): Promise<Lsn> {
    if (generation < this.#generation)
      throw refuse('stale', `password ${generation} is older than ${this.#generation}`)
    const lsn = await setVerifier(compute.sqlTarget(), verifier)
    this.#generation = generation
    return lsn
  }
}
