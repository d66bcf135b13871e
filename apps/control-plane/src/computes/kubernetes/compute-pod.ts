/**
 * The pod and the service of a compute (docs/kubernetes.md, "The compute pod"). Postgres's image is used as it is: its
 * own entrypoint would make a cluster where ours comes from storage, so the command is ours.
 */
import { createHash } from 'node:crypto'
import { initdbArguments } from '@understory/pgdata'
import type { ComputeSpec } from '@understory/rpc'
import type { ComputePlace } from '../compute-driver.ts'
import { PROXY_UID } from './pod-settings.ts'
import type { PodSettings } from './pod-settings.ts'
import { NAME_LABEL, NUMBER_LABEL, PROXY_CONTAINER, TENANT_LABEL, TIMELINE_LABEL } from './pod.ts'

export const PROXY_PORT = 7700
const HEALTH_PORT = 7701
export const SQL_PORT = 5432

/** The folder that all containers of the pod have in common: the data tenants is there. */
const SHARED_FOLDER = '/compute'
/** The proxy's orders to Postgres's container, which only reads it. */
const ORDERS_FOLDER = '/orders'
/** Of the proxy alone. */
const OWN_FOLDER = '/own'
/** Far more than the proxy ever writes there. */
const SMALL_VOLUME = '64Mi'
/** Of the files that both containers use. */
const COMMON_GID = PROXY_UID
/** Of secrets: for the proxy's group, which is what the kubelet gives them to. */
const SECRET_MODE = 0o440
/** Makes a cluster that the group may read, its user removes `initdb-done`, so it is used once. */
const INITDB = `umask 007
initdb --allow-group-access -D ${SHARED_FOLDER}/pgdata "$@"
chgrp -R ${COMMON_GID} ${SHARED_FOLDER}/pgdata
find ${SHARED_FOLDER}/pgdata -type d -exec chmod g+s {} +
: >${SHARED_FOLDER}/initdb-done`
const TLS_FOLDER = '/etc/understory/tls'
/** As long as writing PGDATA of any size may take. */
const STARTUP_PROBES_MAX = 7 * 86_400
const NAME_LENGTH_MAX = 63
const POD_PREFIX_LENGTH_MAX = 32
/** The kubelet's patience beyond that of the proxy. */
const STOP_RESERVE_S = 10
/** Its patience with a proxy that has hung for long, and so does not handle a signal to end either. */
const HUNG_GRACE_S = 5

export interface Owner {
  readonly apiVersion: string
  readonly kind: string
  readonly name: string
  readonly uid: string
}

export const podName = (prefix: string, timelineId: string, number: number): string =>
  `${prefix.slice(0, POD_PREFIX_LENGTH_MAX).replace(/-+$/, '')}-compute-${timelineId.slice(0, 10)}-${number}`

/** After the tenant where its name can be part of one, else after its id. */
export function serviceName(prefix: string, { tenantName, timeline }: ComputePlace): string {
  const named = `${prefix}-pg-${tenantName}`
  const isFit = /^[a-z][a-z0-9-]*[a-z0-9]$/.test(named) && named.length <= NAME_LENGTH_MAX
  return isFit ? named : `${prefix.slice(0, POD_PREFIX_LENGTH_MAX)}-pg-${timeline.tenantId.slice(0, 12)}`
}

/** Of the settings that a pod was made by. */
export const SETTINGS_ANNOTATION = 'understory/settings'
export const digestOf = (settings: PodSettings): string =>
  createHash('sha256').update(JSON.stringify(settings)).digest('hex').slice(0, 16)

const labelsOf = (settings: PodSettings, place: ComputePlace): Record<string, string> => ({
  ...settings.labels,
  [TENANT_LABEL]: place.timeline.tenantId,
  [TIMELINE_LABEL]: place.timeline.timelineId,
  [NAME_LABEL]: place.timelineName,
})

/** `controller`: pods without one stop `kubectl drain`, which cannot know that they are made again. */
const ownedBy = (owner: Owner): object => ({ ...owner, controller: true, blockOwnerDeletion: false })

/** Selects by tenant and name, because a bootstrap that begins again has another timeline id. */
export const computeService = (settings: PodSettings, place: ComputePlace, owner: Owner): object => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: {
    name: serviceName(settings.namePrefix, place),
    labels: labelsOf(settings, place),
    annotations: settings.service.annotations,
    ownerReferences: [ownedBy(owner)],
  },
  spec: {
    type: settings.service.type,
    selector: {
      ...settings.selectorLabels,
      [TENANT_LABEL]: place.timeline.tenantId,
      [NAME_LABEL]: place.timelineName,
    },
    ports: [{ name: 'postgres', port: SQL_PORT, targetPort: 'postgres', protocol: 'TCP' }],
  },
})

