/**
 * Merges the layers of a shard, one merge at a time, beside ingest and reads, and ends its history: what is older
 * than the window, and no read can ask for, goes with a merge. The plan and the merge are pure
 * (libs/storage/src/compaction); a thread merges, part by part; here the parts become files, take the place of what
 * they were merged from, and the files of that are removed once no read may need them.
 *
 *   planned -> merged, part by part -> in the index and the map in place of the old -> reads ended -> old removed
 *      ^ an output that no index lists never was: it is removed at the next start at the latest
 */
import { Loop, ProblemReport } from '@understory/actor'
import type { Semaphore } from '@understory/actor'
import { LSN_MAX, LSN_ZERO, isErrorCode, maxLsn, minLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Env, Workers } from '@understory/env'
import { LAYER_KIND_IMAGE, NO_HISTORY, horizonOf, noteHistory, planCompaction } from '@understory/storage'
import type { Key, LayerEntry, LayerFile, Level, Retention } from '@understory/storage'
import type { LayerStore, StoredLayer } from '../layers/layer-store.ts'
import type { Stalls } from '../layers/stalls.ts'
import type { ShardState } from '../state/shard-state.ts'
import type { MergeJobs } from './merge-protocol.ts'

export interface CompactionLimits {
  /** For how long every LSN stays readable. */
  readonly historyMs: number
  /** And for how much WAL, however fast it comes. */
  readonly historyBytesMin: number
  /** A merged layer ends after so many stored bytes. */
  readonly mergedLayerBytesMax: number
}

export interface CompactorParts {
  readonly env: Env
  readonly state: ShardState
  readonly layers: LayerStore
  readonly stalls: Stalls
  readonly workers: Workers<MergeJobs>
  /** One for all shards that share the thread. */
  readonly turns: Semaphore
  readonly limits: CompactionLimits
  /** The index has changed. */
  readonly startUpload: () => void
}

/** A level of files that the index lists. */
interface FileLevel extends Level {
  readonly files: readonly LayerFile[]
  readonly entries: readonly LayerEntry[]
}

const PAUSE_MS_MAX = 60_000

export class Compactor {
  readonly #parts: CompactorParts
  readonly #loop: Loop
  #notedAtMs: number

