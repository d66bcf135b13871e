// Goal: two nodes in one process have an identity, a log and an observer each, and nothing of one reaches the other.
// Method: two contexts as a main makes them, a server and a client of each, on loopback.
import { join } from 'node:path'
import { jsonLog, realClock } from '@understory/env'
import { selfSignedCertificate, temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import {
  BrokerServiceClient,
  BrokerServiceService,
  callUnary,
  createClient,
  readSecurity,
  rpcContext,
  service,
  startServer,
  unary,
} from './index.ts'
import type { BrokerServiceServer, ClientContext, Handlers, RpcObserver } from './index.ts'

interface Line {
  readonly event: string
  readonly principal?: string
}

/** A node with the environment that a process of its own would have. */
async function startNode(name: string, environment: Readonly<Record<string, string>>) {
  const lines: Line[] = []
  const calls: string[] = []
  const log = jsonLog({ write: (line) => lines.push(JSON.parse(line) as Line) })
  const observed = { traceparent: undefined, run: <T>(work: () => T) => work(), end: () => undefined }
  const observer: RpcObserver = {
    beginClient: (method) => (calls.push(`client ${method}`), observed),
    beginServer: (method) => (calls.push(`server ${method}`), observed),
    refused: (reason) => calls.push(`refused ${reason}`),
  }
  const rpc = rpcContext({ security: readSecurity(environment), observer, clock: realClock, log })
  const handlers = {
    announce: unary(() => ({})),
    withdraw: unary(() => {
      throw new TypeError(`bug of ${name}`)
    }),
  } as unknown as Handlers<BrokerServiceServer>
  const services = [service<BrokerServiceServer>(BrokerServiceService, handlers)]
  const server = await startServer(rpc.server, { host: '127.0.0.1', port: 0, services })
  onTestFinished(() => server.stop(0))
  return { rpc, address: server.address, lines, calls }
}

function clientIn(context: ClientContext, address: string): BrokerServiceClient {
  const client = createClient(context, BrokerServiceClient, address)
  onTestFinished(() => client.close())
  return client
}

const announce = (context: ClientContext, address: string): Promise<unknown> => {
  const client = clientIn(context, address)
  const request = { key: 'k', value: Buffer.alloc(0), ttlMs: 1 }
  return callUnary(client.announce.bind(client), request, { deadlineMs: 3_000 })
}

test('two nodes with different tokens take their own, and refuse the other one', async () => {
  const one = await startNode('one', { UNDERSTORY_TOKEN: 'of one' })
  const two = await startNode('two', { UNDERSTORY_TOKEN: 'of two' })
  for (const { rpc, address } of [one, two]) expect(await announce(rpc.client, address)).toEqual({})
  await expect(announce(one.rpc.client, two.address)).rejects.toMatchObject({ code: 'unauthenticated' })
  await expect(announce(two.rpc.client, one.address)).rejects.toMatchObject({ code: 'unauthenticated' })
})

test('calls are observed and logged, and bugs reported, by the node that they are of', async () => {
  const one = await startNode('one', { UNDERSTORY_TOKEN: 't' })
  const two = await startNode('two', { UNDERSTORY_TOKEN: 't' })
  await announce(one.rpc.client, two.address)
  const client = clientIn(two.rpc.client, one.address)
  await expect(callUnary(client.withdraw.bind(client), { key: 'k' })).rejects.toThrow()
  await expect(announce({ security: { token: 'wrong' } }, two.address)).rejects.toThrow()
  expect(one.calls).toEqual([
    'client understory.v1.BrokerService/Announce',
    'server understory.v1.BrokerService/Withdraw',
  ])
  expect(two.calls).toEqual([
    'server understory.v1.BrokerService/Announce',
    'client understory.v1.BrokerService/Withdraw',
    'refused wrong_token',
  ])
  expect(one.lines).toMatchObject([
    { event: 'rpc_handler_bug', error: { message: 'bug of one' } },
    { event: 'audit', principal: 'token 1', method: 'BrokerService/Withdraw' },
  ])
  expect(two.lines).toMatchObject([
    { event: 'audit', principal: 'token 1', method: 'BrokerService/Announce' },
    { event: 'call_refused', reason: 'wrong_token' },
  ])
})

test('a node that speaks TLS and one that does not stand side by side', async () => {
  const folder = await temporaryDirectory({ prefix: 'two-nodes' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  await selfSignedCertificate('understory', folder.path)
  const at = (name: string): string => join(folder.path, name)
  const secured = await startNode('secured', {
    UNDERSTORY_TLS_CERT: at('cert.pem'),
    UNDERSTORY_TLS_KEY: at('key.pem'),
    UNDERSTORY_TLS_CA: at('cert.pem'),
    UNDERSTORY_TLS_NAME: 'understory',
  })
  const plain = await startNode('plain', {})
  expect(await announce(secured.rpc.client, secured.address)).toEqual({})
  expect(await announce(plain.rpc.client, plain.address)).toEqual({})
  await expect(announce(plain.rpc.client, secured.address)).rejects.toMatchObject({ code: 'unavailable' })
})
