/**
 * Goal: after any merges, a read at the horizon, above it or at a retained point finds what it found before, and what
 * no such read needs is gone. Method: random values, late images and barriers over several layers; every key at every
 * LSN is read from the layers as they were and from the merged ones.
 */
import { LSN_MAX, LSN_ZERO } from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { KeyTable } from '../key/key-table.ts'
import {
  KEY_RELATION_BLOCK,
  KEY_RELATION_SIZE,
  REDO_SETTINGS_KEY,
  blockKey,
  formatKey,
  relationSizeKey,
} from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { FORK_ALL, barrierKey } from '../layer/barriers.ts'
import { BlockCache } from '../layer/block-cache.ts'
import type { LayerFile } from '../layer/layer-file.ts'
import { LAYER_KIND_DELTA } from '../layer/layer-format.ts'
import type { LayerOwner } from '../layer/layer-format.ts'
import { FileValue } from '../layer/file-runs.ts'
import { LayerMap, classRange } from '../layer/layer-map.ts'
import { writeOpenLayer } from '../layer/layer-writer.ts'
import type { ValueRef } from '../layer/layer.ts'
import { openLayer } from '../layer/open-layer-file.ts'
import { OpenLayer } from '../layer/open-layer.ts'
import { META_IMAGE, META_IS_SHARED, META_TOMBSTONE, metaOfRole } from '../layer/value.ts'
import { mergeLayers } from './merge-layers.ts'
import type { Retention } from './retention.ts'

const OWNER: LayerOwner = {
  tenantId: '0'.repeat(31).concat('1') as TenantId,
  timelineId: '0'.repeat(31).concat('2') as TimelineId,
  shard: { number: 0, count: 1, stripeBlocks: 4 },
}
const RECORD = metaOfRole(0)
const STEP = 0x10

const open = (bytes: Uint8Array): Promise<LayerFile> =>
  openLayer(
    {
      name: 'test.layer',
      sizeBytes: bytes.length,
      read: async (offset, length) => bytes.slice(offset, offset + length),
    },
    OWNER,
    new BlockCache(1 << 20),
  )

const bytesOf = (seed: number, length: number): Uint8Array =>
  new Uint8Array(length).map((_, i) => (seed * 31 + i * 7) & 0xff)

type Step =
  | { readonly kind: 'value'; readonly key: Key; readonly meta: number; readonly length: number }
  | { readonly kind: 'shared'; readonly keys: readonly Key[] }
  | { readonly kind: 'barrier'; readonly key: Key; readonly fromBlock: number }
  /** An image of the state so many steps ago. */
  | { readonly kind: 'late image'; readonly key: Key; readonly lag: number }
  | { readonly kind: 'freeze' }

const pageKeyArb = fc
  .record({ rel: fc.integer({ min: 1, max: 2 }), block: fc.integer({ min: 0, max: 4 }) })
  .map(({ rel, block }) => blockKey(1663, 5, rel, 0, block))
