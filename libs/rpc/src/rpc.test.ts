// Goal: errors, streams and cancellation cross the network as the modules promise. Method: real servers and clients on
// loopback, with the embedded broker's service as the vehicle.
import { connect } from 'node:http2'
import { connect as connectSocket } from 'node:net'
import { Client, credentials, makeClientConstructor, status } from '@grpc/grpc-js'
import { UnderstoryError, fail } from '@understory/base'
import { expect, onTestFinished, test } from 'vitest'
import { HealthService } from './health.ts'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  BrokerServiceClient,
  BrokerServiceService,
  PageserverServiceService,
  SafekeeperServiceClient,
  SafekeeperServiceService,
  bidiStream,
  callServerStream,
  callUnary,
  clientStream,
  createClient,
  openBidi,
  serverStream,
  service,
  startServer,
  unary,
} from './index.ts'
import type {
  Handlers,
  ServerContext,
  BrokerServiceServer,
  PageserverServiceServer,
  SafekeeperServiceServer,
  SubscribeWalRequest,
} from './index.ts'

const nothing = { announcements: [] }

function brokerHandlers(changes: Partial<Handlers<BrokerServiceServer>>): Handlers<BrokerServiceServer> {
  return {
    announce: unary(() => ({})),
    withdraw: unary(() => ({})),
    listAnnouncements: unary(() => nothing),
    watchAnnouncements: serverStream(async function* () {
      yield* []
    }),
    ...changes,
  } as Handlers<BrokerServiceServer>
}

async function brokerClient(
  changes: Partial<Handlers<BrokerServiceServer>>,
  context: Partial<ServerContext> = {},
): Promise<BrokerServiceClient> {
  const services = [service<BrokerServiceServer>(BrokerServiceService, brokerHandlers(changes))]
  const server = await startServer({ ...PLAIN_SERVER, ...context }, { host: '127.0.0.1', port: 0, services })
  const client = createClient(PLAIN_CLIENT, BrokerServiceClient, server.address)
  onTestFinished(async () => {
    client.close()
    await server.stop(0)
  })
  return client
}

test('an error of ours arrives with its code, message, detail and hint', async () => {
  const client = await brokerClient({
    announce: unary(() => {
      throw fail('unknown_tenant', 'tenant "x" does not exist', {
        detail: 'looked everywhere',
        hint: 'Make it.',
      })
    }),
  })
  const error = await callUnary(client.announce.bind(client), {
    key: '',
    value: Buffer.alloc(0),
    ttlMs: 0,
  }).catch((e: unknown) => e)
  expect(error).toBeInstanceOf(UnderstoryError)
  expect(error).toMatchObject({
    code: 'unknown_tenant',
    message: 'tenant "x" does not exist',
    detail: 'looked everywhere',
    hint: 'Make it.',
  })
})

test("a handler's bug is reported to the server's log, and shows the caller nothing", async () => {
  const reported: string[] = []
  const reportBug = (error: unknown, method: string): void =>
    void reported.push(`${method}: ${String(error)}`)
  const throwing = unary(() => {
    throw new TypeError('secret of the server')
  })
  const client = await brokerClient({ announce: throwing }, { reportBug })
  const error = await callUnary(client.announce.bind(client), {
    key: '',
    value: Buffer.alloc(0),
    ttlMs: 0,
  }).catch((e: unknown) => e)
  expect(String(error)).not.toContain('secret')
  expect(reported).toEqual(['/understory.v1.BrokerService/Announce: TypeError: secret of the server'])
})

