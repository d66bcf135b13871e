// Over gRPC the embedded broker keeps the contract too, and its users find back to a new one.
import { realClock as clock, realRng as rng, silentLog as log } from '@understory/env'
import { PLAIN_SERVER, PLAIN_CLIENT, type RpcServer, startServer } from '@understory/rpc'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Broker } from './broker.ts'
import { brokerContract, watched } from './contract.ts'
import { memoryBroker } from './memory.ts'
import { openBroker } from './open.ts'
import { brokerService } from './service.ts'

const seams = { clock, rng, log }

function serve(port = 0): Promise<RpcServer> {
  return startServer(PLAIN_SERVER, {
    host: '127.0.0.1',
    port,
    services: [brokerService(memoryBroker(seams))],
  })
}

const open = (server: RpcServer): Broker =>
  openBroker(`grpc://${server.address}`, { ...seams, rpc: PLAIN_CLIENT })

describe('embedded', () => {
  let server: RpcServer
  beforeAll(async () => {
    server = await serve()
  })
  afterAll(() => server.stop(0))
  brokerContract(async () => open(server))
})

test('a broker that restarts empty gets every announcement again, and watches continue', async () => {
  let server = await serve()
  await using here = open(server)
  await using there = open(server)
  await here.announce('node/a', 1, 2_000)
  const stopping = await here.announce('node/b', 1, 2_000)
  const { state, changes } = watched(there, 'node/')
  await expect.poll(() => state.size).toBe(2)
  await server.stop(0)
  await expect(there.list('node/')).rejects.toMatchObject({ code: 'unavailable' })
  await stopping.stop()
  expect(state.size).toBe(2)
  server = await serve(server.port)
  await expect
    .poll(() => there.list('node/').catch(() => []), { timeout: 10_000 })
    .toEqual([{ key: 'node/a', value: 1 }])
  await expect.poll(() => [...state.keys()], { timeout: 10_000 }).toEqual(['node/a'])
  await here.announce('node/c', 1)
  await expect.poll(() => state.has('node/c'), { timeout: 10_000 }).toBe(true)
  expect(changes.filter(({ kind, key }) => kind === 'gone' && key === 'node/b')).toHaveLength(1)
  await server.stop(0)
})

test('announcing before the broker is there works once it is', async () => {
  const server = await serve()
  await server.stop(0)
  await using broker = open(server)
  await broker.announce('node/early', 1)
  const late = await serve(server.port)
  await expect.poll(() => broker.list('node/').catch(() => []), { timeout: 10_000 }).toHaveLength(1)
  await broker.close()
  await late.stop(0)
})
