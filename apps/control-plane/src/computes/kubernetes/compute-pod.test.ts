// Goal: a pod that cannot start Postgres twice, needs no rights, and is named within limits. Method: looks at
// manifests.
import { expect, test } from 'vitest'
import type { ComputePlace } from '../compute-driver.ts'
import { computePod, computeService, podName, serviceName } from './compute-pod.ts'
import { parsePodSettings } from './pod-settings.ts'
import { SETTINGS } from '../../../test/pod-settings.ts'

const OWNER = { apiVersion: 'apps/v1', kind: 'Deployment', name: 'understory-control-plane', uid: 'u-1' }
const PLACE: ComputePlace = {
  tenantName: 'shop',
  timelineName: 'main',
  timeline: { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) },
  hostAddress: undefined,
}

interface Container {
  readonly name: string
  readonly image: string
  readonly command?: readonly string[]
  readonly args?: readonly string[]
  readonly restartPolicy?: string
  readonly startupProbe?: object
  readonly securityContext: object
  readonly volumeMounts: readonly { readonly name: string; readonly readOnly?: boolean }[]
}
interface Manifest {
  readonly metadata: { readonly name: string; readonly ownerReferences: readonly object[] }
  readonly spec: {
    readonly restartPolicy: string
    readonly initContainers: readonly Container[]
    readonly containers: readonly Container[]
    readonly [other: string]: unknown
  }
}
const podOf = (bootstrap: boolean, postgresMajor = 17): Manifest =>
  computePod(parsePodSettings(SETTINGS), PLACE, { bootstrap, postgresMajor }, OWNER, 3) as Manifest

test('the container of Postgres is never started again, and has no entrypoint of its own', () => {
  const { spec } = podOf(false)
  expect(spec.restartPolicy).toBe('Never')
  expect(spec.containers.map(({ name }) => name)).toEqual(['postgres'])
  expect(spec.containers[0]).toMatchObject({
    image: 'postgres:17',
    command: ['sh', '/orders/run.sh', '/compute'],
  })
  expect(spec.containers[0]).not.toHaveProperty('restartPolicy')
})

test('the proxy is a sidecar that holds Postgres back', () => {
  const { initContainers } = podOf(false).spec
  expect(initContainers.map(({ name }) => name)).toEqual(['compute-proxy'])
  expect(initContainers[0]).toMatchObject({
    restartPolicy: 'Always',
    startupProbe: { grpc: { port: 7701, service: 'pgdata' } },
  })
})

test('metrics are served, and found by the name of their port, where they are asked for', () => {
  const proxyOf = (settings: object): unknown =>
    (
      computePod(
        parsePodSettings(settings),
        PLACE,
        { bootstrap: false, postgresMajor: 17 },
        OWNER,
        3,
      ) as Manifest
    ).spec.initContainers[0]
  expect(proxyOf({ ...SETTINGS, metricsPort: 7702 })).toMatchObject({
    args: expect.arrayContaining(['--metrics-listen', '0.0.0.0:7702']) as unknown,
    ports: [{ name: 'grpc' }, { name: 'metrics', containerPort: 7702 }],
  })
  expect(JSON.stringify(proxyOf(SETTINGS))).not.toContain('metrics')
})

test('a proxy that hangs is not given the time of one that ends Postgres cleanly', () => {
  const [proxy] = podOf(false).spec.initContainers
  expect(proxy).toMatchObject({ livenessProbe: { terminationGracePeriodSeconds: 5 } })
})

test('a new timeline begins with initdb, before the proxy', () => {
  const { initContainers } = podOf(true, 18).spec
  expect(initContainers.map(({ name }) => name)).toEqual(['initdb', 'compute-proxy'])
  expect(initContainers[0]?.image).toBe('postgres:18')
  expect(initContainers[0]?.args).toContain('--no-data-checksums')
})

test('nothing in it runs as root, writes its image, or talks to Kubernetes', () => {
  const { spec } = podOf(true)
  expect(spec).toMatchObject({
    automountServiceAccountToken: false,
    shareProcessNamespace: true,
    securityContext: { runAsNonRoot: true, fsGroup: 10_001 },
  })
  for (const { securityContext } of [...spec.initContainers, ...spec.containers]) {
    expect(securityContext).toMatchObject({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    })
  }
})

test('a superuser of Postgres has another user than the proxy, and nothing of the installation', () => {
  const { spec } = podOf(true)
  const [initdb, proxy] = spec.initContainers as readonly [Container, Container]
  const [postgres] = spec.containers as readonly [Container]
  for (const container of [initdb, postgres]) {
    expect(container.securityContext).toMatchObject({ runAsUser: 999, runAsGroup: 999 })
    expect(container).not.toHaveProperty('env')
    expect(container).not.toHaveProperty('envFrom')
  }
  expect(proxy.securityContext).toMatchObject({ runAsUser: 10_001, runAsGroup: 10_001 })
  const mounts = (container: Container) =>
    Object.fromEntries(container.volumeMounts.map(({ name, readOnly = false }) => [name, readOnly]))
  expect(mounts(postgres)).toEqual({ compute: false, orders: true, 'postgres-tmp': false, shm: false })
  expect(mounts(initdb)).toEqual({ compute: false, 'postgres-tmp': false })
  expect(mounts(proxy)).toEqual({ compute: false, orders: false, own: false, 'proxy-tmp': false, tls: true })
  const secrets = (spec['volumes'] as readonly { secret?: { defaultMode: number } }[]).filter(
    ({ secret }) => secret,
  )
  expect(secrets.map(({ secret }) => secret?.defaultMode)).toEqual([0o440])
  expect(() => parsePodSettings({ ...SETTINGS, postgresUid: 10_001 })).toThrow('the user of compute-proxy')
})

test('pod and service go with the release', () => {
  const owners = [{ ...OWNER, controller: true, blockOwnerDeletion: false }]
  expect(podOf(false).metadata.ownerReferences).toEqual(owners)
  const service = computeService(parsePodSettings(SETTINGS), PLACE, OWNER) as Pick<Manifest, 'metadata'>
  expect(service.metadata).toMatchObject({ name: 'understory-pg-shop', ownerReferences: owners })
})

test('names stay within what Kubernetes takes', () => {
  const long = 'x'.repeat(63)
  expect(podName(long, PLACE.timeline.timelineId, 12_345).length).toBeLessThanOrEqual(63)
  for (const tenantName of ['Shop', 'my_shop', 'x'.repeat(60)]) {
    const name = serviceName('understory', { ...PLACE, tenantName })
    expect(name).toBe('understory-pg-aaaaaaaaaaaa')
  }
})

test('a setting that is not known is refused by its name', () => {
  expect(() => parsePodSettings({ ...SETTINGS, postgresUdi: 70 })).toThrow('postgresUdi')
})
