// Goal: the chart installs what it should and refuses what it must. Method: Helm's own rendering, without a cluster.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { cp, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  checkManifests,
  helmMissing,
  kubernetesSchemasMissing,
  temporaryDirectory,
} from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { computePod, computeService } from '../../apps/control-plane/src/kubernetes/compute-pod.ts'
import { parsePodSettings } from '../../apps/control-plane/src/kubernetes/pod-settings.ts'
import { CHART, KUBE_VERSION, helmOutput, render, renderText } from './render.ts'
import type { Manifest } from './render.ts'

interface PodSpec {
  readonly automountServiceAccountToken?: boolean
  readonly securityContext?: { readonly runAsNonRoot?: boolean; readonly runAsUser?: number }
  readonly containers: readonly {
    readonly name: string
    readonly image: string
    readonly args?: readonly string[]
    readonly env?: readonly { readonly name: string; readonly value?: string }[]
    readonly securityContext?: object
    readonly resources?: object
    readonly livenessProbe?: object
  }[]
}
interface Workload extends Manifest {
  readonly spec: {
    readonly replicas: number
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> }
    readonly template: {
      readonly metadata: { readonly labels: Readonly<Record<string, string>> }
      readonly spec: PodSpec
    }
  }
}

const workloads = (manifests: readonly Manifest[]): Workload[] =>
  manifests.filter(({ kind }) => ['Deployment', 'StatefulSet'].includes(kind)) as Workload[]
const podSpecs = (manifests: readonly Manifest[]): PodSpec[] => [
  ...workloads(manifests).map(({ spec }) => spec.template.spec),
  ...manifests.filter(({ kind }) => kind === 'Pod').map(({ spec }) => spec as PodSpec),
]
const named = (manifests: readonly Manifest[], kind: string, name: string): Manifest | undefined =>
  manifests.find((manifest) => manifest.kind === kind && manifest.metadata.name === name)

/** Programs in other languages take their time to start. */
const SLOW = { timeout: 120_000 }

const EXTERNAL = {
  'objectStore.mode': 'external',
  'objectStore.external.bucket': 'layers',
  'objectStore.external.existingSecret': 's3',
  'broker.mode': 'external',
  'broker.external.host': 'redis.example.com',
}

/** The pod and the service of a compute, as the control plane makes them by this chart. */
async function computeManifests(): Promise<readonly object[]> {
  const settings = parsePodSettings(
    JSON.parse(
      named(await render(), 'ConfigMap', 'understory-compute-pods')?.data?.['compute-pods.json'] ?? '',
    ),
  )
  const place = {
    tenantName: 'shop',
    timelineName: 'main',
    timeline: { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) },
    hostAddress: undefined,
  }
  const owner = { apiVersion: 'apps/v1', kind: 'Deployment', name: 'understory-control-plane', uid: 'u' }
  return [
    computePod(settings, place, { bootstrap: true, postgresMajor: 17 }, owner, 1),
    computeService(settings, place, owner),
  ]
}

/** As much of an API server as `lookup` asks for: objects of these names are there, and no others. */
async function fakeCluster(
  there: Readonly<Record<string, readonly string[]>>,
): Promise<AsyncDisposable & { readonly kubeconfig: string; seen(): number }> {
  const folder = await temporaryDirectory()
  let seen = 0
  const kinds: Readonly<Record<string, string>> = {
    persistentvolumeclaims: 'PersistentVolumeClaim',
    secrets: 'Secret',
  }
  const server = createServer(({ url = '' }, response) => {
    seen++
    const [path = ''] = url.split('?')
    const [, resource = '', name = ''] = /\/namespaces\/[^/]+\/([^/]+)\/([^/]+)$/.exec(path) ?? []
    const answer = (): object => {
      if (path === '/api') return { kind: 'APIVersions', versions: ['v1'] }
      if (path === '/apis') return { kind: 'APIGroupList', apiVersion: 'v1', groups: [] }
      if (path === '/api/v1') {
        const resources = Object.entries(kinds).map(([plural, kind]) => {
          return { name: plural, kind, namespaced: true, singularName: '', verbs: ['get'] }
        })
        return { kind: 'APIResourceList', apiVersion: 'v1', groupVersion: 'v1', resources }
      }
      if (there[resource]?.includes(name) === true)
        return { apiVersion: 'v1', kind: kinds[resource], metadata: { name }, data: {} }
      response.statusCode = 404
      return { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason: 'NotFound', code: 404 }
    }
    const body = JSON.stringify(answer())
    response.setHeader('content-type', 'application/json')
    response.end(body)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const kubeconfig = join(folder.path, 'kubeconfig')
  const { port } = server.address() as AddressInfo
  await writeFile(
    kubeconfig,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'fake', cluster: { server: `http://127.0.0.1:${port}` } }],
      contexts: [{ name: 'fake', context: { cluster: 'fake', user: 'fake' } }],
      users: [{ name: 'fake', user: {} }],
      'current-context': 'fake',
    }),
  )
  return {
    kubeconfig,
    seen: () => seen,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      await folder[Symbol.asyncDispose]()
    },
  }
}

