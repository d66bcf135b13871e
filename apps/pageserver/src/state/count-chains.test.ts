// Goal: a shard that is loaded knows the length of each page's chain as a read would find it. Method: random values,
// chains beyond what a byte counts, late images and barriers, in layers of both sizes; the plan of a read is the
// measure.
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import {
  BlockCache,
  ChainLedger,
  KeyTable,
  LAYER_KIND_DELTA,
  LayerMap,
  META_IMAGE,
  META_TOMBSTONE,
  OpenLayer,
  barrierKey,
  blockKey,
  metaOfRole,
  openLayer,
  writeOpenLayer,
} from '@understory/storage'
import type { LayerFile } from '@understory/storage'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { countChains } from './count-chains.ts'

const OWNER = {
  tenantId: 'a'.repeat(32) as TenantId,
  timelineId: 'b'.repeat(32) as TimelineId,
  shard: { number: 0, count: 1, stripeBlocks: 8 },
}

interface Burst {
  readonly block: number
  readonly records: number
  readonly end: 'image' | 'tombstone' | 'barrier' | 'nothing'
}

async function layerOf(
  bursts: readonly Burst[],
  startLsn: number,
): Promise<{ file: LayerFile; endLsn: number }> {
  const layer = new OpenLayer(new KeyTable())
  let lsn = startLsn
  for (const { block, records, end } of bursts) {
    const keyId = layer.keys.intern(blockKey(1663, 5, 7, 0, block))
    if (end === 'image') layer.putBytes(keyId, ++lsn as Lsn, META_IMAGE, new Uint8Array(8))
    if (end === 'tombstone') layer.put(keyId, ++lsn as Lsn, META_TOMBSTONE, 0, 0, 0)
    if (end === 'barrier') {
      const barrier = layer.keys.intern(barrierKey(1663, 5, 7, 0))
      layer.putBytes(barrier, ++lsn as Lsn, META_IMAGE, Uint8Array.of(block, 0, 0, 0))
    }
    for (let i = 0; i < records; i++) layer.putBytes(keyId, ++lsn as Lsn, metaOfRole(0), new Uint8Array(3))
  }
  layer.freeze()
  const { bytes } = await writeOpenLayer(layer, OWNER, LAYER_KIND_DELTA, 1, async () => undefined)
  const source = {
    name: 'layer',
    sizeBytes: bytes.length,
    read: async (at: number, length: number) => bytes.subarray(at, at + length),
  }
  return { file: await openLayer(source, OWNER, new BlockCache(0)), endLsn: lsn }
}

const burst = fc.record<Burst>({
  block: fc.integer({ min: 0, max: 4 }),
  records: fc.oneof(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 240, max: 1_600 })),
  end: fc.constantFrom('image', 'tombstone', 'barrier', 'nothing', 'nothing'),
})

test('chains are counted from layers as a read finds them', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(burst, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 4 }),
      async (layers) => {
        const [map, keys, ledger] = [new LayerMap(), new KeyTable(), new ChainLedger()]
        const files: LayerFile[] = []
        let lsn = 0x1000
        for (const bursts of layers) {
          const { file, endLsn } = await layerOf(bursts, lsn)
          lsn = endLsn
          files.push(file)
          map.push(file)
        }
        await map.loadBarriers()
        for (const file of files) await countChains({ map, keys, ledger }, file)
        for (let block = 0; block < 5; block++) {
          const key = blockKey(1663, 5, 7, 0, block)
          const plan = await map.plan(key, lsn as Lsn)
          expect([block, ledger.countOf(keys.intern(key))]).toEqual([block, plan?.records.length ?? 0])
        }
      },
    ),
    { numRuns: 60 },
  )
})
