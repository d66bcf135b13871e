/** Owns a shard's index on the local disk: one change at a time, visible once it is durable. */
import { Mailbox } from '@understory/actor'
import type { IndexPart } from '@understory/storage'
import type { ShardFiles } from './shard-files.ts'

type IndexChange = Partial<Omit<IndexPart, 'owner'>>

export class LocalIndex {
  readonly #files: ShardFiles
  readonly #changes: Mailbox
  #current: IndexPart

  constructor(files: ShardFiles, index: IndexPart, changes: Mailbox) {
    this.#files = files
    this.#current = index
    this.#changes = changes
  }

  get current(): IndexPart {
    return this.#current
  }

  /** Runs `work` while no other caller changes the index; its own calls change it, durably. */
  run<T>(work: (change: (change: IndexChange) => Promise<void>) => Promise<T>): Promise<T> {
    return this.#changes.run(() => work((change) => this.#write({ ...this.#current, ...change })))
  }
  async #write(index: IndexPart): Promise<void> {
    await this.#files.writeIndex(index)
    this.#current = index
  }

  /** Resolves once no change is under way. */
  idle(): Promise<void> {
    return this.#changes.idle()
  }
}
