/** One shard's WAL from one safekeeper: a subscription as its follower sees it. */
import { Signal } from '@understory/actor'
import type { Lsn } from '@understory/base'
import type { LayerOwner } from '@understory/storage'
import type { WalBatch } from './fragments.ts'

/** The positions of a shard that are reported to the safekeeper. */
export interface ShardPositions {
  readonly ingestedLsn: Lsn
  readonly remoteConsistentLsn: Lsn
}

export interface ShardRequest {
  readonly owner: LayerOwner
  /** As of now. */
  readonly positions: () => ShardPositions
  /** As of `ingestedLsn`: which SLRU pages a commit changes depends on it. */
  readonly trackCommitTimestamp: boolean
  /** Something came, be it a part of a batch. */
  readonly onMessage: () => void
}

export interface ShardSource {
  /** In order. Ends with an error only, which says why; leaving the loop ends the subscription. */
  readonly batches: AsyncGenerator<WalBatch, void, void>
  /** The shard has news of its positions. */
  report(): void
}

/** Credit: batches that may be under way, two at full speed. A bound on memory for each shard. */
export const WINDOW_BYTES = 2n * 1024n * 1024n

/** Batches that came and were not taken. */
export class BatchQueue {
  readonly #batches: WalBatch[] = []
  readonly #changes = new Signal()
  #failure: Error | undefined

  push(batch: WalBatch): void {
    this.#batches.push(batch)
    this.#changes.notify()
  }

  /** Batches that came before are still returned. */
  fail(error: Error): void {
    this.#failure ??= error
    this.#changes.notify()
  }

  /** Nothing more is given. */
  cancel(error: Error): void {
    this.#batches.length = 0
    this.#failure = error
    this.#changes.notify()
  }

  async *batches(): AsyncGenerator<WalBatch, void, void> {
    for (;;) {
      await this.#changes.until(() => this.#batches.length > 0 || this.#failure !== undefined)
      const next = this.#batches.shift()
      if (next !== undefined) yield next
      else if (this.#failure !== undefined) throw this.#failure
    }
  }
}
