/**
 * Owns the record of what the object store has of a shard, and brings the store up to the local index: a layer first,
 * then the index that lists it, one upload at a time.
 */
import { Mailbox } from '@understory/actor'
import { assert, formatLsn, isErrorCode, fail } from '@understory/base'
import type { ErrorCode, Lsn } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Env } from '@understory/env'
import type { IndexPart, LayerEntry } from '@understory/storage'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'
import type { LocalIndex } from './local-index.ts'
import { isWhole, staleGeneration } from './remote-index.ts'
import type { RemoteIndex } from './remote-index.ts'
import type { ShardFiles } from './shard-files.ts'

const UPLOAD_PAUSE_MS_MAX = 10_000
/** Another pageserver has the shard, or what is there is damaged: to try again changes nothing. */
const ENDS_UPLOADS: readonly ErrorCode[] = ['stale', 'conflict', 'bad_file']

export interface LayerUploadsParts {
  readonly env: Env
  readonly files: ShardFiles
  readonly index: LocalIndex
  readonly remote: RemoteIndex
  readonly observer?: ShardObserver | undefined
}

export class LayerUploads {
  readonly #parts: LayerUploadsParts
  readonly #uploads: Mailbox
  /** Names of layers that are known to be in the object store. */
  readonly #uploaded = new Set<string>()
  /** Names of layers in the index that was published last. */
  #listed: ReadonlySet<string> = new Set()
  /** Layers that have left the index, but which reads may still fetch. */
  readonly #held = new Set<string>()
  #hasReadRemote = false
  /** There are no indexes of older generations than this. */
  #cleanGeneration: number | undefined
  /** What the object store was given last. */
  #published: IndexPart | undefined
  #remoteConsistentLsn = 0 as Lsn
  readonly #stopping = new AbortController()

  constructor(parts: LayerUploadsParts, uploads: Mailbox) {
    this.#parts = parts
    this.#uploads = uploads
  }

