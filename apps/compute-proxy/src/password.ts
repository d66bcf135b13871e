/** The password of the bootstrap superuser, as the control plane sets it: one that arrives late replaces none that is newer. */
import { refuse } from '@understory/base'
import type { Compute } from './compute.ts'
import { setVerifier } from './sql.ts'

export class PasswordSetter {
  /** Of the newest password that this process was given. */
  #generation = 0n

  /** Resolves once a quorum has the change. Errors: refused `stale`, `bad_argument`, `unavailable`. */
  async set(compute: Compute, verifier: string, generation: bigint, signal: AbortSignal): Promise<void> {
    const target = compute.sqlTarget()
    if (generation < this.#generation)
      throw refuse('stale', `password ${generation} is older than ${this.#generation}`)
    this.#generation = generation
    await compute.waitForCommit(await setVerifier(target, verifier), signal)
  }
}
