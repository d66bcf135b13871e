/**
 * compute-proxy's composition root. `host` runs computes; `run` is one of them; `pod` is the one of a Kubernetes pod.
 * Exit codes: exit-codes.ts.
 */
import { chmod, mkdir, realpath } from 'node:fs/promises'
import { createServer } from 'node:net'
import { resolve } from 'node:path'
import { describeError, isErrorCode, refuse } from '@understory/base'
import { openBroker } from '@understory/broker'
import {
  checkReachable,
  diskError,
  jsonLog,
  lockFolder,
  parseOptions,
  realDisk,
  realEnv,
  unprivilegedUser,
} from '@understory/env'
import type { Clock, Env, FolderLock, Log, LogFields, LogLevel } from '@understory/env'
import { decodeSpec } from '@understory/protocol'
import { readSecurity, rpcContext, startServer } from '@understory/rpc'
import type { RpcContext, Security } from '@understory/rpc'
import { fetchPages, startTelemetry } from '@understory/telemetry'
import { childLauncher } from './child-launcher.ts'
import { Compute } from './compute.ts'
import type { ComputeTelemetry } from './compute-observer.ts'
import { HOST_CONFIG, POD_CONFIG, RUN_CONFIG } from './config.ts'
import { takeOverState } from './earlier-layout.ts'
import { EXIT_FAILED, EXIT_FENCED, EXIT_STOPPED, EXIT_USAGE } from './exit-codes.ts'
import { namedUsers, ownRange } from './compute-users.ts'
import { ALIVE_MS, Host, hostService } from './host.ts'
import { hostFiles, podFiles } from './layout.ts'
import { METRICS } from './metrics.ts'
import { NeighbourLauncher } from './neighbour-launcher.ts'
import { PodCompute } from './pod.ts'
import { computeService } from './service.ts'

const STOP_GRACE_MS = 1_000
const LOOPBACK = '127.0.0.1'
/** Longer than a compute whose host died takes to stop. */
const LOCK_WAIT_MS = 20_000
const LOCK_POLL_MS = 50

async function host(argv: readonly string[], security: Security): Promise<number> {
  const options = parseOptions('compute-proxy', HOST_CONFIG, argv, process.env)
  if (options.kind === 'help') return help(options.text)
  const { nodeId, listen, dataDir, broker: brokerUrl, contactTimeoutMs, logLevel, ...rest } = options.values
  const dataDirectory = resolve(dataDir)
  const { metricsListen, ...bins } = rest
  const telemetry = await startTelemetry({
    service: 'understory-compute-host',
    node: nodeId,
    environment: process.env,
    metricsListen,
    dataDirectory,
    morePages: () => fetchPages(computes.metricsPorts()),
    metrics: METRICS,
  })
  const { clock, rng, log, rpc } = observedEnv(security, logLevel, { node: nodeId }, telemetry)
  const binaries = Object.fromEntries(
    [16, 17, 18].map((major) => [major, bins[`postgresBin-${major}` as keyof typeof bins]]),
  )
  warnIfOpenToPostgres(log)
  const computes = new Host({
    nodeId,
    dataDirectory,
    binaries,
    contactTimeoutMs,
    hasMetrics: metricsListen !== undefined,
    users: process.geteuid?.() === 0 ? { range: ownRange(), named: namedUsers() } : undefined,
    logLevel,
    environment: process.env,
    clock,
    log,
  })
  telemetry?.meter.onCollect(() => {
    const { hosted } = telemetry.metrics
    for (const [state, count] of Object.entries(computes.states()))
      hosted.observe({ state: state as keyof ReturnType<Host['states']> }, count)
  })
  await mkdir(dataDirectory, { recursive: true }).catch((error: unknown) => {
    throw diskError(error, `use data directory "${dataDirectory}"`)
  })
  const user = unprivilegedUser()
  checkReachable(dataDirectory, user, 'the data directory')
  for (const [major, bin] of Object.entries(binaries)) {
    if (bin !== undefined) checkReachable(resolve(bin), user, `the programs of PostgreSQL ${major} in`)
  }
  await computes.load()
  const server = await startServer(rpc.server, { ...listen, services: [hostService(computes)] })
  const broker =
    brokerUrl === undefined ? undefined : openBroker(brokerUrl, { clock, rng, log, rpc: rpc.client })
  const announcement = await broker?.announce(`node/${nodeId}`, {
    kind: 'compute-host',
    address: server.address,
  })
  log.info('started', { address: server.address, metricsPort: telemetry?.metricsPort })
  await stopSignal()
  log.info('stopping')
  await announcement?.stop()
  await Promise.all([computes.stop(), server.stop(STOP_GRACE_MS)])
  await broker?.close()
  await telemetry?.stop()
  return EXIT_STOPPED
}

