/** The life of a service. README.md has its order. */
import { isErrorCode } from '@understory/base'
import { openBroker } from '@understory/broker'
import type { Announcement } from '@understory/broker'
import { jsonLog, parseOptions, realEnv } from '@understory/env'
import type { OptionValues } from '@understory/env'
import { observeStore, openObjectStore } from '@understory/object-store'
import { readSecurity, rpcContext, startServer } from '@understory/rpc'
import type { Security } from '@understory/rpc'
import { startTelemetry } from '@understory/telemetry'
import type { MetricTable } from '@understory/telemetry'
import type {
  Compose,
  Composition,
  OptionTable,
  RunnableService,
  Service,
  ServiceDefinition,
  ServiceIdentity,
  ServiceProcess,
} from './definition.ts'
import { orStopped } from './stop-request.ts'

const EXIT_STOPPED = 0

type ShellOptions = OptionValues<{ readonly [K in 'logLevel' | 'metricsListen']: OptionTable[K] }>

export function defineService<C extends OptionTable, M extends MetricTable>(
  definition: ServiceDefinition<C, M>,
  compose: Compose<C, M>,
): RunnableService {
  return { run: (process) => runShell(definition, compose, process) }
}

async function runShell<C extends OptionTable, M extends MetricTable>(
  definition: ServiceDefinition<C, M>,
  compose: Compose<C, M>,
  process: ServiceProcess,
): Promise<number> {
  const { name, config } = definition
  const options = parseOptions(name, config, process.argv, process.environment)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return EXIT_STOPPED
  }
  const { values } = options
  const identity = definition.identity(values)
  const security = readSecurity(process.environment)
  const service = await openService({ definition, values, identity, security, process })
  // The composed parts can be lost at any moment, as in a crash: none of them has to be ended.
  const composition = await orStopped(process.stop, () => compose(service))
  const exitCode = composition === 'stopped' ? EXIT_STOPPED : await serve(service, composition)
  await service.telemetry?.stop()
  return exitCode
}

async function openService<C extends OptionTable, M extends MetricTable>({
  definition,
  values,
  identity,
  security,
  process,
}: {
  readonly definition: ServiceDefinition<C, M>
  readonly values: OptionValues<C>
  readonly identity: ServiceIdentity
  readonly security: Security
  readonly process: ServiceProcess
}): Promise<Service<C, M>> {
  const { environment, stop } = process
  // Every table has these rows, which its type does not say of one that is not known here.
  const { logLevel, metricsListen } = values as unknown as ShellOptions
  const { nodeId, instance = nodeId, logFields, dataDirectory } = identity
  const pages: (() => Promise<readonly string[]>)[] = []
  const telemetry = await startTelemetry({
    service: definition.telemetryName,
    node: instance,
    environment,
    metricsListen,
    dataDirectory,
    morePages: async () => (await Promise.all(pages.map((page) => page()))).flat(),
    metrics: definition.metrics,
  })
  const log = jsonLog({ level: logLevel, fields: { node: nodeId, ...logFields }, also: telemetry?.takeLog })
  const env = realEnv(log)
  const { clock, rng } = env
  telemetry?.reportTo(log)
  const rpc = rpcContext({ security, observer: telemetry?.rpc, clock, log })
  security.watch(env)
  return {
    nodeId,
    values,
    environment,
    env,
    rpc,
    telemetry,
    stop,
    openBroker: (url) => openBroker(url, { clock, rng, log, rpc: rpc.client }),
    openStore: async (url) =>
      observeStore(await openObjectStore(url, { clock, rng, environment }), telemetry?.objectStore, clock),
    showPages: (page) => void pages.push(page),
  }
}

/** From the server's start to its stop. */
async function serve<C extends OptionTable, M extends MetricTable>(
  { nodeId, env, rpc, telemetry, stop }: Service<C, M>,
  composition: Composition,
): Promise<number> {
  const { log } = env
  const { announce, stopGraceMs } = composition
  const server = await startServer(rpc.server, composition.server)
  let exitCode = EXIT_STOPPED
  let announcement: Announcement | undefined
  if (await isPrepared(composition)) {
    const { address } = server
    announcement = await announce?.broker.announce(`node/${nodeId}`, { kind: announce.kind, address })
    composition.begin?.(server)
    log.info('started', { address, metricsPort: telemetry?.metricsPort, ...composition.startedFields?.() })
    if (composition.run === undefined) log.info('stopping', { signal: await stop.requested })
    else exitCode = await composition.run()
  }
  await announcement?.stop()
  await composition.stop(() => server.stop(stopGraceMs))
  return exitCode
}

/** Returns false where a stop was requested during it. */
async function isPrepared({ prepare }: Composition): Promise<boolean> {
  try {
    await prepare?.()
    return true
  } catch (error) {
    if (isErrorCode(error, 'cancelled')) return false
    throw error
  }
}