  constructor(parts: CompactorParts) {
    this.#parts = parts
    const { env, limits } = parts
    const { clock, rng, log } = env
    this.#notedAtMs = clock.nowMs()
    this.#loop = new Loop({
      clock,
      rng,
      pauseMs: Math.min(PAUSE_MS_MAX, limits.historyMs / 64),
      round: (stop) => this.#round(stop),
      problems: new ProblemReport({ clock, log, event: 'compaction_failed' }),
    })
  }

  start(): void {
    this.#notedAtMs = this.#parts.env.clock.nowMs()
    this.#loop.start()
  }
  /** There are more layers. */
  wake(): void {
    this.#loop.wake()
  }
  /** Resolves once no merge is under way. Files that reads may still need stay: they go at the next start. */
  stop(): Promise<void> {
    return this.#loop.stop()
  }

  async #round(stop: AbortSignal): Promise<void> {
    const { state, layers, turns } = this.#parts
    await this.#noteHistory()
    // WAL is taken in that a read does not see yet, after an import or a rollback, and ingest reads at its LSNs.
    if (state.ingestedLsn < layers.index.readableLsn) return
    while (!stop.aborted) if (!(await turns.run(() => this.#mergeNext(stop), stop))) return
  }

  /** Whether there was something to merge. */
  async #mergeNext(stop: AbortSignal): Promise<boolean> {
    const horizon = this.#horizon()
    const levels = this.#levels()
    const plan = planCompaction(levels, horizon)
    if (plan === undefined) return false
    await this.#merge(levels.slice(plan.from, plan.to), plan.from === 0, horizon, stop)
    return true
  }

  async #noteHistory(): Promise<void> {
    const { env, state, layers, limits, stalls } = this.#parts
    const nowMs = env.clock.nowMs()
    const known = layers.index.history ?? NO_HISTORY
    const history = noteHistory(known, state.ingestedLsn, nowMs - this.#notedAtMs, limits.historyMs)
    if (history === known) return
    await stalls.retry('index write', () => layers.changeIndex({ history }))
    this.#notedAtMs = nowMs
  }

  /** Everything from here on stays readable. */
  #horizon(): Lsn {
    const { env, state, layers, limits } = this.#parts
    const { index } = layers
    const elapsedMs = env.clock.nowMs() - this.#notedAtMs
    const byAge = horizonOf(index.history ?? NO_HISTORY, elapsedMs, limits.historyMs)
    const byBytes = Math.max(LSN_ZERO, index.consistentLsn - limits.historyBytesMin) as Lsn
    return maxLsn(index.readableLsn, minLsn(minLsn(byAge, byBytes), state.reads.oldestLease))
  }

  /** The levels whose files are in the index: all but the layers that ingest writes now. */
  #levels(): FileLevel[] {
    const { state, layers } = this.#parts
    const found: FileLevel[] = []
    for (const level of state.map.levels) {
      const entries: LayerEntry[] = []
      for (const layer of level) {
        const entry = layers.entryOf(layer)
        if (entry === undefined) return found
        entries.push(entry)
      }
      found.push({
        files: level as readonly LayerFile[],
        entries,
        sizeBytes: entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
        lsnMax: entries.reduce<Lsn>((newest, { lsnMax }) => maxLsn(newest, lsnMax), LSN_ZERO),
        // Also in layers that an import was merged into: all WAL lies above its start.
        isImported: entries.some(
          ({ kind, lsnMin }) => kind === LAYER_KIND_IMAGE || lsnMin <= layers.index.startLsn,
        ),
      })
    }
    return found
  }

  async #merge(
    levels: readonly FileLevel[],
    isBottom: boolean,
    horizon: Lsn,
    stop: AbortSignal,
  ): Promise<void> {
    const { env, state, layers, startUpload } = this.#parts
    const startMs = env.clock.nowMs()
    const files = levels.flatMap((level) => level.files)
    const entries = levels.flatMap((level) => level.entries)
    const made = await this.#mergeParts(files, entries, { points: [horizon], isBottom }, stop)
    const madeEntries = made.map(({ entry }) => entry)
    layers.uploads.hold(entries.map(({ name }) => name))
    // From here on the index on the disk may list them, also where this fails.
    await layers.replace(entries, madeEntries, horizon)
    state.map.replace(
      files,
      made.map(({ file }) => file),
      horizon,
    )
    env.log.info('layers_merged', {
      from: entries.length,
      fromBytes: sizeOf(entries),
      to: made.length,
      toBytes: sizeOf(madeEntries),
      isBottom,
      tookMs: Math.round(env.clock.nowMs() - startMs),
    })
    this.#removeOld(entries)
    startUpload()
  }

  /** Gives the files, which no index lists. */
  async #mergeParts(
    files: readonly LayerFile[],
    entries: readonly LayerEntry[],
    retention: Retention,
    stop: AbortSignal,
  ): Promise<StoredLayer[]> {
    const { layers } = this.#parts
    const range = {
      lsnMin: entries.reduce<Lsn>((oldest, { lsnMin }) => minLsn(oldest, lsnMin), LSN_MAX),
      lsnMax: entries.reduce<Lsn>((newest, { lsnMax }) => maxLsn(newest, lsnMax), LSN_ZERO),
    }
    const made: StoredLayer[] = []
    // The thread reads files.
    const unpin = await layers.pin(entries)
    try {
      let from: Key | undefined
      do {
        stop.throwIfAborted()
        const { written, next } = await this.#mergePart(files, entries, retention, from, stop)
        if (written !== undefined) {
          const { bytes } = written
          const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
          made.push(await layers.writeMerged({ ...written, bytes: buffer }, range))
        }
        from = next
      } while (from !== undefined)
    } catch (error) {
      await layers.removeFiles(made.map(({ entry }) => entry))
      throw error
    } finally {
      unpin()
    }
    return made
  }

  async #mergePart(
    files: readonly LayerFile[],
    entries: readonly LayerEntry[],
    retention: Retention,
    from: Key | undefined,
    signal: AbortSignal,
  ): Promise<MergeJobs['merge']['response']> {
    const { layers, limits, workers } = this.#parts
    const { owner, generation } = layers.index
    const request = {
      owner,
      generation,
      files: entries.map((entry) => ({ path: layers.pathOf(entry), sizeBytes: entry.sizeBytes })),
      retention,
      from,
      layerBytesMax: limits.mergedLayerBytesMax,
    }
    const merge = () => workers.run('merge', request, { signal })
    try {
      return await merge()
    } catch (error) {
      if (!isErrorCode(error, 'bad_file') && !isErrorCode(error, 'not_found')) throw error
      // To read a file through is to fetch it again where it is gone or damaged and its object is whole.
      for (const file of files) {
        signal.throwIfAborted()
        await file.verify()
      }
      const unpin = await layers.pin(entries)
      return await merge().finally(unpin)
    }
  }

  /** The local files, and then the objects, once no read can need them. */
  #removeOld(entries: readonly LayerEntry[]): void {
    const { env, state, layers, startUpload } = this.#parts
    const names = entries.map(({ name }) => name)
    const { stopped } = this.#loop
    const removeFiles = async (): Promise<void> => {
      if (!stopped.aborted) await layers.removeFiles(entries)
    }
    void layers.uploads
      .retire(names, state.reads.ended(), removeFiles)
      // Files that stay on the disk are removed at the next start.
      .catch((error: unknown) => env.log.warn('merged_layers_not_removed', { count: entries.length, error }))
      .then(() => {
        if (!stopped.aborted) startUpload()
      })
  }
}

const sizeOf = (entries: readonly LayerEntry[]): number =>
  entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
