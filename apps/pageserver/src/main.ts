/** The pageserver's composition root. Exit codes: 0 stopped, 1 could not start, 2 wrong settings. */
import { resolve } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { openBroker } from '@understory/broker'
import { jsonLog, lockFolder, parseOptions, realEnv, realWorkers } from '@understory/env'
import { observeStore, openObjectStore, probeConditionalPut } from '@understory/object-store'
import { readSecurity, rpcContext, startServer } from '@understory/rpc'
import { BlockCache } from '@understory/storage'
import { startTelemetry } from '@understory/telemetry'
import { pageserverService } from './api.ts'
import { tellShards } from './collect.ts'
import { CommitPositions } from './commit-positions.ts'
import { CONFIG } from './config.ts'
import type { ImageJobs } from './image-protocol.ts'
import { METRICS } from './metrics.ts'
import { PageserverObserver } from './pageserver-observer.ts'
import { ShardRegistry } from './shard-registry.ts'
import { Turns } from './turns.ts'

const STOP_GRACE_MS = 2_000
const MIB = 1024 * 1024
const IMPORT_LAYER_BYTES_MAX = 128 * MIB
/** Of the object store, each as a whole in memory. */
const LAYER_FETCHES_COUNT_MAX = 2

async function main(): Promise<void> {
  const options = parseOptions('pageserver', CONFIG, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return
  }
  const {
    nodeId,
    listen,
    advertise,
    healthListen,
    metricsListen,
    dataDir,
    imageThreads,
    openLayerMib,
    openLayerAgeS,
    blockCacheMib,
    logLevel,
    ...urls
  } = options.values
  const security = readSecurity(process.env)
  const dataDirectory = resolve(dataDir)
  const telemetry = await startTelemetry({
    service: 'understory-pageserver',
    node: nodeId,
    environment: process.env,
    metricsListen,
    dataDirectory,
    metrics: METRICS,
  })
  const env = realEnv(jsonLog({ level: logLevel, fields: { node: nodeId }, also: telemetry?.takeLog }))
  telemetry?.reportTo(env.log)
  const contexts = rpcContext({ security, observer: telemetry?.rpc, clock: env.clock, log: env.log })
  security.watch(env)
  const rpc = contexts.client

  // A process with number 1, as in a container, does not heed a signal that it has no handler for. Before it serves there is
  // nothing to end.
  let isServing = false
  const stopping = Promise.withResolvers<string>()
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => (isServing ? stopping.resolve(signal) : process.exit(0)))

  await env.disk.makeDirectory(dataDirectory)
  // Two processes on one folder would publish under the same generations.
  const lock = await lockFolder(dataDirectory)
  const { clock, rng } = env
  const opened = await openObjectStore(urls.objectStore, { clock, rng, environment: process.env })
  const store = observeStore(opened, telemetry?.objectStore, clock)
  await probeConditionalPut(store, env.rng)
  const broker = openBroker(urls.broker, { ...env, rpc })
  const script = new URL('./image-worker.ts', import.meta.url)
  const workers = realWorkers<ImageJobs>({ script, threadsCount: imageThreads, name: 'image' })
  const limits = {
    openLayerBytesMax: openLayerMib * MIB,
    openLayerAgeMsMax: openLayerAgeS * 1000,
    importLayerBytesMax: IMPORT_LAYER_BYTES_MAX,
  }
  const cache = new BlockCache(blockCacheMib * MIB)
  const observer = telemetry === undefined ? undefined : new PageserverObserver(telemetry)
  // One runs in each thread, and one is gathered meanwhile.
  const imageTurns = new Turns(imageThreads * 2)
  const fetchTurns = new Turns(LAYER_FETCHES_COUNT_MAX)
  const positions = new CommitPositions(clock, rpc)
  const parts = { env, rpc, store, cache, workers, imageTurns, fetchTurns, positions, limits, observer }
  const registry = new ShardRegistry(parts, dataDirectory)
  telemetry?.meter.onCollect(() => tellShards(telemetry.metrics, registry.all))
  // Before anybody can ask: a shard that is on the disk must not look lost.
  await registry.loadAll()

  const services = [pageserverService(registry, env.clock, observer)]
  const server = await startServer(contexts.server, { ...listen, advertise, healthListen, services })
  const announcement = await broker.announce(`node/${nodeId}`, {
    kind: 'pageserver',
    address: server.address,
  })
  const { metricsPort } = telemetry ?? {}
  env.log.info('started', { address: server.address, metricsPort, shards: registry.all.length })

  isServing = true
  env.log.info('stopping', { signal: await stopping.promise })
  await announcement.stop()
  await Promise.all([registry.stop(), server.stop(STOP_GRACE_MS)])
  await workers.close()
  await broker.close()
  await store.close()
  await lock.release()
  await telemetry?.stop()
}

try {
  await main()
} catch (error) {
  process.stderr.write(`understory pageserver: ${describeError(error)}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