async function run(argv: readonly string[], security: Security): Promise<number> {
  const options = parseOptions('compute-proxy', RUN_CONFIG, argv, process.env)
  if (options.kind === 'help') return help(options.text)
  const { nodeId, spec: specText, bin, contactTimeoutMs, metricsListen, logLevel } = options.values
  const spec = decodeSpec(specText)
  const { timelineId } = spec.timeline
  const telemetry = await startTelemetry({
    service: 'understory-compute',
    // A host has many.
    node: `${nodeId}/${timelineId.slice(0, 8)}`,
    environment: process.env,
    metricsListen,
    dataDirectory: options.values.root,
    metrics: METRICS,
  })
  const { clock, rng, log, rpc } = observedEnv(
    security,
    logLevel,
    { node: nodeId, timeline: timelineId },
    telemetry,
  )
  await mkdir(options.values.root, { recursive: true })
  // Postgres's user passes through it to what is its own.
  await chmod(options.values.root, 0o711)
  // As the kernel names it: by their working directory the processes of an old Postgres are found.
  const root = await realpath(options.values.root)
  const lock = await lockRoot(root, clock, log)
  const owner = ownerOf(options.values.postgresUid)
  const files = hostFiles(root)
  await takeOverState(files)
  const compute = new Compute({
    spec,
    files,
    launcher: childLauncher({ bin, owner, environment: postgresEnvironment(), clock, log }),
    rpc: rpc.client,
    front: { listenAddresses: LOOPBACK, host: LOOPBACK },
    nodeId,
    contactTimeoutMs,
    isWantedAnew: options.values.wantedAnew === 'yes',
    freePort,
    telemetry,
    clock,
    rng,
    log,
  })
  const server = await startServer(rpc.server, {
    host: '127.0.0.1',
    port: 0,
    services: [computeService(rpc.client, () => ({ compute, spec }))],
  })
  process.on('message', (message) => {
    if (typeof message === 'object' && message !== null && 'spec' in message)
      compute.updateSpec(decodeSpec(String(message.spec)))
  })
  // A host that died leaves its computes to stop by themselves: its successor starts them anew.
  process.once('disconnect', () => compute.requestStop(10_000))
  if (process.send !== undefined && !process.connected) compute.requestStop(10_000)
  void stopSignal().then(() => compute.requestStop(60_000))
  process.send?.({ address: server.address, metricsPort: telemetry?.metricsPort ?? 0 })
  const alive = setInterval(() => {
    if (process.connected) process.send?.({ alive: true })
  }, ALIVE_MS)
  log.info('started', { address: server.address })
  const end = await compute.run()
  clearInterval(alive)
  log.info('compute_end', { ...end })
  await server.stop(STOP_GRACE_MS)
  await lock.release()
  await telemetry?.stop()
  return end.kind === 'fenced' ? EXIT_FENCED : EXIT_STOPPED
}

/** Whom Postgres runs as; undefined: as this process, which is not root then. */
function ownerOf(uid: number | undefined): { readonly uid: number; readonly gid: number } | undefined {
  if (process.geteuid?.() !== 0) return undefined
  if (uid !== undefined) return { uid, gid: uid }
  throw refuse('bad_argument', 'root runs no Postgres as itself', { hint: 'Give --postgres-uid.' })
}

/** What Postgres and the programs that a superuser starts see of this process's environment: no secret. */
function postgresEnvironment(): Record<string, string> {
  const names = ['PATH', 'LD_LIBRARY_PATH', 'TZ', 'LANG', 'LC_ALL']
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = process.env[name]
      return value === undefined ? [] : [[name, value]]
    }),
  )
}

/** Who is not root has one user for all: what its tenants have of each other, and of it, is theirs. */
function warnIfOpenToPostgres(log: Log): void {
  const { UNDERSTORY_TOKEN: token, UNDERSTORY_TOKEN_FILE: tokenFile } = process.env
  if (process.geteuid?.() === 0 || (token === undefined && tokenFile === undefined)) return
  log.warn('open_to_postgres', {
    hint: 'A superuser of any tenant here can read the token. Run this host as root, which gives each tenant a user of its own.',
  })
}

