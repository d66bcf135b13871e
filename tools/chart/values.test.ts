// Goal: every value is explained, and one that cannot be is refused by its name. Method: values.yaml against the
// schema, and the schema against Helm with values that are wrong, all of a kind at once.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { helmMissing, temporaryDirectory } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { renderText } from './render.ts'
import {
  SCHEMA,
  describeSchema,
  readSchema,
  readValueLines,
  resolve,
  schemaOf,
  schemaPaths,
} from './values.ts'
import type { Schema } from './values.ts'

const schema = await readSchema()
const lines = await readValueLines()
const paths = lines.map(({ path }) => path)
const sections = paths.filter((path) => paths.some((other) => other.startsWith(`${path}.`)))
const leaves = paths.filter((path) => !sections.includes(path))

test('every value has a comment, and a place in the schema', () => {
  expect(lines.filter(({ description }) => description === undefined).map(({ path }) => path)).toEqual([])
  expect(schemaPaths(schema)).toEqual(paths)
})

/** Where this fails: `npx vitest run tools/chart -u` writes it. */
test('the schema has the words of values.yaml, and a value that is taken away is missed', async () => {
  await expect(`${JSON.stringify(describeSchema(schema, lines), null, 2)}\n`).toMatchFileSnapshot(SCHEMA)
})

const typeOf = (path: string): Schema['type'] => resolve(schema, schemaOf(schema, path))?.type

/** `[path, value]` as one tree. */
function treeOf(values: readonly (readonly [string, unknown])[]): object {
  const tree: Record<string, unknown> = {}
  for (const [path, value] of values) {
    const keys = path.split('.')
    let at = tree
    for (const key of keys.slice(0, -1)) at = (at[key] ??= {}) as Record<string, unknown>
    at[keys.at(-1) ?? ''] = value
  }
  return tree
}

async function outcome(values: readonly (readonly [string, unknown])[]): Promise<string> {
  await using folder = await temporaryDirectory()
  const file = join(folder.path, 'values.json')
  await writeFile(file, JSON.stringify(treeOf(values)))
  return await renderText({ values: [file] }).then(
    () => '',
    (error: unknown) => (error as Error).message,
  )
}

const pointer = (path: string): string => `at '/${path.replaceAll('.', '/')}`
/** The values that the message does not name, neither themselves nor anything within them. */
const missed = (message: string, values: readonly (readonly [string, unknown])[]): string[] =>
  values
    .map(([path]) => path)
    .filter((path) => !message.includes(`${pointer(path)}'`) && !message.includes(`${pointer(path)}/`))

/** Values that no key of that kind takes, though they have the right type. */
const BAD: Readonly<Record<string, readonly unknown[]>> = {
  nameOverride: ['Capital', '-edge'],
  fullnameOverride: ['under_score'],
  namespaceOverride: ['a b'],
  'global.imageRegistry': ['https://registry.example.com', 'registry.example.com/'],
  'global.imagePullSecrets': ['one'],
  commonLabels: [{ 'app.kubernetes.io/name': 'mine' }, { team: 'a b' }, { team: true }],
  commonAnnotations: [{ number: 1 }],
  'image.repository': ['', 'understory:1', 'Understory'],
  'image.tag': ['a/b', 'a b', 0.1],
  'image.digest': ['sha256:1', `md5:${'0'.repeat(64)}`],
  'image.pullPolicy': ['Sometimes'],
  logLevel: ['loud', 'INFO'],
  'auth.existingSecret': ['My Secret'],
  'auth.tokenKey': ['', 'a b'],
  'tls.serverName': ['', '*.example.com'],
  'tls.certManager.issuerRef.kind': [''],
  'safekeeper.replicas': [0, -1, 2, 4, 1.5, '3'],
  'safekeeper.resources': [{ requests: { memory: '1GB' } }, { memory: '1Gi' }, { limits: { memory: '1ki' } }],
  'safekeeper.persistence.size': ['5GB', '20', '0Gi', '-1Gi', 20, '20 Gi'],
  'safekeeper.persistence.storageClass': ['Fast Disks'],
  'safekeeper.persistence.whenDeleted': ['Keep'],
  'safekeeper.persistence.whenScaled': ['delete'],
  'safekeeper.keepWalMib': [0, -1, 31],
  'safekeeper.terminationGracePeriodSeconds': [0, 1, 9, 3601],
  'safekeeper.extraArgs': [[1]],
  'safekeeper.extraEnv': [[{ value: 'nameless' }], ['A=b']],
  'safekeeper.podLabels': [{ 'helm.sh/chart': 'mine' }],
  'safekeeper.nodeSelector': [{ ssd: true }],
  'safekeeper.tolerations': [['all']],
  'safekeeper.priorityClassName': ['Very High'],
  'pageserver.replicas': [0, -1, 257],
  'pageserver.imageThreads': [0],
  'pageserver.openLayerMib': [0, 1025],
  'pageserver.blockCacheMib': [0],
  'pageserver.layerFilesMib': [-1],
  'controlPlane.replicas': [0, 6],
  'controlPlane.leaseMs': [499],
  'controlPlane.service.type': ['ExternalName'],
  'controlPlane.service.port': [0, 65_536],
  'compute.postgresImage.tags': [{ '17': 'a b' }, { '17': '' }, { '15': '15' }],
  'compute.postgresImage.digests': [{ '17': 'sha256:1' }],
  'compute.postgresUid': [0, -1],
  'compute.dataSizeLimit': ['50', '50gi'],
  'compute.sharedMemorySizeLimit': ['256'],
  'compute.contactTimeoutMs': [1_999],
  'compute.ingestLagLimitMib': [0],
  'compute.terminationGracePeriodSeconds': [19],
  'objectStore.mode': ['s3'],
  'objectStore.external.endpoint': ['s3.example.com', 'ftp://s3.example.com'],
  'objectStore.external.region': ['', 'eu west'],
  'objectStore.external.bucket': ['A', 's3://layers', 'a/b'],
  'objectStore.external.prefix': ['/understory', 'understory/', 'a?b'],
  'objectStore.bundled.image.tag': ['', 'a b'],
  'objectStore.bundled.accessKeyIdVariable': ['', 'A-B'],
  'objectStore.bundled.readyPath': ['ready'],
  'objectStore.bundled.bucket': ['', 'A'],
  'objectStore.bundled.runAsUser': [0],
  'broker.mode': ['redis'],
  'broker.external.host': ['redis://host', 'host:6379'],
  'broker.external.port': [0],
  'broker.external.prefix': ['a*', 'a b'],
  'broker.bundled.image.tag': [''],
  'serviceAccount.name': ['A b'],
  'metrics.podMonitor.interval': ['15', '0s', '15 s'],
  'metrics.podMonitor.relabelings': [['drop']],
  'metrics.serviceMonitor.relabelings': [['drop']],
  'metrics.dashboards.folder': [''],
  'metrics.alerts.runbooks': [''],
  'telemetry.otlp.endpoint': ['collector:4317', 'grpc://collector:4317'],
  'telemetry.otlp.protocol': ['grpc', 'http/json', ''],
  'telemetry.otlp.headersSecret': ['x-token=1'],
  'telemetry.otlp.tracesShare': [-0.1, 1.1, '2', 'all'],
  'telemetry.otlp.metricsIntervalSeconds': [0, 0.5],
  'tests.tenant': ['', 'Capital'],
  'tests.postgresMajor': [15, 19],
}

