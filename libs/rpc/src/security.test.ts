// Goal: with a token and TLS no client without them gets an answer, and clients with them notice nothing. Method: real
// servers and clients on loopback, certificates made by openssl.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { jsonLog, realClock, silentLog } from '@understory/env'
import { selfSignedCertificate, temporaryDirectory } from '@understory/testcontainers'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  PLAIN_SERVER,
  BrokerServiceClient,
  BrokerServiceService,
  callServerStream,
  callUnary,
  createClient,
  readSecurity,
  rpcContext,
  serverStream,
  service,
  startServer,
  unary,
} from './index.ts'
import { CertificateFiles } from './certificate-files.ts'
import { isLoopback } from './exposure.ts'
import type { RpcContext, Handlers, BrokerServiceServer, ClientSecurity, ServerSecurity } from './index.ts'

const handlers = {
  announce: unary(() => ({})),
  withdraw: unary(() => ({})),
  listAnnouncements: unary(() => ({ announcements: [] })),
  watchAnnouncements: serverStream(async function* () {
    yield { announcements: [] }
  }),
} as unknown as Handlers<BrokerServiceServer>

/** Reads the environment as a program does. */
const secured = (environment: Readonly<Record<string, string>>) => {
  const security = readSecurity(environment)
  return rpcContext({ security, observer: undefined, clock: realClock, log: silentLog })
}

const connectIn = ({ server, client }: RpcContext) => connect(server.security, client.security)

async function connect(security: ServerSecurity, own: ClientSecurity) {
  const services = [service<BrokerServiceServer>(BrokerServiceService, handlers)]
  const context = { ...PLAIN_SERVER, security }
  const server = await startServer(context, { host: '127.0.0.1', port: 0, services })
  const client = createClient({ security: own }, BrokerServiceClient, server.address)
  onTestFinished(async () => {
    client.close()
    await server.stop(0)
  })
  const listBy = (by: BrokerServiceClient) =>
    callUnary(by.listAnnouncements.bind(by), { prefix: '' }, { deadlineMs: 3_000 })
  return {
    list: () => listBy(client),
    /** One more client of the same server. */
    another: (its: ClientSecurity) => {
      const other = createClient({ security: its }, BrokerServiceClient, server.address)
      onTestFinished(() => other.close())
      return { list: () => listBy(other) }
    },
    watch: async () => {
      const options = { deadlineMs: 3_000 }
      const stream = callServerStream(client.watchAnnouncements.bind(client), { prefix: '' }, options)
      for await (const response of stream) return response
      return undefined
    },
  }
}