test('an error that quotes much of what a caller sent arrives short, and its connection stays', async () => {
  const going = Promise.withResolvers<void>()
  const client = await brokerClient({
    announce: unary(() => {
      const much = '\u{1f418}'.repeat(200_000)
      throw fail('bad_argument', `malformed name "${much}"`, { detail: much, hint: `\ud83d${much}` })
    }),
    listAnnouncements: unary(async () => {
      await going.promise
      return nothing
    }),
  })
  const other = callUnary(client.listAnnouncements.bind(client), { prefix: '' })
  const request = { key: '', value: Buffer.alloc(0), ttlMs: 0 }
  const error = await callUnary(client.announce.bind(client), request).catch((e: unknown) => e)
  expect(error).toMatchObject({
    code: 'bad_argument',
    message: expect.stringMatching(/^malformed name ".*\.\.\.$/) as unknown,
    detail: expect.stringMatching(/\.\.\.$/) as unknown,
  })
  expect((error as Error).message.length).toBeLessThan(1_100)
  going.resolve()
  expect(await other).toEqual(nothing)
})

test('a caller that sends a malformed message, or goes away, does not count as a bug of the server', async () => {
  const reported: string[] = []
  const reportBug = (error: unknown, method: string): void =>
    void reported.push(`${method}: ${String(error)}`)
  const over = Promise.withResolvers<unknown>()
  const services = [
    service<PageserverServiceServer>(PageserverServiceService, {
      importShard: clientStream(async (requests) => {
        try {
          for await (const _ of requests);
        } catch (error) {
          over.resolve(error)
          throw error
        }
        return { valuesCount: 0n }
      }),
    } as Partial<Handlers<PageserverServiceServer>> as Handlers<PageserverServiceServer>),
  ]
  const server = await startServer({ ...PLAIN_SERVER, reportBug }, { host: '127.0.0.1', port: 0, services })
  onTestFinished(() => server.stop(0))
  const session = connect(`http://${server.address}`)
  onTestFinished(() => session.destroy())
  const call = session.request({
    ':method': 'POST',
    ':path': PageserverServiceService.importShard.path,
    'content-type': 'application/grpc',
    te: 'trailers',
  })
  // One message of one byte: the tag of a field that does not come.
  call.write(Buffer.from([0, 0, 0, 0, 1, 0x0a]))
  const status = new Promise((resolve) => {
    const look = (headers: Readonly<Record<string, unknown>>): void => {
      if (headers['grpc-status'] !== undefined) resolve(headers['grpc-status'])
    }
    call.on('response', look).on('trailers', look)
  })
  call.resume()
  expect(Number(await status)).toBe(13)
  expect(await over.promise).toMatchObject({ code: 'ERR_STREAM_PREMATURE_CLOSE' })
  await new Promise((resolve) => setImmediate(resolve))
  expect(reported).toEqual([])
})

test('a deadline that passes is a timeout that names the peer', async () => {
  const client = await brokerClient({ announce: unary(() => new Promise(() => undefined)) })
  const call = callUnary(
    client.announce.bind(client),
    { key: '', value: Buffer.alloc(0), ttlMs: 0 },
    { deadlineMs: 50, peer: 'broker b' },
  )
  await expect(call).rejects.toMatchObject({ code: 'timeout', message: 'broker b did not answer in time' })
})

test('a server that is not there is unavailable', async () => {
  const client = createClient(PLAIN_CLIENT, BrokerServiceClient, '127.0.0.1:1')
  onTestFinished(() => client.close())
  const call = callUnary(client.listAnnouncements.bind(client), { prefix: '' }, { peer: 'broker b' })
  await expect(call).rejects.toMatchObject({ code: 'unavailable', message: 'broker b is not reachable' })
})

test('leaving a stream cancels it on the server', async () => {
  const ended = Promise.withResolvers<boolean>()
  const client = await brokerClient({
    watchAnnouncements: serverStream(async function* (_, { signal }) {
      try {
        while (!signal.aborted) {
          yield { announcement: { key: 'k', value: Buffer.alloc(0) }, gone: false }
          await new Promise((resolve) => setImmediate(resolve))
        }
      } finally {
        ended.resolve(true)
      }
    }),
  })
  for await (const { announcement } of callServerStream(client.watchAnnouncements.bind(client), {
    prefix: '',
  })) {
    expect(announcement?.key).toBe('k')
    break
  }
  expect(await ended.promise).toBe(true)
})

test('a signal that fired before cancels a stream as one that fires later', async () => {
  const client = await brokerClient({
    watchAnnouncements: serverStream(async function* (_, { signal }) {
      yield { announcement: undefined, gone: false }
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
    }),
  })
  const signal = AbortSignal.abort()
  const stream = callServerStream(client.watchAnnouncements.bind(client), { prefix: '' }, { signal })
  await expect(Array.fromAsync(stream)).rejects.toMatchObject({ code: 'cancelled' })
})

test('a stream that sends nothing for too long ends; the time that its reader takes does not count', async () => {
  const client = await brokerClient({
    watchAnnouncements: serverStream(async function* (_request, { signal }) {
      yield { announcement: undefined, gone: false }
      yield { announcement: undefined, gone: true }
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    }),
  })
  const silenceMsMax = 100
  const options = { silenceMsMax, peer: 'the broker' }
  const seen: boolean[] = []
  const reading = (async () => {
    const watch = client.watchAnnouncements.bind(client)
    for await (const { gone } of callServerStream(watch, { prefix: '' }, options)) {
      seen.push(gone)
      await new Promise((resolve) => setTimeout(resolve, 2 * silenceMsMax))
    }
  })()
  await expect(reading).rejects.toMatchObject({
    code: 'timeout',
    message: 'the broker sent nothing for 100 ms',
  })
  expect(seen).toEqual([false, true])
})

test('a port that is taken is refused with what to do', async () => {
  const first = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port: 0, services: [] })
  onTestFinished(() => first.stop(0))
  const second = startServer(PLAIN_SERVER, { host: '127.0.0.1', port: first.port, services: [] })
  await expect(second).rejects.toMatchObject({
    code: 'precondition',
    message: `could not listen on ${first.address}`,
    hint: 'Choose another port, or stop what is using this one.',
  })
})

