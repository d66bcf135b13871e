/**
 * Goal: what is said in terms of the domain arrives so, both ways, with the peer's name in errors. Method: real servers
 * on loopback that note the request and answer from a table; the twins in memory by what they promise.
 */
import { lsn, fail } from '@understory/base'
import {
  ComputeHostServiceService,
  ComputeServiceService,
  PLAIN_CLIENT,
  PLAIN_SERVER,
  PageserverServiceService,
  SafekeeperServiceService,
  serverStream,
  service,
  startServer,
  unary,
} from '@understory/rpc'
import type {
  ComputeHostServiceServer,
  ComputeServiceServer,
  Handlers,
  PageserverServiceServer,
  RpcService,
  SafekeeperServiceServer,
} from '@understory/rpc'
import { expect, onTestFinished, test } from 'vitest'
import { grpcConnector } from './index.ts'
import { MemoryNodes } from './memory/index.ts'

const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }
const POSTGRES = { major: 17, systemId: 7n, pgTimelineId: 1, walSegmentBytes: 16 << 20 } as const
const SHARD = { number: 1, count: 2, stripeBlocks: 256 }
const MEMBERS = [
  { nodeId: 'sk-1', address: 'sk-1:1' },
  { nodeId: 'sk-2', address: 'sk-2:1' },
]
const HUGE = lsn(2 ** 53 - 1)

async function serve(...services: RpcService[]): Promise<string> {
  const server = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port: 0, services })
  onTestFinished(() => server.stop(0))
  return server.address
}

test('a safekeeper is asked and answers in terms of the domain', async () => {
  const asked: object[] = []
  const take = <Q extends object, S>(answer: S) => unary((request: Q) => (asked.push(request), answer))
  const handlers: Partial<Handlers<SafekeeperServiceServer>> = {
    createTimeline: take({}),
    getWalStatus: take({
      nodeId: 'sk-1',
      postgres: POSTGRES,
      timelineStartLsn: 1n,
      term: 2n,
      termHistory: [{ term: 2n, startLsn: 1n }],
      flushLsn: BigInt(HUGE),
      commitLsn: 4n,
      remoteConsistentLsn: 3n,
      oldestLsn: 2n,
      failure: 'why',
      membershipGeneration: 5n,
    }),
    getCommitPositions: take({ commitLsns: [9n] }),
    readWal: serverStream(async function* (request) {
      asked.push(request)
      yield { startLsn: 1n, wal: Buffer.from('a') }
      yield { startLsn: 2n, wal: Buffer.from('b') }
    }),
    configureMembership: take({
      nodeId: 'sk-1',
      membershipGeneration: 3n,
      term: 4n,
      lastLogTerm: 2n,
      flushLsn: 8n,
      commitLsn: 7n,
    }),
    pullTimeline: take({ flushLsn: 1n, goalLsn: 2n, running: true, problem: 'p' }),
    closeStoredWal: take({ endLsn: 6n, term: 5n }),
    deleteTimeline: unary(() => {
      throw fail('stale', 'membership generation 4 is newer')
    }),
  }
  const address = await serve(
    service<SafekeeperServiceServer>(SafekeeperServiceService, handlers as Handlers<SafekeeperServiceServer>),
  )
  const client = grpcConnector(PLAIN_CLIENT).safekeeper(address)
  onTestFinished(() => client.close())

  await client.createTimeline(REF, POSTGRES, HUGE)
  expect(await client.walStatus(REF)).toEqual({
    nodeId: 'sk-1',
    postgres: POSTGRES,
    timelineStartLsn: 1,
    term: 2,
    history: [{ term: 2, startLsn: 1 }],
    flushLsn: HUGE,
    commitLsn: 4,
    remoteConsistentLsn: 3,
    oldestLsn: 2,
    failure: 'why',
    membershipGeneration: 5,
  })
  expect(await client.commitPositions([REF, REF])).toEqual([9, 0])
  const pieces = await Array.fromAsync(client.readWal(REF, lsn(1), lsn(3)))
  expect(Buffer.concat(pieces).toString()).toBe('ab')
  const membership = { generation: 3, members: MEMBERS, newMembers: [] }
  expect(await client.configureMembership(REF, membership)).toEqual({
    nodeId: 'sk-1',
    membershipGeneration: 3,
    term: 4,
    lastLogTerm: 2,
    flushLsn: 8,
    commitLsn: 7,
  })
  const progress = { flushLsn: 1, goalLsn: 2, isRunning: true, problem: 'p' }
  expect(await client.pullTimeline(REF, MEMBERS)).toEqual(progress)
  await client.pullTimeline(REF, [], { endLsn: lsn(6), term: 5 })
  expect(await client.closeStoredWal(REF)).toEqual({ endLsn: 6, term: 5 })
  expect(asked).toMatchObject([
    { timeline: REF, postgres: POSTGRES, startLsn: BigInt(HUGE) },
    { timeline: REF },
    { timelines: [REF, REF] },
    { timeline: REF, startLsn: 1n, endLsn: 3n, term: 0n },
    { timeline: REF, membership: { generation: 3n, members: MEMBERS, newMembers: [] } },
    { timeline: REF, donors: MEMBERS, storedUntilLsn: 0n, storedTerm: 0n },
    { timeline: REF, donors: [], storedUntilLsn: 6n, storedTerm: 5n },
    { timeline: REF, noSafekeeperIsLeft: true },
  ])
  await expect(client.deleteTimeline(REF, 3)).rejects.toMatchObject({ code: 'stale' })
})

