// Goal: layers that were not written are never skipped, whatever happens after.
// Method: real files, a disk that refuses one layer as a full one does.
import { join } from 'node:path'
import { refuse } from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import { realEnv, silentLog } from '@understory/env'
import type { Disk } from '@understory/env'
import { localObjectStore } from '@understory/object-store'
import { BlockCache, KeyTable, LAYER_KIND_DELTA, META_IMAGE, OpenLayer, smallKey } from '@understory/storage'
import type { IndexPart } from '@understory/storage'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { LayerStore } from './layer-store.ts'
import { ShardFiles } from './shard-files.ts'

const INDEX: IndexPart = {
  owner: {
    tenantId: 'a'.repeat(32) as TenantId,
    timelineId: 'b'.repeat(32) as TimelineId,
    shard: { number: 0, count: 1, stripeBlocks: 8 },
  },
  generation: 1,
  postgres: { major: 17, systemId: 1n, pgTimelineId: 1, walSegmentBytes: 16 << 20 },
  imageGeneration: { enabled: false, thresholdRecords: 32 },
  startLsn: 0x1000 as Lsn,
  readableLsn: 0x1000 as Lsn,
  consistentLsn: 0x1000 as Lsn,
  nextSequence: 0,
  layers: [],
}

function frozenLayer(at: Lsn): OpenLayer {
  const layer = new OpenLayer(new KeyTable())
  layer.putBytes(layer.keys.intern(smallKey(7, 1663, 5, 0)), at, META_IMAGE, Uint8Array.of(1))
  layer.freeze()
  return layer
}

test('after a layer that the disk refused no later one is listed', async () => {
  await using directory = await temporaryDirectory()
  const env = realEnv(silentLog)
  const store = await localObjectStore(join(directory.path, 'objects'), env)
  onTestFinished(() => store.close())
  let isFull = false
  const disk: Disk = {
    ...env.disk,
    durableReplace: async (path, bytes) => {
      if (isFull && !path.endsWith('index.json')) throw refuse('disk_full', 'no space left on device')
      await env.disk.durableReplace(path, bytes)
    },
  }
  const files = new ShardFiles(disk, join(directory.path, 'local'), INDEX.owner)
  await files.make()
  const layers = new LayerStore({ env, files, store, cache: new BlockCache(1 << 20) }, INDEX)
  await layers.write(frozenLayer(0x2000 as Lsn), LAYER_KIND_DELTA, 0x2000 as Lsn)
  isFull = true
  await expect(layers.write(frozenLayer(0x3000 as Lsn), LAYER_KIND_DELTA, 0x3000 as Lsn)).rejects.toThrow(
    /no space/,
  )
  isFull = false
  await expect(layers.write(frozenLayer(0x4000 as Lsn), LAYER_KIND_DELTA, 0x4000 as Lsn)).rejects.toThrow(
    /no space/,
  )
  expect(layers.index.consistentLsn).toBe(0x2000)
  expect(layers.index.layers).toHaveLength(1)
  await layers.upload()
  expect(layers.remoteConsistentLsn).toBe(0x2000)
})

test('files older than what is published are not published over it', async () => {
  await using directory = await temporaryDirectory()
  const env = realEnv(silentLog)
  const store = await localObjectStore(join(directory.path, 'objects'), env)
  onTestFinished(() => store.close())
  const files = new ShardFiles(env.disk, join(directory.path, 'local'), INDEX.owner)
  await files.make()
  const parts = { env, files, store, cache: new BlockCache(1 << 20) }
  const layers = new LayerStore(parts, INDEX)
  await layers.write(frozenLayer(0x2000 as Lsn), LAYER_KIND_DELTA, 0x2000 as Lsn)
  await layers.upload()
  await expect(new LayerStore(parts, INDEX).upload()).rejects.toThrow(/only up to 0\/1000/i)
  expect((await layers.remote.read(1)).layers).toHaveLength(1)
})