  /** Durable in the object store up to here. */
  get remoteConsistentLsn(): Lsn {
    return this.#remoteConsistentLsn
  }
  /** Whether the object store has all that the local index says. */
  get isPublished(): boolean {
    return this.#published === this.#parts.index.current
  }
  /** Whether the layer is in the object store and its index lists it: after a restart, too, it is found there. */
  isInStore(name: string): boolean {
    return this.#listed.has(name)
  }
  get #isCancelled(): boolean {
    return this.#stopping.signal.aborted
  }

  /** Records an index that is in the object store. */
  noteRemote(part: IndexPart): void {
    for (const { name } of part.layers) this.noteLayer(name)
    this.#remoteConsistentLsn = part.consistentLsn
  }
  /** Records a layer that is in the object store. */
  noteLayer(name: string): void {
    this.#uploaded.add(name)
  }

  /**
   * Whether this shard, as it is here, is that of a newer generation (`RemoteIndex.claim`). If so, `adopt` changes the
   * local index before the next upload, which would be of a stale generation otherwise. Errors: those of `adopt`.
   */
  claim(generation: number, adopt: () => Promise<void>): Promise<boolean> {
    return this.#uploads.run(async () => {
      if (!(await this.#parts.remote.claim(generation, this.#parts.index.current.generation))) return false
      await adopt()
      return true
    })
  }

  /** Before layers leave the index: their objects stay until `retire` has ended. */
  hold(names: readonly string[]): void {
    for (const name of names) this.#held.add(name)
  }
  /**
   * Layers that have left the index: their objects stay until `readsEnded`; then `removeFiles` removes their files,
   * after an upload that is under way, whose index may still list them. Errors: those of `removeFiles`.
   */
  async retire(
    names: readonly string[],
    readsEnded: Promise<void>,
    removeFiles: () => Promise<void>,
  ): Promise<void> {
    await readsEnded
    await this.#uploads.run(() => {
      for (const name of names) this.#held.delete(name)
      return removeFiles()
    })
  }

  /**
   * Brings the object store up to the local index: one try. Objects that it no longer lists are removed. Errors:
   * `stale` or `conflict`, after which nothing is ever published again; errors of the store as the store reports
   * them.
   */
  upload(): Promise<void> {
    return this.#uploads.run(async () => {
      const { observer, env, files, index, remote } = this.#parts
      const startMs = observer === undefined ? 0 : env.clock.nowMs()
      const part = index.current
      if (!this.#hasReadRemote) await this.#readRemote(part.generation)
      for (const entry of part.layers) if (!this.#uploaded.has(entry.name)) await this.#uploadLayer(entry)
      const missing = part.layers.find(({ name }) => !this.#uploaded.has(name))
      assert(
        missing === undefined,
        () => `I8: layer "${missing?.name}" would be published before it is in the store`,
      )
      await remote.publish(part)
      this.#published = part
      this.#listed = namesOf(part)
      if (part.consistentLsn > this.#remoteConsistentLsn) this.#remoteConsistentLsn = part.consistentLsn
      observer?.uploaded(env.clock.nowMs() - startMs)
      await files.room.trim()
      await this.#removeRetired(part)
      await this.#removeOlder(part.generation)
    })
  }

  /**
   * Removes objects that `part`, which was published, does not list. A pageserver that takes the shard over publishes
   * the index that it has read under its own generation, and then looks whether that index is still the newest
   * (`RemoteIndex.takeOver`): so an owner that finds no newer generation after its publication may remove the objects
   * that it has left out. Error: `stale`.
   */
  async #removeRetired({ generation, retiredLayers = [] }: IndexPart): Promise<void> {
    const { index, remote, env } = this.#parts
    const names = retiredLayers.filter((name) => !this.#held.has(name))
    if (names.length === 0) return
    const newest = await remote.newestGeneration()
    if (newest !== generation) throw staleGeneration(generation, newest ?? 0)
    try {
      await remote.removeLayers(names)
      for (const name of names) this.#uploaded.delete(name)
      const removed = new Set(names)
      await index.run((change) =>
        change({ retiredLayers: (index.current.retiredLayers ?? []).filter((name) => !removed.has(name)) }),
      )
    } catch (error) {
      // They are listed as retired still, and are removed after a later upload.
      env.log.warn('retired_layers_not_removed', { count: names.length, error })
    }
  }

  /** Indexes of older generations say nothing any more. */
  async #removeOlder(generation: number): Promise<void> {
    if (this.#cleanGeneration === generation) return
    try {
      await this.#parts.remote.removeOlder(generation)
      this.#cleanGeneration = generation
    } catch (error) {
      this.#parts.env.log.warn('older_indexes_not_removed', { error })
    }
  }

  async #uploadLayer(entry: LayerEntry): Promise<void> {
    if (this.#isCancelled) throw uploadCancelled()
    const { files, remote } = this.#parts
    const { name } = entry
    const bytes = await files.readLayer(name)
    if (bytes === undefined || !isWhole(entry, bytes)) {
      const state = bytes === undefined ? 'missing' : 'damaged'
      throw fail('bad_file', `layer "${name}" is ${state} before it is in the object store`, {
        hint: 'Its WAL is taken in again once the shard is attached again, which happens by itself.',
      })
    }
    await remote.putLayer(name, bytes)
    this.noteLayer(name)
  }

  /** After a restart: what the newest index lists need not be uploaded again. */
  async #readRemote(generation: number): Promise<void> {
    const { index, remote } = this.#parts
    const newest = await remote.newestGeneration()
    if (newest !== undefined && newest > generation) throw staleGeneration(generation, newest)
    if (newest !== undefined) {
      const part = await remote.read(newest)
      if (part.consistentLsn > index.current.consistentLsn) {
        const [there, here] = [formatLsn(part.consistentLsn), formatLsn(index.current.consistentLsn)]
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

  /** The same until it succeeds. Errors: `stale`, `conflict`, `bad_file`, or `cancelled` after `cancel`. */
  async uploadWithRetries(): Promise<void> {
    const { clock, rng, log } = this.#parts.env
    for (let attempt = 1; !this.#isCancelled; attempt++) {
      try {
        await this.upload()
        return
      } catch (error) {
        if (this.#isCancelled) break
        if (ENDS_UPLOADS.some((code) => isErrorCode(error, code))) throw error
        this.#parts.observer?.uploadFailed()
        log.warn('upload_failed', { attempt, error })
        const pauseMs = backoffMs(rng, attempt, { baseMs: 200, pauseMsMax: UPLOAD_PAUSE_MS_MAX })
        await clock.sleep(pauseMs, this.#stopping.signal).catch(() => undefined)
      }
    }
    throw uploadCancelled()
  }

  /** Ends the tries that are under way, so that nothing waits for an object store that does not answer. */
  cancel(): void {
    this.#stopping.abort()
  }

  /** Resolves once no upload is under way. */
  idle(): Promise<void> {
    return this.#uploads.idle()
  }
}

const namesOf = ({ layers }: IndexPart): ReadonlySet<string> => new Set(layers.map(({ name }) => name))

const uploadCancelled = (): Error => fail('cancelled', 'the upload was cancelled: the shard stops')
