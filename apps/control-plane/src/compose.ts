/** The control plane's composition root. */
import { brokerService, memoryBroker } from '@understory/broker'
import { probeConditionalPut } from '@understory/object-store'
import { defineService } from '@understory/service'
import type { Composition, Service } from '@understory/service'
import { grpcConnector } from '@understory/protocol/clients'
import { controlPlaneService } from './serve/api.ts'
import { recordGauges } from './serve/gauges.ts'
import { CONFIG } from './config.ts'
import { ConfigurationStore } from './documents/configuration-store.ts'
import { DeletionService } from './reconcile/deletion-service.ts'
import { Reconcilers } from './reconcile/reconcilers.ts'
import { SafekeeperService } from './reconcile/safekeeper-service.ts'
import { TenantService } from './reconcile/tenant-service.ts'
import { hostDriver } from './computes/host-driver.ts'
import { apiServer, openKubernetesApi } from './computes/kubernetes/api.ts'
import type { KubernetesApi } from './computes/kubernetes/api.ts'
import { KubernetesDriver } from './computes/kubernetes/kubernetes-driver.ts'
import { leaderLabelLoop } from './computes/kubernetes/leader-label.ts'
import { readPodSettings } from './computes/kubernetes/pod-settings.ts'
import type { PodSettings } from './computes/kubernetes/pod-settings.ts'
import { LeaderLease } from './documents/leader-lease.ts'
import { METRICS } from './telemetry/metrics.ts'
import { Nodes } from './documents/nodes.ts'
import { NodeClients } from './clients/node-clients.ts'
import { ReconcileObserver } from './telemetry/reconcile-observer.ts'
import { TenantStore } from './documents/tenant-store.ts'
import { TimelineStore } from './documents/timeline-store.ts'

const STOP_GRACE_MS = 2_000
const EXIT_STOPPED = 0
/** Its supervisor starts it again: then it waits for its turn. */
const EXIT_LEAD_LOST = 1

export const CONTROL_PLANE = defineService(
  {
    name: 'control-plane',
    telemetryName: 'understory-control-plane',
    config: CONFIG,
    metrics: METRICS,
    identity: ({ nodeId }) => ({ nodeId }),
  },
  compose,
)

async function compose(service: Service<typeof CONFIG, typeof METRICS>): Promise<Composition> {
  const { nodeId, values, env, telemetry, stop } = service
  const { clock, rng, log } = env
  const store = await service.openStore(values.objectStore)
  await probeConditionalPut(store, rng, { signal: stop.signal })
  const embedded = values.broker === 'embedded' ? memoryBroker(env) : undefined
  const broker = embedded ?? service.openBroker(values.broker)
  const nodes = new Nodes(broker, log)
  const clients = new NodeClients(clock, grpcConnector(service.rpc.client))
  const kubernetes =
    values.computePods === undefined
      ? undefined
      : await openKubernetes(values.computePods, service.environment)
  const lease = new LeaderLease({ store, nodeId, leaseMs: values.leaseMs, clock, rng, log })
  const documents = new TenantStore(store, lease)
  const parts = {
    tenants: documents,
    timelines: new TimelineStore(store, lease, documents),
    configurations: new ConfigurationStore(store),
    objects: store,
    nodes,
    clients,
    computes:
      kubernetes === undefined
        ? hostDriver(clients)
        : new KubernetesDriver({ ...kubernetes, clients, clock, log }),
    replaceAfterMs: values.replaceAfterMs,
    observer: telemetry === undefined ? undefined : new ReconcileObserver(telemetry),
    clock,
    rng,
    log,
  }
  const reconcilers = new Reconcilers(parts)
  const tenants = new TenantService(parts, reconcilers)
  const safekeepers = new SafekeeperService(parts, tenants, reconcilers)
  const deletions = new DeletionService(parts, tenants, reconcilers)
  telemetry?.meter.onCollect(async () => {
    telemetry.metrics.lead.observe({}, lease.isHeld ? 1 : 0)
    // A standby would report the same as the leader.
    telemetry.metrics.brokerAway.observe({}, nodes.isBrokerAway ? 1 : 0)
    if (lease.isHeld) recordGauges(telemetry.metrics, await tenants.views(), nodes.known())
  })
  const following = nodes.follow(stop.signal)
  const labelling =
    kubernetes === undefined
      ? undefined
      : leaderLabelLoop({ ...kubernetes, podName: nodeId, clock, rng, log })
  let running: Promise<unknown> | undefined

  return {
    server: {
      ...values.listen,
      advertise: values.advertise,
      healthListen: values.healthListen,
      services: [
        controlPlaneService({ tenants, safekeepers, deletions, nodes, clients, clock }),
        ...(embedded === undefined ? [] : [brokerService(embedded)]),
      ],
      health: (name) => ({ '': true, lead: lease.isHeld, ready: lease.isHeld || lease.isStandby })[name],
    },
    // After the server listens: one whose port is taken must not take the lead from the one that has the port.
    prepare: () => lease.acquire(stop.signal),
    announce: { broker, kind: 'control-plane' },
    begin: () => {
      running = Promise.all([tenants.run(), deletions.run()])
      labelling?.start()
    },
    run: async () => {
      const reason = await Promise.race([stop.requested.then(() => undefined), lease.lost])
      if (reason === undefined) log.info('stopping')
      else log.error('leadership_lost', { reason })
      await labelling?.stop()
      return reason === undefined ? EXIT_STOPPED : EXIT_LEAD_LOST
    },
    stopGraceMs: STOP_GRACE_MS,
    stop: async (stopServer) => {
      if (running !== undefined) {
        await Promise.all([tenants.stop(), deletions.stop()])
        await running
        await lease.release()
      }
      await stopServer()
      await broker.close()
      await following
      clients.close()
      await store.close()
    },
  }
}

async function openKubernetes(
  settingsFile: string,
  environment: NodeJS.ProcessEnv,
): Promise<{ readonly api: KubernetesApi; readonly settings: PodSettings }> {
  const settings = await readPodSettings(settingsFile)
  const api = await openKubernetesApi({ namespace: settings.namespace, server: apiServer(environment) })
  return { api, settings }
}