test('a pageserver, a compute and its host are asked in terms of the domain', async () => {
  const asked: object[] = []
  const take = <Q extends object, S>(answer: S) => unary((request: Q) => (asked.push(request), answer))
  const pages: Partial<Handlers<PageserverServiceServer>> = {
    attachShard: take({ ingestedLsn: 3n }),
    detachShard: take({}),
    setImageGeneration: take({}),
    getControlState: take({ lsn: 4n, tracker: Buffer.from('t'), controlFile: Buffer.from('c') }),
    getShardStatus: take({ shards: [] }),
    streamFiles: serverStream(async function* (request) {
      asked.push(request)
      yield { piece: { $case: 'directory', value: 'base' }, pagesTotal: 1n, place: Buffer.from('x') }
    }),
  }
  const compute: Partial<Handlers<ComputeServiceServer>> = {
    setFullPageWrites: take({ insertLsn: 5n }),
    setPassword: take({}),
    runCheckpoint: take({ redoLsn: 6n }),
    getConfiguration: take({ configuration: undefined }),
  }
  const host: Partial<Handlers<ComputeHostServiceServer>> = {
    removeCompute: take({}),
    listComputes: take({ computes: [] }),
  }
  const address = await serve(
    service<PageserverServiceServer>(PageserverServiceService, pages as Handlers<PageserverServiceServer>),
    service<ComputeServiceServer>(ComputeServiceService, compute as Handlers<ComputeServiceServer>),
    service<ComputeHostServiceServer>(ComputeHostServiceService, host as Handlers<ComputeHostServiceServer>),
  )
  const connector = grpcConnector(PLAIN_CLIENT)
  const [pageserver, running, hosting] = [
    connector.pageserver(address),
    connector.compute(address),
    connector.computeHost(address),
  ]
  onTestFinished(() => [pageserver, running, hosting].forEach((client) => client.close()))
  const imageGeneration = { enabled: true, thresholdRecords: 32 }
  const attach = {
    timeline: REF,
    shard: SHARD,
    generation: 2,
    postgres: POSTGRES,
    create: false,
    safekeepers: ['sk-1:1'],
    imageGeneration,
    rollback: { lsn: lsn(9), beforeGeneration: 1 },
  }
  expect(await pageserver.attachShard(attach)).toBe(3)
  await pageserver.detachShard(REF, SHARD)
  await pageserver.setImageGeneration(REF, SHARD, imageGeneration, 7)
  const state = { lsn: 4, tracker: Buffer.from('t'), controlFile: Buffer.from('c') }
  expect(await pageserver.controlState(REF, SHARD, lsn(4))).toEqual(state)
  expect(await pageserver.shards(REF)).toEqual([])
  const files = await Array.fromAsync(pageserver.streamFiles(REF, SHARD, lsn(4), Buffer.from('w')))
  expect(files).toMatchObject([{ piece: { $case: 'directory', value: 'base' }, place: Buffer.from('x') }])
  expect(await running.setFullPageWrites(true)).toBe(5)
  await running.setPassword({ verifier: 'v', generation: 3 })
  expect(await running.runCheckpoint()).toBe(6)
  expect(await running.configuration()).toBeUndefined()
  await hosting.removeCompute(REF)
  expect(await hosting.computes()).toEqual([])
  expect(asked).toMatchObject([
    { ...attach, generation: 2n, rollback: { lsn: 9n, beforeGeneration: 1n } },
    { timeline: REF, shard: SHARD },
    { timeline: REF, shard: SHARD, imageGeneration, generation: 7n },
    { timeline: REF, shard: SHARD, lsn: 4n },
    { timeline: REF },
    { timeline: REF, shard: SHARD, lsn: 4n, after: Buffer.from('w') },
    { on: true },
    { verifier: 'v', generation: 3n },
    {},
    {},
    { timeline: REF },
    {},
  ])
})

