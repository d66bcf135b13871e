/** The control plane's composition root. Exit codes: 0 stopped, 1 could not start, 2 wrong settings. */
import { describeError, isErrorCode } from '@understory/base'
import { brokerService, memoryBroker, openBroker } from '@understory/broker'
import { jsonLog, parseOptions, realEnv } from '@understory/env'
import { openObjectStore, probeConditionalPut } from '@understory/object-store'
import { setBugReporter, startServer } from '@understory/rpc'
import { controlPlaneService } from './api.ts'
import { CONFIG } from './config.ts'
import { ConfigurationStore } from './configuration-store.ts'
import { Directory } from './directory.ts'
import { serveMetrics } from './metrics-page.ts'
import { Nodes } from './nodes.ts'
import { Peers } from './observed.ts'
import { TenantStore } from './tenant-store.ts'

const STOP_GRACE_MS = 2_000

async function main(): Promise<void> {
  const options = parseOptions('control-plane', CONFIG, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return
  }
  const { nodeId, listen, metricsListen, objectStore, broker: brokerUrl, logLevel } = options.values
  const env = realEnv(jsonLog({ level: logLevel, fields: { node: nodeId } }))
  setBugReporter((error, method) => env.log.error('rpc_handler_bug', { method, error }))

  const store = await openObjectStore(objectStore, {
    clock: env.clock,
    rng: env.rng,
    environment: process.env,
  })
  await probeConditionalPut(store, env.rng)
  const embedded = brokerUrl === 'embedded' ? memoryBroker(env) : undefined
  const broker = embedded ?? openBroker(brokerUrl, env)
  const nodes = new Nodes(broker)
  const peers = new Peers()
  const { clock, rng, log } = env
  const directory = new Directory({
    store: new TenantStore(store),
    configurations: new ConfigurationStore(store),
    nodes,
    peers,
    clock,
    rng,
    log,
  })

  const services = [controlPlaneService(directory, nodes, peers)]
  if (embedded !== undefined) services.push(brokerService(embedded))
  const server = await startServer({ ...listen, services })
  const metrics = await serveMetrics(metricsListen.host, metricsListen.port, () => directory.views())
  const announcement = await broker.announce(`node/${nodeId}`, {
    kind: 'control-plane',
    address: server.address,
  })
  const running = directory.run()
  env.log.info('started', { address: server.address, metricsPort: metrics.port })

  const stopping = Promise.withResolvers<string>()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.resolve(signal))
  env.log.info('stopping', { signal: await stopping.promise })
  await announcement.stop()
  await directory.stop()
  await Promise.all([running, server.stop(STOP_GRACE_MS), metrics.stop()])
  await broker.close()
  await store.close()
}

try {
  await main()
} catch (error) {
  process.stderr.write(`understory control-plane: ${describeError(error)}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
