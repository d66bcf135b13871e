/** Shards in this process, as a pageserver composes them: threads for images and merges, the limits of its defaults. */
import { join } from 'node:path'
import { Semaphore } from '@understory/actor'
import { realDisk, realEnv, realWorkers, silentLog } from '@understory/env'
import type { Disk, Log } from '@understory/env'
import { localObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { PLAIN_CLIENT } from '@understory/rpc'
import { BlockCache } from '@understory/storage'
import type { MergeJobs } from '../../apps/pageserver/src/compaction/merge-protocol.ts'
import type { ImageJobs } from '../../apps/pageserver/src/images/image-protocol.ts'
import { CommitPositions } from '../../apps/pageserver/src/ingest/commit-positions.ts'
import { SafekeeperStreams } from '../../apps/pageserver/src/ingest/safekeeper-stream.ts'
import { ObjectChunks } from '../../apps/pageserver/src/layers/object-chunks.ts'
import { ShardRegistry } from '../../apps/pageserver/src/shard/shard-registry.ts'
import type { Shard } from '../../apps/pageserver/src/shard/shard.ts'
import { LIMITS } from '../../apps/pageserver/test/support.ts'
import type { Bench } from '../../apps/pageserver/test/support.ts'

const MIB = 1024 * 1024
const IMAGES = new URL('../../apps/pageserver/src/images/image-worker.ts', import.meta.url)
const MERGES = new URL('../../apps/pageserver/src/compaction/merge-worker.ts', import.meta.url)

/** The defaults of a pageserver. */
export const NODE_LIMITS: typeof LIMITS = {
  ...LIMITS,
  openLayerBytesMax: 64 * MIB,
  openLayerAgeMsMax: 180_000,
  importLayerBytesMax: 128 * MIB,
  layerFilesBytesMax: undefined,
  compaction: { historyMs: 86_400_000, historyBytesMin: 64 * MIB, mergedLayerBytesMax: 64 * MIB },
}
export const BLOCK_CACHE_BYTES = 128 * MIB

export interface NodeOptions {
  readonly cache?: BlockCache
  readonly disk?: Disk
  /** Closed with the node. */
  readonly store?: ObjectStore
  readonly limits?: typeof LIMITS
}

export interface StorageNode extends Bench {
  /** Images and merges that run or wait for a thread. */
  readonly jobsCount: number
}

/** Loads the shards below `directory`: `local` and, where no store is given, `objects`. */
export async function openNode(directory: string, options: NodeOptions = {}): Promise<StorageNode> {
  const { cache = new BlockCache(BLOCK_CACHE_BYTES), limits = NODE_LIMITS, disk = realDisk } = options
  const errors: string[] = []
  const warnings: string[] = []
  const log: Log = {
    ...silentLog,
    error: (event, fields) => errors.push(`${event} ${String(fields?.['error'])}`),
    warn: (event, fields) => warnings.push(`${event} ${String(fields?.['error'])}`),
    child: () => log,
  }
  const env = { ...realEnv(log), disk }
  const store = options.store ?? (await localObjectStore(join(directory, 'objects'), realEnv(log)))
  const workers = realWorkers<ImageJobs>({ script: IMAGES, threadsCount: 1, name: 'image' })
  const mergeWorkers = realWorkers<MergeJobs>({
    script: MERGES,
    threadsCount: 1,
    name: 'merge',
    heapMibMax: 512,
  })
  const registry = new ShardRegistry(
    {
      env,
      store,
      cache,
      chunks: new ObjectChunks({ store, keptBytesMax: BLOCK_CACHE_BYTES / 4 }),
      workers,
      imageTurns: new Semaphore(2),
      mergeWorkers,
      mergeTurns: new Semaphore(1),
      fetchTurns: new Semaphore(2),
      positions: new CommitPositions(env, PLAIN_CLIENT),
      streams: new SafekeeperStreams({ env, rpc: PLAIN_CLIENT }),
      limits,
    },
    join(directory, 'local'),
  )
  await registry.loadAll()
  await registry.loaded()
  return {
    registry,
    store,
    errors,
    warnings,
    get jobsCount() {
      return [workers, mergeWorkers].reduce((sum, pool) => sum + pool.queuedCount + pool.runningCount, 0)
    },
    [Symbol.asyncDispose]: async () => {
      await registry.stop()
      await Promise.all([workers.close(), mergeWorkers.close()])
      await store.close()
    },
  }
}

const QUIET_MS = 2_000
const LOOK_MS = 100

/** Resolves once no image and no merge has been under way, and no layer has come or gone, for two seconds. */
export async function settled(node: StorageNode, shards: readonly Shard[]): Promise<void> {
  const { clock } = realEnv(silentLog)
  const state = (): string => shards.map(({ index }) => index.layers.map(({ name }) => name).join()).join(';')
  let known = state()
  for (let sinceMs = clock.nowMs(); clock.nowMs() - sinceMs < QUIET_MS;) {
    await clock.sleep(LOOK_MS)
    const now = state()
    if (node.jobsCount > 0 || now !== known) sinceMs = clock.nowMs()
    known = now
  }
}
