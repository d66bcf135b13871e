/**
 * Makes layers durable: a frozen layer becomes a file, then a line of the local index, then an object, then a line of
 * the index in the object store. Each step begins when the one before is durable; locally and remotely at most one of
 * each is under way. Runs beside ingest, which waits only when too many frozen layers have piled up. What the local
 * disk refuses is tried again, in order: no layer is listed before one that holds older WAL.
 */
import { Mailbox } from '@understory/actor'
import type { Semaphore } from '@understory/actor'
import { formatLsn, isErrorCode, fail } from '@understory/base'
import type { ErrorCode, Lsn, UnderstoryError } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Env } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import { LAYER_KIND_DELTA, LAYER_KIND_IMAGE, layerName, openLayer, writeOpenLayer } from '@understory/storage'
import type {
  BlockCache,
  IndexPart,
  LayerEntry,
  LayerFile,
  LayerKind,
  LayerSource,
  OpenLayer,
  WrittenLayer,
} from '@understory/storage'
import type { MailboxName } from '../telemetry/metrics.ts'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'
import { RemoteIndex, isWhole, staleGeneration } from './remote-index.ts'
import type { ShardFiles } from './shard-files.ts'
import type { Stalls } from './stalls.ts'

const UPLOAD_PAUSE_MS_MAX = 10_000
/** Another pageserver has the shard, or what is there is damaged: to try again changes nothing. */
const ENDS_UPLOADS: readonly ErrorCode[] = ['stale', 'conflict', 'bad_file']

export interface LayerStoreParts {
  readonly env: Env
  readonly files: ShardFiles
  readonly store: ObjectStore
  readonly cache: BlockCache
  readonly fetchTurns: Semaphore
  readonly stalls: Stalls
  readonly observer?: ShardObserver | undefined
}

type IndexChange = Partial<Omit<IndexPart, 'owner' | 'layers' | 'nextSequence'>>

export class LayerStore {
  readonly remote: RemoteIndex
  readonly #parts: LayerStoreParts
  /** Layers of ingest, and positions without one: one behind the other, each until it succeeds. */
  readonly #writes: Mailbox
  /** What ended them: an index that listed a later layer would have a gap. */
  #gap: Error | undefined
  /** Changes of the index. */
  readonly #local: Mailbox
  readonly #uploads: Mailbox
  #index: IndexPart
  /** Names of layers that are known to be in the object store. */
  readonly #uploaded = new Set<string>()
  #hasReadRemote = false
  /** What the object store was given last. */
  #published: IndexPart | undefined
  #remoteConsistentLsn = 0 as Lsn
  #isStopped = false
  readonly #stopSignal = new AbortController()

  constructor(parts: LayerStoreParts, index: IndexPart) {
    this.#parts = parts
    this.#index = index
    this.remote = new RemoteIndex(parts.store, index.owner)
    const mailbox = (name: MailboxName): Mailbox =>
      new Mailbox({ name, ...parts.observer?.watchMailbox(name, parts.env.clock) })
    this.#writes = mailbox('layers')
    this.#local = mailbox('index')
    this.#uploads = mailbox('uploads')
  }

