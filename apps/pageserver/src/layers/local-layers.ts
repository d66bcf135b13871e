/** Owns the layers of a shard that are open, each with a file on the local disk or without one. */
import type { Semaphore } from '@understory/actor'
import { isErrorCode } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import { openLayer } from '@understory/storage'
import type { BlockCache, LayerEntry, LayerFile, LayerOwner } from '@understory/storage'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'
import { CachedLayer } from './cached-layer.ts'
import type { LayerPurpose } from './layer-room.ts'
import type { ObjectChunks } from './object-chunks.ts'
import type { RemoteIndex } from './remote-index.ts'
import type { ShardFiles } from './shard-files.ts'

export interface LocalLayersParts {
  readonly log: Log
  readonly clock: Clock
  readonly files: ShardFiles
  readonly cache: BlockCache
  readonly chunks: ObjectChunks
  readonly fetchTurns: Semaphore
  readonly owner: LayerOwner
  readonly remote: RemoteIndex
  readonly isInStore: (name: string) => boolean
  readonly readObject: (read: () => Promise<Uint8Array>) => Promise<Uint8Array>
  /** A layer came from the object store, so that it is there. */
  readonly onFetched: (name: string) => void
  readonly observer?: ShardObserver | undefined
}

export class LocalLayers {
  readonly #parts: LocalLayersParts
  readonly #layers = new Map<string, CachedLayer>()

  constructor(parts: LocalLayersParts) {
    this.#parts = parts
  }

  /** Durable when it returns. Errors: those of the disk. */
  async write(entry: LayerEntry, bytes: Uint8Array, purpose: LayerPurpose): Promise<LayerFile> {
    let layer: CachedLayer | undefined
    const written = (): void => void (layer = this.#add(entry, true))
    await this.#parts.files.writeLayer(entry, purpose, () => bytes, written)
    return this.#openFile(layer as unknown as CachedLayer)
  }

  /** Errors: `bad_file` where neither the file nor the object is whole; those of the disk and the object store. */
  async open(entry: LayerEntry): Promise<LayerFile> {
    const hasFile = (await this.#parts.files.layerSize(entry.name)) !== undefined
    return this.#openFile(this.#add(entry, hasFile))
  }

  /**
   * All of them have files until the function that is returned is called. Errors: those of the disk and the store;
   * `cancelled` after `cancel`.
   */
  async pin(entries: readonly LayerEntry[]): Promise<() => void> {
    const pins: (() => void)[] = []
    const release = (): void => {
      for (const unpin of pins.splice(0)) unpin()
    }
    try {
      for (const { name } of entries) {
        const layer = this.#layers.get(name)
        if (layer !== undefined) pins.push(await layer.pin())
      }
    } catch (error) {
      release()
      throw error
    }
    return release
  }

  /** Closes the layer and removes its file. */
  async remove(name: string): Promise<void> {
    await this.#close(name)
    await this.#parts.files.removeLayer(name)
  }
  /** Ends what waits for the object store; `close` follows. */
  cancel(): void {
    for (const layer of this.#layers.values()) layer.cancel()
  }
  /** Closes all; the files stay. */
  async close(): Promise<void> {
    await Promise.all([...this.#layers.keys()].map((name) => this.#close(name)))
  }
  async #close(name: string): Promise<void> {
    const layer = this.#layers.get(name)
    this.#layers.delete(name)
    await layer?.close()
  }

  #add(entry: LayerEntry, hasFile: boolean): CachedLayer {
    const { fetchTurns, onFetched } = this.#parts
    const fetch = async (work: () => Promise<void>, stop: AbortSignal): Promise<void> => {
      await fetchTurns.run(work, stop)
      onFetched(entry.name)
    }
    const layer = new CachedLayer({ ...this.#parts, fetch }, entry, hasFile)
    this.#layers.set(entry.name, layer)
    return layer
  }
  async #openFile(layer: CachedLayer): Promise<LayerFile> {
    const { owner, cache } = this.#parts
    try {
      return await openLayer(layer, owner, cache)
    } catch (error) {
      if (!isErrorCode(error, 'bad_file')) throw error
      await layer.renew(error)
      return openLayer(layer, owner, cache)
    }
  }
}
