/**
 * Owns a shard's layer files on the local disk: writes and opens them, and fetches one that is missing or damaged from
 * the object store.
 */
import type { Semaphore } from '@understory/actor'
import { isErrorCode, fail } from '@understory/base'
import type { UnderstoryError } from '@understory/base'
import type { Log } from '@understory/env'
import { openLayer } from '@understory/storage'
import type { BlockCache, LayerEntry, LayerFile, LayerOwner, LayerSource } from '@understory/storage'
import type { RemoteIndex } from './remote-index.ts'
import type { ShardFiles } from './shard-files.ts'

export interface LocalLayersParts {
  readonly log: Log
  readonly files: ShardFiles
  readonly cache: BlockCache
  readonly fetchTurns: Semaphore
  readonly owner: LayerOwner
  readonly remote: RemoteIndex
  /** A layer came from the object store, so that it is there. */
  readonly onFetched: (name: string) => void
}

export class LocalLayers {
  readonly #parts: LocalLayersParts

  constructor(parts: LocalLayersParts) {
    this.#parts = parts
  }

  /**
   * Durable when it returns. Errors: those of the disk; `disk_full` also where less than `keepFreeBytes` would be
   * left.
   */
  async write(entry: LayerEntry, bytes: Uint8Array, keepFreeBytes?: number): Promise<LayerFile> {
    await this.#parts.files.writeLayer(entry.name, bytes, keepFreeBytes)
    return this.open(entry)
  }

  /** Errors: `bad_file` where neither the file nor the object is whole; those of the disk and the object store. */
  async open(entry: LayerEntry): Promise<LayerFile> {
    const { files, cache, owner } = this.#parts
    if ((await files.layerSize(entry.name)) === undefined) await this.#fetch(entry)
    let renewed: Promise<void> | undefined
    const source: LayerSource = {
      ...files.layerSource(entry),
      renew: (damage) =>
        (renewed ??= this.#fetchAgain(entry, damage).catch((error: unknown) => {
          // An object store or a disk that was in the way may not be next time.
          if (!isErrorCode(error, 'bad_file')) renewed = undefined
          throw error
        })),
    }
    try {
      return await openLayer(source, owner, cache)
    } catch (error) {
      if (!isErrorCode(error, 'bad_file')) throw error
      await source.renew?.(error)
      return openLayer(source, owner, cache)
    }
  }

  async #fetch(entry: LayerEntry): Promise<void> {
    const { files, fetchTurns, remote, onFetched } = this.#parts
    await fetchTurns.run(async () => files.writeLayer(entry.name, await remote.getLayer(entry)))
    onFetched(entry.name)
  }

  /** In place of a damaged file: once each time the layer is opened. Error: the damage, where the object has it too. */
  async #fetchAgain(entry: LayerEntry, damage: UnderstoryError): Promise<void> {
    try {
      await this.#fetch(entry)
    } catch (error) {
      if (!isErrorCode(error, 'bad_file')) throw error
      const { message, hint } = damage
      throw fail('bad_file', message, {
        detail: error.message,
        ...(hint === undefined ? {} : { hint }),
        cause: error,
      })
    }
    this.#parts.log.warn('layer_fetched_again', { layer: entry.name, error: damage })
  }
}