const missing = await helmMissing()
const noSchemas = missing ?? (await kubernetesSchemasMissing())
describe.skipIf(missing !== undefined)(missing === undefined ? 'chart' : `chart: ${missing}`, () => {
  test('the linter finds nothing', async () => {
    expect(
      await helmOutput(['lint', '--strict', '--quiet', CHART, '--kube-version', KUBE_VERSION]),
    ).not.toMatch(/WARNING|ERROR/)
  })

  test.each([
    ['a misspelt key', { 'safekeeper.replcas': '3' }, 'replcas'],
    ['a misspelt section', { 'pagesrver.replicas': '3' }, 'pagesrver'],
    ['two safekeepers', { 'safekeeper.replicas': '2' }, '/safekeeper/replicas'],
    ['a negative count', { 'pageserver.replicas': '-1' }, '/pageserver/replicas'],
    ['a size that is none', { 'safekeeper.persistence.size': '5GB' }, '/safekeeper/persistence/size'],
    ['the tag latest', { 'image.tag': 'latest' }, '/image/tag'],
    ['a level that is none', { logLevel: 'loud' }, '/logLevel'],
    [
      'an external store without a secret',
      { 'objectStore.mode': 'external', 'objectStore.external.bucket': 'layers' },
      'objectStore.external.existingSecret',
    ],
    ['an external store without a bucket', { 'objectStore.mode': 'external' }, 'objectStore.external.bucket'],
    ['an external Redis without a host', { 'broker.mode': 'external' }, 'broker.external.host'],
    [
      'a monitor of metrics that nobody serves',
      { 'metrics.podMonitor.enabled': 'true' },
      'metrics.podMonitor.enabled',
    ],
    [
      'two monitors of the same',
      {
        'metrics.enabled': 'true',
        'metrics.podMonitor.enabled': 'true',
        'metrics.serviceMonitor.enabled': 'true',
      },
      'metrics.serviceMonitor.enabled',
    ],
    [
      'a broker within one of two control planes',
      { 'broker.mode': 'embedded', 'controlPlane.replicas': '2' },
      'controlPlane.replicas',
    ],
  ])('%s is refused, and the message names it', async (_, set, name) => {
    await expect(renderText({ set })).rejects.toThrow(name)
  })

  test.each([
    ['defaults', {}],
    ['kind', { values: ['values-kind.yaml'] }],
    ['minikube', { values: ['values-minikube.yaml'] }],
    ['ha', { values: ['values-ha.yaml'], set: EXTERNAL }],
    ['embedded broker', { set: { 'broker.mode': 'embedded' } }],
  ])('nothing runs as root, writes its image or has rights it does not need: %s', async (_, options) => {
    const specs = podSpecs(await render(options))
    expect(specs.length).toBeGreaterThan(2)
    for (const { securityContext, containers } of specs) {
      expect(securityContext).toMatchObject({
        runAsNonRoot: true,
        seccompProfile: { type: 'RuntimeDefault' },
      })
      for (const container of containers) {
        expect(container.securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        })
        expect(container.resources).toHaveProperty('requests')
        expect(container.image).not.toMatch(/:latest$|:$/)
      }
    }
    const withToken = specs.filter(
      ({ automountServiceAccountToken }) => automountServiceAccountToken !== false,
    )
    expect(withToken.map(({ containers }) => containers[0]?.name)).toEqual(['control-plane'])
  })

  test('the control plane may do what computes need, and nothing else', async () => {
    const role = named(await render(), 'Role', 'understory-control-plane')
    expect(role?.rules).toEqual([
      { apiGroups: [''], resources: ['pods'], verbs: ['list', 'create', 'delete'] },
      { apiGroups: [''], resources: ['services'], verbs: ['get', 'create', 'patch', 'delete'] },
      {
        apiGroups: ['apps'],
        resources: ['deployments'],
        resourceNames: ['understory-control-plane'],
        verbs: ['get'],
      },
    ])
    expect((await render({ set: { 'rbac.create': 'false' } })).some(({ kind }) => kind === 'Role')).toBe(
      false,
    )
  })

  test('the control plane understands how it is to make pods', async () => {
    const settings = named(await render(), 'ConfigMap', 'understory-compute-pods')?.data?.[
      'compute-pods.json'
    ]
    expect(parsePodSettings(JSON.parse(settings ?? ''))).toMatchObject({
      ownerDeployment: 'understory-control-plane',
      postgresImages: { '16': 'postgres:16', '17': 'postgres:17', '18': 'postgres:18' },
      postgresUid: 999,
      password: { secretName: 'understory-postgres', key: 'password' },
    })
  })

  test('no secret is in a command line or a ConfigMap', async () => {
    const manifests = await render()
    const secrets = manifests
      .filter(({ kind }) => kind === 'Secret')
      .flatMap(({ data = {} }) => Object.values(data).map((value) => Buffer.from(value, 'base64').toString()))
    expect(secrets).toHaveLength(7)
    const rest = JSON.stringify(manifests.filter(({ kind }) => kind !== 'Secret'))
    for (const secret of secrets) expect(rest).not.toContain(secret)
  })

  test('selectors are of their own kind alone, and no label of a user is in them', async () => {
    const all = workloads(await render({ set: { 'commonLabels.team': 'blue' } }))
    const selectors = all.map(({ spec }) => JSON.stringify(spec.selector.matchLabels))
    expect(new Set(selectors).size).toBe(all.length)
    for (const { spec, metadata } of all) {
      expect(spec.selector.matchLabels).not.toHaveProperty('team')
      expect(metadata.labels).toMatchObject({ team: 'blue', 'app.kubernetes.io/part-of': 'understory' })
      expect(spec.template.metadata.labels).toMatchObject(spec.selector.matchLabels)
    }
  })

  test('two releases in one namespace share no name, and long names fit', async () => {
    const long = 'a-release-with-a-name-that-is-as-long-as-it-may-be-yes'
    const [one, other] = [await render(), await render({ release: long.slice(0, 53) })]
    const keys = (manifests: readonly Manifest[]): string[] =>
      manifests.map(({ kind, metadata }) => `${kind}/${metadata.name}`)
    expect(keys(one).filter((key) => keys(other).includes(key))).toEqual([])
    for (const { metadata } of other) expect(metadata.name.length).toBeLessThanOrEqual(63)
    const elsewhere = await render({ set: { namespaceOverride: 'elsewhere' } })
    expect(new Set(elsewhere.map(({ metadata }) => metadata.namespace))).toEqual(new Set(['elsewhere']))
  })

  test('images come from the registry that is given, and a digest wins', async () => {
    const digest = `sha256:${'0'.repeat(64)}`
    const manifests = await render({
      set: { 'global.imageRegistry': 'registry.example.com', 'image.digest': digest },
    })
    const images = podSpecs(manifests).flatMap(({ containers }) => containers.map(({ image }) => image))
    expect(images.filter((image) => !image.startsWith('registry.example.com/'))).toEqual([])
    expect(images).toContain(`registry.example.com/understory@${digest}`)
  })

  test('a digest of a major version wins over its tag', async () => {
    const digest = `sha256:${'1'.repeat(64)}`
    const settings = named(
      await render({ set: { 'compute.postgresImage.digests.17': digest } }),
      'ConfigMap',
      'understory-compute-pods',
    )?.data?.['compute-pods.json']
    expect(parsePodSettings(JSON.parse(settings ?? '')).postgresImages).toEqual({
      '16': 'postgres:16',
      '17': `postgres@${digest}`,
      '18': 'postgres:18',
    })
  })

  test('a ServiceMonitor finds the one service that has every pod', async () => {
    const manifests = await render({
      set: {
        'metrics.enabled': 'true',
        'metrics.serviceMonitor.enabled': 'true',
        'metrics.serviceMonitor.relabelings[0].action': 'labeldrop',
      },
    })
    const monitor = manifests.find(({ kind }) => kind === 'ServiceMonitor') as Manifest & {
      spec: { selector: { matchLabels: Record<string, string> } }
    }
    expect(monitor.spec).toMatchObject({
      endpoints: [{ port: 'metrics', relabelings: [{ action: 'labeldrop' }] }],
    })
    const found = manifests.filter(
      ({ kind, metadata }) =>
        kind === 'Service' &&
        Object.entries(monitor.spec.selector.matchLabels).every(
          ([label, value]) => metadata.labels[label] === value,
        ),
    )
    expect(found.map(({ metadata }) => metadata.name)).toEqual(['understory-metrics'])
    const [service] = found as (Manifest & { spec: { selector: Record<string, string> } })[]
    const selector = service?.spec.selector ?? { none: 'there' }
    for (const { spec, metadata } of workloads(manifests)) {
      if (!/safekeeper|pageserver|control-plane/.test(metadata.name)) continue
      expect(spec.template.metadata.labels).toMatchObject(selector)
      expect(JSON.stringify(spec.template.spec.containers)).toContain('"name":"metrics","containerPort":7480')
    }
  })

  test.each([
    [['data-understory-safekeeper-0'], [], {}, 'refused'],
    [['data-understory-safekeeper-0'], ['understory-postgres'], {}, 'installed'],
    [['data-understory-safekeeper-0'], [], { 'compute.password.existingSecret': 'kept' }, 'installed'],
    [[], [], {}, 'installed'],
  ])('over claims %j and secrets %j, with %j: %s', async (claims, secrets, set, outcome) => {
    await using cluster = await fakeCluster({ persistentvolumeclaims: claims, secrets })
    const text = renderText({ set, args: ['--dry-run=server', '--kubeconfig', cluster.kubeconfig] })
    if (outcome === 'refused') await expect(text).rejects.toThrow('compute.password.existingSecret')
    else await expect(text).resolves.toContain('understory-safekeeper')
    expect(cluster.seen()).toBeGreaterThan(0)
  })

  test.each([
    [
      'trial',
      { 'safekeeper.replicas': '1', 'safekeeper.persistence.enabled': 'false', 'tls.enabled': 'false' },
    ],
    ['external', EXTERNAL],
  ])('notes of an installation: %s', async (name, set) => {
    await using folder = await temporaryDirectory()
    const chart = join(folder.path, 'understory')
    await cp(CHART, chart, { recursive: true })
    // Helm shows notes after an installation alone: here they are a value of a ConfigMap.
    await rename(join(chart, 'templates/NOTES.txt'), join(chart, 'files/notes'))
    await writeFile(
      join(chart, 'templates/notes.yaml'),
      'kind: Notes\ndata: { text: {{ tpl (.Files.Get "files/notes") . | toJson }} }\n',
    )
    const notes = (await render({ chart, set })).find(({ kind }) => kind === 'Notes')
    await expect(notes?.data?.['text']).toMatchFileSnapshot(`golden/notes-${name}.txt`)
  })

  test('telemetry reaches every pod, and dashboards and alerts come with it', async () => {
    const off = await render()
    expect(JSON.stringify(off)).not.toMatch(/OTEL_|PrometheusRule|grafana_dashboard/)
    const set = {
      'metrics.enabled': 'true',
      'metrics.podMonitor.enabled': 'true',
      'metrics.dashboards.enabled': 'true',
      'metrics.alerts.enabled': 'true',
      'metrics.alerts.runbooks': 'https://example.com/runbooks/',
      'telemetry.otlp.endpoint': 'http://collector:4318',
      'telemetry.otlp.headersSecret': 'collector',
    }
    const manifests = await render({ set })
    for (const { metadata, spec } of workloads(manifests)) {
      const [container] = spec.template.spec.containers
      if (!/safekeeper|pageserver|control-plane/.test(metadata.name)) continue
      expect(container?.args).toContain('--metrics-listen=0.0.0.0:7480')
      expect(container?.env).toContainEqual({
        name: 'OTEL_EXPORTER_OTLP_ENDPOINT',
        value: 'http://collector:4318',
      })
      expect(JSON.stringify(container?.env)).toContain('"name":"collector","key":"headers"')
    }
    const pods = parsePodSettings(
      JSON.parse(named(manifests, 'ConfigMap', 'understory-compute-pods')?.data?.['compute-pods.json'] ?? ''),
    )
    expect(pods.metricsPort).toBe(7480)
    expect(JSON.stringify(pods.env)).toContain('http://collector:4318')
    for (const board of ['fpw', 'overview']) {
      const map = named(manifests, 'ConfigMap', `understory-dashboard-${board}`)
      expect(map?.metadata.labels?.['grafana_dashboard']).toBe('1')
      const { uid } = JSON.parse(map?.data?.[`understory-${board}.json`] ?? '') as { uid: string }
      expect(uid).toBe(`understory-${board}`)
    }
    const rules = manifests.find(({ kind }) => kind === 'PrometheusRule') as Manifest & {
      spec: { groups: { rules: { annotations: { runbook_url: string } }[] }[] }
    }
    const urls = rules.spec.groups[0]?.rules.map(({ annotations }) => annotations.runbook_url) ?? []
    expect(urls).toHaveLength(10)
    expect(urls).toContain('https://example.com/runbooks/commits-stalled.md')
    const monitor = manifests.find(({ kind }) => kind === 'PodMonitor') as Manifest & {
      spec: { selector: { matchLabels: Record<string, string> } }
    }
    for (const { spec } of workloads(manifests).filter(({ metadata }) =>
      /safekeeper|pageserver/.test(metadata.name),
    ))
      expect(spec.template.metadata.labels).toMatchObject(monitor.spec.selector.matchLabels)
  })

  test('one safekeeper has no disruption budget, three have one', async () => {
    const budgets = async (replicas: string): Promise<string[]> =>
      (await render({ set: { 'safekeeper.replicas': replicas } }))
        .filter(
          ({ kind, metadata }) => kind === 'PodDisruptionBudget' && metadata.name.endsWith('safekeeper'),
        )
        .map(({ metadata }) => metadata.name)
    expect(await budgets('1')).toEqual([])
    expect(await budgets('3')).toEqual(['understory-safekeeper'])
  })

  test('an external store and Redis are used by their secrets, and nothing is bundled', async () => {
    const manifests = await render({ set: { ...EXTERNAL, 'broker.external.existingSecret': 'redis' } })
    expect(manifests.some(({ metadata }) => /redis|object-store/.test(metadata.name))).toBe(false)
    const controlPlane = workloads(manifests).find(({ metadata }) => metadata.name.endsWith('control-plane'))
    const [container] = controlPlane?.spec.template.spec.containers ?? []
    expect(container?.args).toContain('--object-store=s3://layers/understory?region=us-east-1')
    expect(container?.env).toContainEqual({
      name: 'UNDERSTORY_CONTROL_PLANE_BROKER',
      value: 'redis://:$(REDIS_PASSWORD)@redis.example.com:6379',
    })
  })

  describe.skipIf(noSchemas !== undefined)(
    noSchemas === undefined ? 'schemas of Kubernetes' : `schemas of Kubernetes: ${noSchemas}`,
    () => {
      test.each(['1.29', '1.31', '1.33', '1.35'])('Kubernetes %s takes it all', SLOW, async (version) => {
        await using folder = await temporaryDirectory()
        const variants = await Promise.all([
          renderText(),
          renderText({ values: ['values-kind.yaml'], set: { 'networkPolicy.enabled': 'true' } }),
          renderText({ values: ['values-ha.yaml'], set: EXTERNAL }),
        ])
        for (const [number, text] of variants.entries()) {
          const file = join(folder.path, `${number}.yaml`)
          await writeFile(file, text)
          await checkManifests(file, version)
        }
        const compute = join(folder.path, 'compute.json')
        for (const manifest of await computeManifests()) {
          await writeFile(compute, JSON.stringify(manifest))
          await checkManifests(compute, version)
        }
      })

      test('what Kubernetes does not know is found', SLOW, async () => {
        await using folder = await temporaryDirectory()
        const file = join(folder.path, 'wrong.yaml')
        await writeFile(file, (await renderText()).replace('podManagementPolicy', 'podManagerPolicy'))
        await expect(checkManifests(file, '1.33')).rejects.toThrow()
      })
    },
  )
})
