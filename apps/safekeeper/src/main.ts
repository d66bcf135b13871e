/** The safekeeper's composition root. Exit codes: 0 stopped, 1 could not start, 2 wrong settings. */
import { resolve } from 'node:path'
import { describeError, isErrorCode, parseNodeId } from '@understory/base'
import { openBroker } from '@understory/broker'
import { jsonLog, lockFolder, parseOptions, realEnv } from '@understory/env'
import type { Disk, FolderLock } from '@understory/env'
import { observeStore, openObjectStore } from '@understory/object-store'
import type { TimelineRef } from '@understory/rpc'
import { readSecurity, rpcContext, startServer } from '@understory/rpc'
import { startTelemetry } from '@understory/telemetry'
import { tellSubscriptions, tellTimelines } from './collect.ts'
import { CONFIG } from './config.ts'
import { DiskSpace } from './disk-space.ts'
import { METRICS } from './metrics.ts'
import { Offloader } from './offload.ts'
import { Pulls } from './pulls.ts'
import type { RemoteWal } from './remote-wal.ts'
import { Reopenings } from './reopenings.ts'
import { Repairs } from './repairs.ts'
import { SafekeeperObserver } from './safekeeper-observer.ts'
import { safekeeperService } from './service.ts'
import { Timelines, explainDataFolder } from './timelines.ts'

const STOP_GRACE_MS = 2_000
const MIB = 1024 * 1024

async function main(): Promise<void> {
  const options = parseOptions('safekeeper', CONFIG, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return
  }
  const { listen, advertise, healthListen, broker: brokerUrl, logLevel } = options.values
  const nodeId = parseNodeId(options.values.nodeId)
  const security = readSecurity(process.env)
  const dataDir = resolve(options.values.dataDir)
  const telemetry = await startTelemetry({
    service: 'understory-safekeeper',
    node: nodeId,
    environment: process.env,
    metricsListen: options.values.metricsListen,
    dataDirectory: dataDir,
    metrics: METRICS,
  })
  const env = realEnv(jsonLog({ level: logLevel, fields: { node: nodeId }, also: telemetry?.takeLog }))
  telemetry?.reportTo(env.log)
  const contexts = rpcContext({ security, observer: telemetry?.rpc, clock: env.clock, log: env.log })
  security.watch(env)
  const rpc = contexts.client

  const timelines = new Timelines(env.disk, env.log, dataDir)
  timelines.space = new DiskSpace(
    {
      timelineBytes: bytesOf(options.values.timelineQuotaMib),
      nodeBytes: bytesOf(options.values.nodeQuotaMib),
    },
    env.clock,
  )
  timelines.observer = telemetry === undefined ? undefined : new SafekeeperObserver(telemetry)
  const repairs = new Repairs({ timelines, rpc, disk: env.disk, nodeId, clock: env.clock, log: env.log })
  const reopenings = new Reopenings({ timelines, clock: env.clock, rng: env.rng, log: env.log })
  const { objectStore } = options.values
  // Not asked for anything yet: commits do not wait for an object store, and neither does a start.
  const store =
    objectStore === undefined
      ? undefined
      : observeStore(
          await openObjectStore(objectStore, { clock: env.clock, rng: env.rng, environment: process.env }),
          telemetry?.objectStore,
          env.clock,
        )
  const offloader =
    store === undefined
      ? undefined
      : new Offloader({
          timelines,
          store,
          nodeId,
          clock: env.clock,
          rng: env.rng,
          log: env.log,
          settings: {
            quietMs: options.values.offloadQuietS * 1000,
            takeOverMs: options.values.offloadTakeOverS * 1000,
            keepBytes: options.values.keepWalMib * MIB,
          },
        })
  const remoteOf = (ref: TimelineRef): RemoteWal | undefined => offloader?.remoteOf(ref)
  const pulls = new Pulls({ timelines, rpc, nodeId, clock: env.clock, log: env.log, remoteOf })
  telemetry?.meter.onCollect(() => {
    tellTimelines(telemetry.metrics, timelines, (ref) => offloader?.storedUntil(ref))
    tellSubscriptions(telemetry.metrics, timelines, timelines.observer?.subscriptions ?? [])
  })
  timelines.beforeDelete = (ref) => offloader?.forget(ref)
  // Before anything is read: opening a timeline cuts its torn tail, which another process may be writing.
  const lock = await openFolder(env.disk, dataDir, timelines).catch((error: unknown) => {
    throw explainDataFolder(error, dataDir)
  })
  const services = [safekeeperService({ timelines, pulls, remoteOf, nodeId, clock: env.clock })]
  const server = await startServer(contexts.server, { ...listen, advertise, healthListen, services })
  const broker = brokerUrl === undefined ? undefined : openBroker(brokerUrl, { ...env, rpc })
  const announcement = await broker?.announce(`node/${nodeId}`, {
    kind: 'safekeeper',
    address: server.address,
  })
  repairs.start()
  reopenings.start()
  const resting = new AbortController()
  const rested = timelines.restIdle(env.clock, resting.signal)
  offloader?.start()
  env.log.info('started', {
    address: server.address,
    metricsPort: telemetry?.metricsPort,
    timelines: timelines.list().length,
  })

  const stopping = Promise.withResolvers<string>()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.resolve(signal))
  env.log.info('stopping', { signal: await stopping.promise })
  await announcement?.stop()
  await broker?.close()
  resting.abort()
  await Promise.all([rested, pulls.stop(), repairs.stop(), reopenings.stop(), offloader?.stop()])
  await store?.close()
  await timelines.close()
  await server.stop(STOP_GRACE_MS)
  await lock.release()
  await telemetry?.stop()
}

const bytesOf = (mib: number | undefined): number | undefined => (mib === undefined ? undefined : mib * MIB)

async function openFolder(disk: Disk, dataDir: string, timelines: Timelines): Promise<FolderLock> {
  await disk.makeDirectory(dataDir)
  const lock = await lockFolder(dataDir)
  await timelines.openAll()
  return lock
}

try {
  await main()
} catch (error) {
  process.stderr.write(`understory safekeeper: ${describeError(error)}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
