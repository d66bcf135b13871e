// Goal: who may not call costs a server a header and nothing else, and who may call cannot make it hold or build more
// than its limits say. Method: HTTP/2 by hand and real clients, against real servers on loopback.
import { connect, constants } from 'node:http2'
import type { ClientHttp2Stream, IncomingHttpHeaders } from 'node:http2'
import { gzipSync } from 'node:zlib'
import { connectivityState, status } from '@grpc/grpc-js'
import { expect, onTestFinished, test } from 'vitest'
import { HealthService } from './health.ts'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  BrokerServiceClient,
  BrokerServiceService,
  ComputeHostServiceService,
  EnsureComputeRequest,
  ProposeRequest,
  SafekeeperServiceService,
  bidiStream,
  callServerStream,
  callUnary,
  createClient,
  serverStream,
  service,
  startServer,
  unary,
} from './index.ts'
import type { RpcService, ServerSecurity } from './index.ts'
import type { ServerLimits } from './admission.ts'

const TOKEN = 'a long random text'
const MIB = 2 ** 20

/** The requests that the server decoded, and those that reached its handlers. */
interface Seen {
  decoded: number
  handled: number
}

/** Every RPC of the three services, answered with nothing; what is decoded on the way is counted. */
function countingServices(seen: Seen): RpcService[] {
  return [SafekeeperServiceService, ComputeHostServiceService, BrokerServiceService].map((definition) => {
    const counted = Object.entries(definition).map(([name, method]) => {
      const requestDeserialize = (bytes: Buffer): unknown => {
        seen.decoded++
        return method.requestDeserialize(bytes)
      }
      return [name, { ...method, requestDeserialize }] as const
    })
    const handlers = Object.entries(definition).map(([name, { requestStream, responseStream }]) => {
      if (!requestStream) {
        const answer = (): object => {
          seen.handled++
          return {}
        }
        const stream = serverStream<unknown, object>(async function* () {
          yield answer()
        })
        return [name, responseStream ? stream : unary(answer)] as const
      }
      const handle = bidiStream<unknown, object>(async function* (requests) {
        for await (const _ of requests) seen.handled++
        yield* []
      })
      return [name, handle] as const
    })
    return service<never>(Object.fromEntries(counted), Object.fromEntries(handlers) as never)
  })
}

async function start(limits: Partial<ServerLimits> = {}, security: ServerSecurity = { token: TOKEN }) {
  const seen: Seen = { decoded: 0, handled: 0 }
  const services = countingServices(seen)
  const server = await startServer(
    { ...PLAIN_SERVER, security },
    { host: '127.0.0.1', port: 0, services, limits },
  )
  onTestFinished(() => server.stop(0))
  const session = connect(`http://${server.address}`)
  session.on('error', () => undefined)
  onTestFinished(() => session.destroy())
  const open = (path: string, headers: Readonly<Record<string, string>> = {}): RawCall =>
    new RawCall(
      session.request({
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        te: 'trailers',
        ...headers,
      }),
    )
  return { server, seen, open, withToken: (path: string) => open(path, { authorization: `Bearer ${TOKEN}` }) }
}

class RawCall {
  readonly stream: ClientHttp2Stream
  readonly status: Promise<number>
  readonly closed: Promise<void>

  constructor(stream: ClientHttp2Stream) {
    this.stream = stream
    this.status = new Promise((resolve) => {
      const look = (headers: IncomingHttpHeaders): void => {
        if (headers['grpc-status'] !== undefined) resolve(Number(headers['grpc-status']))
      }
      stream.on('response', look).on('trailers', look)
    })
    this.closed = new Promise((resolve) => stream.once('close', () => resolve()))
    stream.on('error', () => undefined)
    stream.resume()
  }
}

function frame(message: Uint8Array, { compressed = false, sizeSaid = message.length } = {}): Buffer {
  const head = Buffer.alloc(5)
  head[0] = compressed ? 1 : 0
  head.writeUInt32BE(sizeSaid, 1)
  return Buffer.concat([head, message])
}

/** The field, whose value has a length, again and again with nothing in it. */
const emptyFields = (field: number, bytes: number): Buffer =>
  Buffer.alloc(bytes, Buffer.from([(field << 3) | 2, 0]))

/** The field with a value. */
function wrapped(field: number, value: Uint8Array): Buffer {
  const size: number[] = []
  let rest = value.length
  for (; rest > 0x7f; rest >>>= 7) size.push((rest & 0x7f) | 0x80)
  return Buffer.concat([Buffer.from([(field << 3) | 2, ...size, rest]), value])
}

const { pullTimeline, propose, getWalStatus, readWal, subscribeWal } = SafekeeperServiceService
const { ensureCompute } = ComputeHostServiceService