const keyArb = fc.oneof(
  { weight: 6, arbitrary: pageKeyArb },
  fc.integer({ min: 1, max: 2 }).map((rel) => relationSizeKey(1663, 5, rel, 0)),
  fc.constant(REDO_SETTINGS_KEY),
)
const stepArb: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      kind: fc.constant('value' as const),
      key: keyArb,
      meta: fc.constantFrom(RECORD, RECORD, RECORD, META_IMAGE, META_TOMBSTONE),
      length: fc.oneof(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 9_000, max: 40_000 })),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('shared' as const),
      keys: fc.uniqueArray(pageKeyArb, { minLength: 2, maxLength: 3, selector: formatKey }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('barrier' as const),
      key: fc.oneof(
        fc.integer({ min: 1, max: 2 }).map((rel) => barrierKey(1663, 5, rel, 0)),
        fc.constantFrom(barrierKey(1663, 5, 1, FORK_ALL), barrierKey(1663, 5, 0, FORK_ALL)),
      ),
      fromBlock: fc.integer({ min: 0, max: 4 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('late image' as const),
      key: pageKeyArb,
      lag: fc.integer({ min: 0, max: 12 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('freeze' as const) }) },
)

/** The layers that the steps make, as files; the LSN of step `i` is `(i + 1) * STEP`. */
async function layersOf(steps: readonly Step[]): Promise<LayerFile[]> {
  const map = new LayerMap()
  const keys = new KeyTable()
  const files: LayerFile[] = []
  let layer = new OpenLayer(keys)
  map.push(layer)
  const freeze = async (): Promise<void> => {
    if (layer.valuesCount === 0) return
    layer.freeze()
    const { bytes } = await writeOpenLayer(layer, OWNER, LAYER_KIND_DELTA, 1, async () => undefined)
    const file = await open(bytes)
    map.replace([layer], [file])
    files.push(file)
    layer = new OpenLayer(keys)
    map.push(layer)
  }
  for (const [i, step] of steps.entries()) {
    const at = ((i + 1) * STEP) as Lsn
    switch (step.kind) {
      case 'value': {
        // A value that is not of a page is complete in itself.
        const isPage = step.key.keyClass === KEY_RELATION_BLOCK
        const meta = isPage || step.meta === META_TOMBSTONE ? step.meta : META_IMAGE
        const length = meta === META_TOMBSTONE ? 0 : step.length
        layer.putBytes(layer.keys.intern(step.key), at, meta, bytesOf(i, length))
        break
      }
      case 'shared': {
        const position = layer.append(bytesOf(i, 50))
        for (const key of step.keys)
          layer.put(layer.keys.intern(key), at, RECORD | META_IS_SHARED, 0, position, 50)
        break
      }
      case 'barrier': {
        const whole = step.key.fork === FORK_ALL
        const fromBlock = whole ? 0 : step.fromBlock
        const value = new Uint8Array(4)
        new DataView(value.buffer).setUint32(0, fromBlock, true)
        layer.putBytes(layer.keys.intern(step.key), at, META_IMAGE, value)
        map.barriers.add(step.key, at, fromBlock)
        // The pages of a database's copy come at the LSN of its barrier.
        if (step.fromBlock % 2 === 0)
          layer.putBytes(layer.keys.intern(blockKey(1663, 5, 1, 0, 0)), at, META_IMAGE, bytesOf(i, 20))
        break
      }
      case 'late image': {
        const upTo = Math.max(0, at - step.lag * STEP) as Lsn
        const base = await map.newest(step.key, upTo)
        // As image generation does it: at the LSN of a value of the page, and not where an older layer has newer ones.
        if (base === undefined || map.barriers.newest(step.key, LSN_MAX) > base.lsn) break
        if (await map.hasNewer(step.key, base.lsn, layer)) break
        layer.putBytes(layer.keys.intern(step.key), base.lsn, META_IMAGE, bytesOf(i, 30))
        break
      }
      case 'freeze':
        await freeze()
    }
  }
  await freeze()
  return files
}

async function mapOf(layers: readonly LayerFile[]): Promise<LayerMap> {
  const map = new LayerMap()
  for (const layer of layers) map.push(layer)
  await map.loadBarriers()
  return map
}

const describe = async (value: ValueRef | undefined): Promise<unknown> =>
  value === undefined
    ? undefined
    : {
        lsn: value.lsn,
        meta: value.meta & ~META_IS_SHARED,
        bytes: Buffer.from(await value.load()).toString('base64'),
      }

/** What a reader of the key finds at `at`. */
async function readingOf(map: LayerMap, key: Key, at: Lsn): Promise<unknown> {
  if (key.keyClass !== KEY_RELATION_BLOCK) {
    const newest = await map.newest(key, at)
    return newest?.meta === META_TOMBSTONE ? undefined : describe(newest)
  }
  const plan = await map.plan(key, at)
  return plan === undefined
    ? undefined
    : { base: await describe(plan.base), records: await Promise.all(plan.records.map(describe)) }
}

async function existingAt(map: LayerMap, at: Lsn): Promise<string[]> {
  const { first } = classRange(0)
  const { last } = classRange(KEY_RELATION_SIZE)
  return (await Array.fromAsync(map.scan(first, last, at, () => undefined))).map(formatKey)
}

const KEYS: readonly Key[] = [
  ...[1, 2].flatMap((rel) => [0, 1, 2, 3, 4].map((block) => blockKey(1663, 5, rel, 0, block))),
  ...[1, 2].map((rel) => relationSizeKey(1663, 5, rel, 0)),
]

async function mergeAll(
  layers: readonly LayerFile[],
  retention: Retention,
  layerBytesMax: number,
): Promise<LayerFile[]> {
  const made: LayerFile[] = []
  let from: Key | undefined
  do {
    const { written, next } = await mergeLayers(layers, {
      owner: OWNER,
      generation: 2,
      retention,
      from,
      layerBytesMax,
    })
    if (written !== undefined) made.push(await open(written.bytes))
    from = next
  } while (from !== undefined)
  return made
}

test(
  'what can be read at the horizon, above it and at retained points is the same after any merges',
  { timeout: 120_000 },
  async () => {
    let droppedCount = 0
    await fc.assert(
      fc.asyncProperty(
        fc.array(stepArb, { minLength: 1, maxLength: 90, size: 'max' }),
        fc.array(
          fc.record({
            from: fc.nat(),
            length: fc.nat(),
            horizon: fc.nat(),
            layerBytesMax: fc.constantFrom(1, 200, 20_000, 1 << 20),
          }),
          { minLength: 1, maxLength: 3 },
        ),
        fc.option(fc.nat(), { nil: undefined }),
        async (steps, merges, retained) => {
          let layers = await layersOf(steps)
          if (layers.length === 0) return
          const before = await mapOf(layers)
          const end = (steps.length + 1) * STEP
          const point = retained === undefined ? undefined : ((retained % end) as Lsn)
          let horizon = LSN_ZERO
          for (const merge of merges) {
            const from = merge.from % layers.length
            const to = from + 1 + (merge.length % (layers.length - from))
            horizon = Math.max(horizon, merge.horizon % end) as Lsn
            const points = point !== undefined && point < horizon ? [point, horizon] : [horizon]
            const made = await mergeAll(
              layers.slice(from, to),
              { points, isBottom: from === 0 },
              merge.layerBytesMax,
            )
            const valuesOf = (list: readonly LayerFile[]): number =>
              list.reduce((sum, { frame }) => sum + frame.valueCount, 0)
            droppedCount += valuesOf(layers.slice(from, to)) - valuesOf(made)
            layers = [...layers.slice(0, from), ...made, ...layers.slice(to)]
            // Of every layer the file is whole.
            for (const layer of made) await layer.verify()
          }
          const after = await mapOf(layers)
          const lsns = Array.from({ length: steps.length + 2 }, (_, i) => (i * STEP) as Lsn).filter(
            (at) => at >= horizon || at === point,
          )
          for (const at of [...lsns, LSN_MAX]) {
            for (const key of KEYS)
              expect(await readingOf(after, key, at), `${formatKey(key)} at ${at}`).toEqual(
                await readingOf(before, key, at),
              )
            expect(await existingAt(after, at)).toEqual(await existingAt(before, at))
          }
          for (let at = 0; at < end; at += STEP)
            expect(await readingOf(after, REDO_SETTINGS_KEY, at as Lsn)).toEqual(
              await readingOf(before, REDO_SETTINGS_KEY, at as Lsn),
            )
        },
      ),
      { numRuns: 80 },
    )
    expect(droppedCount).toBeGreaterThan(50)
  },
)

test('a merge of everything at the end keeps one base a page, and nothing of what was dropped', async () => {
  const page = (rel: number): Key => blockKey(1663, 5, rel, 0, 0)
  const value = (key: Key, meta: number): Step => ({ kind: 'value', key, meta, length: 20 })
  const layers = await layersOf([
    value(page(1), META_IMAGE),
    value(page(1), RECORD),
    value(page(2), META_IMAGE),
    { kind: 'freeze' },
    value(page(1), META_IMAGE),
    value(page(1), RECORD),
    { kind: 'barrier', key: barrierKey(1663, 5, 2, FORK_ALL), fromBlock: 1 },
    value(relationSizeKey(1663, 5, 2, 0), META_TOMBSTONE),
  ])
  expect(layers.map(({ frame }) => frame.valueCount)).toEqual([3, 4])
  const [whole] = await mergeAll(layers, { points: [LSN_MAX], isBottom: true }, 1 << 20)
  expect(whole?.frame).toMatchObject({ keyCount: 1, valueCount: 2, keyFirst: page(1), keyLast: page(1) })
  // Above older layers the barrier and the end of the relation still say something.
  const [upper] = await mergeAll(layers, { points: [LSN_MAX], isBottom: false }, 1 << 20)
  expect(upper?.frame.valueCount).toBe(4)
  const nothing = await mergeAll(layers.slice(1), { points: [LSN_ZERO], isBottom: true }, 1 << 20)
  expect(nothing[0]?.frame.valueCount).toBe(3)
})

test('bytes that several keys share are written once', async () => {
  const keys = Array.from({ length: 40 }, (_, block) => blockKey(1663, 5, 1, 0, block))
  const layers = await layersOf([{ kind: 'shared', keys }, { kind: 'freeze' }, { kind: 'shared', keys }])
  const sharing = await mergeAll(layers, { points: [LSN_ZERO], isBottom: true }, 1 << 20)
  const apart = await mergeAll(layers, { points: [LSN_ZERO], isBottom: true }, 1)
  expect(sharing).toHaveLength(1)
  expect(apart).toHaveLength(40)
  expect(new Set(await positionsOf(sharing[0] as LayerFile)).size).toBe(2)
})

async function positionsOf(layer: LayerFile): Promise<number[]> {
  const { first, last } = classRange(KEY_RELATION_BLOCK)
  const found: number[] = []
  for (const runs of layer.runsWithin(first, last))
    for (let run = await runs.next(); run !== undefined; run = await runs.next())
      for (let i = 0; i < run.length; i++)
        for (const value of run.valuesAt(i)) if (value instanceof FileValue) found.push(value.position)
  return found
}