async function pod(argv: readonly string[], security: Security): Promise<number> {
  const options = parseOptions('compute-proxy', POD_CONFIG, argv, process.env)
  if (options.kind === 'help') return help(options.text)
  const { nodeId, timeline, listen, advertise, sqlHost, stopDeadlineMs, ...rest } = options.values
  const telemetry = await startTelemetry({
    service: 'understory-compute',
    node: nodeId,
    environment: process.env,
    metricsListen: rest.metricsListen,
    dataDirectory: rest.sharedDir,
    metrics: METRICS,
  })
  const { clock, rng, log, rpc } = observedEnv(security, rest.logLevel, { node: nodeId, timeline }, telemetry)
  // What is written into PGDATA is for the group, which Postgres's user has.
  process.umask(0o007)
  const files = podFiles({ shared: rest.sharedDir, orders: rest.ordersDir, own: rest.ownDir })
  const lock = await lockRoot(files.own, clock, log)
  const requestStop = (): void => {
    launcher.giveUp()
    compute.requestStop(stopDeadlineMs)
  }
  const launcher = new NeighbourLauncher({ files, clock, log, onStopAsked: requestStop })
  const compute = new PodCompute({
    timelineId: timeline,
    address: `${advertise}:${listen.port}`,
    files,
    launcher,
    rpc: rpc.client,
    front: { listenAddresses: '*', host: sqlHost },
    nodeId,
    contactTimeoutMs: rest.contactTimeoutMs,
    isWantedAnew: false,
    freePort,
    telemetry,
    clock,
    rng,
    log,
  })
  // What an earlier life of this process left must not serve while this one waits to be told what to do.
  await launcher.open()
  await launcher.endOld()
  await compute.load()
  const server = await startServer(rpc.server, {
    ...listen,
    healthListen: rest.healthListen,
    services: [hostService(compute), computeService(rpc.client, () => compute.current())],
    health: (name) => ({ '': true, pgdata: launcher.isWanted, sql: compute.isOpen })[name],
  })
  const stopped = stopSignal().then(requestStop)
  log.info('started', { address: server.address, metricsPort: telemetry?.metricsPort })
  const end = await compute.ended
  log.info('compute_end', { ...end })
  launcher.finish()
  // Kubernetes ends this container once that of Postgres has ended; before that it would only start it again.
  await stopped
  await server.stop(STOP_GRACE_MS)
  await lock.release()
  await telemetry?.stop()
  return EXIT_STOPPED
}

/** The real world, with whatever of it is observed. */
function observedEnv(
  security: Security,
  level: LogLevel,
  fields: LogFields,
  telemetry: ComputeTelemetry | undefined,
): Env & { readonly rpc: RpcContext } {
  const env = realEnv(jsonLog({ level, fields, also: telemetry?.takeLog }))
  telemetry?.reportTo(env.log)
  const rpc = rpcContext({ security, observer: telemetry?.rpc, clock: env.clock, log: env.log })
  security.watch(env)
  return { ...env, rpc }
}

/**
 * Two computes on one folder would end each other's Postgres and write one PGDATA from two positions. The one before,
 * whose host died, stops by itself: it is waited for.
 */
async function lockRoot(root: string, clock: Clock, log: Log): Promise<FolderLock> {
  const untilMs = clock.nowMs() + LOCK_WAIT_MS
  for (let attempt = 0; ; attempt++) {
    try {
      const lock = await lockFolder(root)
      await realDisk.removeLeftovers(root)
      return lock
    } catch (error) {
      if (!isErrorCode(error, 'precondition') || clock.nowMs() > untilMs) throw error
    }
    if (attempt === 0) log.info('waiting_for_folder', { root })
    await clock.sleep(LOCK_POLL_MS)
  }
}

function help(text: string): number {
  process.stdout.write(text)
  return EXIT_STOPPED
}

function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve())
  })
}

/** A TCP port that is free on loopback right now. */
function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address()
      probe.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}

async function main(): Promise<number> {
  const [command, ...argv] = process.argv.slice(2)
  const security = readSecurity(process.env)
  // Not for the eyes of a superuser of the Postgres that is started from here; a host's computes need it once more.
  if (command !== 'host') delete process.env['UNDERSTORY_TOKEN']
  if (command === 'host') return host(argv, security)
  if (command === 'run') return run(argv, security)
  if (command === 'pod') return pod(argv, security)
  throw refuse('bad_argument', command === undefined ? 'which command?' : `unknown command "${command}"`, {
    hint: 'Use "host", "pod" or "run"; see --help of each.',
  })
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory compute-proxy: ${describeError(error)}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? EXIT_USAGE : EXIT_FAILED)
}
