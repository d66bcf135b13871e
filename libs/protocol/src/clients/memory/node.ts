/**
 * The base of all nodes in memory: they may be away, and each call takes a turn of the event loop, as a network does.
 */
import { fail } from '@understory/base'
import type { CallOptions } from '@understory/rpc'

export class MemoryNode {
  /** While it is, every call to it is refused `unavailable`. */
  isAway = false
  /** Set, it is what every call to it fails with. */
  failure: Error | undefined
  /** Names of the calls that came, in their order. */
  readonly calls: string[] = []
  readonly #name: string

  constructor(name: string) {
    this.#name = name
  }

  protected async reach(call: string, options: CallOptions | undefined): Promise<void> {
    await Promise.resolve()
    options?.signal?.throwIfAborted()
    if (this.isAway) throw fail('unavailable', `${this.#name} does not answer`)
    this.calls.push(call)
    if (this.failure !== undefined) throw this.failure
  }

  /** It stays: other clients may be connected to it. */
  close(): void {}
}
