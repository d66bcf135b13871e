/** The pageserver's composition root. */
import { resolve } from 'node:path'
import { Semaphore } from '@understory/actor'
import { lockFolder, realWorkers } from '@understory/env'
import { probeConditionalPut } from '@understory/object-store'
import { defineService } from '@understory/service'
import type { Composition, Service } from '@understory/service'
import { BlockCache } from '@understory/storage'
import { pageserverService } from './serve/api.ts'
import { recordGauges } from './serve/gauges.ts'
import { CommitPositions } from './ingest/commit-positions.ts'
import { SafekeeperStreams } from './ingest/safekeeper-stream.ts'
import { CONFIG } from './config.ts'
import { ObjectChunks } from './layers/object-chunks.ts'
import type { MergeJobs } from './compaction/merge-protocol.ts'
import type { ImageJobs } from './images/image-protocol.ts'
import { METRICS } from './telemetry/metrics.ts'
import { PageserverObserver } from './telemetry/pageserver-observer.ts'
import { ShardRegistry } from './shard/shard-registry.ts'

const STOP_GRACE_MS = 2_000
const MIB = 1024 * 1024
const IMPORT_LAYER_BYTES_MAX = 128 * MIB
/** As in memory while it is written. */
const MERGED_LAYER_BYTES_MAX = 64 * MIB
const HISTORY_BYTES_MIN = 64 * MIB
/** Of the object store, each as a whole in memory. */
const LAYER_FETCHES_COUNT_MAX = 2

export const PAGESERVER = defineService(
  {
    name: 'pageserver',
    telemetryName: 'understory-pageserver',
    config: CONFIG,
    metrics: METRICS,
    identity: ({ nodeId, dataDir }) => ({ nodeId, dataDirectory: resolve(dataDir) }),
  },
  compose,
)

async function compose(service: Service<typeof CONFIG, typeof METRICS>): Promise<Composition> {
  const { values, env, telemetry } = service
  const { imageThreads } = values
  const rpc = service.rpc.client
  const dataDirectory = resolve(values.dataDir)
  await env.disk.makeDirectory(dataDirectory)
  // Two processes on one folder would publish under the same generations.
  const lock = await lockFolder(dataDirectory)
  const store = await service.openStore(values.objectStore)
  await probeConditionalPut(store, env.rng)
  const broker = service.openBroker(values.broker)
  const script = new URL('./images/image-worker.ts', import.meta.url)
  const workers = realWorkers<ImageJobs>({ script, threadsCount: imageThreads, name: 'image' })
  const mergeScript = new URL('./compaction/merge-worker.ts', import.meta.url)
  const mergeWorkers = realWorkers<MergeJobs>({
    script: mergeScript,
    threadsCount: 1,
    name: 'merge',
    heapMibMax: 512,
  })
  const observer = telemetry === undefined ? undefined : new PageserverObserver(telemetry)
  const parts = {
    env,
    store,
    cache: new BlockCache(values.blockCacheMib * MIB),
    chunks: new ObjectChunks({ store, keptBytesMax: (values.blockCacheMib * MIB) / 4 }),
    workers,
    // One job runs in each thread while the next one is gathered.
    imageTurns: new Semaphore(imageThreads * 2),
    mergeWorkers,
    mergeTurns: new Semaphore(1),
    fetchTurns: new Semaphore(LAYER_FETCHES_COUNT_MAX),
    positions: new CommitPositions(env, rpc),
    streams: new SafekeeperStreams({ env, rpc }),
    limits: {
      openLayerBytesMax: values.openLayerMib * MIB,
      openLayerAgeMsMax: values.openLayerAgeS * 1000,
      importLayerBytesMax: IMPORT_LAYER_BYTES_MAX,
      layerFilesBytesMax: values.layerFilesMib === 0 ? undefined : values.layerFilesMib * MIB,
      compaction: {
        historyMs: values.historyWindowS * 1000,
        historyBytesMin: HISTORY_BYTES_MIN,
        mergedLayerBytesMax: MERGED_LAYER_BYTES_MAX,
      },
    },
    observer,
  }
  const registry = new ShardRegistry(parts, dataDirectory)
  telemetry?.meter.onCollect(() => recordGauges(telemetry.metrics, registry, env.clock.nowMs()))
  // Before the first request: a shard that is on the disk must not look lost.
  await registry.loadAll()
  return {
    server: {
      ...values.listen,
      advertise: values.advertise,
      healthListen: values.healthListen,
      services: [pageserverService(registry, env.clock, observer)],
    },
    announce: { broker, kind: 'pageserver' },
    startedFields: () => ({ shards: registry.all.length }),
    stopGraceMs: STOP_GRACE_MS,
    stop: async (stopServer) => {
      await Promise.all([registry.stop(), stopServer()])
      await Promise.all([workers.close(), mergeWorkers.close()])
      await broker.close()
      await store.close()
      await lock.release()
    },
  }
}
