// Goal: a layer file gives back what went in, and damage of any kind is refused as `bad_file`, never believed.
// Method: random values through open layer, file and layer map against a plain model; every flip and cut of a file.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { UnderstoryError } from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BlockCache } from './block-cache.ts'
import { barrierKey } from './barriers.ts'
import { KeyTable } from '../key/key-table.ts'
import { KEY_BARRIER, KEY_RELATION_BLOCK, KEY_RELATION_MAP, blockKey, compareKeys } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import type { LayerSource } from './layer-file.ts'
import { LAYER_KIND_DELTA } from './layer-format.ts'
import type { LayerOwner } from './layer-format.ts'
import { LayerMap, classRange } from './layer-map.ts'
import { writeOpenLayer } from './layer-writer.ts'
import type { Layer } from './layer.ts'
import { openLayer } from './open-layer-file.ts'
import { OpenLayer } from './open-layer.ts'
import { META_IMAGE, META_IS_SHARED, META_TOMBSTONE, endsChain, isTombstone, metaOfRole } from './value.ts'

const OWNER: LayerOwner = {
  tenantId: '0'.repeat(31).concat('1') as TenantId,
  timelineId: '0'.repeat(31).concat('2') as TimelineId,
  shard: { number: 1, count: 2, stripeBlocks: 4 },
}
const NEVER = async (): Promise<void> => undefined
const noPause = (): undefined => undefined

const sourceOf = (bytes: Uint8Array): LayerSource => ({
  name: 'test.layer',
  sizeBytes: bytes.length,
  read: async (offset, length) => bytes.slice(offset, offset + length),
})

interface Model {
  readonly key: Key
  readonly at: number
  readonly meta: number
  readonly bytes: Uint8Array
}

const keyArb = fc.record({
  keyClass: fc.constantFrom(KEY_RELATION_BLOCK, KEY_RELATION_MAP),
  spcOid: fc.constant(1663),
  dbOid: fc.integer({ min: 4, max: 5 }),
  rel: fc.integer({ min: 1, max: 3 }),
  fork: fc.integer({ min: 0, max: 1 }),
  block: fc.integer({ min: 0, max: 5 }),
})
const valueArb = fc.record({
  key: keyArb,
  meta: fc.constantFrom(metaOfRole(0), metaOfRole(1), metaOfRole(2), META_IMAGE, META_TOMBSTONE),
  length: fc.oneof(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 8000, max: 40_000 })),
})
const modelsArb = fc.array(valueArb, { minLength: 1, maxLength: 80 }).map((values) =>
  values.map(({ key, meta, length }, i): Model => {
    const bytes = new Uint8Array(meta === META_TOMBSTONE ? 0 : length).map((_, j) => (i * 31 + j * 7) & 0xff)
    return { key, at: (i + 1) * 0x8000_0008, meta, bytes }
  }),
)

function fill(layer: OpenLayer, models: readonly Model[]): void {
  for (const { key, at, meta, bytes } of models)
    layer.putBytes(layer.keys.intern(key), at as Lsn, meta, bytes)
}

async function toFile(layer: OpenLayer): Promise<Buffer> {
  layer.freeze()
  return (await writeOpenLayer(layer, OWNER, LAYER_KIND_DELTA, 7, NEVER)).bytes
}

/** What `plan` must give: newest first down to the end of the chain. */
function expectedPlan(models: readonly Model[], key: Key, at: number): Model[] {
  const chain: Model[] = []
  for (const model of models.toReversed()) {
    if (model.at > at || compareKeys(model.key, key) !== 0) continue
    if (isTombstone(model.meta)) break
    chain.push(model)
    if (endsChain(model.meta)) break
  }
  return chain
}

async function gathered(keys: AsyncIterable<Key>): Promise<Key[]> {
  const all: Key[] = []
  for await (const key of keys) all.push(key)
  return all
}

