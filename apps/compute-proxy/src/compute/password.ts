/**
 * The password of the bootstrap superuser, as the control plane sets it: one that arrives late replaces none that is
 * newer.
 */
import { Mailbox } from '@understory/actor'
import { fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { parseScramVerifier } from '@understory/protocol'
import type { Compute } from './compute.ts'
import { setVerifier } from '../postgres/sql.ts'

export class PasswordSetter {
  /** Of the newest password that this process has set. */
  #generation = 0n
  readonly #changes = new Mailbox({ name: 'password' })

  /** Resolves once a quorum has the change. Errors: `stale`, `bad_argument`, `unavailable`. */
  async set(compute: Compute, verifier: string, generation: bigint, signal: AbortSignal): Promise<void> {
    parseScramVerifier(verifier)
    // In turn: two at once could be committed in the other order.
    const lsn = await this.#changes.run(() => this.#set(compute, verifier, generation))
    await compute.waitForCommit(lsn, signal)
  }

  async #set(compute: Compute, verifier: string, generation: bigint): Promise<Lsn> {
    if (generation < this.#generation)
      throw fail('stale', `password ${generation} is older than ${this.#generation}`)
    const lsn = await setVerifier(compute.sqlTarget(), verifier)
    this.#generation = generation
    return lsn
  }
}
