/**
 * Goal: what is left of a deleted timeline goes everywhere, the compute first, and nothing is forgotten that could not
 * be removed yet. Method: nodes in memory that are away, and a store in memory.
 */
import { memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { shardPrefix, walPrefix } from '@understory/protocol'
import { expect, test } from 'vitest'
import { RUNNING, stepBench } from '../../test/step-bench.ts'
import type { StepBench } from '../../test/step-bench.ts'
import { REF, TENANT_ID, TIMELINE_ID } from '../../test/support.ts'
import { ConfigurationStore } from '../documents/configuration-store.ts'
import { Removals, waitsFor } from './removals.ts'
import { deleteTimeline } from './retirement.ts'
import { compute } from './steps/compute.ts'
import { shards } from './steps/shards.ts'

const WAL = `${walPrefix(REF)}000000010000000000000001`
const LAYER = `${shardPrefix({ ...REF, shard: { number: 0, count: 2, stripeBlocks: 256 } })}layer`
const OTHERS = `${walPrefix({ ...REF, timelineId: 'f'.repeat(32) })}000000010000000000000001`

interface Deleted {
  readonly bench: StepBench
  readonly objects: ObjectStore
  readonly keys: () => Promise<string[]>
  /** One look at all removals; what they wait for after it. */
  readonly look: () => Promise<string[]>
}

/** A timeline that ran and was deleted. */
async function deleted(isInUse: (timelineId: string) => boolean = () => false): Promise<Deleted> {
  const bench = await stepBench(RUNNING)
  await bench.run(shards)
  await bench.run(compute)
  const objects = memoryObjectStore()
  for (const key of [WAL, LAYER, OTHERS]) await objects.put(key, Buffer.from('x'))
  const { parts } = bench
  await deleteTimeline(parts, REF)
  const removals = new Removals({ ...parts, objects, configurations: new ConfigurationStore(objects) })
  return {
    bench,
    objects,
    keys: async () => (await Array.fromAsync(objects.list(''))).map(({ key }) => key),
    look: async () => {
      const tenant = await parts.tenants.read(TENANT_ID)
      if (tenant !== undefined) await removals.advance(tenant, isInUse)
      return ((await parts.tenants.read(TENANT_ID))?.removals ?? []).flatMap(waitsFor)
    },
  }
}

test('all of it goes, and nothing of another timeline', async () => {
  const { bench, keys, look } = await deleted()
  expect(await look()).toEqual([])
  expect(await keys()).toEqual([OTHERS])
  expect(bench.host().specs.size).toBe(0)
  expect(bench.pageserver('ps-1').attached(REF, 0)).toBeUndefined()
  await expect(bench.parts.timelines.update(REF, (item) => item)).rejects.toMatchObject({
    code: 'unknown_timeline',
  })
  expect(await bench.parts.timelines.orphans()).toEqual([])
})

test('nodes that are away are asked again, and objects that they stored in the meantime go, too', async () => {
  const { bench, objects, keys, look } = await deleted()
  bench.pageserver('ps-2').isAway = true
  expect(await look()).toEqual(['ps-2'])
  // A compute that is gone is not asked for again, and nothing is, before a pause has passed.
  bench.pageserver('ps-2').isAway = false
  expect(await look()).toEqual(['ps-2'])
  await objects.put(LAYER, Buffer.from('late'))
  bench.clock.pass(5_001)
  expect(await look()).toEqual([])
  expect(await keys()).toEqual([OTHERS])
})

test('the compute ends first; one whose host stays away is not waited for, and nothing counts as gone before it', async () => {
  const { bench, look } = await deleted()
  bench.host().isAway = true
  expect(await look()).toContain('host-1')
  expect(bench.pageserver('ps-1').attached(REF, 0)).toBeDefined()
  bench.clock.pass(10_001)
  expect(await look()).toEqual(['host-1', 'ps-1', 'ps-2', 'sk-1', 'sk-2', 'sk-3'])
  expect(bench.pageserver('ps-1').attached(REF, 0)).toBeUndefined()
  bench.host().isAway = false
  bench.clock.pass(5_001)
  expect(await look()).toEqual([])
})

test('nothing goes while the timeline is in use, and a problem is kept for those who ask', async () => {
  let isInUse = true
  const { bench, look, keys } = await deleted(() => isInUse)
  expect(await look()).toContain('ps-1')
  expect(await keys()).toContain(WAL)
  isInUse = false
  bench.pageserver('ps-1').failure = new Error('broken')
  expect(await look()).toContain('ps-1')
  expect(bench.events.map(({ event }) => event)).toContain('removal_waiting')
})

test('a deleted tenant goes with its last timeline, and its name is free', async () => {
  const { bench, look } = await deleted()
  const { tenants } = bench.parts
  bench.pageserver('ps-1').isAway = true
  await tenants.update(TENANT_ID, (tenant) => ({ ...tenant, isDeleted: true }))
  await look()
  expect(await tenants.read(TENANT_ID)).toMatchObject({
    isDeleted: true,
    removals: [{ timelineId: TIMELINE_ID }],
  })
  bench.pageserver('ps-1').isAway = false
  bench.clock.pass(5_001)
  await look()
  expect(await tenants.read(TENANT_ID)).toBeUndefined()
  await expect(tenants.find('acme')).rejects.toMatchObject({ code: 'unknown_tenant' })
})
