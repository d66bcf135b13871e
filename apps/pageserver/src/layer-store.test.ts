// Goal: layers that the disk refuses are tried again and never skipped, whatever happens after.
// Method: real files, a disk that refuses some of them as a full one does.
import { join } from 'node:path'
import { refuse } from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import { realEnv, silentLog } from '@understory/env'
import type { Disk } from '@understory/env'
import { localObjectStore } from '@understory/object-store'
import { BlockCache, KeyTable, META_IMAGE, OpenLayer, smallKey } from '@understory/storage'
import type { IndexPart } from '@understory/storage'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test, vi } from 'vitest'
import { LayerRoom } from './layer-room.ts'
import { LayerStore } from './layer-store.ts'
import { ShardFiles } from './shard-files.ts'
import { Stalls } from './stalls.ts'

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

/** Files and a store over a disk that refuses what `refusal` says. */
async function open(refusal: (path: string) => Error | undefined): Promise<LayerStore> {
  const directory = await temporaryDirectory()
  onTestFinished(() => directory[Symbol.asyncDispose]())
  const env = realEnv(silentLog)
  const store = await localObjectStore(join(directory.path, 'objects'), env)
  onTestFinished(() => store.close())
  const disk: Disk = {
    ...env.disk,
    durableReplace: async (path, bytes) => {
      const error = refusal(path)
      if (error !== undefined) throw error
      await env.disk.durableReplace(path, bytes)
    },
  }
  const files = new ShardFiles(disk, new LayerRoom(disk), join(directory.path, 'local'), INDEX.owner)
  await files.make()
  const stalls = new Stalls(env)
  onTestFinished(() => stalls.stop())
  return new LayerStore({ env, files, store, cache: new BlockCache(1 << 20), stalls }, INDEX)
}

test.each(['a layer', 'an index'])(
  'while the disk refuses %s no later layer is listed, and once it does not all are, in order',
  async (what) => {
    let isFull = false
    let refusals = 0
    const layers = await open((path) => {
      if (!isFull || path.endsWith('index.json') !== (what === 'an index')) return undefined
      refusals++
      return refuse('disk_full', 'no space left on device')
    })
    await layers.write(frozenLayer(0x2000 as Lsn), 0x2000 as Lsn)
    isFull = true
    const later = [
      layers.write(frozenLayer(0x3000 as Lsn), 0x3000 as Lsn),
      layers.write(frozenLayer(0x4000 as Lsn), 0x4000 as Lsn),
      layers.noteConsistent(0x5000 as Lsn),
    ]
    await vi.waitFor(() => expect(refusals).toBeGreaterThan(2), { timeout: 5_000 })
    expect(layers.index).toMatchObject({ consistentLsn: 0x2000, layers: [{ lsnMax: 0x2000 }] })
    await layers.upload()
    expect(layers.remoteConsistentLsn).toBe(0x2000)
    isFull = false
    await Promise.all(later)
    expect(layers.index).toMatchObject({
      consistentLsn: 0x5000,
      layers: [{ lsnMax: 0x2000 }, { lsnMax: 0x3000 }, { lsnMax: 0x4000 }],
    })
  },
)

test('after a layer that is not written for good no later one is listed', async () => {
  const damage = refuse('bad_file', 'damaged')
  let isDamaged = false
  const layers = await open((path) => (isDamaged && !path.endsWith('index.json') ? damage : undefined))
  await layers.write(frozenLayer(0x2000 as Lsn), 0x2000 as Lsn)
  isDamaged = true
  const failed = layers.write(frozenLayer(0x3000 as Lsn), 0x3000 as Lsn)
  const next = layers.write(frozenLayer(0x4000 as Lsn), 0x4000 as Lsn)
  await expect(failed).rejects.toBe(damage)
  isDamaged = false
  await expect(next).rejects.toBe(damage)
  await expect(layers.noteConsistent(0x5000 as Lsn)).rejects.toBe(damage)
  expect(layers.index).toMatchObject({ consistentLsn: 0x2000, layers: [{ lsnMax: 0x2000 }] })
})

test('files older than what is published are not published over it', async () => {
  await using directory = await temporaryDirectory()
  const env = realEnv(silentLog)
  const store = await localObjectStore(join(directory.path, 'objects'), env)
  onTestFinished(() => store.close())
  const files = new ShardFiles(env.disk, new LayerRoom(env.disk), join(directory.path, 'local'), INDEX.owner)
  await files.make()
  const parts = { env, files, store, cache: new BlockCache(1 << 20), stalls: new Stalls(env) }
  const layers = new LayerStore(parts, INDEX)
  await layers.write(frozenLayer(0x2000 as Lsn), 0x2000 as Lsn)
  await layers.upload()
  await expect(new LayerStore(parts, INDEX).upload()).rejects.toThrow(/only up to 0\/1000/i)
  expect((await layers.remote.read(1)).layers).toHaveLength(1)
})
