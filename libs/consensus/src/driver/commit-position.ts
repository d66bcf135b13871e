/** How far a quorum has the log, and those who wait for it. */
import type { Lsn } from '@understory/base'

export class CommitPosition {
  readonly #listeners = new Set<(lsn: Lsn) => void>()
  #lsn = 0 as Lsn

  /** 0/0 before this term committed anything. */
  get lsn(): Lsn {
    return this.#lsn
  }

  advance(lsn: Lsn): void {
    this.#lsn = lsn
    for (const listener of this.#listeners) listener(lsn)
  }

  /** Called with each new position; returns how to stop that. */
  listen(listener: (lsn: Lsn) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Resolves when `lsn` is reached; rejects as soon as `lost` does. */
  async reach(lsn: Lsn, lost: Promise<never>): Promise<void> {
    if (this.#lsn >= lsn) return
    const reached = Promise.withResolvers<void>()
    const stopListening = this.listen((at) => {
      if (at >= lsn) reached.resolve()
    })
    try {
      await Promise.race([reached.promise, lost])
    } finally {
      stopListening()
    }
  }
}
