/**
 * Owns the order in which layers become durable: a frozen layer becomes a file (local-layers.ts), then a line of the
 * local index (local-index.ts), then an object, then a line of the index in the object store (layer-uploads.ts). Each
 * step begins when the one before is durable; locally and remotely at most one of each is under way. Runs beside
 * ingest, which waits only when too many frozen layers have piled up. What the local disk refuses is tried again, in
 * order: no layer is listed before one that holds older WAL.
 */
import { Mailbox } from '@understory/actor'
import type { Semaphore } from '@understory/actor'
import { assert, maxLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Env } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import { LAYER_KIND_DELTA, LAYER_KIND_IMAGE, layerName, writeOpenLayer } from '@understory/storage'
import type {
  BlockCache,
  IndexPart,
  Layer,
  LayerEntry,
  LayerFile,
  LayerKind,
  OpenLayer,
  WrittenLayer,
} from '@understory/storage'
import type { MailboxName } from '../telemetry/metrics.ts'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'
import { LayerUploads } from './layer-uploads.ts'
import { LocalIndex } from './local-index.ts'
import { LocalLayers } from './local-layers.ts'
import type { LayerPurpose } from './layer-room.ts'
import type { ObjectChunks } from './object-chunks.ts'
import { RemoteIndex } from './remote-index.ts'
import type { ShardFiles } from './shard-files.ts'
import type { Stalls } from './stalls.ts'

export interface LayerStoreParts {
  readonly env: Env
  readonly files: ShardFiles
  readonly store: ObjectStore
  readonly cache: BlockCache
  readonly chunks: ObjectChunks
  readonly fetchTurns: Semaphore
  readonly stalls: Stalls
  readonly observer?: ShardObserver | undefined
}

type IndexChange = Partial<Omit<IndexPart, 'owner' | 'layers' | 'nextSequence' | 'retiredLayers'>>

interface LsnRange {
  readonly lsnMin: Lsn
  readonly lsnMax: Lsn
}
export interface StoredLayer {
  readonly entry: LayerEntry
  readonly file: LayerFile
}

export class LayerStore {
  readonly uploads: LayerUploads
  readonly #files: ShardFiles
  readonly #stalls: Stalls
  readonly #index: LocalIndex
  readonly #layers: LocalLayers
  /** Layers of ingest, and positions without one: one behind the other, each until it succeeds. */
  readonly #writes: Mailbox
  /** What ended them: an index that listed a later layer would have a gap. */
  #gap: Error | undefined
  /** The files that were opened, with their lines of the index. */
  readonly #entries = new WeakMap<Layer, LayerEntry>()
  /** Number of the last layer that was begun: its name is its own though no index lists it. */
  #lastSequence: number
  #isLoading = false