async function checkReads(layers: readonly Layer[], models: readonly Model[]): Promise<void> {
  const map = new LayerMap()
  for (const layer of layers) map.push(layer)
  for (const { key } of models) {
    for (const at of [0, models[0]!.at, models[models.length >> 1]!.at + 1, models.at(-1)!.at]) {
      const expected = expectedPlan(models, key, at)
      const plan = await map.plan(key, at as Lsn)
      const refs =
        plan === undefined
          ? []
          : [...plan.records.toReversed(), ...(plan.base === undefined ? [] : [plan.base])]
      expect(refs.map(({ lsn }) => lsn)).toEqual(expected.map((model) => model.at))
      for (const [i, value] of refs.entries()) {
        expect(Buffer.compare(await value.load(), expected[i]!.bytes)).toBe(0)
        expect(value.meta).toBe(expected[i]!.meta)
        expect(value.lengthBytes).toBe(expected[i]!.bytes.length)
      }
      const newest = models.findLast((model) => model.at <= at && compareKeys(model.key, key) === 0)
      expect((await map.newest(key, at as Lsn))?.lsn).toBe(newest?.at)
    }
  }
  const at = models.at(-1)!.at
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  const expectedKeys = models
    .map(({ key }) => key)
    .filter((key) => key.keyClass === KEY_RELATION_BLOCK && expectedPlan(models, key, at).length > 0)
    .sort(compareKeys)
    .filter((key, i, all) => i === 0 || compareKeys(all[i - 1]!, key) !== 0)
  expect(await gathered(map.scan(first, last, at as Lsn, noPause))).toEqual(expectedKeys)
}

test('layers in memory, in files and mixed answer as a plain list of values would', async () => {
  await fc.assert(
    fc.asyncProperty(modelsArb, fc.integer({ min: 0, max: 80 }), async (models, cutAt) => {
      const keys = new KeyTable()
      const all = new OpenLayer(keys)
      fill(all, models)
      await checkReads([all], models)
      const cut = cutAt % models.length
      const older = new OpenLayer(keys)
      const newer = new OpenLayer(new KeyTable())
      fill(older, models.slice(0, cut))
      fill(newer, models.slice(cut))
      const cache = new BlockCache(40_000)
      const files: Layer[] = []
      if (cut > 0) files.push(await openLayer(sourceOf(await toFile(older)), OWNER, cache))
      await checkReads([...files, newer], models)
      files.push(await openLayer(sourceOf(await toFile(newer)), OWNER, cache))
      await checkReads(files, models)
    }),
    { numRuns: 40 },
  )
})

async function smallFile(): Promise<Buffer> {
  const layer = new OpenLayer(new KeyTable())
  for (let i = 0; i < 40; i++) {
    const position = layer.append(new Uint8Array(1200).fill(i))
    for (const block of [i % 7, 10 + i]) {
      const key = layer.keys.intern(blockKey(1663, 5, 16384, 0, block))
      layer.put(key, (1000 + i) as Lsn, metaOfRole(0) | META_IS_SHARED, 0, position, 1200)
    }
  }
  return toFile(layer)
}

/** Opens, reads every block; gives the refused error or undefined. */
async function errorOf(bytes: Uint8Array): Promise<unknown> {
  try {
    const layer = await openLayer(sourceOf(bytes), OWNER, new BlockCache(1 << 20))
    await layer.verify()
    return undefined
  } catch (error) {
    return error
  }
}

test('bytes shared by several keys are stored once', async () => {
  const file = await openLayer(sourceOf(await smallFile()), OWNER, new BlockCache(1 << 20))
  const map = new LayerMap()
  map.push(file)
  const one = await (await map.newest(blockKey(1663, 5, 16384, 0, 12), 9999 as Lsn))!.load()
  const other = await (await map.newest(blockKey(1663, 5, 16384, 0, 2), 1002 as Lsn))!.load()
  expect([other.buffer, other.byteOffset]).toEqual([one.buffer, one.byteOffset])
  expect(one[0]).toBe(2)
})

test('one flipped byte anywhere in a layer is refused, and names the file', async () => {
  const file = await smallFile()
  expect(await errorOf(file)).toBeUndefined()
  for (let at = 0; at < file.length; at++) {
    const flipped = Buffer.from(file)
    flipped[at]! ^= 1 << (at % 8)
    const error = await errorOf(flipped)
    expect(error, `byte ${at}`).toBeInstanceOf(UnderstoryError)
    expect((error as UnderstoryError).code).toBe('bad_file')
    expect((error as UnderstoryError).message).toContain('test.layer')
  }
})

test('a layer cut short anywhere is refused, as is random content', async () => {
  const file = await smallFile()
  for (let length = 0; length < file.length; length += 7) {
    expect(await errorOf(file.subarray(0, length))).toMatchObject({ code: 'bad_file' })
  }
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 600 }), async (bytes) => {
      expect(await errorOf(bytes)).toMatchObject({ code: 'bad_file' })
    }),
  )
})

test('a layer of another shard is refused', async () => {
  const other = { ...OWNER, shard: { ...OWNER.shard, number: 0 } }
  await expect(openLayer(sourceOf(await smallFile()), other, new BlockCache(1))).rejects.toMatchObject({
    code: 'bad_file',
  })
})