test('a peer that hangs does not hold the stop of a server', async () => {
  const server = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port: 0, services: [] })
  // It reads nothing, so it never learns that its connection ends.
  const peer = connectSocket(server.port, '127.0.0.1')
  peer.pause()
  onTestFinished(() => void peer.destroy())
  const client = createClient(PLAIN_CLIENT, BrokerServiceClient, server.address)
  onTestFinished(() => client.close())
  // Once an answer is here, the connection that was made before is known to the server, too.
  await expect(callUnary(client.listAnnouncements.bind(client), { prefix: '' })).rejects.toThrow()
  await server.stop(100)
  expect(peer.destroyed).toBe(false)
})

test('a bidirectional stream passes messages both ways, then an error that ends it', async () => {
  const refused = unary<never, never>(() => {
    throw fail('unsupported', 'not in this test')
  })
  const handlers = {
    createTimeline: refused,
    getWalStatus: refused,
    listWalTimelines: refused,
    propose: bidiStream(async function* () {
      yield* []
    }),
    readWal: serverStream(async function* () {
      yield* []
    }),
    subscribeWal: bidiStream(async function* (requests: AsyncIterable<SubscribeWalRequest>) {
      let position = 0n
      for await (const { message } of requests) {
        if (message?.$case === 'feedback') throw fail('stale', 'enough')
        yield {
          startLsn: position,
          endLsn: position + 8n,
          commitLsn: 99n,
          entries: Buffer.from('ab'),
          protocolVersion: 0,
        }
        position += 8n
      }
    }),
  } as unknown as Handlers<SafekeeperServiceServer>
  const server = await startServer(PLAIN_SERVER, {
    host: '127.0.0.1',
    port: 0,
    services: [service<SafekeeperServiceServer>(SafekeeperServiceService, handlers)],
  })
  const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, server.address)
  onTestFinished(async () => {
    client.close()
    await server.stop(0)
  })
  const stream = openBidi(client.subscribeWal.bind(client))
  const open = {
    $case: 'open',
    value: {
      protocolVersion: 1,
      protocolVersionMax: 0,
      timeline: undefined,
      shard: undefined,
      startLsn: 0n,
      windowBytes: 0n,
      trackCommitTimestamp: false,
    },
  } as const
  await stream.send({ message: open })
  await stream.send({ message: open })
  const ends: bigint[] = []
  const reading = (async () => {
    for await (const { endLsn } of stream.messages) {
      ends.push(endLsn)
      if (ends.length === 2) {
        await stream.send({
          message: { $case: 'feedback', value: { ingestedLsn: 0n, remoteConsistentLsn: 0n } },
        })
      }
    }
  })()
  await expect(reading).rejects.toMatchObject({ code: 'stale', message: 'enough' })
  expect(ends).toEqual([8n, 16n])
})