  constructor(parts: LayerStoreParts, index: IndexPart) {
    const { env, files, store, cache, chunks, fetchTurns, observer } = parts
    const { owner } = index
    const mailbox = (name: MailboxName): Mailbox =>
      new Mailbox({ name, ...observer?.watchMailbox(name, env.clock) })
    const remote = new RemoteIndex(store, owner)
    this.#files = files
    this.#stalls = parts.stalls
    this.#index = new LocalIndex(files, index, mailbox('index'))
    this.uploads = new LayerUploads({ env, files, index: this.#index, remote, observer }, mailbox('uploads'))
    const onFetched = (name: string): void => this.uploads.noteLayer(name)
    this.#layers = new LocalLayers({
      log: env.log,
      clock: env.clock,
      files,
      cache,
      chunks,
      fetchTurns,
      owner,
      remote,
      isInStore: (name) => this.uploads.isInStore(name),
      readObject: (read) => (this.#isLoading ? parts.stalls.retry('layer read', read) : read()),
      onFetched,
      observer,
    })
    this.#writes = mailbox('layers')
    this.#lastSequence = index.nextSequence - 1
  }

  get index(): IndexPart {
    return this.#index.current
  }
  get sizeBytes(): number {
    return this.index.layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  }

  /**
   * Runs the work that makes the shard readable: reads of the object store are tried again until they succeed. Error:
   * `cancelled` after `cancel`.
   */
  async loading(load: () => Promise<void>): Promise<void> {
    this.#isLoading = true
    try {
      await load()
    } finally {
      this.#isLoading = false
    }
  }
  /** Opens every layer, oldest first; one without a file is read from the object store. */
  async openAll(): Promise<LayerFile[]> {
    const layers: LayerFile[] = []
    for (const entry of this.index.layers) {
      const file = await this.#layers.open(entry)
      this.#entries.set(file, entry)
      layers.push(file)
    }
    return layers
  }
  /** The layer's line of the index; undefined where it has none yet. */
  entryOf(layer: Layer): LayerEntry | undefined {
    return this.#entries.get(layer)
  }

  /** Changes the index, durably on the local disk. */
  changeIndex(change: IndexChange | ((index: IndexPart) => IndexChange)): Promise<void> {
    return this.#index.run(async (write) => write(typeof change === 'function' ? change(this.index) : change))
  }

  /** For a shard whose import begins again. */
  forgetLayers(): Promise<void> {
    return this.#index.run(async (change) => {
      await change({ layers: [] })
      await this.#layers.close()
      await this.#files.removeOrphans(this.index)
    })
  }

  /**
   * Writes a frozen layer of ingest after which everything before `consistentLsn` is in layers; gives its file. Tried
   * again until it succeeds. Error: `cancelled` after `stop`.
   */
  write(layer: OpenLayer, consistentLsn: Lsn): Promise<LayerFile> {
    return this.#inOrder(async () => {
      const encoded = await this.#encode(layer, LAYER_KIND_DELTA)
      const stored = await this.#stalls.retry('layer write', () => this.#store(encoded, encoded, 'ingest'))
      await this.#stalls.retry('index write', () => this.#list(stored, consistentLsn))
      return stored.file
    })
  }
  /** The same for WAL that had no value for this shard. */
  noteConsistent(consistentLsn: Lsn): Promise<void> {
    return this.#inOrder(() => this.#stalls.retry('index write', () => this.changeIndex({ consistentLsn })))
  }
  #inOrder<T>(write: () => Promise<T>): Promise<T> {
    return this.#writes.run(async () => {
      if (this.#gap !== undefined) throw this.#gap
      try {
        return await write()
      } catch (error) {
        this.#gap = error instanceof Error ? error : new Error(String(error))
        throw error
      }
    })
  }
  /**
   * Writes a layer of an import: one try, since an import that failed begins again without it. `startLsn`: it is the
   * last one, and everything before is in layers.
   */
  async writeImported(layer: OpenLayer, startLsn: Lsn | undefined): Promise<LayerFile> {
    const encoded = await this.#encode(layer, LAYER_KIND_IMAGE)
    const stored = await this.#store(encoded, encoded, 'ingest')
    await this.#list(stored, startLsn)
    return stored.file
  }
  #encode(layer: OpenLayer, kind: LayerKind): Promise<WrittenLayer> {
    const { owner, generation } = this.index
    const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
    return writeOpenLayer(layer, owner, kind, generation, pause)
  }
  #list({ entry }: StoredLayer, consistentLsn: Lsn | undefined): Promise<void> {
    return this.#index.run((change) =>
      change({
        layers: [...this.index.layers, entry],
        nextSequence: this.#lastSequence + 1,
        ...(consistentLsn === undefined ? {} : { consistentLsn }),
      }),
    )
  }
  async #store(
    written: Omit<WrittenLayer, 'lsnMin' | 'lsnMax'>,
    { lsnMin, lsnMax }: LsnRange,
    purpose: LayerPurpose,
  ): Promise<StoredLayer> {
    const { kind, sizeBytes, crc, bytes } = written
    const name = layerName(kind, lsnMin, lsnMax, ++this.#lastSequence, this.index.generation)
    const entry = { name, kind, sizeBytes, crc, lsnMin, lsnMax }
    const file = await this.#layers.write(entry, bytes, purpose)
    this.#entries.set(file, entry)
    return { entry, file }
  }

  /**
   * Writes a layer that others were merged into, listed by no index yet. `from`: their LSNs, by which a rollback
   * decides. One try, since a merge that failed begins again without it, and it leaves room for the layers of ingest.
   * Errors: those of the disk.
   */
  writeMerged(written: WrittenLayer, from: LsnRange): Promise<StoredLayer> {
    return this.#store(written, from, 'merge')
  }
  /**
   * Puts `to` in the place of `from`, which are neighbours in the index, durably; from then on nothing is read below
   * `readableLsn`. The files of `from` stay. Tried again until it succeeds. Error: `cancelled` after `stop`.
   */
  replace(from: readonly LayerEntry[], to: readonly LayerEntry[], readableLsn: Lsn): Promise<void> {
    const change = ({ layers, retiredLayers = [], readableLsn: before }: IndexPart): Partial<IndexPart> => {
      const at = layers.findIndex(({ name }) => name === from[0]?.name)
      for (const [i, { name }] of from.entries())
        assert(layers[at + i]?.name === name, () => `layer ${name} is not where it was in the index`)
      return {
        layers: [...layers.slice(0, at), ...to, ...layers.slice(at + from.length)],
        nextSequence: this.#lastSequence + 1,
        readableLsn: maxLsn(before, readableLsn),
        retiredLayers: [...retiredLayers, ...from.map(({ name }) => name)],
      }
    }
    return this.#stalls.retry('index write', () => this.#index.run((write) => write(change(this.index))))
  }
  /** Removes files of layers that no index lists and no read needs. */
  async removeFiles(entries: readonly LayerEntry[]): Promise<void> {
    for (const { name } of entries) await this.#layers.remove(name)
  }
  /** All of them have files until the function that is returned is called. Errors: those of the disk and the store. */
  pin(entries: readonly LayerEntry[]): Promise<() => void> {
    return this.#layers.pin(entries)
  }
  pathOf({ name }: LayerEntry): string {
    return this.#files.layerPath(name)
  }

  /** Ends what waits for the object store; `stop` follows. */
  cancel(): void {
    this.uploads.cancel()
    this.#layers.cancel()
  }
  async stop(): Promise<void> {
    this.cancel()
    await Promise.all([this.#writes.idle(), this.#index.idle(), this.uploads.idle()])
    await this.#layers.close()
  }
}