test('reading never looks below a barrier, and barriers survive in layers', async () => {
  const map = new LayerMap()
  const layer = new OpenLayer(new KeyTable())
  const put = (key: Key, at: number, meta: number, bytes: Uint8Array): void =>
    layer.putBytes(layer.keys.intern(key), at as Lsn, meta, bytes)
  for (const block of [1, 5]) put(blockKey(1663, 5, 7, 0, block), 100, META_IMAGE, new Uint8Array(8192))
  put(barrierKey(1663, 5, 7, 0), 200, META_IMAGE, Uint8Array.of(3, 0, 0, 0))
  put(blockKey(1663, 5, 7, 0, 5), 300, metaOfRole(0), new Uint8Array(10))
  map.push(await openLayer(sourceOf(await toFile(layer)), OWNER, new BlockCache(1 << 20)))
  await map.loadBarriers()
  const plan = (block: number, at: number) => map.plan(blockKey(1663, 5, 7, 0, block), at as Lsn)
  expect((await plan(5, 199))?.base).toBeDefined()
  expect(await plan(5, 250)).toBeUndefined()
  expect(await plan(5, 300)).toMatchObject({ base: undefined, records: { length: 1 } })
  expect((await plan(1, 300))?.base).toBeDefined()
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  const found = await gathered(map.scan(first, last, 250 as Lsn, noPause))
  expect(found.map(({ block }) => block)).toEqual([1])
  expect(classRange(KEY_BARRIER).first.keyClass).toBe(KEY_BARRIER)
})

test('a late image takes its place among newer values', async () => {
  const layer = new OpenLayer(new KeyTable())
  const key = blockKey(1663, 5, 7, 0, 5)
  const id = layer.keys.intern(key)
  for (const at of [10, 20, 30]) layer.putBytes(id, at as Lsn, metaOfRole(0), new Uint8Array(at))
  layer.putBytes(id, 20 as Lsn, META_IMAGE, new Uint8Array(8192))
  const map = new LayerMap()
  map.push(layer)
  const plan = await map.plan(key, 30 as Lsn)
  expect(plan?.base?.lengthBytes).toBe(8192)
  expect(plan?.records.map(({ lengthBytes }) => lengthBytes)).toEqual([30])
  expect((await map.plan(key, 15 as Lsn))?.records.length).toBe(1)
})

// A scan that finds nothing for long, as under the barrier of a dropped relation, must let others work all the same.
test('a scan pauses every thousand steps, whatever it finds', async () => {
  const map = new LayerMap()
  const keys = new KeyTable()
  for (let age = 0; age < 40; age++) {
    const layer = new OpenLayer(keys)
    for (let i = 0; i < 1_000; i++) {
      const id = keys.intern(blockKey(1663, 5, 7, 0, (i * 37 + age * 500) % 30_000))
      layer.putBytes(id, (100 + age) as Lsn, META_IMAGE, new Uint8Array(1))
    }
    map.push(layer)
  }
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  let pauses = 0
  const pause = (): undefined => void pauses++
  expect((await gathered(map.scan(first, last, 200 as Lsn, pause))).length).toBeGreaterThan(10_000)
  // A layer of 1,000 keys causes no pause, two do; then 40,000 steps.
  expect(pauses).toBeGreaterThanOrEqual(20 + 39)

  map.barriers.add(barrierKey(1663, 5, 7, 0), 150 as Lsn, 0)
  pauses = 0
  expect(await gathered(map.scan(first, last, 200 as Lsn, pause))).toEqual([])
  expect(pauses).toBeGreaterThanOrEqual(20 + 39)
})

test('keys that come while a scan pauses change nothing of what it finds at its lsn', async () => {
  const map = new LayerMap()
  const layer = new OpenLayer(new KeyTable())
  const put = (block: number, at: number): void =>
    layer.putBytes(
      layer.keys.intern(blockKey(1663, 5, 7, 0, block)),
      at as Lsn,
      META_IMAGE,
      new Uint8Array(1),
    )
  for (let block = 0; block < 20_000; block += 2) put(block, 100)
  map.push(layer)
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  let next = 1
  const found = await gathered(
    map.scan(first, last, 150 as Lsn, () => {
      for (let i = 0; i < 500; i++, next += 2) put(next, 200)
      return undefined
    }),
  )
  expect(next).toBeGreaterThan(5_000)
  expect(found.map(({ block }) => block)).toEqual(Array.from({ length: 10_000 }, (_, i) => 2 * i))
})