test('probes learn whether the whole and each of its services are well', async () => {
  const well = { '': true, sql: false }
  const server = await startServer(PLAIN_SERVER, {
    host: '127.0.0.1',
    port: 0,
    services: [],
    health: (name) => well[name as keyof typeof well],
  })
  const Health = makeClientConstructor(HealthService, 'grpc.health.v1.Health')
  const client = new Health(server.address, credentials.createInsecure())
  onTestFinished(async () => {
    client.close()
    await server.stop(0)
  })
  const check = (name: string): Promise<unknown> =>
    new Promise((resolve) => {
      const method = client['check'] as (
        request: object,
        callback: (error: { code: number } | null, response: { status: number }) => void,
      ) => void
      method.call(client, { service: name }, (error, response) => resolve(error?.code ?? response.status))
    })
  expect(await check('')).toBe(1)
  expect(await check('sql')).toBe(2)
  expect(await check('other')).toBe(status.NOT_FOUND)
})

test('of a stream whose handler is slow, one message is read ahead', async () => {
  const MESSAGES_COUNT = 12
  let [decodedCount, takenCount] = [0, 0]
  const released = Promise.withResolvers<void>()
  const same = (bytes: Buffer): Buffer => bytes
  const method = (name: string, requestStream: boolean, requestDeserialize: typeof same) => {
    const path = `/understory.v1.Test/${name}`
    const types = { requestSerialize: same, responseSerialize: same, responseDeserialize: same }
    return { path, requestStream, responseStream: false, requestDeserialize, ...types }
  }
  const definition = {
    push: method('Push', true, (bytes) => {
      decodedCount++
      return bytes
    }),
    ping: method('Ping', false, same),
  }
  const handlers = {
    push: clientStream(async (requests: AsyncIterable<Buffer>) => {
      for await (const request of requests) {
        takenCount++
        await released.promise
        if (takenCount === MESSAGES_COUNT) return request
      }
      throw fail('bad_argument', 'the stream ended early')
    }),
    ping: unary((request: Buffer) => request),
  }
  const options = { host: '127.0.0.1', port: 0, services: [{ definition, handlers }] }
  const server = await startServer(PLAIN_SERVER, options)
  const client = new Client(server.address, credentials.createInsecure())
  onTestFinished(async () => {
    client.close()
    await server.stop(0)
  })
  const { push, ping } = definition
  const ended = Promise.withResolvers<void>()
  const stream = client.makeClientStreamRequest(push.path, same, same, (error) =>
    error === null ? ended.resolve() : ended.reject(error),
  )
  for (let i = 0; i < MESSAGES_COUNT; i++) stream.write(Buffer.alloc(100_000))
  stream.end()
  await expect.poll(() => takenCount).toBe(1)
  // Each passes over the same connection, behind what the stream was given.
  for (let i = 0; i < 50; i++) {
    await new Promise<void>((resolve, reject) => {
      const done = (error: Error | null): void => (error === null ? resolve() : reject(error))
      client.makeUnaryRequest(ping.path, same, same, Buffer.alloc(1), done)
    })
  }
  expect(decodedCount).toBeLessThanOrEqual(3)
  released.resolve()
  await ended.promise
  expect(takenCount).toBe(MESSAGES_COUNT)
})