export function computePod(
  settings: PodSettings,
  place: ComputePlace,
  spec: Pick<ComputeSpec, 'bootstrap' | 'postgresMajor'>,
  owner: Owner,
  number: number,
): object {
  const { timelineId } = place.timeline
  const name = podName(settings.namePrefix, timelineId, number)
  const postgresImage =
    settings.postgresImages[`${spec.postgresMajor}` as keyof PodSettings['postgresImages']]
  const locked = {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
  }
  const runAs = (uid: number): object => ({
    imagePullPolicy: settings.imagePullPolicy,
    securityContext: { ...locked, runAsUser: uid, runAsGroup: uid },
  })
  const shared = { name: 'compute', mountPath: SHARED_FOLDER }

  const initdb = {
    ...runAs(settings.postgresUid),
    name: 'initdb',
    image: postgresImage,
    command: ['sh', '-ec', INITDB, 'initdb'],
    args: initdbArguments(spec.postgresMajor),
    resources: settings.postgresResources,
    volumeMounts: [shared, { name: 'postgres-tmp', mountPath: '/tmp' }],
  }
  const options = {
    'node-id': name,
    timeline: timelineId,
    listen: `0.0.0.0:${PROXY_PORT}`,
    'health-listen': `0.0.0.0:${HEALTH_PORT}`,
    advertise: '$(POD_IP)',
    'shared-dir': SHARED_FOLDER,
    'orders-dir': ORDERS_FOLDER,
    'own-dir': OWN_FOLDER,
    'sql-host': `${serviceName(settings.namePrefix, place)}.${settings.namespace}.svc`,
    'stop-deadline-ms': String((settings.terminationGraceS - STOP_RESERVE_S) * 1_000),
    'contact-timeout-ms': String(settings.contactTimeoutMs),
    'ingest-lag-limit-mib': String(settings.ingestLagLimitMib),
    'log-level': settings.logLevel,
    ...(settings.metricsPort === 0 ? {} : { 'metrics-listen': `0.0.0.0:${settings.metricsPort}` }),
  }
  const proxy = {
    ...runAs(PROXY_UID),
    name: PROXY_CONTAINER,
    image: settings.proxyImage,
    // A native sidecar: it begins before Postgres and ends after it.
    restartPolicy: 'Always',
    // Of Postgres's container not: its log may have what is a tenant's own.
    terminationMessagePolicy: 'FallbackToLogsOnError',
    args: [
      'compute-proxy',
      'pod',
      ...Object.entries(options).flatMap(([flag, value]) => [`--${flag}`, value]),
    ],
    env: [{ name: 'POD_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } }, ...settings.env],
    ports: [
      { name: 'grpc', containerPort: PROXY_PORT, protocol: 'TCP' },
      ...(settings.metricsPort === 0
        ? []
        : [{ name: 'metrics', containerPort: settings.metricsPort, protocol: 'TCP' }]),
    ],
    // Holds the container of Postgres back until there is something to start.
    startupProbe: {
      grpc: { port: HEALTH_PORT, service: 'pgdata' },
      periodSeconds: 1,
      timeoutSeconds: 5,
      failureThreshold: STARTUP_PROBES_MAX,
    },
    // A proxy that hangs is started again, and ends the Postgres that was left alone.
    livenessProbe: {
      grpc: { port: HEALTH_PORT },
      periodSeconds: 5,
      timeoutSeconds: 5,
      failureThreshold: Math.max(1, Math.floor(settings.contactTimeoutMs / 5_000)),
      terminationGracePeriodSeconds: HUNG_GRACE_S,
    },
    readinessProbe: {
      grpc: { port: HEALTH_PORT, service: 'sql' },
      periodSeconds: 1,
      timeoutSeconds: 5,
      failureThreshold: 2,
    },
    resources: settings.proxyResources,
    volumeMounts: [
      shared,
      { name: 'orders', mountPath: ORDERS_FOLDER },
      { name: 'own', mountPath: OWN_FOLDER },
      { name: 'proxy-tmp', mountPath: '/tmp' },
      ...(settings.tlsSecret === '' ? [] : [{ name: 'tls', mountPath: TLS_FOLDER, readOnly: true }]),
    ],
  }
  const postgres = {
    ...runAs(settings.postgresUid),
    name: 'postgres',
    image: postgresImage,
    command: ['sh', `${ORDERS_FOLDER}/run.sh`, SHARED_FOLDER],
    ports: [{ name: 'postgres', containerPort: SQL_PORT, protocol: 'TCP' }],
    resources: settings.postgresResources,
    // Nothing of the installation: no token, no key, and nothing that the proxy keeps.
    volumeMounts: [
      shared,
      { name: 'orders', mountPath: ORDERS_FOLDER, readOnly: true },
      { name: 'postgres-tmp', mountPath: '/tmp' },
      { name: 'shm', mountPath: '/dev/shm' },
    ],
  }
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      labels: { ...settings.podLabels, ...labelsOf(settings, place), [NUMBER_LABEL]: String(number) },
      annotations: { ...settings.podAnnotations, [SETTINGS_ANNOTATION]: digestOf(settings) },
      ownerReferences: [ownedBy(owner)],
    },
    spec: {
      restartPolicy: 'Never',
      shareProcessNamespace: true,
      terminationGracePeriodSeconds: settings.terminationGraceS,
      serviceAccountName: settings.serviceAccount,
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      imagePullSecrets: settings.imagePullSecrets,
      priorityClassName: settings.priorityClassName,
      nodeSelector: settings.nodeSelector,
      tolerations: settings.tolerations,
      affinity: settings.affinity,
      topologySpreadConstraints: settings.topologySpreadConstraints,
      securityContext: {
        runAsNonRoot: true,
        fsGroup: COMMON_GID,
        seccompProfile: { type: 'RuntimeDefault' },
      },
      initContainers: [...(spec.bootstrap ? [initdb] : []), proxy],
      containers: [postgres],
      volumes: [
        { name: 'compute', emptyDir: { sizeLimit: settings.dataSizeLimit } },
        { name: 'shm', emptyDir: { medium: 'Memory', sizeLimit: settings.sharedMemorySizeLimit } },
        { name: 'orders', emptyDir: { sizeLimit: SMALL_VOLUME } },
        { name: 'own', emptyDir: { sizeLimit: SMALL_VOLUME } },
        { name: 'proxy-tmp', emptyDir: {} },
        { name: 'postgres-tmp', emptyDir: {} },
        ...(settings.tlsSecret === ''
          ? []
          : [{ name: 'tls', secret: { secretName: settings.tlsSecret, defaultMode: SECRET_MODE } }]),
      ],
    },
  }
}
