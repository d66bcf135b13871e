/**
 * Goal: one stream of a pageserver to a safekeeper carries the WAL of many shards; none of them holds up another, and
 * each continues exactly where it was. Method: a safekeeper in this process over gRPC, and shards that take, stall or
 * fail.
 */
import { LSN_ZERO, UnderstoryError, isErrorCode, fail } from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import { jsonLog, realEnv, silentLog } from '@understory/env'
import {
  PLAIN_CLIENT,
  PLAIN_SERVER,
  SafekeeperServiceService,
  bidiStream,
  openBidi,
  startServer,
} from '@understory/rpc'
import type {
  BidiStream,
  FollowWalRequest,
  FollowWalResponse,
  RpcService,
  SafekeeperServiceClient,
  SubscribeWalRequest,
  SubscribeWalResponse,
} from '@understory/rpc'
import { expect, onTestFinished, test, vi } from 'vitest'
import { REF, create, folder, start, write } from '../../apps/safekeeper/test/peers.ts'
import { START } from '../../apps/safekeeper/test/wal-maker.ts'
import { SafekeeperStreams } from '../../apps/pageserver/src/ingest/safekeeper-stream.ts'
import { SingleStream } from '../../apps/pageserver/src/ingest/single-stream.ts'
import type { ShardRequest } from '../../apps/pageserver/src/ingest/shard-source.ts'

const STRIPE_BLOCKS = 8
const OWNER = { tenantId: REF.tenantId as TenantId, timelineId: REF.timelineId as TimelineId }
/** More than the credit of a shard. */
const [RECORDS, RECORD_BYTES] = [800, 7_000]

interface Shard extends ShardRequest {
  ingestedLsn: Lsn
  messages: number
}

function shardOf(number: number, count: number, owner = OWNER): Shard {
  const shard: Shard = {
    owner: { ...owner, shard: { number, count, stripeBlocks: STRIPE_BLOCKS } },
    ingestedLsn: START,
    messages: 0,
    positions: () => ({ ingestedLsn: shard.ingestedLsn, remoteConsistentLsn: LSN_ZERO }),
    trackCommitTimestamp: false,
    onMessage: () => void shard.messages++,
  }
  return shard
}

const streams = (): SafekeeperStreams => new SafekeeperStreams({ env: realEnv(silentLog), rpc: PLAIN_CLIENT })

/** Takes batches until everything before `untilLsn` is there; asserts that none is missing or comes twice. */
async function follow(
  all: SafekeeperStreams,
  address: string,
  shard: Shard,
  untilLsn: Lsn,
  signal = new AbortController().signal,
): Promise<void> {
  const source = all.subscribe(address, shard, signal)
  for await (const { startLsn, endLsn } of source.batches) {
    expect(startLsn).toBe(shard.ingestedLsn)
    shard.ingestedLsn = endLsn
    source.report()
    if (endLsn >= untilLsn) return
  }
}

async function written() {
  const safekeeper = await start('sk1', await folder())
  await create(safekeeper)
  const { maker } = await write(safekeeper, 1, RECORDS, RECORD_BYTES)
  return { safekeeper, endLsn: maker.endLsn }
}

test('a shard that takes nothing holds up no other on the same stream', async () => {
  const { safekeeper, endLsn } = await written()
  const all = streams()
  const stop = new AbortController()
  // Shard 0 gets all of this WAL.
  const stalled = shardOf(0, 2)
  const source = all.subscribe(safekeeper.address, stalled, stop.signal)
  await source.batches.next()
  const others = [shardOf(0, 1), shardOf(1, 2), shardOf(0, 3)]
  await Promise.all(others.map((shard) => follow(all, safekeeper.address, shard, endLsn)))
  expect(others.map(({ ingestedLsn }) => ingestedLsn)).toEqual([endLsn, endLsn, endLsn])
  // Its credit, and not all of the WAL, has come.
  expect(stalled.messages).toBeGreaterThan(1)
  expect(stalled.messages).toBeLessThan(5)
  stop.abort()
  await expect(source.batches.next()).rejects.toMatchObject({ code: 'cancelled' })
})

test('a subscription that cannot be ends alone, with its own error', async () => {
  const { safekeeper, endLsn } = await written()
  const all = streams()
  const good = shardOf(0, 1)
  const unknown = shardOf(0, 1, { ...OWNER, timelineId: 'f'.repeat(32) as TimelineId })
  const early = {
    ...shardOf(0, 1),
    positions: () => ({ ingestedLsn: 8 as Lsn, remoteConsistentLsn: LSN_ZERO }),
  }
  const outcomes = await Promise.allSettled(
    [unknown, early, good].map((shard) => follow(all, safekeeper.address, shard, endLsn)),
  )
  const codes = outcomes.map((outcome) =>
    outcome.status === 'rejected' ? (outcome.reason as UnderstoryError).code : 'ok',
  )
  expect(codes).toEqual(['unknown_timeline', 'out_of_range', 'ok'])
})

