/** `compute-proxy pod`: the compute of a Kubernetes pod, whose Postgres is a container beside this one. */
import { defineService } from '@understory/service'
import type { Composition, Service } from '@understory/service'
import { POD_CONFIG } from '../config.ts'
import { EXIT_STOPPED } from '../compute/exit-codes.ts'
import { hostService } from '../host/host.ts'
import { podFiles } from '../postgres/layout.ts'
import { METRICS } from '../telemetry/metrics.ts'
import { SidecarLauncher } from '../postgres/sidecar-launcher.ts'
import { PodCompute } from '../host/pod.ts'
import { computeService } from '../serve/service.ts'
import { freePort } from './free-port.ts'
import { lockRoot } from './root-lock.ts'
import { STOP_GRACE_MS } from './stop-grace.ts'

export const POD = defineService(
  {
    name: 'compute-proxy',
    telemetryName: 'understory-compute',
    config: POD_CONFIG,
    metrics: METRICS,
    identity: ({ nodeId, timeline, sharedDir }) => ({
      nodeId,
      logFields: { timeline },
      dataDirectory: sharedDir,
    }),
  },
  compose,
)

async function compose(service: Service<typeof POD_CONFIG, typeof METRICS>): Promise<Composition> {
  const { nodeId, values, environment, telemetry, stop } = service
  const { clock, rng, log } = service.env
  delete environment['UNDERSTORY_TOKEN']
  // Files written into PGDATA are for the group, which Postgres's user has.
  process.umask(0o007)
  const files = podFiles({ shared: values.sharedDir, orders: values.ordersDir, own: values.ownDir })
  const lock = await lockRoot(files.own, clock, log)
  const requestStop = (): void => {
    launcher.cancelWaits()
    compute.requestStop(values.stopDeadlineMs)
  }
  const launcher = new SidecarLauncher({ files, clock, log, onStopAsked: requestStop })
  const rpc = service.rpc.client
  const compute = new PodCompute({
    timelineId: values.timeline,
    address: `${values.advertise}:${values.listen.port}`,
    files,
    launcher,
    rpc,
    front: { listenAddresses: '*', host: values.sqlHost },
    nodeId,
    contactTimeoutMs: values.contactTimeoutMs,
    ingestLagLimitBytes: values.ingestLagLimitMib * 2 ** 20,
    restartsAfterFencing: false,
    freePort,
    telemetry,
    clock,
    rng,
    log,
  })
  // A Postgres that an earlier life of this process left must not serve while this one waits for its spec.
  await launcher.open()
  await launcher.endOld()
  await compute.load()
  let stopped: Promise<void> | undefined
  return {
    server: {
      ...values.listen,
      healthListen: values.healthListen,
      services: [hostService(compute), computeService(rpc, () => compute.current())],
      health: (name) => ({ '': true, pgdata: launcher.isWanted, sql: compute.isOpen })[name],
    },
    begin: () => {
      stopped = stop.requested.then(requestStop)
    },
    run: async () => {
      const end = await compute.ended
      log.info('compute_end', { ...end })
      launcher.finish()
      // Kubernetes ends this container once that of Postgres has ended; before that it would only start it again.
      await stopped
      return EXIT_STOPPED
    },
    stopGraceMs: STOP_GRACE_MS,
    stop: async (stopServer) => {
      await stopServer()
      await lock.release()
    },
  }
}
