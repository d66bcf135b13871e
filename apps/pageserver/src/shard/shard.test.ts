// Goal: a shard that the WAL does not concern still releases it, and trouble with its disk passes.
// Method: a shard without layers on real files, batches without entries, a disk that refuses.
import { fail } from '@understory/base'
import type { Lsn, ShardIdentity } from '@understory/base'
import { realDisk } from '@understory/env'
import type { Disk } from '@understory/env'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test, vi } from 'vitest'
import { LIMITS, TENANT, TIMELINE, attach, openBench } from '../../test/support.ts'
import type { Bench } from '../../test/support.ts'
import { RemoteIndex } from '../layers/remote-index.ts'
import type { Shard } from './shard.ts'

const LAYOUT = { count: 1, stripeBlocks: 8 }
const SHARD: ShardIdentity = { ...LAYOUT, number: 0 }
const IMAGES = { enabled: false, thresholdRecords: 32 }

/** A shard as after an import that began and ended at `from`, without layers. */
async function shardWithData(bench: Bench, from: Lsn): Promise<Shard> {
  const [made] = await attach(bench, LAYOUT, 1, true, IMAGES)
  const owner = { tenantId: TENANT, timelineId: TIMELINE, shard: SHARD }
  await new RemoteIndex(bench.store, owner).publish({
    ...made!.index,
    generation: 2,
    startLsn: from,
    readableLsn: from,
    consistentLsn: from,
  })
  const [shard] = await attach(bench, LAYOUT, 3, false, IMAGES)
  return shard!
}

const takeNothing = (shard: Shard, endLsn: Lsn): Promise<void> =>
  shard.take({ startLsn: shard.ingestedLsn, endLsn, commitLsn: endLsn, entries: new Uint8Array(0) })

test('WAL without a value for the shard is reported as taken in, after the age of a layer', async () => {
  await using directory = await temporaryDirectory()
  await using bench = await openBench(directory.path, { ...LIMITS, openLayerAgeMsMax: 40 })
  const shard = await shardWithData(bench, 0x2000 as Lsn)
  await takeNothing(shard, 0x3000 as Lsn)
  await vi.waitFor(() => expect(shard.remoteConsistentLsn).toBe(0x3000), { timeout: 5_000 })
  expect(bench.errors).toEqual([])
})

test('a disk that refuses an index for a while stalls an idle shard, which says so and continues by itself', async () => {
  await using directory = await temporaryDirectory()
  let isFull = false
  const disk: Disk = {
    ...realDisk,
    durableReplace: async (path, bytes) => {
      if (isFull) throw fail('disk_full', `could not write file "${path}"`)
      await realDisk.durableReplace(path, bytes)
    },
  }
  await using bench = await openBench(directory.path, { ...LIMITS, openLayerAgeMsMax: 40 }, { disk })
  const shard = await shardWithData(bench, 0x2000 as Lsn)
  isFull = true
  await takeNothing(shard, 0x3000 as Lsn)
  await vi.waitFor(() => expect(shard.stall).toContain('index write: could not write file'), 5_000)
  await expect(shard.flush()).rejects.toMatchObject({ code: 'unavailable' })
  // It continues with work that needs no disk.
  await takeNothing(shard, 0x4000 as Lsn)
  await shard.waitFor(0x4000 as Lsn, 5)
  expect(shard.failure).toBeUndefined()
  isFull = false
  await vi.waitFor(() => expect(shard.stall).toBeUndefined(), 20_000)
  await takeNothing(shard, 0x5000 as Lsn)
  await vi.waitFor(() => expect(shard.remoteConsistentLsn).toBe(0x5000), 5_000)
  expect(bench.errors).toEqual([])
  expect(bench.warnings.filter((line) => line.startsWith('shard_stalled'))).toHaveLength(1)
})

test('a shard that is stopped while it is stalled ends at once', async () => {
  await using directory = await temporaryDirectory()
  let isFull = false
  const disk: Disk = {
    ...realDisk,
    durableReplace: async (path, bytes) => {
      if (isFull) throw fail('disk_full', `could not write file "${path}"`)
      await realDisk.durableReplace(path, bytes)
    },
  }
  await using bench = await openBench(directory.path, { ...LIMITS, openLayerAgeMsMax: 40 }, { disk })
  const shard = await shardWithData(bench, 0x2000 as Lsn)
  isFull = true
  await takeNothing(shard, 0x3000 as Lsn)
  await vi.waitFor(() => expect(shard.stall).toBeDefined(), 5_000)
  await bench.registry.detach(TENANT, TIMELINE, SHARD)
  expect(bench.registry.all).toEqual([])
  expect(bench.errors).toEqual([])
})

test('a late message about image generation changes nothing, also after a restart', async () => {
  await using directory = await temporaryDirectory()
  const on = { enabled: true, thresholdRecords: 32 }
  {
    await using bench = await openBench(directory.path)
    const [shard] = await attach(bench, LAYOUT, 1, true, IMAGES)
    await shard!.setImageGeneration(IMAGES, 1)
    await shard!.setImageGeneration(on, 2)
    await expect(shard!.setImageGeneration(IMAGES, 1)).rejects.toMatchObject({ code: 'stale' })
    expect(shard!.imageGeneration).toEqual(on)
    // The same request again gets the same answer.
    await shard!.setImageGeneration(on, 2)
    await shard!.stop()
  }
  await using bench = await openBench(directory.path)
  const [shard] = await attach(bench, LAYOUT, 2, false, IMAGES)
  await expect(shard!.setImageGeneration(IMAGES, 1)).rejects.toMatchObject({ code: 'stale' })
  expect(shard!.imageGeneration).toEqual(on)
})
