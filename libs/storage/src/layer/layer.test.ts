// Goal: a layer file gives back what went in, and damage of any kind is refused as `bad_file`, never believed.
// Method: random values through open layer, file and layer map against a plain model; every flip and cut of a file.
import { UnderstoryError } from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BlockCache } from './block-cache.ts'
import { barrierKey } from './barriers.ts'
import { KeyTable } from '../key/key-table.ts'
import { KEY_BARRIER, KEY_RELATION_BLOCK, KEY_RELATION_MAP, blockKey, compareKeys } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { openLayer } from './layer-file.ts'
import type { LayerSource } from './layer-file.ts'
import { LAYER_KIND_DELTA } from './layer-format.ts'
import type { LayerOwner } from './layer-format.ts'
import { LayerMap, PAUSE, classRange } from './layer-map.ts'
import { writeOpenLayer } from './layer-writer.ts'
import type { Layer } from './layer.ts'
import { OpenLayer } from './open-layer.ts'
import { META_IMAGE, META_IS_SHARED, META_TOMBSTONE, endsChain, isTombstone, metaOfRole } from './value.ts'

const OWNER: LayerOwner = {
  tenantId: '0'.repeat(31).concat('1') as TenantId,
  timelineId: '0'.repeat(31).concat('2') as TimelineId,
  shard: { number: 1, count: 2, stripeBlocks: 4 },
}
const NEVER = async (): Promise<void> => undefined

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

async function checkReads(layers: readonly Layer[], models: readonly Model[]): Promise<void> {
  const map = new LayerMap()
  for (const layer of layers) map.push(layer)
  for (const { key } of models) {
    for (const at of [0, models[0]!.at, models[models.length >> 1]!.at + 1, models.at(-1)!.at]) {
      const expected = expectedPlan(models, key, at)
      const plan = map.plan(key, at as Lsn)
      const refs =
        plan === undefined
          ? []
          : [...plan.records.toReversed(), ...(plan.base === undefined ? [] : [plan.base])]
      expect(refs.map(({ layer, value }) => layer.lsnOf(value))).toEqual(expected.map((model) => model.at))
      for (const [i, { layer, value }] of refs.entries()) {
        expect(Buffer.compare(await layer.load(value), expected[i]!.bytes)).toBe(0)
        expect(layer.metaOf(value)).toBe(expected[i]!.meta)
      }
    }
  }
  const at = models.at(-1)!.at
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  const expectedKeys = models
    .map(({ key }) => key)
    .filter((key) => key.keyClass === KEY_RELATION_BLOCK && expectedPlan(models, key, at).length > 0)
    .sort(compareKeys)
    .filter((key, i, all) => i === 0 || compareKeys(all[i - 1]!, key) !== 0)
  expect([...map.scan(first, last, at as Lsn)]).toEqual(expectedKeys)
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
  const one = file.newest(blockKey(1663, 5, 16384, 0, 12), 9999 as Lsn)
  const other = file.newest(blockKey(1663, 5, 16384, 0, 2), 1002 as Lsn)
  expect(file.positionOf(one)).toBe(file.positionOf(other))
  expect((await file.load(one))[0]).toBe(2)
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
  expect(map.plan(blockKey(1663, 5, 7, 0, 5), 199 as Lsn)?.base).toBeDefined()
  expect(map.plan(blockKey(1663, 5, 7, 0, 5), 250 as Lsn)).toBeUndefined()
  expect(map.plan(blockKey(1663, 5, 7, 0, 5), 300 as Lsn)).toMatchObject({
    base: undefined,
    records: { length: 1 },
  })
  expect(map.plan(blockKey(1663, 5, 7, 0, 1), 300 as Lsn)?.base).toBeDefined()
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  expect([...map.scan(first, last, 250 as Lsn)].map(({ block }) => block)).toEqual([1])
  expect(classRange(KEY_BARRIER).first.keyClass).toBe(KEY_BARRIER)
})

test('a late image takes its place among newer values', () => {
  const layer = new OpenLayer(new KeyTable())
  const key = blockKey(1663, 5, 7, 0, 5)
  const id = layer.keys.intern(key)
  for (const at of [10, 20, 30]) layer.putBytes(id, at as Lsn, metaOfRole(0), new Uint8Array(at))
  layer.putBytes(id, 20 as Lsn, META_IMAGE, new Uint8Array(8192))
  const map = new LayerMap()
  map.push(layer)
  const plan = map.plan(key, 30 as Lsn)
  expect(plan?.base?.layer.lengthOf(plan.base.value)).toBe(8192)
  expect(plan?.records.map(({ value }) => layer.lengthOf(value))).toEqual([30])
  expect(map.plan(key, 15 as Lsn)?.records.length).toBe(1)
})

// A scan that finds nothing for long, as under the barrier of a dropped relation, must let others work all the same.
test('a scan pauses every thousand steps, whatever it finds, and reads each entry once', () => {
  const map = new LayerMap()
  let reads = 0
  const keys = new KeyTable()
  for (let age = 0; age < 40; age++) {
    const layer = new OpenLayer(keys)
    for (let i = 0; i < 1_000; i++) {
      const id = keys.intern(blockKey(1663, 5, 7, 0, (i * 37 + age * 500) % 30_000))
      layer.putBytes(id, (100 + age) as Lsn, META_IMAGE, new Uint8Array(1))
    }
    layer.keyOfEntry = (entry) => {
      reads++
      return keys.keyOf(entry)
    }
    map.push(layer)
  }
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  const steps = [...map.scanWithPauses(first, last, 200 as Lsn)]
  const found = steps.filter((step) => step !== PAUSE)
  expect(found.length).toBeGreaterThan(10_000)
  expect(found).toEqual([...map.scan(first, last, 200 as Lsn)])
  expect(reads).toBeLessThanOrEqual(2 * 40_000)
  expect(longestWithoutPause(steps)).toBeLessThan(1_100)

  map.barriers.add(barrierKey(1663, 5, 7, 0), 150 as Lsn, 0)
  const nothing = [...map.scanWithPauses(first, last, 200 as Lsn)]
  expect(nothing.every((step) => step === PAUSE)).toBe(true)
  expect(nothing.length).toBeGreaterThanOrEqual(39)
})

function longestWithoutPause(steps: readonly (Key | typeof PAUSE)[]): number {
  let longest = 0
  let since = 0
  for (const step of steps) {
    since = step === PAUSE ? 0 : since + 1
    longest = Math.max(longest, since)
  }
  return longest
}

test('keys that come while a scan pauses change nothing of what it finds at its lsn', () => {
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
  const found: number[] = []
  let next = 1
  for (const step of map.scanWithPauses(first, last, 150 as Lsn)) {
    if (step !== PAUSE) found.push(step.block)
    else for (let i = 0; i < 500; i++, next += 2) put(next, 200)
  }
  expect(next).toBeGreaterThan(5_000)
  expect(found).toEqual(Array.from({ length: 10_000 }, (_, i) => 2 * i))
})