  get index(): IndexPart {
    return this.#index
  }
  /** Durable in the object store up to here. */
  get remoteConsistentLsn(): Lsn {
    return this.#remoteConsistentLsn
  }
  /** Whether the object store has all that the local index says. */
  get isPublished(): boolean {
    return this.#published === this.#index
  }
  get sizeBytes(): number {
    return this.#index.layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  }

  /** Notes what the object store is known to have. */
  noteRemote(part: IndexPart): void {
    for (const { name } of part.layers) this.#uploaded.add(name)
    this.#remoteConsistentLsn = part.consistentLsn
  }

  /** Opens every layer, oldest first; one that is missing or damaged locally is fetched. */
  async openAll(): Promise<LayerFile[]> {
    const layers: LayerFile[] = []
    for (const entry of this.#index.layers) layers.push(await this.#open(entry))
    return layers
  }
  async #open(entry: LayerEntry): Promise<LayerFile> {
    const { files, cache } = this.#parts
    const { owner } = this.#index
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
    const { files, fetchTurns } = this.#parts
    await fetchTurns.run(async () => files.writeLayer(entry.name, await this.remote.getLayer(entry)))
    this.#uploaded.add(entry.name)
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
    this.#parts.env.log.warn('layer_fetched_again', { layer: entry.name, error: damage })
  }

  /** Changes the index, durably on the local disk. */
  changeIndex(change: IndexChange | ((index: IndexPart) => IndexChange)): Promise<void> {
    return this.#local.run(() => {
      const changed = typeof change === 'function' ? change(this.#index) : change
      return this.#writeIndex({ ...this.#index, ...changed })
    })
  }
  async #writeIndex(index: IndexPart): Promise<void> {
    await this.#parts.files.writeIndex(index)
    this.#index = index
  }

  /** For a shard whose import begins again. */
  forgetLayers(): Promise<void> {
    return this.#local.run(async () => {
      await this.#writeIndex({ ...this.#index, layers: [] })
      await this.#parts.files.removeOrphans(this.#index)
    })
  }

  /**
   * Writes a frozen layer of ingest after which everything before `consistentLsn` is in layers; gives its file. Tried
   * again until it succeeds. Error: `cancelled` after `stop`.
   */
  write(layer: OpenLayer, consistentLsn: Lsn): Promise<LayerFile> {
    return this.#inOrder(async () => {
      const encoded = await this.#encode(layer, LAYER_KIND_DELTA)
      return this.#parts.stalls.retry('layer write', () =>
        this.#local.run(() => this.#write(encoded, consistentLsn)),
      )
    })
  }
  /** The same for WAL that had no value for this shard. */
  noteConsistent(consistentLsn: Lsn): Promise<void> {
    return this.#inOrder(() =>
      this.#parts.stalls.retry('index write', () => this.changeIndex({ consistentLsn })),
    )
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
    return this.#local.run(() => this.#write(encoded, startLsn))
  }
  #encode(layer: OpenLayer, kind: LayerKind): Promise<WrittenLayer> {
    const { owner, generation } = this.#index
    const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
    return writeOpenLayer(layer, owner, kind, generation, pause)
  }
  async #write(encoded: WrittenLayer, consistentLsn: Lsn | undefined): Promise<LayerFile> {
    const { entry, file } = await this.#store(encoded)
    await this.#writeIndex({
      ...this.#index,
      layers: [...this.#index.layers, entry],
      nextSequence: this.#index.nextSequence + 1,
      ...(consistentLsn === undefined ? {} : { consistentLsn }),
    })
    return file
  }
  async #store(written: WrittenLayer): Promise<{ entry: LayerEntry; file: LayerFile }> {
    const { kind, lsnMin, lsnMax, sizeBytes, crc } = written
    const { nextSequence, generation } = this.#index
    const entry = {
      name: layerName(kind, lsnMin, lsnMax, nextSequence, generation),
      kind,
      sizeBytes,
      crc,
      lsnMin,
      lsnMax,
    }
    await this.#parts.files.writeLayer(entry.name, written.bytes)
    return { entry, file: await this.#open(entry) }
  }

  /**
   * Brings the object store up to the local index: one try. Errors: `stale` or `conflict`, after which nothing is
   * ever published again; errors of the store as the store reports them.
   */
  upload(): Promise<void> {
    return this.#uploads.run(async () => {
      const { observer, env } = this.#parts
      const startMs = observer === undefined ? 0 : env.clock.nowMs()
      const index = this.#index
      if (!this.#hasReadRemote) await this.#readRemote(index.generation)
      for (const entry of index.layers) {
        const { name } = entry
        if (this.#uploaded.has(name)) continue
        if (this.#isStopped) throw uploadCancelled()
        const bytes = await this.#parts.files.readLayer(name)
        if (bytes === undefined || !isWhole(entry, bytes)) {
          const state = bytes === undefined ? 'missing' : 'damaged'
          throw fail('bad_file', `layer "${name}" is ${state} before it is in the object store`, {
            hint: 'Its WAL is taken in again once the shard is attached again, which happens by itself.',
          })
        }
        await this.remote.putLayer(name, bytes)
        this.#uploaded.add(name)
      }
      await this.remote.publish(index)
      this.#published = index
      if (index.consistentLsn > this.#remoteConsistentLsn) this.#remoteConsistentLsn = index.consistentLsn
      observer?.uploaded(env.clock.nowMs() - startMs)
    })
  }

  /** After a restart: what the newest index lists need not be uploaded again. */
  async #readRemote(generation: number): Promise<void> {
    const newest = await this.remote.newestGeneration()
    if (newest !== undefined && newest > generation) throw staleGeneration(generation, newest)
    if (newest !== undefined) {
      const part = await this.remote.read(newest)
      if (part.consistentLsn > this.#index.consistentLsn) {
        const [there, here] = [formatLsn(part.consistentLsn), formatLsn(this.#index.consistentLsn)]
        throw fail(
          'stale',
          `the object store has the shard up to ${there}, the files here only up to ${here}`,
          {
            hint: 'The disk was put back to an older state; attach the shard again under a new generation.',
          },
        )
      }
      this.noteRemote(part)
    }
    this.#hasReadRemote = true
  }

  /** The same until it succeeds. Errors: `stale`, `conflict`, `bad_file`, or `cancelled` after `stop`. */
  async uploadWithRetries(): Promise<void> {
    const { clock, rng, log } = this.#parts.env
    for (let attempt = 1; !this.#isStopped; attempt++) {
      try {
        await this.upload()
        return
      } catch (error) {
        if (this.#isStopped) break
        if (ENDS_UPLOADS.some((code) => isErrorCode(error, code))) throw error
        this.#parts.observer?.uploadFailed()
        log.warn('upload_failed', { attempt, error })
        const pauseMs = backoffMs(rng, attempt, { baseMs: 200, pauseMsMax: UPLOAD_PAUSE_MS_MAX })
        await clock.sleep(pauseMs, this.#stopSignal.signal).catch(() => undefined)
      }
    }
    throw uploadCancelled()
  }

  /** Ends the tries that are under way, so that nothing waits for an object store that does not answer. */
  cancelUploads(): void {
    this.#isStopped = true
    this.#stopSignal.abort()
  }

  async stop(): Promise<void> {
    this.cancelUploads()
    await Promise.all([this.#writes.idle(), this.#local.idle(), this.#uploads.idle()])
  }
}

const uploadCancelled = (): Error => fail('cancelled', 'the upload was cancelled: the shard stops')