test('a bug that one timeline meets is reported, and ends no subscription of another', async () => {
  const lines: string[] = []
  const log = jsonLog({ level: 'error', write: (line) => void lines.push(line) })
  const safekeeper = await start('sk1', await folder(), { log })
  await create(safekeeper)
  const broken = { ...REF, timelineId: 'f'.repeat(32) as TimelineId }
  await create(safekeeper, broken)
  const { maker } = await write(safekeeper, 1, RECORDS, RECORD_BYTES)
  const timeline = safekeeper.timelines.get(broken)
  Object.defineProperty(timeline, 'commitLsn', {
    get: () => {
      throw new TypeError('no such field')
    },
  })
  const all = streams()
  const good = shardOf(0, 1)
  const source = all.subscribe(safekeeper.address, good, new AbortController().signal)
  const first = await source.batches.next()
  const bad = shardOf(0, 1, { ...OWNER, timelineId: broken.timelineId })
  await expect(follow(all, safekeeper.address, bad, maker.endLsn)).rejects.toMatchObject({
    code: 'unavailable',
  })
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { event: 'rpc_handler_bug', timeline: broken.timelineId, error: { message: 'no such field' } },
  ])
  // The other one continues in the same stream.
  for (let at = first.value?.endLsn; at !== maker.endLsn;) {
    good.ingestedLsn = at as Lsn
    source.report()
    at = (await source.batches.next()).value?.endLsn
  }
  await source.batches.return()
})

test('after the stream broke, each shard continues where it was', async () => {
  const at = await folder()
  const first = await start('sk1', at)
  await create(first)
  const { maker } = await write(first, 1, RECORDS, RECORD_BYTES)
  const all = streams()
  const shards = [shardOf(0, 2), shardOf(1, 2)]
  // The end is never reached: they wait for more when the safekeeper goes.
  const following = shards.map((shard) => follow(all, first.address, shard, Infinity as Lsn))
  const broken = Promise.allSettled(following)
  while (shards.some(({ ingestedLsn }) => ingestedLsn < maker.endLsn))
    await new Promise((resolve) => setImmediate(resolve))
  const port = Number(first.address.split(':')[1])
  await first.stop()
  for (const outcome of await broken) expect(outcome.status).toBe('rejected')
  const again = await start('sk1', at, { port })
  const more = await write(again, 2, 40, RECORD_BYTES, maker.lastRecordLsn)
  await Promise.all(shards.map((shard) => follow(all, again.address, shard, more.maker.endLsn)))
  expect(shards.map(({ ingestedLsn }) => ingestedLsn)).toEqual([more.maker.endLsn, more.maker.endLsn])
})

const { subscribeWal } = SafekeeperServiceService

/** Returns the answers of `stream`, which gets the requests. */
async function* passed<Request, Response>(
  stream: BidiStream<Request, Response>,
  requests: AsyncIterable<Request>,
): AsyncGenerator<Response, void, void> {
  void (async () => {
    for await (const request of requests) await stream.send(request)
    stream.end()
  })().catch(() => stream.cancel())
  yield* stream.messages
}

const passedOn = (client: SafekeeperServiceClient) =>
  bidiStream((requests: AsyncIterable<SubscribeWalRequest>) =>
    passed(openBidi<SubscribeWalRequest, SubscribeWalResponse>(client.subscribeWal.bind(client)), requests),
  )

test('a safekeeper of an earlier release is followed by a stream for each shard', async () => {
  const { safekeeper, endLsn } = await written()
  // All that it knows is SubscribeWal.
  const earlier: RpcService = {
    definition: { subscribeWal },
    handlers: { subscribeWal: passedOn(safekeeper.client) },
  }
  const server = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port: 0, services: [earlier] })
  onTestFinished(() => server.stop(0))
  const all = streams()
  const shards = [shardOf(0, 2), shardOf(1, 2)]
  await Promise.all(shards.map((shard) => follow(all, server.address, shard, endLsn)))
  expect(shards.map(({ ingestedLsn }) => ingestedLsn)).toEqual([endLsn, endLsn])
})

