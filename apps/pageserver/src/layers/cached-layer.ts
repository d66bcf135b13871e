/**
 * The bytes of one layer: of its file while it has one here, or of its object. A file whose layer is in the store may
 * be evicted at any time; a layer whose object is read often gets a file again, where there is room.
 *
 *   file --evicted, or lost--> object --read often, or merged--> file
 */
import { isErrorCode, fail } from '@understory/base'
import type { UnderstoryError } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import type { LayerEntry, LayerSource } from '@understory/storage'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'
import type { LayerFetchReason } from '../telemetry/metrics.ts'
import { orAborted } from './until-aborted.ts'
import type { EvictableFile, LayerPurpose } from './layer-room.ts'
import type { ObjectChunks } from './object-chunks.ts'
import { missingLayer } from './remote-index.ts'
import type { RemoteIndex } from './remote-index.ts'
import type { ShardFiles } from './shard-files.ts'

/** Requests for parts of the object after which it is worth a file. */
const HOT_REQUESTS_COUNT = 8

export interface CachedLayerParts {
  readonly log: Log
  readonly clock: Clock
  readonly files: ShardFiles
  readonly remote: RemoteIndex
  readonly chunks: ObjectChunks
  /** Whether the index in the object store lists the layer. */
  readonly isInStore: (name: string) => boolean
  /** Does it when there is memory for a whole layer. Error: `cancelled` where `stop` fires before. */
  readonly fetch: (fetch: () => Promise<void>, stop: AbortSignal) => Promise<void>
  /** Does what reads a part of the object, as often as the state of the shard needs. */
  readonly readObject: (read: () => Promise<Uint8Array>) => Promise<Uint8Array>
  readonly observer?: ShardObserver | undefined
}

export class CachedLayer implements LayerSource, EvictableFile {
  readonly #parts: CachedLayerParts
  readonly #entry: LayerEntry
  usedAtMs: number
  #hasFile = false
  #pinsCount = 0
  #requestsCount = 0
  readonly #stop = new AbortController()
  /** The fetch that is under way. */
  #fetching: Promise<void> | undefined
  #renewed: Promise<void> | undefined

  constructor(parts: CachedLayerParts, entry: LayerEntry, hasFile: boolean) {
    this.#parts = parts
    this.#entry = entry
    this.usedAtMs = parts.clock.nowMs()
    if (hasFile) this.#noteFile()
  }

  get name(): string {
    return this.#hasFile ? this.#parts.files.layerPath(this.#entry.name) : this.#key
  }
  get sizeBytes(): number {
    return this.#entry.sizeBytes
  }
  get mayBeEvicted(): boolean {
    return this.#hasFile && this.#pinsCount === 0 && this.#parts.isInStore(this.#entry.name)
  }