test('a node that cannot be reached is named with kind and address', async () => {
  const address = '127.0.0.1:1'
  const connector = grpcConnector(PLAIN_CLIENT)
  const clients = [
    connector.safekeeper(address),
    connector.pageserver(address),
    connector.compute(address),
    connector.computeHost(address),
  ] as const
  onTestFinished(() => clients.forEach((client) => client.close()))
  const [safekeeper, pageserver, compute, host] = clients
  const call = { deadlineMs: 3_000 }
  const errors = await Promise.all(
    [
      safekeeper.walStatus(REF, call),
      pageserver.shards(REF, call),
      compute.status(call),
      host.computes(call),
    ].map((asked) => asked.then(String, (error: Error) => error.message)),
  )
  for (const [i, kind] of ['safekeeper', 'pageserver', 'compute', 'compute host'].entries())
    expect(errors[i]).toContain(`${kind} ${address}`)
})

test('safekeepers in memory keep the rules of memberships, and pull from one another', async () => {
  const nodes = new MemoryNodes()
  const [first, second] = [nodes.safekeeper('sk-1:1'), nodes.safekeeper('sk-2:1')]
  expect(nodes.safekeeper('sk-1:1')).toBe(first)
  await expect(first.walStatus(REF)).rejects.toMatchObject({ code: 'unknown_timeline' })
  await first.createTimeline(REF, POSTGRES, lsn(16 << 20))
  first.set(REF, { term: 3, flushLsn: lsn(20 << 20), commitLsn: lsn(19 << 20) })
  expect(await second.pullTimeline(REF, [{ nodeId: 'sk-1', address: 'sk-1:1' }])).toEqual({
    flushLsn: 19 << 20,
    goalLsn: 19 << 20,
    isRunning: false,
    problem: '',
  })
  expect(await second.walStatus(REF)).toMatchObject({ nodeId: 'sk-2', term: 3, flushLsn: 19 << 20 })
  const membership = { generation: 2, members: MEMBERS, newMembers: [] }
  expect(await first.configureMembership(REF, membership)).toMatchObject({ membershipGeneration: 2 })
  await expect(first.configureMembership(REF, { ...membership, generation: 1 })).rejects.toMatchObject({
    code: 'stale',
  })
  await expect(first.deleteTimeline(REF, 1)).rejects.toMatchObject({ code: 'stale' })
  await first.deleteTimeline(REF, 0)
  expect(first.has(REF)).toBe(false)
  second.isAway = true
  await expect(second.walStatus(REF)).rejects.toMatchObject({ code: 'unavailable' })
})