/** A safekeeper whose SubscribeWal is that of `client`, and whose FollowWal is `follow`. */
async function serverOf(
  client: SafekeeperServiceClient,
  followWal: (requests: AsyncIterable<FollowWalRequest>) => AsyncGenerator<FollowWalResponse, void, void>,
): Promise<string> {
  const definition = { subscribeWal, followWal: SafekeeperServiceService.followWal }
  const handlers = { subscribeWal: passedOn(client), followWal: bidiStream(followWal) }
  const server = await startServer(PLAIN_SERVER, {
    host: '127.0.0.1',
    port: 0,
    services: [{ definition, handlers }],
  })
  onTestFinished(() => server.stop(0))
  return server.address
}

test('a safekeeper that was upgraded is followed by one stream, though a shard stays on its own', async () => {
  const { safekeeper, endLsn } = await written()
  let isUpgraded = false
  const address = await serverOf(safekeeper.client, async function* (requests) {
    if (!isUpgraded) throw fail('unsupported', 'what is FollowWal?')
    const { client } = safekeeper
    yield* passed(openBidi<FollowWalRequest, FollowWalResponse>(client.followWal.bind(client)), requests)
  })
  const all = streams()
  const stop = new AbortController()
  const first = all.subscribe(address, shardOf(0, 2), stop.signal)
  await first.batches.next()
  isUpgraded = true
  const single = vi.spyOn(SingleStream.prototype, 'batches')
  onTestFinished(() => single.mockRestore())
  await follow(all, address, shardOf(1, 2), endLsn)
  expect(single).not.toHaveBeenCalled()
  stop.abort()
})

test('a safekeeper of an earlier release learns what was stored before the subscription', async () => {
  const { safekeeper } = await written()
  const address = await serverOf(safekeeper.client, async function* () {
    yield await Promise.reject<FollowWalResponse>(fail('unsupported', 'what is FollowWal?'))
  })
  const shard = shardOf(0, 1)
  const positions = () => ({ ingestedLsn: START, remoteConsistentLsn: START })
  const stop = new AbortController()
  const source = streams().subscribe(address, { ...shard, positions }, stop.signal)
  // The kind of the stream is not known yet.
  source.report()
  await source.batches.next()
  await expect.poll(() => safekeeper.timelines.get(REF).remoteConsistentLsn).toBe(START)
  stop.abort()
})

test('a subscription whose batches make no sense ends at once, before they are asked for', async () => {
  const { safekeeper } = await written()
  const unsubscribed = Promise.withResolvers<number>()
  const address = await serverOf(safekeeper.client, async function* (requests) {
    yield { message: { $case: 'accepted', value: { protocolVersion: 1 } } }
    for await (const { message } of requests) {
      if (message?.$case === 'unsubscribe') unsubscribed.resolve(message.value.subscriptionId)
      if (message?.$case !== 'subscribe') continue
      const { subscriptionId } = message.value
      const lsns = { startLsn: 2n ** 63n, endLsn: 2n ** 63n, commitLsn: 2n ** 63n }
      const value = { subscriptionId, ...lsns, moreFollows: false, entries: Buffer.alloc(0) }
      yield { message: { $case: 'batch', value } }
    }
  })
  const source = streams().subscribe(address, shardOf(0, 1), new AbortController().signal)
  expect(await unsubscribed.promise).toBe(1)
  await expect(source.batches.next()).rejects.toMatchObject({ code: 'bad_lsn' })
})

test('a stream that does not keep the order of things is refused', async () => {
  const { client } = (await written()).safekeeper
  const open = () => openBidi<FollowWalRequest, FollowWalResponse>(client.followWal.bind(client))
  const code = async (...messages: NonNullable<FollowWalRequest['message']>[]): Promise<string> => {
    const stream = open()
    try {
      for (const message of messages) await stream.send({ message })
      for await (const { message } of stream.messages) if (message?.$case === 'end') return message.value.code
      return 'ended'
    } catch (error) {
      return isErrorCode(error, 'bad_argument') ? 'bad_argument' : String(error)
    } finally {
      stream.cancel()
    }
  }
  const hello = { $case: 'hello', value: { protocolVersion: 1, protocolVersionMax: 1 } } as const
  const value = {
    subscriptionId: 1,
    timeline: REF,
    shard: { number: 0, count: 1, stripeBlocks: STRIPE_BLOCKS },
    startLsn: BigInt(START),
    windowBytes: 0n,
    trackCommitTimestamp: false,
  }
  const subscribe = { $case: 'subscribe', value } as const
  expect(await code(subscribe)).toBe('bad_argument')
  expect(await code(hello, hello)).toBe('bad_argument')
  expect(await code(hello, subscribe, subscribe)).toBe('bad_argument')
  expect(await code(hello, { ...subscribe, value: { ...value, shard: undefined } })).toBe('bad_argument')
})