test.for([
  ['unary', pullTimeline],
  ['server stream', readWal],
  ['bidirectional', propose],
] as const)(
  'a stranger is refused before its message is there, and its stream is closed: %s',
  async ([, { path }]) => {
    const { seen, open } = await start()
    const call = open(path)
    // It says that 30 MiB come, and sends one.
    call.stream.write(frame(Buffer.alloc(MIB), { sizeSaid: 30 * MIB }))
    expect(await call.status).toBe(status.UNAUTHENTICATED)
    await call.closed
    expect(call.stream.rstCode).toBe(constants.NGHTTP2_NO_ERROR)
    expect(seen).toEqual({ decoded: 0, handled: 0 })
  },
)

test('a whole message of a stranger is not decoded', async () => {
  const { seen, open } = await start()
  const call = open(pullTimeline.path)
  call.stream.end(frame(emptyFields(2, 64)))
  expect(await call.status).toBe(status.UNAUTHENTICATED)
  expect(seen).toEqual({ decoded: 0, handled: 0 })
})

test('health checks are asked for no token', async () => {
  const { open } = await start()
  const call = open(HealthService.check.path)
  call.stream.end(frame(Buffer.alloc(0)))
  expect(await call.status).toBe(status.OK)
})

test('compressed messages are refused, from callers with the token too', async () => {
  const { seen, open } = await start()
  const call = open(pullTimeline.path, { authorization: `Bearer ${TOKEN}`, 'grpc-encoding': 'gzip' })
  call.stream.end(frame(gzipSync(emptyFields(2, 30 * MIB)), { compressed: true }))
  expect(await call.status).toBe(status.UNIMPLEMENTED)
  expect(seen).toEqual({ decoded: 0, handled: 0 })
})

test.for([
  ['a request without bulk', pullTimeline.path, emptyFields(2, 257 * 1024)],
  ['members of a greeting', propose.path, wrapped(1, wrapped(6, emptyFields(2, 2 * MIB)))],
  ['terms of an election', propose.path, wrapped(3, emptyFields(3, 2 * MIB))],
  ['appends in one message', propose.path, emptyFields(4, 2 * MIB)],
  ['pieces of WAL in one append', propose.path, wrapped(4, emptyFields(5, 2 * MIB))],
  ['configuration files', ensureCompute.path, wrapped(2, emptyFields(2, 2 * MIB))],
  ['unknown fields', propose.path, emptyFields(9, 2 * MIB)],
] as const)('more entries than a request may have are refused undecoded: %s', async ([, path, body]) => {
  const { seen, withToken } = await start()
  const call = withToken(path)
  call.stream.end(frame(body))
  expect([status.RESOURCE_EXHAUSTED, status.OUT_OF_RANGE]).toContain(await call.status)
  expect(seen).toEqual({ decoded: 0, handled: 0 })
})

test('WAL, terms of long histories and configuration files pass', async () => {
  const { seen, withToken } = await start()
  const lsns = { term: 1n, beginLsn: 0n, commitLsn: 0n, recordEndLsn: 0n }
  const termHistory = Array.from({ length: 100_000 }, (_, i) => ({ term: BigInt(i), startLsn: 1n << 52n }))
  const elected = { term: 1n, startStreamingLsn: 0n, termHistory, kind: 1 } as const
  const stream = withToken(propose.path)
  for (const message of [
    { $case: 'append', value: { ...lsns, wal: Buffer.alloc(8 * MIB) } },
    { $case: 'elected', value: elected },
  ] as const)
    stream.stream.write(frame(ProposeRequest.encode({ message }).finish()))
  stream.stream.end()
  expect(await stream.status).toBe(status.OK)
  const files = { 'postgresql.conf': Buffer.alloc(MIB), 'pg_hba.conf': Buffer.alloc(MIB / 2) }
  const configuration = { version: { term: 1n, number: 1n }, files, soundFiles: files }
  const compute = withToken(ensureCompute.path)
  compute.stream.end(frame(EnsureComputeRequest.encode({ spec: undefined, configuration }).finish()))
  expect(await compute.status).toBe(status.OK)
  expect(seen).toEqual({ decoded: 3, handled: 3 })
})

test.for([
  ['of which nothing came', getWalStatus.path, Buffer.alloc(0)],
  ['that is half there', getWalStatus.path, frame(Buffer.alloc(10), { sizeSaid: 20 })],
  ['whose caller does not end its side', getWalStatus.path, frame(Buffer.alloc(0))],
  ['of a stream', subscribeWal.path, Buffer.alloc(0)],
  ['of a stream, half there', propose.path, frame(Buffer.alloc(10), { sizeSaid: 20 })],
] as const)('a call does not wait for ever for a first message %s', async ([, path, body]) => {
  const { withToken } = await start({ firstMessageMs: 50 })
  const call = withToken(path)
  call.stream.write(body)
  expect(await call.status).toBe(status.DEADLINE_EXCEEDED)
  await call.closed
})