/** A self-signed certificate for `name`, its own authority. */
async function certificateFor(name: string): Promise<{ cert: Buffer; key: Buffer; folder: string }> {
  const folder = await temporaryDirectory({ prefix: 'tls' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  const { cert, key } = await selfSignedCertificate(name, folder.path)
  return { cert: readFileSync(cert), key: readFileSync(key), folder: folder.path }
}

describe('a token', () => {
  const security: ServerSecurity = { token: 'a long random text' }

  test('lets in who carries it, by every kind of call', async () => {
    const { list, watch } = await connect(security, { token: 'a long random text' })
    expect(await list()).toEqual({ announcements: [] })
    expect(await watch()).toMatchObject({ gone: false })
  })

  test.for([
    ['none', undefined, /carries no token/],
    ['another', 'a long random tex', /not the right one/],
  ] as const)('keeps out who has %s', async ([, token, message]) => {
    const { list, watch } = await connect(security, { token })
    for (const call of [list, watch])
      await expect(call()).rejects.toMatchObject({
        code: 'unauthenticated',
        message: expect.stringMatching(message),
      })
  })

  test('of the environment serves both sides of a process', async () => {
    const own = secured({ UNDERSTORY_TOKEN: 'of the environment' })
    const { list } = await connectIn(own)
    expect(await list()).toEqual({ announcements: [] })
    const stranger = await connect(own.server.security, {})
    await expect(stranger.list()).rejects.toMatchObject({ code: 'unauthenticated' })
  })
})

describe('TLS', () => {
  test('is spoken with who trusts the certificate and finds the name in it', async () => {
    const { cert, key } = await certificateFor('understory')
    const server = { tls: { cert, key }, token: 't' }
    const tls = { ca: cert, serverName: 'understory' }
    const { list } = await connect(server, { tls, token: 't' })
    expect(await list()).toEqual({ announcements: [] })
    for (const wrong of [
      { tls: { ca: cert }, token: 't' },
      { tls: { ...tls, ca: (await certificateFor('understory')).cert }, token: 't' },
      { token: 't' },
    ]) {
      const { list: refused } = await connect(server, wrong)
      await expect(refused()).rejects.toMatchObject({ code: 'unavailable' })
    }
  })

  test('of the environment serves both sides of a process', async () => {
    const { folder } = await certificateFor('understory')
    const own = secured({
      UNDERSTORY_TLS_CERT: join(folder, 'cert.pem'),
      UNDERSTORY_TLS_KEY: join(folder, 'key.pem'),
      UNDERSTORY_TLS_CA: join(folder, 'cert.pem'),
      UNDERSTORY_TLS_NAME: 'understory',
    })
    const { list } = await connectIn(own)
    expect(await list()).toEqual({ announcements: [] })
  })
})

describe('renewed certificates', () => {
  test('count for new connections without a start, once all files belong together', async () => {
    const before = await certificateFor('understory')
    const after = await certificateFor('understory')
    const at = (name: string): string => join(before.folder, name)
    const paths = { cert: at('cert.pem'), key: at('key.pem'), ca: at('cert.pem') }
    const files = new CertificateFiles(paths)
    const events: string[] = []
    const log = jsonLog({ write: (line) => events.push((JSON.parse(line) as { event: string }).event) })
    const standing = await connect({ tls: files }, { tls: { ca: files, serverName: 'understory' } })
    await standing.list()
    const by = (ca: Buffer | CertificateFiles) =>
      standing.another({ tls: { ca, serverName: 'understory' } }).list()
    await by(before.cert)
    await expect(by(after.cert)).rejects.toMatchObject({ code: 'unavailable' })

    const farFromTheEnd = Date.now() - 30 * 86_400_000
    writeFileSync(paths.cert, after.cert)
    files.refresh(log, farFromTheEnd)
    files.refresh(log, farFromTheEnd)
    expect(events).toEqual(['certificate_not_read'])
    await by(before.cert)

    writeFileSync(paths.key, after.key)
    files.refresh(log, farFromTheEnd)
    files.refresh(log, farFromTheEnd)
    expect(events).toEqual(['certificate_not_read', 'certificate_renewed'])
    await by(after.cert)
    await by(files)
    await standing.list()
    await expect(by(before.cert)).rejects.toMatchObject({ code: 'unavailable' })
  })

  test('are looked for again and again, and one that ends soon is reported once', async () => {
    const { folder } = await certificateFor('understory')
    const security = readSecurity({
      UNDERSTORY_TLS_CERT: join(folder, 'cert.pem'),
      UNDERSTORY_TLS_KEY: join(folder, 'key.pem'),
    })
    const events: string[] = []
    const timers: (() => void)[] = []
    const setTimer = (_: number, callback: () => void) => {
      timers.push(callback)
      return { cancel: () => undefined }
    }
    security.watch({
      clock: { ...realClock, setTimer },
      log: jsonLog({ write: (line) => events.push((JSON.parse(line) as { event: string }).event) }),
    })
    timers.shift()?.()
    expect(events).toEqual(['certificate_expires'])
    expect(timers).toHaveLength(1)
  })
})

test('wrong settings name the variable', async () => {
  const folder = await temporaryDirectory({ prefix: 'tls' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  const empty = join(folder.path, 'empty')
  writeFileSync(empty, '\n')
  expect(() => readSecurity({ UNDERSTORY_TLS_CERT: '/nowhere', UNDERSTORY_TLS_KEY: empty })).toThrow(
    /UNDERSTORY_TLS_CERT: could not read/,
  )
  expect(() => readSecurity({ UNDERSTORY_TLS_CA: empty })).toThrow(/what UNDERSTORY_TLS_CA name/)
  expect(() => readSecurity({ UNDERSTORY_TLS_KEY: empty })).toThrow(/only one is set/)
  expect(() => readSecurity({ UNDERSTORY_TOKEN_FILE: empty })).toThrow(/token is empty/)
})

describe('off loopback', () => {
  const services = [service<BrokerServiceServer>(BrokerServiceService, handlers)]
  const listen = async (host: string, security: ServerSecurity): Promise<string> => {
    const server = await startServer({ ...PLAIN_SERVER, security }, { host, port: 0, services })
    onTestFinished(() => server.stop(0))
    return server.address
  }

  test('nothing listens without TLS and a token unless the network is said to be private', async () => {
    const { cert, key } = await certificateFor('understory')
    const tls = { cert, key }
    for (const [security, missing] of [
      [{}, 'TLS and a token'],
      [{ token: 't' }, 'TLS'],
      [{ tls }, 'a token'],
    ] as const) {
      await expect(listen('0.0.0.0', security)).rejects.toMatchObject({
        code: 'precondition',
        message: `could not listen on "0.0.0.0" without ${missing}`,
        hint: expect.stringContaining('UNDERSTORY_INSECURE=yes'),
      })
      await listen('127.0.0.1', security)
      await listen('localhost', security)
      await listen('0.0.0.0', { ...security, insecure: true })
    }
    await listen('0.0.0.0', { token: 't', tls })
    // Probes get nothing of value.
    const probed = await startServer(PLAIN_SERVER, { host: '0.0.0.0', port: 0, services: [] })
    await probed.stop(0)
  })

  test.for([
    ['127.0.0.1:80', true],
    ['127.1.2.3', true],
    ['localhost:80', true],
    ['[::1]:80', true],
    ['127.0.0.1.example.org:80', false],
    ['127.example.org', false],
    ['localhost.example.org:80', false],
    ['0.0.0.0', false],
    ['[::]:80', false],
    ['10.127.0.0', false],
  ] as const)('%s is this machine alone: %s', ([address, isAlone]) => {
    expect(isLoopback(address)).toBe(isAlone)
  })

  test('no token is sent in the clear, with any kind of call', async () => {
    const address = await listen('0.0.0.0', { token: 't', insecure: true })
    const clientOf = (own: ClientSecurity): BrokerServiceClient => {
      const client = createClient({ security: own }, BrokerServiceClient, address)
      onTestFinished(() => client.close())
      return client
    }
    const refused = clientOf({ token: 't' })
    const problem = { code: 'precondition', message: `could not send the token to "${address}" without TLS` }
    const unaryCall = callUnary(refused.listAnnouncements.bind(refused), { prefix: '' })
    await expect(unaryCall).rejects.toMatchObject(problem)
    const stream = callServerStream(refused.watchAnnouncements.bind(refused), { prefix: '' })
    await expect(Array.fromAsync(stream)).rejects.toMatchObject(problem)
    const said = clientOf({ token: 't', insecure: true })
    const call = callUnary(said.listAnnouncements.bind(said), { prefix: '' })
    expect(await call).toEqual({ announcements: [] })
  })

  test('of the environment "yes" alone says that the network is private', async () => {
    expect(() => readSecurity({ UNDERSTORY_INSECURE: 'true' })).toThrow(/^UNDERSTORY_INSECURE is "true"/)
    const { server: context } = secured({ UNDERSTORY_INSECURE: 'yes' })
    const server = await startServer(context, { host: '0.0.0.0', port: 0, services })
    await server.stop(0)
  })
})