  /** Errors: those of the disk and the object store; `bad_file` where the object is gone or cut short. */
  async read(offset: number, lengthBytes: number): Promise<Uint8Array> {
    const { clock, files } = this.#parts
    this.usedAtMs = clock.nowMs()
    if (this.#hasFile) {
      try {
        return await files.readLayerPart(this.#entry.name, offset, lengthBytes)
      } catch (error) {
        if (!isErrorCode(error, 'not_found')) throw error
        this.#forgetFile()
      }
    }
    return this.#parts.readObject(() => this.#readObject(offset, lengthBytes))
  }
  async #readObject(offset: number, lengthBytes: number): Promise<Uint8Array> {
    const { chunks, observer } = this.#parts
    const key = this.#key
    const onRead = (): void => {
      observer?.layerPartRead()
      if (++this.#requestsCount % HOT_REQUESTS_COUNT === 0) this.#fetchHot()
    }
    try {
      const reading = chunks.read(key, this.sizeBytes, offset, lengthBytes, onRead)
      return await orAborted(reading, this.#stop.signal, notRead)
    } catch (error) {
      if (!isErrorCode(error, 'not_found') && !isErrorCode(error, 'out_of_range')) throw error
      throw missingLayer(key, error)
    }
  }
  get #key(): string {
    return this.#parts.remote.layerKey(this.#entry.name)
  }

  /**
   * In place of a damaged file comes the object, once for each time the layer is opened; a damaged part of an object
   * is read again. Errors: the damage, where the object has it too; those of the disk and the store.
   */
  async renew(damage: UnderstoryError): Promise<void> {
    if (!this.#hasFile) {
      this.#parts.chunks.drop(this.#key)
      return
    }
    const renewed = (this.#renewed ??= this.#fetchAgain(damage))
    try {
      await renewed
    } catch (error) {
      // An object store or a disk that was in the way may not be next time.
      if (!isErrorCode(error, 'bad_file')) this.#renewed = undefined
      throw error
    }
  }

  /** There is a file, and there will be until the function that is returned is called. */
  async pin(): Promise<() => void> {
    this.#pinsCount++
    try {
      // A copy that is under way may find no room where a merge does.
      if (!this.#hasFile) await this.#fetching?.catch(() => undefined)
      if (!this.#hasFile) await this.#fetch('merge', 'merge')
    } catch (error) {
      this.#pinsCount--
      throw error
    }
    return () => void this.#pinsCount--
  }

  async evict(): Promise<void> {
    this.#forgetFile()
    try {
      await this.#parts.files.removeLayer(this.#entry.name)
    } catch (error) {
      this.#noteFile()
      throw error
    }
    this.#parts.observer?.layerEvicted()
  }
  /** Ends reads of the object, with `unavailable`, and fetches. */
  cancel(): void {
    this.#stop.abort()
  }
  /** It is not read here any more: its file stays as it is. Resolves once no fetch is under way. */
  async close(): Promise<void> {
    this.cancel()
    await this.#fetching?.catch(() => undefined)
    this.#parts.files.room.remove(this)
  }

  #noteFile(): void {
    this.#hasFile = true
    this.#parts.files.room.add(this)
  }
  #forgetFile(): void {
    this.#hasFile = false
    this.#parts.files.room.remove(this)
  }

  #fetchHot(): void {
    if (this.#stop.signal.aborted) return
    this.#fetch('hot', 'copy').catch((error: unknown) => {
      // Without room it stays where it is.
      if (isErrorCode(error, 'disk_full') || isErrorCode(error, 'cancelled')) return
      this.#parts.log.warn('layer_not_fetched', { layer: this.#entry.name, error })
    })
  }

  #fetch(reason: LayerFetchReason, purpose: LayerPurpose): Promise<void> {
    this.#fetching ??= this.#fetchWhole(reason, purpose).finally(() => (this.#fetching = undefined))
    return this.#fetching
  }
  async #fetchWhole(reason: LayerFetchReason, purpose: LayerPurpose): Promise<void> {
    const { files, remote, observer, fetch } = this.#parts
    const { signal } = this.#stop
    await fetch(async () => {
      await files.writeLayer(
        this.#entry,
        purpose,
        () => remote.getLayer(this.#entry, signal),
        () => this.#noteFile(),
      )
    }, signal)
    observer?.layerFetched(reason)
  }

  async #fetchAgain(damage: UnderstoryError): Promise<void> {
    const { log } = this.#parts
    const layer = this.#entry.name
    try {
      await this.#fetch('damaged', 'merge')
    } catch (error) {
      if (isErrorCode(error, 'disk_full') && this.mayBeEvicted) {
        // The object is read as long as there is no room for a file.
        log.warn('damaged_layer_removed', { layer, error: damage })
        return this.evict()
      }
      if (!isErrorCode(error, 'bad_file')) throw error
      const { message, hint } = damage
      throw fail('bad_file', message, {
        detail: error.message,
        ...(hint === undefined ? {} : { hint }),
        cause: error,
      })
    }
    log.warn('layer_fetched_again', { layer, error: damage })
  }
}

const notRead = (): Error =>
  fail('unavailable', 'the shard is not read here any more', { hint: 'Ask again.' })
