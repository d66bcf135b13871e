/** The safekeeper's composition root. */
import { resolve } from 'node:path'
import { Loop, ProblemReport, Semaphore } from '@understory/actor'
import { parseNodeId } from '@understory/base'
import { lockFolder } from '@understory/env'
import type { Disk, FolderLock } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import { defineService } from '@understory/service'
import type { Composition, Service } from '@understory/service'
import { recordSubscriptionGauges, recordTimelineGauges } from './serve/gauges.ts'
import { CONFIG } from './config.ts'
import { NodeQuota } from './timeline/node-quota.ts'
import { METRICS } from './telemetry/metrics.ts'
import { Offloader } from './offload/offloader.ts'
import { TimelineOffload } from './offload/timeline-offload.ts'
import { CatchUpScheduler } from './recovery/catch-up-scheduler.ts'
import { Reopener } from './scrub/reopener.ts'
import { Scrubber } from './scrub/scrubber.ts'
import { SafekeeperObserver } from './telemetry/safekeeper-observer.ts'
import { safekeeperService } from './serve/service.ts'
import { explainDataFolder } from './timeline/data-folder.ts'
import { Timelines } from './timeline/timelines.ts'

const STOP_GRACE_MS = 2_000
const MIB = 1024 * 1024
/** A timeline releases what it holds in memory once nothing was written to it for one to two of these. */
const IDLE_MS = 5_000

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
  const observer = telemetry && new SafekeeperObserver(telemetry)
  // Not asked for anything yet: commits do not wait for an object store, and neither does a start.
  const store = values.objectStore === undefined ? undefined : await service.openStore(values.objectStore)
  const offloader = store && makeOffloader(service, store, observer)
  const timelines = makeTimelines(service, dataDir, offloader, observer)
  const remoteOf = offloader?.freshRemoteOf
  const catchUpScheduler = new CatchUpScheduler({ timelines, rpc, nodeId, clock, remoteOf })
  telemetry?.meter.onCollect(() => {
    recordTimelineGauges(
      telemetry.metrics,
      timelines,
      (ref) => timelines.findReplica(ref)?.find(TimelineOffload)?.storedLsn,
    )
    recordSubscriptionGauges(telemetry.metrics, timelines, observer?.subscriptions ?? [])
  })
  // Before anything is read: opening a timeline cuts its torn tail, which another process may be writing.
  const lock = await openFolder(disk, dataDir, timelines).catch((error: unknown) => {
    throw explainDataFolder(error, dataDir)
  })
  const broker = values.broker === undefined ? undefined : service.openBroker(values.broker)
  const idleLoop = new Loop({
    clock,
    rng,
    pauseMs: IDLE_MS,
    problems: new ProblemReport({ clock, log, event: 'idle_release_failed' }),
    round: (stop) => timelines.releaseIdle(stop),
  })
  return {
    server: {
      ...values.listen,
      advertise: values.advertise,
      healthListen: values.healthListen,
      services: [safekeeperService({ timelines, catchUpScheduler, remoteOf, nodeId, clock, log })],
    },
    announce: broker && { broker, kind: 'safekeeper' },
    begin: () => {
      offloader?.start()
      timelines.start()
      idleLoop.start()
    },
    startedFields: () => ({ timelines: timelines.list().length }),
    stopGraceMs: STOP_GRACE_MS,
    stop: async (stopServer) => {
      await broker?.close()
      await Promise.all([idleLoop.stop(), timelines.stop(), offloader?.stop()])
      await store?.close()
      await timelines.close()
      await stopServer()
      await lock.release()
    },
  }
}

function makeTimelines(
  { nodeId, values, env, rpc }: Safekeeper,
  dataDir: string,
  offloader: Offloader | undefined,
  observer: SafekeeperObserver | undefined,
): Timelines {
  const { disk, log, clock, rng } = env
  const quota = new NodeQuota(
    { timelineBytes: bytesOf(values.timelineQuotaMib), nodeBytes: bytesOf(values.nodeQuotaMib) },
    clock,
  )
  const scrub = { rpc: rpc.client, disk, nodeId, clock, rng, turns: new Semaphore(1) }
  const children = [
    Scrubber.factory(scrub),
    Reopener.factory({ clock, rng }),
    ...(offloader === undefined ? [] : [offloader.factory]),
  ]
  const remoteOf = offloader?.remoteOf
  return new Timelines({ disk, log, clock, rng, dataDir, quota, observer, remoteOf, children })
}

function makeOffloader(
  { nodeId, values, env: { clock, rng, log } }: Safekeeper,
  store: ObjectStore,
  observer: SafekeeperObserver | undefined,
): Offloader {
  const settings = {
    quietMs: values.offloadQuietS * 1000,
    takeOverMs: values.offloadTakeOverS * 1000,
    keepBytes: values.keepWalMib * MIB,
  }
  return new Offloader({ store, nodeId, clock, rng, log, settings, observer })
}

const bytesOf = (mib: number | undefined): number | undefined => (mib === undefined ? undefined : mib * MIB)

async function openFolder(disk: Disk, dataDir: string, timelines: Timelines): Promise<FolderLock> {
  await disk.makeDirectory(dataDir)
  const lock = await lockFolder(dataDir)
  await timelines.openAll()
  return lock
}