test('a stream that has sent its first message may be silent', async () => {
  const { seen, withToken } = await start({ firstMessageMs: 50 })
  const [silent, waiting] = [withToken(propose.path), withToken(propose.path)]
  silent.stream.write(frame(Buffer.alloc(0)))
  expect(await waiting.status).toBe(status.DEADLINE_EXCEEDED)
  silent.stream.end(frame(Buffer.alloc(0)))
  expect(await silent.status).toBe(status.OK)
  expect(seen.handled).toBe(2)
})

test('calls that wait hold so many bytes and no more, and give them back', async () => {
  const { withToken } = await start({ waitingBytesMax: 5 * MIB })
  const whole = frame(wrapped(4, wrapped(5, Buffer.alloc(4 * MIB))))
  for (let round = 0; round < 3; round++) {
    const [first, second] = [withToken(propose.path), withToken(propose.path)]
    first.stream.write(whole.subarray(0, 3 * MIB))
    second.stream.write(whole.subarray(0, 3 * MIB))
    const refused = await Promise.race([
      first.status.then(() => ({ other: second })),
      second.status.then(() => ({ other: first })),
    ])
    // The one that was not refused may still complete its message.
    refused.other.stream.end(whole.subarray(3 * MIB))
    expect((await Promise.all([first.status, second.status])).toSorted((a, b) => a - b)).toEqual([
      status.OK,
      status.UNAVAILABLE,
    ])
  }
})

test('so many calls wait at a time and no more', async () => {
  const { withToken } = await start({ waitingCallsMax: 3 })
  for (let round = 0; round < 3; round++) {
    const waiting = [1, 2, 3].map(() => withToken(propose.path))
    const refused = withToken(propose.path)
    expect(await refused.status).toBe(status.UNAVAILABLE)
    for (const { stream } of waiting) stream.end(frame(Buffer.alloc(0)))
    for (const call of waiting) expect(await call.status).toBe(status.OK)
  }
})

test('health checks that strangers leave open keep out neither calls with a token nor other health checks', async () => {
  const { open, withToken } = await start({ waitingCallsMax: 3 })
  const left = Array.from({ length: 300 }, () => open(HealthService.check.path))
  // The calls that have waited longest give way.
  expect(await left[0]?.status).toBe(status.UNAVAILABLE)
  const call = withToken(ensureCompute.path)
  call.stream.end(frame(Buffer.alloc(0)))
  expect(await call.status).toBe(status.OK)
  const probe = open(HealthService.check.path)
  probe.stream.end(frame(Buffer.alloc(0)))
  expect(await probe.status).toBe(status.OK)
})

test('a health check cannot carry much', async () => {
  const { open } = await start()
  const call = open(HealthService.check.path)
  call.stream.end(frame(Buffer.alloc(2 * 1024)))
  expect(await call.status).toBe(status.RESOURCE_EXHAUSTED)
})

test('one connection has streams of more than a thousand timelines, and calls beside them', async () => {
  const { withToken } = await start()
  for (let i = 0; i < 1_100; i++) withToken(subscribeWal.path).stream.write(frame(Buffer.alloc(0)))
  const call = withToken(ensureCompute.path)
  call.stream.end(frame(Buffer.alloc(0)))
  expect(await call.status).toBe(status.OK)
})

test('a connection that is old is replaced, and the streams on it continue', async () => {
  const more = Promise.withResolvers<void>()
  const services = [
    service<never>(BrokerServiceService, {
      listAnnouncements: unary(() => ({ announcements: [] })),
      watchAnnouncements: serverStream(async function* () {
        yield { announcement: undefined, gone: false }
        await more.promise
        yield { announcement: undefined, gone: true }
      }),
    } as never),
  ]
  const limits = { connectionAgeMs: 50 }
  const server = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port: 0, services, limits })
  const client = createClient(PLAIN_CLIENT, BrokerServiceClient, server.address)
  onTestFinished(async () => {
    client.close()
    await server.stop(0)
  })
  const stream = callServerStream(client.watchAnnouncements.bind(client), { prefix: '' })
  expect((await stream.next()).value).toMatchObject({ gone: false })
  const channel = client.getChannel()
  const replaced = new Promise((resolve) =>
    channel.watchConnectivityState(connectivityState.READY, Date.now() + 5_000, resolve),
  )
  expect(await replaced).toBeUndefined()
  // The connection is not taken for new calls any more: they go by another one.
  expect(await callUnary(client.listAnnouncements.bind(client), { prefix: '' })).toEqual({
    announcements: [],
  })
  more.resolve()
  expect((await stream.next()).value).toMatchObject({ gone: true })
  expect((await stream.next()).done).toBe(true)
})
