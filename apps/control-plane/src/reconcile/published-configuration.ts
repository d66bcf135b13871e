/** The stored configuration of one timeline's compute, read once: nothing but its reconciler writes it. */
import type { Configuration } from '@understory/rpc'
import type { ConfigurationStore } from '../documents/configuration-store.ts'

export class PublishedConfiguration {
  readonly #store: ConfigurationStore
  readonly #timelineId: string
  #known: { readonly configuration: Configuration | undefined } | undefined

  constructor(store: ConfigurationStore, timelineId: string) {
    this.#store = store
    this.#timelineId = timelineId
  }

  /** Undefined where nothing was published. Errors: `bad_file`. */
  async read(): Promise<Configuration | undefined> {
    this.#known ??= { configuration: await this.#store.read(this.#timelineId) }
    return this.#known.configuration
  }

  /** Stores it unless something newer is there; returns what is there then. */
  async publish(configuration: Configuration): Promise<Configuration> {
    const published = await this.#store.publish(this.#timelineId, configuration)
    this.#known = { configuration: published }
    return published
  }
}