/** Deep chains and many keys: index blocks end within keys, and data blocks are shared from afar. */
async function largeFile(): Promise<{ models: Model[]; bytes: Buffer }> {
  const layer = new OpenLayer(new KeyTable())
  const models: Model[] = []
  const put = (block: number, at: number, meta: number, fill: number): void => {
    const bytes = new Uint8Array(10 + (fill % 50)).fill(fill)
    models.push({ key: blockKey(1663, 5, 7, 0, block), at, meta, bytes })
    layer.putBytes(layer.keys.intern(models.at(-1)!.key), at as Lsn, meta, bytes)
  }
  for (let i = 0; i < 6_000; i++) {
    put(i % 3, 1000 + i, i % 701 === 0 ? META_IMAGE : metaOfRole(0), i & 0xff)
    if (i % 4 === 0) put(10 + i, 1000 + i, META_IMAGE, i & 0xff)
  }
  return { models, bytes: await toFile(layer) }
}

test('an index of many blocks gives each value as of each lsn, with a cache that holds nothing', async () => {
  const { models, bytes } = await largeFile()
  let reads = 0
  const source = sourceOf(bytes)
  const counted: LayerSource = { ...source, read: (at, length) => (reads++, source.read(at, length)) }
  const map = new LayerMap()
  map.push(await openLayer(counted, OWNER, new BlockCache(0)))
  expect(reads).toBe(2)
  const byKey = Map.groupBy(models, ({ key }) => key.block)
  for (let i = 0; i < models.length; i += 41) {
    const { key, at } = models[i]!
    reads = 0
    const plan = await map.plan(key, at as Lsn)
    // The filter, the top index, and index blocks of the key.
    expect(reads).toBeLessThanOrEqual(key.block < 3 ? 5 : 3)
    const expected = expectedPlan(byKey.get(key.block)!, key, at).reverse()
    const values = [...(plan?.base === undefined ? [] : [plan.base]), ...plan!.records]
    expect(values.map(({ lsn }) => lsn)).toEqual(expected.map((model) => model.at))
    expect(Buffer.compare(await values.at(-1)!.load(), expected.at(-1)!.bytes)).toBe(0)
  }
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  for (const at of [1_500, 8_000]) {
    const found = await gathered(map.scan(first, last, at as Lsn, noPause))
    const there = models.filter((model) => model.at <= at).map(({ key }) => key.block)
    expect(found.map(({ block }) => block)).toEqual([...new Set(there)].sort((a, b) => a - b))
  }
  reads = 0
  expect(await map.plan(blockKey(1663, 5, 7, 0, 11), 9_000 as Lsn)).toBeUndefined()
  expect(reads).toBe(1)
})

test('the last value of a key in a block says how long its chain is', async () => {
  const { models, bytes } = await largeFile()
  const layer = await openLayer(sourceOf(bytes), OWNER, new BlockCache(1 << 20))
  let last: { key: Key; chain: number; isWhole: boolean } | undefined
  const seen: (typeof last)[] = []
  const { first, last: end } = classRange(KEY_RELATION_BLOCK)
  for (const runs of layer.runsWithin(first, end))
    for (let run = await runs.next(); run !== undefined; run = await runs.next())
      for (let i = 0; i < run.length; i++) {
        const key = run.keyAt(i)
        if (last !== undefined && compareKeys(last.key, key) !== 0) seen.push(last)
        last = { key, ...run.chainAt(i)! }
      }
  seen.push(last)
  const byKey = Map.groupBy(models, ({ key }) => key.block)
  expect(seen).toHaveLength(byKey.size)
  for (const one of seen) {
    const chain = expectedPlan(byKey.get(one!.key.block)!, one!.key, 9_000)
    expect(one).toMatchObject({ isWhole: true, chain: Math.min(255, chain.length - 1) })
  }
})

