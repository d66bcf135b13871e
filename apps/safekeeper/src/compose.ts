/** The safekeeper's composition root. */
import { resolve } from 'node:path'
import { Loop, ProblemReport } from '@understory/actor'
import { parseNodeId } from '@understory/base'
import { lockFolder } from '@understory/env'
import type { Disk, FolderLock } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import type { TimelineRef } from '@understory/rpc'
import { defineService } from '@understory/service'
import type { Composition, Service } from '@understory/service'
import { tellSubscriptions, tellTimelines } from './serve/collect.ts'
import { CONFIG } from './config.ts'
import { NodeQuota } from './timeline/node-quota.ts'
import { METRICS } from './telemetry/metrics.ts'
import { Offloader } from './offload/offload.ts'
import { Pulls } from './recovery/pulls.ts'
import { ChunkCache, RemoteWal } from './timeline/remote-wal.ts'
import { Reopenings } from './scrub/reopenings.ts'
import { Repairs } from './scrub/repairs.ts'
import { SafekeeperObserver } from './telemetry/safekeeper-observer.ts'
import { safekeeperService } from './serve/service.ts'
import { Timelines, explainDataFolder } from './timeline/timelines.ts'

const STOP_GRACE_MS = 2_000
const MIB = 1024 * 1024
/** A timeline rests once nothing was written to it for one to two of these. */
const REST_MS = 5_000

type Safekeeper = Service<typeof CONFIG, typeof METRICS>

export const SAFEKEEPER = defineService(
  {
    name: 'safekeeper',
    telemetryName: 'understory-safekeeper',
    config: CONFIG,
    metrics: METRICS,
    identity: ({ nodeId, dataDir }) => ({ nodeId: parseNodeId(nodeId), dataDirectory: resolve(dataDir) }),
  },
  compose,
)

async function compose(service: Safekeeper): Promise<Composition> {
  const { nodeId, values, env, telemetry } = service
  const { clock, disk, log, rng } = env
  const rpc = service.rpc.client
  const dataDir = resolve(values.dataDir)
  // Not asked for anything yet: commits do not wait for an object store, and neither does a start.
  const store = values.objectStore === undefined ? undefined : await service.openStore(values.objectStore)
  const cache = new ChunkCache()
  const readRemote = store && ((ref: TimelineRef) => new RemoteWal(store, ref, cache))
  const timelines = makeTimelines(service, dataDir, readRemote)
  const repairs = new Repairs({ timelines, rpc, disk, nodeId, clock, rng, log })
  const reopenings = new Reopenings({ timelines, clock, rng, log })
  const offloader = store && readRemote && openOffloader(service, timelines, store, readRemote)
  const remoteOf = (ref: TimelineRef): RemoteWal | undefined => offloader?.remoteOf(ref)
  const pulls = new Pulls({ timelines, rpc, nodeId, clock, log, remoteOf })
  telemetry?.meter.onCollect(() => {
    tellTimelines(telemetry.metrics, timelines, (ref) => offloader?.storedUntil(ref))
    tellSubscriptions(telemetry.metrics, timelines, timelines.observer?.subscriptions ?? [])
  })
  timelines.beforeDelete = (ref) => offloader?.forget(ref)
  // Before anything is read: opening a timeline cuts its torn tail, which another process may be writing.
  const lock = await openFolder(disk, dataDir, timelines).catch((error: unknown) => {
    throw explainDataFolder(error, dataDir)
  })
  const broker = values.broker === undefined ? undefined : service.openBroker(values.broker)
  const resting = new Loop({
    clock,
    rng,
    pauseMs: REST_MS,
    problems: new ProblemReport({ clock, log, event: 'rest_failed' }),
    round: (stop) => timelines.releaseIdle(stop),
  })
  return {
    server: {
      ...values.listen,
      advertise: values.advertise,
      healthListen: values.healthListen,
      services: [safekeeperService({ timelines, pulls, remoteOf, nodeId, clock })],
    },
    announce: broker && { broker, kind: 'safekeeper' },
    begin: () => {
      repairs.start()
      reopenings.start()
      resting.start()
      offloader?.start()
    },
    startedFields: () => ({ timelines: timelines.list().length }),
    stopGraceMs: STOP_GRACE_MS,
    stop: async (stopServer) => {
      await broker?.close()
      await Promise.all([resting.stop(), pulls.stop(), repairs.stop(), reopenings.stop(), offloader?.stop()])
      await store?.close()
      await timelines.close()
      await stopServer()
      await lock.release()
    },
  }
}

function makeTimelines(
  { values, env, telemetry }: Safekeeper,
  dataDir: string,
  remoteOf: ((ref: TimelineRef) => RemoteWal) | undefined,
): Timelines {
  const { disk, log, clock } = env
  const quota = new NodeQuota(
    { timelineBytes: bytesOf(values.timelineQuotaMib), nodeBytes: bytesOf(values.nodeQuotaMib) },
    clock,
  )
  const observer = telemetry && new SafekeeperObserver(telemetry)
  return new Timelines({ disk, log, dataDir, quota, observer, remoteOf })
}

function openOffloader(
  { nodeId, values, env: { clock, rng, log } }: Safekeeper,
  timelines: Timelines,
  store: ObjectStore,
  remoteOf: (ref: TimelineRef) => RemoteWal,
): Offloader {
  const settings = {
    quietMs: values.offloadQuietS * 1000,
    takeOverMs: values.offloadTakeOverS * 1000,
    keepBytes: values.keepWalMib * MIB,
  }
  return new Offloader({ timelines, store, remoteOf, nodeId, clock, rng, log, settings })
}

const bytesOf = (mib: number | undefined): number | undefined => (mib === undefined ? undefined : mib * MIB)

async function openFolder(disk: Disk, dataDir: string, timelines: Timelines): Promise<FolderLock> {
  await disk.makeDirectory(dataDir)
  const lock = await lockFolder(dataDir)
  await timelines.openAll()
  return lock
}
