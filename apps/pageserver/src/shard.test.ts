// Goal: a shard that WAL says nothing to still lets go of it.
// Method: a shard without layers on real files, batches without entries.
import type { Lsn, ShardIdentity } from '@understory/base'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test, vi } from 'vitest'
import { LIMITS, TENANT, TIMELINE, attach, openBench } from '../test/support.ts'
import { RemoteIndex } from './remote-index.ts'

const LAYOUT = { count: 1, stripeBlocks: 8 }
const SHARD: ShardIdentity = { ...LAYOUT, number: 0 }
const IMAGES = { enabled: false, thresholdRecords: 32 }

test('WAL without a value for the shard is reported as taken in, after the age of a layer', async () => {
  await using directory = await temporaryDirectory()
  await using bench = await openBench(directory.path, { ...LIMITS, openLayerAgeMsMax: 40 })
  const [made] = await attach(bench, LAYOUT, 1, true, IMAGES)
  const [from, to] = [0x2000 as Lsn, 0x3000 as Lsn]
  const owner = { tenantId: TENANT, timelineId: TIMELINE, shard: SHARD }
  await new RemoteIndex(bench.store, owner).publish({
    ...made!.index,
    generation: 2,
    startLsn: from,
    readableLsn: from,
    consistentLsn: from,
  })
  const [shard] = await attach(bench, LAYOUT, 3, false, IMAGES)
  await shard!.take({ startLsn: from, endLsn: to, commitLsn: to, entries: new Uint8Array(0) })
  await vi.waitFor(() => expect(shard!.remoteConsistentLsn).toBe(to), { timeout: 5_000 })
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
    // The same wish again is the same answer.
    await shard!.setImageGeneration(on, 2)
    await shard!.stop()
  }
  await using bench = await openBench(directory.path)
  const [shard] = await attach(bench, LAYOUT, 2, false, IMAGES)
  await expect(shard!.setImageGeneration(IMAGES, 1)).rejects.toMatchObject({ code: 'stale' })
  expect(shard!.imageGeneration).toEqual(on)
})
