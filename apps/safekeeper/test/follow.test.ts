/**
 * Goal: a stream of WAL leaves nothing behind. Method: `followWal` with requests that come when it is over already.
 */
import { lsnToBigint } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import type { FollowWalRequest } from '@understory/rpc'
import { expect, test } from 'vitest'
import { followWal } from '../src/serve/follow.ts'
import { FanOuts } from '../src/serve/shard-subscription.ts'
import { REF, create, folder, start } from './peers.ts'
import { START } from './wal-maker.ts'

const hello: FollowWalRequest = {
  message: { $case: 'hello', value: { protocolVersion: 1, protocolVersionMax: 1 } },
}
const subscribe = (subscriptionId: number): FollowWalRequest => {
  const shard = { number: 0, count: 1, stripeBlocks: 8 }
  const start = { startLsn: lsnToBigint(START), windowBytes: 0n, trackCommitTimestamp: false }
  return { message: { $case: 'subscribe', value: { subscriptionId, timeline: REF, shard, ...start } } }
}

test('a subscription that comes after the end of its stream does not begin', async () => {
  const safekeeper = await start('sk1', await folder())
  await create(safekeeper)
  const { timelines, nodeId } = safekeeper
  const fanOuts = new FanOuts(realClock)
  const late = Promise.withResolvers<void>()
  async function* requests(): AsyncGenerator<FollowWalRequest, void, void> {
    yield hello
    yield subscribe(1)
    await late.promise
    yield subscribe(2)
  }
  const stop = new AbortController()
  const stream = followWal({ timelines, fanOuts, nodeId, log: silentLog }, requests(), stop.signal)
  await stream.next()
  const next = stream.next()
  const readersCount = () => fanOuts.of(timelines.get(REF)).usage.readersCount
  await expect.poll(readersCount).toBe(1)
  stop.abort()
  expect(await next).toEqual({ done: true, value: undefined })
  await expect.poll(readersCount).toBe(0)
  late.resolve()
  await new Promise((resolve) => setImmediate(resolve))
  expect(readersCount()).toBe(0)
})
