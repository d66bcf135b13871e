// Goal: what the cluster has already is kept, and what would not go with it is refused. Method: Helm's own rendering
// against as much of an API server as it asks.
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { helmMissing, temporaryDirectory } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { EXTERNAL, render, renderText } from './render.ts'
import type { Manifest } from './render.ts'

/** As much of an API server as `lookup` asks for: objects of these names are there, and no others. */
async function fakeCluster(
  there: Readonly<Record<string, Readonly<Record<string, object>>>>,
): Promise<AsyncDisposable & { readonly kubeconfig: string; seen(): number }> {
  const folder = await temporaryDirectory()
  let seen = 0
  const groups: Readonly<Record<string, Readonly<Record<string, string>>>> = {
    v1: { persistentvolumeclaims: 'PersistentVolumeClaim', secrets: 'Secret' },
    'apps/v1': { statefulsets: 'StatefulSet' },
  }
  const server = createServer(({ url = '' }, response) => {
    seen++
    const [path = ''] = url.split('?')
    const [, resource = '', name = ''] = /\/namespaces\/[^/]+\/([^/]+)\/([^/]+)$/.exec(path) ?? []
    const answer = (): object => {
      if (path === '/api') return { kind: 'APIVersions', versions: ['v1'] }
      const version = { groupVersion: 'apps/v1', version: 'v1' }
      const apps = { name: 'apps', versions: [version], preferredVersion: version }
      const [, all = ''] = /\/namespaces\/[^/]+\/([^/]+)$/.exec(path) ?? []
      if (all === 'secrets') return { apiVersion: 'v1', kind: 'SecretList', metadata: {}, items: [] }
      if (path === '/apis') return { kind: 'APIGroupList', apiVersion: 'v1', groups: [apps] }
      const [, listed = ''] = /^\/apis?\/((?:apps\/)?v1)$/.exec(path) ?? []
      if (listed !== '') {
        const resources = Object.entries(groups[listed] ?? {}).map(([plural, kind]) => {
          return { name: plural, kind, namespaced: true, singularName: '', verbs: ['get'] }
        })
        return { kind: 'APIResourceList', apiVersion: 'v1', groupVersion: listed, resources }
      }
      for (const [apiVersion, kinds] of Object.entries(groups)) {
        const found = there[resource]?.[name]
        if (found !== undefined && kinds[resource] !== undefined)
          return { apiVersion, kind: kinds[resource], metadata: { name }, ...found }
      }
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

const statefulSet = (component: string, size: string): Record<string, Record<string, object>> => ({
  statefulsets: {
    [`understory-${component}`]: {
      spec: { volumeClaimTemplates: [{ spec: { resources: { requests: { storage: size } } } }] },
    },
  },
})

const missing = await helmMissing()
describe.skipIf(missing !== undefined)(missing === undefined ? 'chart' : `chart: ${missing}`, () => {
  type OverCase = readonly [
    string,
    Readonly<Record<string, Readonly<Record<string, object>>>>,
    Readonly<Record<string, string>>,
    string | undefined,
  ]
  const OUTSIDE_REDIS = { 'broker.mode': 'external', 'broker.external.host': 'redis.example.com' }
  const S3_SECRET = { data: { accessKeyId: 'b2xk', secretAccessKey: 'b2xk' } }
  test.each<OverCase>([
    ...(
      [
        ['auth.existingSecret', {}, ['token']],
        ['tls.existingSecret', {}, ['tls.crt', 'tls.key', 'ca.crt']],
        ['objectStore.external.existingSecret', EXTERNAL, ['accessKeyId', 'secretAccessKey']],
        ['broker.external.existingSecret', OUTSIDE_REDIS, ['password']],
        ['telemetry.otlp.headersSecret', { 'telemetry.otlp.endpoint': 'http://c:4318' }, ['headers']],
      ] as const
    ).flatMap(([path, more, keys]): OverCase[] => {
      const set = { ...more, [path]: 'mine' }
      const data: Readonly<Record<string, string>> = Object.fromEntries(keys.map((key) => [key, 'b2xk']))
      const { [keys[0]]: _, ...others } = data
      const secret = (of: object): OverCase[1] => ({ secrets: { mine: { data: of }, s3: S3_SECRET } })
      return [
        [
          'no such secret',
          { secrets: { s3: S3_SECRET } },
          set,
          `${path} is mine, but there is no such secret`,
        ],
        ['a secret without its key', secret(others), set, `${path} is mine, but that secret`],
        ['a secret with its keys', secret(data), set, undefined],
      ]
    }),
    [
      'a secret that comes with the installation',
      {},
      { 'auth.existingSecret': 'mine', 'extraManifests[0].kind': 'Secret' },
      undefined,
    ],
    ['nothing', {}, {}, undefined],
    ['volumes of the same size', statefulSet('safekeeper', '20Gi'), {}, undefined],
    [
      'the same size by another unit',
      statefulSet('pageserver', '1Gi'),
      { 'pageserver.persistence.size': '1024Mi' },
      undefined,
    ],
    ['no volumes', { statefulsets: { 'understory-safekeeper': { spec: {} } } }, {}, undefined],
    ...['safekeeper', 'pageserver', 'object-store'].map((component) => {
      const path = component === 'object-store' ? 'objectStore.bundled' : component
      return ['smaller volumes', statefulSet(component, '10Gi'), {}, `${path}.persistence.size`] as const
    }),
  ])('over %s %j, with %j: refused is %s', async (_, there, set, refused) => {
    await using cluster = await fakeCluster(there)
    const text = renderText({ set, args: ['--dry-run=server', '--kubeconfig', cluster.kubeconfig] })
    if (refused !== undefined) await expect(text).rejects.toThrow(refused)
    else await expect(text).resolves.toContain('understory-safekeeper')
    expect(cluster.seen()).toBeGreaterThan(0)
  })

  test('secrets that were made are kept', async () => {
    const secretsOf = (manifests: readonly Manifest[]): Record<string, { data: object }> =>
      Object.fromEntries(
        manifests
          .filter(({ kind }) => kind === 'Secret')
          .map(({ metadata, data = {} }) => [metadata.name, { data }]),
      )
    const made = secretsOf(await render())
    expect(Object.keys(made).length).toBe(4)
    await using cluster = await fakeCluster({ secrets: made })
    const upgraded = await render({ args: ['--dry-run=server', '--kubeconfig', cluster.kubeconfig] })
    expect(secretsOf(upgraded)).toEqual(made)
  })
})
