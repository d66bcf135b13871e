/**
 * The parts that work for a shard, connected: its state, its layers and their way to the object store, images, ingest.
 */
import type { Semaphore } from '@understory/actor'
import type { Env, Workers } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import type { BlockCache, IndexPart } from '@understory/storage'
import { Compactor } from '../compaction/compactor.ts'
import type { CompactionLimits } from '../compaction/compactor.ts'
import type { MergeJobs } from '../compaction/merge-protocol.ts'
import { ImageGenerator } from '../images/image-generator.ts'
import type { ImageJobs } from '../images/image-protocol.ts'
import type { CommitPositions } from '../ingest/commit-positions.ts'
import type { SafekeeperStreams } from '../ingest/safekeeper-stream.ts'
import { Ingest } from '../ingest/ingest.ts'
import { LayerStore } from '../layers/layer-store.ts'
import type { ObjectChunks } from '../layers/object-chunks.ts'
import type { ShardFiles } from '../layers/shard-files.ts'
import { Stalls } from '../layers/stalls.ts'
import { ShardState } from '../state/shard-state.ts'
import type { PageserverObserver, ShardObserver } from '../telemetry/pageserver-observer.ts'
import { ImageSettings } from './image-settings.ts'
import { LayerFlow } from './layer-flow.ts'

interface ShardLimits {
  readonly openLayerBytesMax: number
  readonly openLayerAgeMsMax: number
  /** A layer of an import. */
  readonly importLayerBytesMax: number
  /** Layers that are in the object store have files within so many bytes; undefined: while the disk has room. */
  readonly layerFilesBytesMax: number | undefined
  readonly compaction: CompactionLimits
}

export interface ShardParts {
  readonly env: Env
  readonly store: ObjectStore
  readonly cache: BlockCache
  readonly chunks: ObjectChunks
  readonly workers: Workers<ImageJobs>
  /** Whose turn it is to use them. */
  readonly imageTurns: Semaphore
  readonly mergeWorkers: Workers<MergeJobs>
  /** Whose turn it is to use them. */
  readonly mergeTurns: Semaphore
  /** Whose turn it is to have a layer of the object store in memory. */
  readonly fetchTurns: Semaphore
  readonly positions: CommitPositions
  readonly streams: SafekeeperStreams
  readonly limits: ShardLimits
  /** Undefined where nothing is measured. */
  readonly observer?: PageserverObserver | undefined
}

export interface ShardHooks {
  /** Runs a job within the shard's mailbox. */
  readonly inMailbox: <T>(job: () => Promise<T> | T) => Promise<T>
  /** The shard stops with it. */
  readonly fail: (error: unknown) => void
  /** Whether the shard has failed, or was stopped. */
  readonly isOver: () => boolean
}

export interface ShardWork {
  /** Its log names the shard. */
  readonly env: Env
  readonly observer: ShardObserver | undefined
  readonly state: ShardState
  readonly stalls: Stalls
  readonly layers: LayerStore
  readonly flow: LayerFlow
  readonly images: ImageGenerator
  readonly imageSettings: ImageSettings
  readonly ingest: Ingest
  readonly compactor: Compactor
}

export function connectParts(
  parts: ShardParts,
  files: ShardFiles,
  index: IndexPart,
  hooks: ShardHooks,
): ShardWork {
  const { tenantId, timelineId, shard } = index.owner
  const { store, cache, chunks, fetchTurns, workers, limits, imageTurns: turns } = parts
  const { fail, isOver, inMailbox } = hooks
  const log = parts.env.log.child({ tenant: tenantId, timeline: timelineId, shard: shard.number })
  const env = { ...parts.env, log }
  const { clock } = env
  const observer = parts.observer?.ofShard(index.owner)
  const state = new ShardState(index.owner)
  const stalls = new Stalls(env, observer)
  const layers = new LayerStore({ env, files, store, cache, chunks, fetchTurns, stalls, observer }, index)
  const written = (): void => compactor.wake()
  const flow = new LayerFlow({ state, layers, clock, limits, inMailbox, written, fail, isOver })
  const startUpload = (): void => flow.startUpload()
  const { mergeWorkers, mergeTurns } = parts
  const compactor = new Compactor({
    env,
    state,
    layers,
    stalls,
    workers: mergeWorkers,
    turns: mergeTurns,
    limits: limits.compaction,
    startUpload,
  })
  // Images fill the open layer as WAL does.
  const made = async (): Promise<void> => {
    if (flow.isFull) await inMailbox(() => flow.freezeFull())
  }
  const images = new ImageGenerator(
    { state, clock, workers, turns, stalls, made, fail, observer },
    index.imageGeneration,
  )
  const imageSettings = new ImageSettings({
    env,
    layers,
    images,
    stalls,
    observer,
    startUpload,
    fail,
    isOver,
  })
  const chainWatch = {
    get settings() {
      return images.settings
    },
    queue: (keyId: number) => images.queue(keyId),
    sawFullPageWrites: (on: boolean) => imageSettings.sawFullPageWrites(on, state.ingestedLsn),
    read: <T>(attempt: () => Promise<T>) => stalls.retry('layer read', attempt),
  }
  const ingest = new Ingest(state, chainWatch, observer)
  return { env, observer, state, stalls, layers, flow, images, imageSettings, ingest, compactor }
}
