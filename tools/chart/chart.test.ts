// Goal: the chart installs what it should and refuses what it must. Method: Helm's own rendering, without a cluster.
import { cp, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  checkManifests,
  helmMissing,
  kubernetesSchemasMissing,
  temporaryDirectory,
} from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { computePod, computeService } from '../../apps/control-plane/src/computes/kubernetes/compute-pod.ts'
import { LEADER_LABEL } from '../../apps/control-plane/src/computes/kubernetes/leader-label.ts'
import { parsePodSettings } from '../../apps/control-plane/src/computes/kubernetes/pod-settings.ts'
import { readOtlpSettings } from '../../libs/telemetry/src/otlp-settings.ts'
import { ROOT } from '../run-command.ts'
import { CHART, EXTERNAL, KUBE_VERSION, helmOutput, render, renderText } from './render.ts'
import { ALERTS } from '../dashboards/alerts.ts'
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
    readonly readinessProbe?: object
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

interface Image {
  readonly repository: string
  readonly tag: string
}
const imageOf = ({ repository, tag }: Image): string => `${repository}:${tag}`
interface Values {
  readonly compute: { readonly postgresImage: { repository: string; tags: Record<string, string> } }
  readonly objectStore: { readonly bundled: { readonly image: Image } }
  readonly broker: { readonly bundled: { readonly image: Image } }
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

const missing = await helmMissing()
const noSchemas = missing ?? (await kubernetesSchemasMissing())
describe.skipIf(missing !== undefined)(missing === undefined ? 'chart' : `chart: ${missing}`, () => {
  test('the linter finds nothing', async () => {
    expect(
      await helmOutput(['lint', '--strict', '--quiet', CHART, '--kube-version', KUBE_VERSION]),
    ).not.toMatch(/WARNING|ERROR/)
  })

  const tls = { 'tls.enabled': 'false' }
  const account = { 'serviceAccount.create': 'false' }
  test.each([
    ['two safekeepers', { 'safekeeper.replicas': '2' }, '/safekeeper/replicas'],
    ['a name that begins with a digit', { fullnameOverride: '9lives' }, 'fullnameOverride'],
    [
      'an external store without a secret',
      { 'objectStore.mode': 'external', 'objectStore.external.bucket': 'layers' },
      'objectStore.external.existingSecret is empty',
    ],
    [
      'an external store without a bucket',
      { 'objectStore.mode': 'external' },
      'objectStore.external.bucket is empty',
    ],
    [
      'a bucket that would not be used',
      { 'objectStore.external.bucket': 'layers' },
      'objectStore.external.bucket is set',
    ],
    ['an external Redis without a host', { 'broker.mode': 'external' }, 'broker.external.host is empty'],
    [
      'a Redis that would not be used',
      { 'broker.external.host': 'redis' },
      'broker.external.host is set, but broker.mode is bundled',
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
    [
      'a certificate that would not be used',
      { ...tls, 'tls.existingSecret': 'mine' },
      'tls.existingSecret is set, but tls.enabled is false',
    ],
    [
      'cert-manager without TLS',
      { ...tls, 'tls.certManager.enabled': 'true' },
      'tls.certManager.enabled is set, but tls.enabled is false',
    ],
    [
      'certificates from two places',
      {
        'tls.existingSecret': 'mine',
        'tls.certManager.enabled': 'true',
        'tls.certManager.issuerRef.name': 'ours',
      },
      'tls.existingSecret is set, but tls.certManager.enabled is too',
    ],
    [
      'cert-manager without an issuer',
      { 'tls.certManager.enabled': 'true' },
      'tls.certManager.issuerRef.name is empty',
    ],
    ['rights for the account of all pods', account, 'serviceAccount.name is empty'],
    [
      'a PodMonitor of nothing',
      { 'metrics.podMonitor.enabled': 'true' },
      'metrics.podMonitor.enabled is set, but metrics.enabled is false',
    ],
    [
      'a ServiceMonitor of nothing',
      { 'metrics.serviceMonitor.enabled': 'true' },
      'metrics.serviceMonitor.enabled is set, but metrics.enabled is false',
    ],
    ['an image that changes', { 'image.tag': 'latest' }, 'image.tag is latest'],
    [
      'a Postgres that changes',
      { 'compute.postgresImage.tags.17': 'latest' },
      'compute.postgresImage.tags.17 is latest',
    ],
    [
      'headers for no collector',
      { 'telemetry.otlp.headersSecret': 'collector' },
      'telemetry.otlp.headersSecret is set, but telemetry.otlp.endpoint is empty',
    ],
  ])('%s: refused by name', async (_, set, name) => {
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
      { apiGroups: [''], resources: ['pods'], verbs: ['list', 'create', 'patch', 'delete'] },
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
    // A pod of a StatefulSet has a label of its name, a hyphen and up to 10 characters more.
    for (const { kind, metadata } of other)
      expect([metadata.name, metadata.name.length <= (kind === 'StatefulSet' ? 52 : 63)]).toEqual([
        metadata.name,
        true,
      ])
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
      set: { 'metrics.enabled': 'true', 'metrics.serviceMonitor.enabled': 'true' },
    })
    const monitor = manifests.find(({ kind }) => kind === 'ServiceMonitor') as Manifest & {
      spec: { selector: { matchLabels: Record<string, string> } }
    }
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

  test('TLS is on unless it is switched off, and then every service and compute is started without it', async () => {
    expect(JSON.stringify(await render())).not.toContain('UNDERSTORY_INSECURE')
    const objects = await render({ set: { 'tls.enabled': 'false' } })
    const texts = objects
      .map((object) => JSON.stringify(object))
      .filter((text) => text.includes('UNDERSTORY_TOKEN'))
    expect(texts.length).toBeGreaterThan(3)
    for (const text of texts) expect(text).toContain('UNDERSTORY_INSECURE')
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
      'telemetry.otlp.tracesShare': '0.5',
      'metrics.dashboards.folder': 'Storage',
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
      const variables = Object.fromEntries(container?.env?.map(({ name, value }) => [name, value]) ?? [])
      expect(variables).toMatchObject({
        OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf',
        OTEL_TRACES_SAMPLER: 'parentbased_traceidratio',
        OTEL_TRACES_SAMPLER_ARG: '0.5',
        OTEL_METRIC_EXPORT_INTERVAL: '15000',
      })
      expect(readOtlpSettings(variables)).toMatchObject({ traceShare: 0.5, metricsIntervalMs: 15_000 })
    }
    const pods = parsePodSettings(
      JSON.parse(named(manifests, 'ConfigMap', 'understory-compute-pods')?.data?.['compute-pods.json'] ?? ''),
    )
    expect(pods.metricsPort).toBe(7480)
    expect(JSON.stringify(pods.env)).toContain('http://collector:4318')
    for (const board of ['fpw', 'overview']) {
      const map = named(manifests, 'ConfigMap', `understory-dashboard-${board}`)
      expect(map?.metadata.labels?.['grafana_dashboard']).toBe('1')
      expect(map?.metadata.annotations).toEqual({ grafana_folder: 'Storage' })
      const { uid } = JSON.parse(map?.data?.[`understory-${board}.json`] ?? '') as { uid: string }
      expect(uid).toBe(`understory-${board}`)
    }
    const rules = manifests.find(({ kind }) => kind === 'PrometheusRule') as Manifest & {
      spec: { groups: { rules: { annotations: { runbook_url: string } }[] }[] }
    }
    const urls = rules.spec.groups[0]?.rules.map(({ annotations }) => annotations.runbook_url) ?? []
    expect(urls).toHaveLength(ALERTS.length)
    expect(urls).toContain('https://example.com/runbooks/commits-stalled.md')
    const monitor = manifests.find(({ kind }) => kind === 'PodMonitor') as Manifest & {
      spec: { selector: { matchLabels: Record<string, string> } }
    }
    for (const { spec } of workloads(manifests).filter(({ metadata }) =>
      /safekeeper|pageserver/.test(metadata.name),
    ))
      expect(spec.template.metadata.labels).toMatchObject(monitor.spec.selector.matchLabels)
  })

  test.each([
    ['podMonitor', 'PodMonitor', 'podMetricsEndpoints'],
    ['serviceMonitor', 'ServiceMonitor', 'endpoints'],
  ])('%s passes on how to collect', async (value, wanted, list) => {
    const manifests = await render({
      set: {
        'metrics.enabled': 'true',
        [`metrics.${value}.enabled`]: 'true',
        [`metrics.${value}.relabelings[0].action`]: 'drop',
        [`metrics.${value}.labels.release`]: 'prometheus',
      },
    })
    const monitor = manifests.find(({ kind }) => kind === wanted)
    expect(monitor).toMatchObject({
      metadata: { labels: { release: 'prometheus' } },
      spec: {
        [list]: [{ port: 'metrics', path: '/metrics', interval: '15s', relabelings: [{ action: 'drop' }] }],
      },
    })
  })

  test('no disruption budget stops a drain for good', async () => {
    const budgets = async (replicas: string): Promise<object> => {
      const set = Object.fromEntries(
        ['safekeeper', 'pageserver', 'controlPlane'].map((part) => [`${part}.replicas`, replicas]),
      )
      const found = (await render({ set })).filter(({ kind }) => kind === 'PodDisruptionBudget')
      return Object.fromEntries(
        found.map(({ metadata, spec }) => [
          metadata.name,
          (spec as { maxUnavailable: number }).maxUnavailable,
        ]),
      )
    }
    expect(await budgets('1')).toEqual({})
    expect(await budgets('3')).toEqual({
      'understory-safekeeper': 1,
      'understory-pageserver': 1,
      'understory-control-plane': 1,
    })
  })

  test('of several control planes all are ready and the one that leads is asked', async () => {
    const manifests = await render({ set: { 'controlPlane.replicas': '2' } })
    const { spec } = named(manifests, 'Service', 'understory-control-plane') as {
      spec: { selector: Record<string, string> }
    }
    expect(spec.selector).toMatchObject({ [LEADER_LABEL]: 'true' })
    const settings = named(manifests, 'ConfigMap', 'understory-compute-pods') as unknown as {
      data: Record<string, string>
    }
    const { controlPlaneLabels } = JSON.parse(settings.data['compute-pods.json'] as string) as {
      controlPlaneLabels: object
    }
    expect({ ...controlPlaneLabels, [LEADER_LABEL]: 'true' }).toEqual(spec.selector)
    const container = workloads(manifests).find(({ metadata }) => metadata.name.endsWith('control-plane'))
      ?.spec.template.spec.containers[0]
    expect(container?.readinessProbe).toMatchObject({ grpc: { service: 'ready' } })
    // The command line in one of them asks the one that leads.
    expect(container?.env).toContainEqual({
      name: 'UNDERSTORY_ENDPOINT',
      value: 'understory-control-plane.default.svc:7400',
    })
  })

  test('a new control plane need not be ready before an old one ends', async () => {
    const strategy = async (replicas: string): Promise<unknown> => {
      const manifests = await render({ set: { 'controlPlane.replicas': replicas } })
      const spec = named(manifests, 'Deployment', 'understory-control-plane')?.spec
      return (spec as { readonly strategy: unknown }).strategy
    }
    expect(await strategy('1')).toEqual({ type: 'Recreate' })
    expect(await strategy('2')).toEqual({
      type: 'RollingUpdate',
      rollingUpdate: { maxSurge: 0, maxUnavailable: 1 },
    })
  })

  test('every service is asked by probes of its own, has time to stop, and is spread over zones and nodes', async () => {
    const own = workloads(await render()).filter(({ metadata }) =>
      /safekeeper|pageserver|control-plane/.test(metadata.name),
    )
    expect(own.length).toBe(3)
    for (const { kind, spec } of own) {
      expect(spec).toMatchObject({ revisionHistoryLimit: 3 })
      if (kind === 'StatefulSet') expect(spec).toMatchObject({ podManagementPolicy: 'Parallel' })
      const pod = spec.template.spec as unknown as Record<string, unknown>
      expect(pod['terminationGracePeriodSeconds']).toBeGreaterThanOrEqual(30)
      const same = { matchLabels: spec.selector.matchLabels }
      expect(pod['topologySpreadConstraints']).toMatchObject([
        {
          topologyKey: 'topology.kubernetes.io/zone',
          whenUnsatisfiable: 'ScheduleAnyway',
          labelSelector: same,
        },
      ])
      expect(pod['affinity']).toMatchObject({
        podAntiAffinity: {
          preferredDuringSchedulingIgnoredDuringExecution: [
            { podAffinityTerm: { topologyKey: 'kubernetes.io/hostname', labelSelector: same } },
          ],
        },
      })
      // Alive is who answers by itself; what leads or has its files may be asked by name.
      const [container] = spec.template.spec.containers
      expect(container?.livenessProbe).not.toHaveProperty('grpc.service')
      expect(container).toMatchObject({ startupProbe: { grpc: {} }, readinessProbe: { grpc: {} } })
      // `kubectl describe pod` says why one that does not start has ended.
      expect(container).toMatchObject({ terminationMessagePolicy: 'FallbackToLogsOnError' })
    }
  })

  test.each([
    ['podMonitor', 'PodMonitor'],
    ['serviceMonitor', 'ServiceMonitor'],
  ])('what all objects have in common is on each of them, and on each pod (%s)', async (monitor, found) => {
    const set = {
      ...Object.fromEntries(
        ['', `${monitor}.`, 'dashboards.', 'alerts.'].map((part) => [`metrics.${part}enabled`, 'true']),
      ),
      'commonLabels.team': 'blue',
      'commonAnnotations.owner': 'us',
      'safekeeper.podLabels.team': 'red',
      'networkPolicy.enabled': 'true',
    }
    const manifests = await render({ set })
    const kinds = new Set(manifests.map(({ kind }) => kind))
    for (const kind of [found, 'PrometheusRule', 'NetworkPolicy', 'Pod', 'Role'])
      expect(kinds).toContain(kind)
    for (const { metadata } of manifests) {
      expect(metadata.labels).toMatchObject({
        'helm.sh/chart': 'understory-0.1.0',
        'app.kubernetes.io/name': 'understory',
        'app.kubernetes.io/instance': 'understory',
        'app.kubernetes.io/version': '0.1.0',
        'app.kubernetes.io/managed-by': 'Helm',
        'app.kubernetes.io/part-of': 'understory',
        team: 'blue',
      })
      expect(metadata.labels['app.kubernetes.io/component']).toBeTruthy()
      expect(metadata.annotations).toMatchObject({ owner: 'us' })
    }
    for (const { metadata, spec } of workloads(manifests)) {
      expect(spec.template.metadata).toMatchObject({ annotations: { owner: 'us' } })
      const team = metadata.name.endsWith('safekeeper') ? 'red' : 'blue'
      expect(spec.template.metadata.labels).toMatchObject({ team })
    }
  })

  test('a test goes before the next one, and asks every node', async () => {
    const set = { 'safekeeper.replicas': '5', 'pageserver.replicas': '4', 'tests.postgresMajor': '18' }
    const pod = (await render({ set })).find(({ kind }) => kind === 'Pod')
    expect(pod?.metadata.annotations).toEqual({
      'helm.sh/hook': 'test',
      'helm.sh/hook-delete-policy': 'before-hook-creation',
    })
    expect(podSpecs(pod === undefined ? [] : [pod])[0]?.containers[0]?.args).toEqual([
      'cli',
      'smoke-test',
      'helm-test',
      '--pg=18',
      '--new-password',
      '--nodes=control-plane=1,safekeeper=5,pageserver=4',
    ])
  })

  test('an account that is there already gets the rights, and no other is made', async () => {
    const set = { 'serviceAccount.create': 'false', 'serviceAccount.name': 'ours' }
    const manifests = await render({ set })
    const accounts = manifests.filter(({ kind }) => kind === 'ServiceAccount')
    expect(accounts.map(({ metadata }) => metadata.name)).toEqual(['understory-compute'])
    const binding = manifests.find(({ kind }) => kind === 'RoleBinding')
    expect(binding).toMatchObject({ subjects: [{ name: 'ours' }] })
    const made = await render({ set: { 'serviceAccount.annotations.role': 'storage' } })
    const account = named(made, 'ServiceAccount', 'understory-control-plane')
    expect(account).toMatchObject({
      metadata: { annotations: { role: 'storage' } },
      automountServiceAccountToken: false,
    })
  })

  test('numbers of a file of values are written out', async () => {
    await using folder = await temporaryDirectory()
    const file = join(folder.path, 'values.yaml')
    await writeFile(file, 'safekeeper: { keepWalMib: 1048576 }\n')
    expect(await renderText({ values: [file] })).toContain('--keep-wal-mib=1048576\n')
  })

  test('Chart.yaml lists the images that the values have', async () => {
    const [chart, values] = await Promise.all(
      ['Chart.yaml', 'values.yaml'].map(
        async (name) => parse(await readFile(join(CHART, name), 'utf8')) as Record<string, never>,
      ),
    )
    const { appVersion, annotations } = chart as unknown as { appVersion: string; annotations: object }
    const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string }
    expect(appVersion).toBe(version)
    const { compute, objectStore, broker } = values as unknown as Values
    const { repository, tags } = compute.postgresImage
    const listed = parse((annotations as Record<string, string>)['artifacthub.io/images'] ?? '') as object
    expect(listed).toEqual([
      { name: 'understory', image: `understory:${version}` },
      ...Object.values(tags).map((tag) => ({ name: `postgres-${tag}`, image: `${repository}:${tag}` })),
      { name: 'minio', image: imageOf(objectStore.bundled.image) },
      { name: 'redis', image: imageOf(broker.bundled.image) },
    ])
  })

  test('an external store and Redis are used by their secrets, and nothing is bundled', async () => {
    const manifests = await render({ set: { ...EXTERNAL, 'broker.external.existingSecret': 'redis' } })
    expect(manifests.some(({ metadata }) => /redis|object-store/.test(metadata.name))).toBe(false)
    const controlPlane = workloads(manifests).find(({ metadata }) => metadata.name.endsWith('control-plane'))
    const [container] = controlPlane?.spec.template.spec.containers ?? []
    expect(container?.args).toContain('--object-store=s3://layers/understory?region=us-east-1')
    expect(container?.env).toContainEqual({
      name: 'UNDERSTORY_CONTROL_PLANE_BROKER',
      // Another installation may have the same Redis.
      value: 'redis://:$(REDIS_PASSWORD)@redis.example.com:6379?prefix=default.understory',
    })
    const secured = await render({
      set: { ...EXTERNAL, 'broker.external.tls': 'true', 'broker.external.prefix': 'own' },
    })
    for (const { spec } of workloads(secured))
      expect(JSON.stringify(spec.template.spec.containers)).toContain(
        '"rediss://redis.example.com:6379?prefix=own"',
      )
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
