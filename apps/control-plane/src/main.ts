/** The control plane's composition root. Exit codes: 0 stopped, 1 could not start, 2 wrong settings. */
import { describeError, isErrorCode } from '@understory/base'
import { brokerService, memoryBroker, openBroker } from '@understory/broker'
import { jsonLog, parseOptions, realEnv } from '@understory/env'
import { observeStore, openObjectStore, probeConditionalPut } from '@understory/object-store'
import { readSecurity, rpcContext, startServer } from '@understory/rpc'
import { startTelemetry } from '@understory/telemetry'
import { controlPlaneService } from './api.ts'
import { tellAll } from './collect.ts'
import { CONFIG } from './config.ts'
import { ConfigurationStore } from './configuration-store.ts'
import { Directory } from './directory.ts'
import { hostDriver } from './host-driver.ts'
import { apiServer, openKubernetesApi } from './kubernetes/api.ts'
import type { KubernetesApi } from './kubernetes/api.ts'
import { KubernetesDriver } from './kubernetes/kubernetes-driver.ts'
import { keepLeaderLabel } from './kubernetes/leader-label.ts'
import { readPodSettings } from './kubernetes/pod-settings.ts'
import type { PodSettings } from './kubernetes/pod-settings.ts'
import { Lead } from './lead.ts'
import { METRICS } from './metrics.ts'
import { Nodes } from './nodes.ts'
import { Peers } from './observed.ts'
import { ReconcileObserver } from './reconcile-observer.ts'
import { TenantStore } from './tenant-store.ts'

const STOP_GRACE_MS = 2_000

async function main(): Promise<void> {
  const options = parseOptions('control-plane', CONFIG, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return
  }
  const { nodeId, listen, metricsListen, objectStore, leaseMs, replaceAfterMs, logLevel, ...given } =
    options.values
  const security = readSecurity(process.env)
  const telemetry = await startTelemetry({
    service: 'understory-control-plane',
    node: nodeId,
    environment: process.env,
    metricsListen,
    metrics: METRICS,
  })
  const env = realEnv(jsonLog({ level: logLevel, fields: { node: nodeId }, also: telemetry?.takeLog }))
  const { clock, rng, log } = env
  telemetry?.reportTo(log)
  const contexts = rpcContext({ security, observer: telemetry?.rpc, clock: env.clock, log: env.log })
  security.watch(env)
  const rpc = contexts.client

  // First of all: a process with number 1, as in a container, does not heed a signal that it has no handler for.
  const stopping = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort())
  const stopped = new Promise<void>((resolve) =>
    stopping.signal.addEventListener('abort', () => resolve(), { once: true }),
  )

  const opened = await openObjectStore(objectStore, { clock, rng, environment: process.env })
  const store = observeStore(opened, telemetry?.objectStore, clock)
  if (!(await isDone(probeConditionalPut(store, rng, { signal: stopping.signal })))) {
    await store.close()
    await telemetry?.stop()
    return
  }
  const embedded = given.broker === 'embedded' ? memoryBroker(env) : undefined
  const broker = embedded ?? openBroker(given.broker, { ...env, rpc })
  const nodes = new Nodes(broker, env.log)
  const peers = new Peers(clock, rpc)
  const kubernetes = given.computePods === undefined ? undefined : await openKubernetes(given.computePods)
  const lead = new Lead({ store, nodeId, leaseMs, clock, rng, log })
  const directory = new Directory({
    store: new TenantStore(store, lead),
    configurations: new ConfigurationStore(store),
    objects: store,
    nodes,
    peers,
    computes:
      kubernetes === undefined
        ? hostDriver(peers)
        : new KubernetesDriver({ ...kubernetes, peers, clock, log }),
    replaceAfterMs,
    observer: telemetry === undefined ? undefined : new ReconcileObserver(telemetry),
    clock,
    rng,
    log,
  })
  telemetry?.meter.onCollect(async () => {
    telemetry.metrics.lead.observe({}, lead.isHeld ? 1 : 0)
    // One that waits for its turn would tell the same as the one that leads.
    telemetry.metrics.brokerAway.observe({}, nodes.isBrokerAway ? 1 : 0)
    if (lead.isHeld) tellAll(telemetry.metrics, await directory.views(), nodes.known())
  })
  const following = nodes.follow(stopping.signal)

  const services = [controlPlaneService(directory, nodes, peers)]
  if (embedded !== undefined) services.push(brokerService(embedded))
  // Before the lead: one whose port is taken must not take it from the one that has the port.
  const server = await startServer(contexts.server, {
    ...listen,
    advertise: given.advertise,
    healthListen: given.healthListen,
    services,
    health: (name) => ({ '': true, lead: lead.isHeld, ready: lead.isHeld || lead.standsBy })[name],
  })

  let hasLost = false
  if (await isDone(lead.acquire(stopping.signal))) {
    const announcement = await broker.announce(`node/${nodeId}`, {
      kind: 'control-plane',
      address: server.address,
    })
    const running = directory.run()
    const ended = new AbortController()
    const labelling =
      kubernetes === undefined
        ? undefined
        : keepLeaderLabel({ ...kubernetes, podName: nodeId, clock, log }, ended.signal)
    log.info('started', { address: server.address, metricsPort: telemetry?.metricsPort })
    const reason = await Promise.race([stopped, lead.lost])
    hasLost = reason !== undefined
    if (hasLost) log.error('lead_lost', { reason })
    else log.info('stopping')
    ended.abort()
    await labelling
    await announcement.stop()
    await directory.stop()
    await running
    await lead.release()
  }
  await server.stop(STOP_GRACE_MS)
  await broker.close()
  await following
  await store.close()
  await telemetry?.stop()
  // Whoever supervises it starts it again: then it waits for its turn.
  if (hasLost) process.exit(1)
}

async function openKubernetes(
  settingsFile: string,
): Promise<{ readonly api: KubernetesApi; readonly settings: PodSettings }> {
  const settings = await readPodSettings(settingsFile)
  const api = await openKubernetesApi({
    namespace: settings.namespace,
    server: apiServer(process.env),
  })
  return { api, settings }
}

/** False where it was told to stop while it waited. */
async function isDone(work: Promise<void>): Promise<boolean> {
  try {
    await work
    return true
  } catch (error) {
    if (isErrorCode(error, 'cancelled')) return false
    throw error
  }
}

try {
  await main()
} catch (error) {
  process.stderr.write(`understory control-plane: ${describeError(error)}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
