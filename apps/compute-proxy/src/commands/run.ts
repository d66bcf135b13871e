/** `compute-proxy run`: one compute, started by a host. */
import { chmod, mkdir, realpath } from 'node:fs/promises'
import { flushCompileCache } from 'node:module'
import { fail } from '@understory/base'
import { decodeSpec } from '@understory/protocol'
import { defineService } from '@understory/service'
import type { Composition, Service } from '@understory/service'
import { childLauncher } from '../postgres/child-launcher.ts'
import { Compute } from '../compute/compute.ts'
import { RUN_CONFIG } from '../config.ts'
import { takeOverState } from '../host/earlier-layout.ts'
import { EXIT_FENCED, EXIT_STOPPED } from '../compute/exit-codes.ts'
import { ALIVE_MS } from '../host/compute-process.ts'
import { hostFiles } from '../postgres/layout.ts'
import { METRICS } from '../telemetry/metrics.ts'
import { computeService } from '../serve/service.ts'
import { freePort } from './free-port.ts'
import { lockRoot } from './root-lock.ts'
import { STOP_GRACE_MS } from './stop-grace.ts'

const LOOPBACK = '127.0.0.1'
const STOP_DEADLINE_MS = 60_000
/** A host that died leaves its computes to stop by themselves: its successor starts them again. */
const ORPHAN_STOP_DEADLINE_MS = 10_000

export const RUN = defineService(
  {
    name: 'compute-proxy',
    telemetryName: 'understory-compute',
    config: RUN_CONFIG,
    metrics: METRICS,
    identity: ({ nodeId, spec, root }) => {
      const { timelineId } = decodeSpec(spec).timeline
      return {
        nodeId,
        // A host has many.
        instance: `${nodeId}/${timelineId.slice(0, 8)}`,
        logFields: { timeline: timelineId },
        dataDirectory: root,
      }
    },
  },
  compose,
)

async function compose(service: Service<typeof RUN_CONFIG, typeof METRICS>): Promise<Composition> {
  const { nodeId, values, environment, telemetry, stop } = service
  const { clock, rng, log } = service.env
  // Not for the eyes of a superuser of the Postgres that is started from here.
  delete environment['UNDERSTORY_TOKEN']
  const spec = decodeSpec(values.spec)
  await mkdir(values.root, { recursive: true })
  // Postgres's user passes through it to what is its own.
  await chmod(values.root, 0o711)
  // As the kernel names it: by their working directory the processes of an old Postgres are found.
  const root = await realpath(values.root)
  const lock = await lockRoot(root, clock, log)
  const owner = ownerOf(values.postgresUid)
  const files = hostFiles(root)
  await takeOverState(files)
  const rpc = service.rpc.client
  const compute = new Compute({
    spec,
    files,
    launcher: childLauncher({
      bin: values.bin,
      owner,
      environment: postgresEnvironment(environment),
      adoptionGraceMs: values.adoptionGraceMs,
      clock,
      log,
    }),
    rpc,
    front: { listenAddresses: LOOPBACK, host: LOOPBACK },
    nodeId,
    contactTimeoutMs: values.contactTimeoutMs,
    ingestLagLimitBytes: values.ingestLagLimitMib * 2 ** 20,
    restartsAfterFencing: values.restartAfterFencing === 'yes',
    freePort,
    telemetry,
    clock,
    rng,
    log,
  })
  let alive: NodeJS.Timeout | undefined
  return {
    server: { host: LOOPBACK, port: 0, services: [computeService(rpc, () => ({ compute, spec }))] },
    begin: ({ address }) => {
      // All is loaded. At its end this process may have no time for it.
      flushCompileCache()
      process.on('message', (message) => {
        if (typeof message === 'object' && message !== null && 'spec' in message)
          compute.updateSpec(decodeSpec(String(message.spec)))
      })
      process.once('disconnect', () => compute.requestStop(ORPHAN_STOP_DEADLINE_MS))
      if (process.send !== undefined && !process.connected) compute.requestStop(ORPHAN_STOP_DEADLINE_MS)
      void stop.requested.then(() => compute.requestStop(STOP_DEADLINE_MS))
      process.send?.({ address, metricsPort: telemetry?.metricsPort ?? 0 })
      alive = setInterval(() => {
        if (process.connected) process.send?.({ alive: true, isRunning: compute.view().state === 'running' })
      }, ALIVE_MS)
    },
    run: async () => {
      const end = await compute.run()
      clearInterval(alive)
      log.info('compute_end', { ...end })
      return end.kind === 'fenced' ? EXIT_FENCED : EXIT_STOPPED
    },
    stopGraceMs: STOP_GRACE_MS,
    stop: async (stopServer) => {
      await stopServer()
      await lock.release()
    },
  }
}

/** Whom Postgres runs as; undefined: as this process, which is not root then. */
function ownerOf(uid: number | undefined): { readonly uid: number; readonly gid: number } | undefined {
  if (process.geteuid?.() !== 0) return undefined
  if (uid !== undefined) return { uid, gid: uid }
  throw fail('bad_argument', 'root does not run Postgres as itself', { hint: 'Give --postgres-uid.' })
}

/** The part of this process's environment that Postgres and programs of a superuser see: no secret. */
function postgresEnvironment(environment: NodeJS.ProcessEnv): Record<string, string> {
  const names = ['PATH', 'LD_LIBRARY_PATH', 'TZ', 'LANG', 'LC_ALL']
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = environment[name]
      return value === undefined ? [] : [[name, value]]
    }),
  )
}
