/**
 * Goal: a timeline gets its nodes, their addresses and its shards, and each step does nothing twice. Method: nodes in
 * memory.
 */
import { fail } from '@understory/base'
import { expect, test } from 'vitest'
import { RUNNING, stepBench } from '../../../test/step-bench.ts'
import { REF } from '../../../test/support.ts'
import { addresses } from './addresses.ts'
import { place } from './place.ts'
import { shards } from './shards.ts'

test('a new timeline is placed once', async () => {
  const bench = await stepBench()
  expect(await bench.run(place)).toEqual({ kind: 'again' })
  const placed = await bench.timeline()
  expect(placed.safekeeperNodes.toSorted()).toEqual(['sk-1', 'sk-2', 'sk-3'])
  expect(placed).toMatchObject({ computeHost: 'host-1', addresses: RUNNING.addresses })
  expect(placed.shards.map(({ node }) => node).toSorted()).toEqual(['ps-1', 'ps-2'])
  expect(await bench.run(place)).toEqual({ kind: 'settled' })
})

test('without a pageserver the timeline waits, and says why', async () => {
  const bench = await stepBench()
  bench.announced.splice(3, 2)
  await expect(bench.run(place)).rejects.toMatchObject({
    code: 'unavailable',
    message: 'no pageserver is announced',
  })
  expect((await bench.timeline()).shards).toEqual([])
})

test('an address that changed is stored; one that is not announced any more stays', async () => {
  const bench = await stepBench(RUNNING)
  expect(await bench.run(addresses)).toEqual({ kind: 'settled' })
  bench.announced.splice(0, 4, { nodeId: 'ps-1', kind: 'pageserver', address: 'elsewhere:9' })
  expect(await bench.run(addresses)).toEqual({ kind: 'again' })
  expect((await bench.timeline()).addresses).toEqual({ ...RUNNING.addresses, 'ps-1': 'elsewhere:9' })
})

test('a node that was never announced is waited for', async () => {
  const { 'ps-2': _, ...known } = RUNNING.addresses
  const bench = await stepBench({ ...RUNNING, addresses: known })
  bench.announced.splice(4, 1)
  await expect(bench.run(addresses)).rejects.toThrow('node "ps-2" is not announced')
})

test('a shard that its pageserver does not have is attached under a new generation, which is stored first', async () => {
  const bench = await stepBench(RUNNING)
  const outcome = await bench.run(shards)
  expect(outcome).toMatchObject({
    kind: 'unsettled',
    timeline: { shards: [{ generation: 2 }, { generation: 2 }] },
  })
  expect(bench.pageserver('ps-2').attached(REF, 1)).toMatchObject({
    generation: 2,
    shard: { number: 1, count: 2, stripeBlocks: 256 },
    create: false,
    safekeepers: ['sk-1:1', 'sk-2:1', 'sk-3:1'],
    imageGeneration: { enabled: false, thresholdRecords: 32 },
  })
  expect(await bench.run(shards)).toEqual({ kind: 'settled' })

  // A pageserver that refuses has used up the generation.
  const first = bench.pageserver('ps-1')
  await first.detachShard(REF, { number: 0, count: 2, stripeBlocks: 256 })
  const attach = first.attachShard.bind(first)
  first.attachShard = () => Promise.reject(fail('disk_full', 'no room'))
  await expect(bench.run(shards)).rejects.toThrow('no room')
  expect((await bench.timeline()).shards[0]).toMatchObject({ generation: 3 })
  first.attachShard = attach
  await bench.run(shards)
  expect(bench.pageserver('ps-1').attached(REF, 0)).toMatchObject({ generation: 4 })
})

test('of a pageserver that is away nothing is known: its shards are left as they are', async () => {
  const bench = await stepBench(RUNNING)
  bench.pageserver('ps-1').isAway = true
  await bench.run(shards)
  expect((await bench.timeline()).shards.map(({ generation }) => generation)).toEqual([1, 2])
})

test('a shard that has stopped is attached again, after growing pauses', async () => {
  const bench = await stepBench(RUNNING)
  await bench.run(shards)
  const generationOf = async (): Promise<number | undefined> => (await bench.timeline()).shards[0]?.generation
  const stop = (): void => bench.pageserver('ps-1').set(REF, 0, { failure: 'unknown record' })
  stop()
  await bench.run(shards)
  expect(await generationOf()).toBe(3)
  stop()
  await bench.run(shards)
  expect(await generationOf()).toBe(3)
  bench.clock.pass(10_001)
  await bench.run(shards)
  expect(await generationOf()).toBe(4)
  expect(bench.events.map(({ event }) => event)).toContain('stopped_shard_reattached')
})