const missing = await helmMissing()
describe.skipIf(missing !== undefined)(missing === undefined ? 'Helm' : `Helm: ${missing}`, () => {
  const rounds = Math.max(...Object.values(BAD).map(({ length }) => length))
  test.each(Array.from({ length: rounds }, (_, round) => round))(
    'what a value may not be is refused, round %i',
    async (round) => {
      const values = Object.entries(BAD).flatMap(([path, bad]) =>
        round < bad.length ? [[path, bad[round]] as const] : [],
      )
      expect(missed(await outcome(values), values)).toEqual([])
    },
  )

  test('a value of another type is refused, in every place', async () => {
    const values = leaves.map((path) => [path, typeOf(path) === 'array' ? {} : []] as const)
    expect(missed(await outcome(values), values)).toEqual([])
  })

  test.each([1, 2, 3, 4])('no section of depth %i may be a text', async (depth) => {
    const values = sections
      .filter((path) => path.split('.').length === depth)
      .map((path) => [path, 'text'] as const)
    expect(missed(await outcome(values), values)).toEqual([])
  })

  test('a misspelt key is refused in every section', async () => {
    // Global values belong to other charts, too.
    const closed = sections.filter((path) => path !== 'global')
    const values = closed.map((path) => [`${path}.replcas`, 1] as const)
    const message = await outcome([...values, ['pagesrver', 1]])
    expect(message).toContain("additional properties 'pagesrver' not allowed")
    for (const path of closed)
      expect(message).toContain(`${pointer(path)}': additional properties 'replcas' not allowed`)
  })

  test('a value that is taken away is missed by its name', async () => {
    const taken = leaves.filter((path) => !['object', 'array'].includes(String(typeOf(path))))
    expect(taken.length).toBeGreaterThan(80)
    const message = await outcome(taken.map((path) => [path, null]))
    for (const path of taken)
      expect(message).toMatch(new RegExp(`missing propert.*'${path.split('.').at(-1)}'`))
  })

  test('what looks odd and is right is taken', async () => {
    expect(
      await outcome([
        ['image.tag', 7],
        ['commonLabels', { team: '', 'example.com/Owner': 'A_b.c' }],
        ['compute.postgresImage.tags', { '16': 16, '17': '17.6-alpine3.22', '18': '18' }],
        ['global.imageRegistry', 'registry.example.com:5000/mirror/of_it'],
        ['safekeeper.resources', { requests: { cpu: 1, memory: '512Ki', 'example.com/disk': 1 } }],
        ['safekeeper.persistence.size', '1.5Ti'],
        ['safekeeper.affinity', null],
        ['safekeeper.keepWalMib', 1_048_576],
        ['telemetry.otlp.tracesShare', 0],
      ]),
    ).toBe('')
  })
})