// testdata/layer-v1.bin was written by the last program that wrote version 1, with what `smallFile` puts, an image of
// block 3 at 1020, and at 2000 a tombstone of block 49 and a barrier of relation 16385 from block 3 on.
test('a layer of version 1 is read', async () => {
  const golden = await readFile(join(import.meta.dirname, '../../testdata/layer-v1.bin'))
  const file = await openLayer(sourceOf(golden), OWNER, new BlockCache(0))
  const map = new LayerMap()
  map.push(file)
  await map.loadBarriers()
  const lsnsOf = async (block: number, at: number): Promise<number[] | undefined> => {
    const plan = await map.plan(blockKey(1663, 5, 16384, 0, block), at as Lsn)
    return plan && [...(plan.base === undefined ? [] : [plan.base]), ...plan.records].map(({ lsn }) => lsn)
  }
  expect(await lsnsOf(3, 9_999)).toEqual([1020, 1024, 1031, 1038])
  expect(await lsnsOf(3, 1_019)).toEqual([1003, 1010, 1017])
  expect(await lsnsOf(49, 1_999)).toEqual([1039])
  expect(await lsnsOf(49, 2_000)).toBeUndefined()
  const { base, records } = (await map.plan(blockKey(1663, 5, 16384, 0, 3), 9_999 as Lsn))!
  expect(Buffer.compare(await base!.load(), new Uint8Array(8192).fill(9))).toBe(0)
  expect(Buffer.compare(await records[2]!.load(), new Uint8Array(1200).fill(38))).toBe(0)
  expect(map.barriers.newest(blockKey(1663, 5, 16385, 0, 3), 2_000 as Lsn)).toBe(2_000)
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  expect(await gathered(map.scan(first, last, 9_999 as Lsn, noPause))).toHaveLength(46)
  await file.verify()
  for (let at = 0; at < golden.length; at++) {
    const flipped = Buffer.from(golden)
    flipped[at]! ^= 1 << (at % 8)
    expect(await errorOf(flipped), `byte ${at}`).toMatchObject({ code: 'bad_file' })
  }
})

test('the least used blocks leave the cache, which keeps to its budget however they are used', () => {
  const cache = new BlockCache(10 * 1120)
  const [one, other] = [cache.table<{ sizeBytes: number }>(), cache.table<{ sizeBytes: number }>()]
  for (let at = 0; at < 10; at++) one.put(at, { sizeBytes: 1000 })
  expect(one.get(0)).toBeDefined()
  other.put(0, { sizeBytes: 1000 })
  expect([one.get(0), one.get(1), other.get(0)].map((block) => block !== undefined)).toEqual([
    true,
    false,
    true,
  ])
  expect(cache.sizeBytes).toBe(10 * 1120)
  for (let at = 1; at < 40; at++) {
    other.put(at, { sizeBytes: 1000 })
    for (const table of [one, other]) for (let used = 0; used < 40; used++) table.get(used)
    expect(cache.sizeBytes).toBe(10 * 1120)
  }
})

// A table was created (its barrier is at 300) and written at 400; then the image of an older one's page was made late,
// and nothing else before the layer was frozen.
test('a layer of late images alone ends no search for what is under it', async () => {
  const key = blockKey(1663, 5, 8, 0, 0)
  const under = new OpenLayer(new KeyTable())
  under.putBytes(
    under.keys.intern(barrierKey(1663, 5, 8, 0)),
    300 as Lsn,
    META_IMAGE,
    Uint8Array.of(0, 0, 0, 0),
  )
  under.putBytes(under.keys.intern(key), 400 as Lsn, META_IMAGE, new Uint8Array(10))
  const late = new OpenLayer(new KeyTable())
  for (const rel of [7, 9]) {
    const image = late.keys.intern(blockKey(1663, 5, rel, 0, 0))
    late.putBytes(image, 200 as Lsn, META_IMAGE, new Uint8Array(10))
  }
  const map = new LayerMap()
  for (const layer of [under, late])
    map.push(await openLayer(sourceOf(await toFile(layer)), OWNER, new BlockCache(0)))
  await map.loadBarriers()
  expect((await map.plan(key, 500 as Lsn))?.base?.lsn).toBe(400)
})

test('what the cache keeps of a layer holds on to no larger buffer', async () => {
  const { models, bytes } = await largeFile()
  const map = new LayerMap()
  map.push(await openLayer(sourceOf(bytes), OWNER, new BlockCache(1 << 20)))
  const value = await (await map.newest(models[0]!.key, 9_000 as Lsn))!.load()
  expect(value.buffer.byteLength).toBeLessThan(40_000)
  const small = new OpenLayer(new KeyTable())
  small.putBytes(small.keys.intern(models[0]!.key), 5 as Lsn, META_IMAGE, new Uint8Array(10))
  const other = new LayerMap()
  other.push(await openLayer(sourceOf(await toFile(small)), OWNER, new BlockCache(1 << 20)))
  expect((await (await other.newest(models[0]!.key, 9 as Lsn))!.load()).buffer.byteLength).toBe(10)
})
