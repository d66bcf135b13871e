/** `compute-proxy host`: runs computes, each in a process of its own. */
import { mkdir, realpath } from 'node:fs/promises'
import { resolve } from 'node:path'
import { checkReachable, diskError, unprivilegedUser } from '@understory/env'
import type { Log } from '@understory/env'
import { defineService } from '@understory/service'
import type { Composition, Service } from '@understory/service'
import { fetchPages } from '@understory/telemetry'
import { namedUsers, ownRange } from '../postgres/compute-users.ts'
import { HOST_CONFIG } from '../config.ts'
import { Host, hostService } from '../host/host.ts'
import { METRICS } from '../telemetry/metrics.ts'
import { STOP_GRACE_MS } from './stop-grace.ts'

export const HOST = defineService(
  {
    name: 'compute-proxy',
    telemetryName: 'understory-compute-host',
    config: HOST_CONFIG,
    metrics: METRICS,
    identity: ({ nodeId, dataDir }) => ({ nodeId, dataDirectory: resolve(dataDir) }),
  },
  compose,
)

async function compose(service: Service<typeof HOST_CONFIG, typeof METRICS>): Promise<Composition> {
  const { nodeId, values, environment, telemetry } = service
  const { clock, log } = service.env
  const dataDirectory = await makeDataDirectory(values.dataDir)
  const binaries = Object.fromEntries(
    ([16, 17, 18] as const).map((major) => [major, values[`postgresBin-${major}`]]),
  )
  warnIfOpenToPostgres(environment, log)
  const computes = new Host({
    nodeId,
    dataDirectory,
    binaries,
    contactTimeoutMs: values.contactTimeoutMs,
    ingestLagLimitMib: values.ingestLagLimitMib,
    adoptionGraceMs: values.adoptionGraceMs,
    hasMetrics: values.metricsListen !== undefined,
    users: process.geteuid?.() === 0 ? { range: ownRange(), named: namedUsers() } : undefined,
    logLevel: values.logLevel,
    environment,
    clock,
    log,
  })
  service.showPages(() => fetchPages(computes.metricsPorts()))
  telemetry?.meter.onCollect(() => {
    const { hosted } = telemetry.metrics
    for (const [state, count] of Object.entries(computes.states()))
      hosted.observe({ state: state as keyof ReturnType<Host['states']> }, count)
  })
  const user = unprivilegedUser()
  checkReachable(dataDirectory, user, 'the data directory')
  for (const [major, bin] of Object.entries(binaries)) {
    if (bin !== undefined) checkReachable(resolve(bin), user, `the programs of PostgreSQL ${major} in`)
  }
  await computes.load()
  const broker = values.broker === undefined ? undefined : service.openBroker(values.broker)
  return {
    server: { ...values.listen, services: [hostService(computes)] },
    announce: broker && { broker, kind: 'compute-host' },
    stopGraceMs: STOP_GRACE_MS,
    stop: async (stopServer) => {
      await Promise.all([computes.stop(), stopServer()])
      await broker?.close()
    },
  }
}

/** As the kernel names it: by their working directory the processes of a Postgres are found. */
async function makeDataDirectory(path: string): Promise<string> {
  try {
    await mkdir(path, { recursive: true })
    return await realpath(path)
  } catch (error) {
    throw diskError(error, `use data directory "${resolve(path)}"`)
  }
}

/** Without root all computes have one user: its tenants can reach each other's files, and the host's. */
function warnIfOpenToPostgres(environment: NodeJS.ProcessEnv, log: Log): void {
  const { UNDERSTORY_TOKEN: token, UNDERSTORY_TOKEN_FILE: tokenFile } = environment
  if (process.geteuid?.() === 0 || (token === undefined && tokenFile === undefined)) return
  log.warn('open_to_postgres', {
    hint: 'A superuser of any tenant here can read the token. Run this host as root, which gives each tenant a user of its own.',
  })
}
