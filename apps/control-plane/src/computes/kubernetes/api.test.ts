// Goal: each call asks what the Kubernetes API understands, and its refusals become errors by reason. Method: an HTTPS
// server on loopback that writes down what it is asked.
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { selfSignedCertificate, temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { apiServer, openKubernetesApi } from './api.ts'
import type { KubernetesApi } from './api.ts'

interface Asked {
  readonly line: string
  readonly type: string | undefined
  readonly token: string | undefined
  readonly body: string
}
type Answer = readonly [status: number, content: object]

async function world(answer: (line: string) => Answer): Promise<{
  api: KubernetesApi
  asked: Asked[]
  connections: () => number
  setToken: (token: string) => Promise<void>
}> {
  const folder = await temporaryDirectory({ prefix: 'kubernetes-api' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  const { cert, key } = await selfSignedCertificate('127.0.0.1', folder.path)
  await copyFile(cert, join(folder.path, 'ca.crt'))
  const setToken = (token: string): Promise<void> => writeFile(join(folder.path, 'token'), `${token}\n`)
  await setToken('first')
  const asked: Asked[] = []
  let connections = 0
  const server = createServer(
    { cert: await readFile(cert), key: await readFile(key) },
    (request, response) => {
      let body = ''
      request.setEncoding('utf8').on('data', (text: string) => (body += text))
      request.on('end', () => {
        const line = `${request.method} ${decodeURIComponent(request.url ?? '')}`
        const { 'content-type': type, authorization: token } = request.headers
        asked.push({ line, type, token, body })
        const [status, content] = answer(line)
        response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(content))
      })
    },
  )
  server.on('secureConnection', () => connections++)
  server.listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const api = await openKubernetesApi({ namespace: 'n', server: `127.0.0.1:${port}`, account: folder.path })
  return { api, asked, connections: () => connections, setToken }
}

const OK: Answer = [200, {}]

test('every call says what it wants, with the token of the moment, over one connection', async () => {
  const service = { metadata: { labels: { own: 'yes' }, uid: 'u-1', resourceVersion: '7' } }
  const { api, asked, connections, setToken } = await world((line) =>
    line.startsWith('GET /api/v1/namespaces/n/pods')
      ? [200, { items: [{ metadata: { name: 'p' } }] }]
      : line.startsWith('GET /api/v1/namespaces/n/services')
        ? [200, service]
        : line.startsWith('GET /apis')
          ? [200, { metadata: { uid: 'd-1' } }]
          : OK,
  )
  expect(await api.listPods('a=b,c')).toEqual([{ metadata: { name: 'p' } }])
  await setToken('second')
  await api.createPod({ kind: 'Pod', name: 'ü' })
  await api.labelPod('p', { led: 'true', by: null })
  await api.applyService('s', { kind: 'Service' })
  await api.deleteService('s', ({ own }) => own === 'yes')
  await api.deleteService('s', ({ own }) => own === 'no')
  await api.deletePod('p')
  expect(await api.deploymentUid('d')).toBe('d-1')

  const core = '/api/v1/namespaces/n'
  expect(asked.map(({ line, type, body }) => [line, type, body])).toEqual([
    [`GET ${core}/pods?labelSelector=a=b,c`, undefined, ''],
    [`POST ${core}/pods`, 'application/json', '{"kind":"Pod","name":"ü"}'],
    [
      `PATCH ${core}/pods/p`,
      'application/merge-patch+json',
      '{"metadata":{"labels":{"led":"true","by":null}}}',
    ],
    [
      `PATCH ${core}/services/s?fieldManager=understory-control-plane&force=true`,
      'application/apply-patch+yaml',
      '{"kind":"Service"}',
    ],
    [`GET ${core}/services/s`, undefined, ''],
    // Another that got the name in between, and with it this service or one of its own, is not meant.
    [
      `DELETE ${core}/services/s`,
      'application/json',
      '{"preconditions":{"uid":"u-1","resourceVersion":"7"}}',
    ],
    [`GET ${core}/services/s`, undefined, ''],
    [`DELETE ${core}/pods/p`, undefined, ''],
    ['GET /apis/apps/v1/namespaces/n/deployments/d', undefined, ''],
  ])
  expect(asked.map(({ token }) => token)).toEqual(['Bearer first', ...Array(8).fill('Bearer second')])
  expect(connections()).toBe(1)
})

test('a refusal is reported with its reason; a missing object need not be deleted or labelled', async () => {
  let status = 404
  const { api } = await world(() => [status, { kind: 'Status', message: 'pods "p" is so' }])
  await api.deletePod('p')
  await api.labelPod('p', { led: null })
  await api.deleteService('s', () => true)
  for (const [of, code] of [
    [404, 'not_found'],
    [409, 'already_exists'],
    [401, 'denied'],
    [403, 'denied'],
    [422, 'precondition'],
    [429, 'unavailable'],
    [500, 'unavailable'],
  ] as const) {
    status = of
    const error: unknown = await api.createPod({}).catch((thrown: unknown) => thrown)
    expect({ of, error }).toMatchObject({ of, error: { code, detail: 'pods "p" is so' } })
  }
  status = 403
  await expect(api.createPod({})).rejects.toMatchObject({
    hint: expect.stringContaining('rbac.create') as string,
  })
})

test('the server is at the address that a pod gets; elsewhere there is none', () => {
  expect(apiServer({ KUBERNETES_SERVICE_HOST: '10.0.0.1' })).toBe('10.0.0.1:443')
  expect(apiServer({ KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '6443' })).toBe(
    '[fd00::1]:6443',
  )
  expect(() => apiServer({})).toThrow('not in a pod')
})
