/**
 * Goal: the owner of the newest index has every layer that it lists, while the old owner of a shard merges and
 * removes layers and one or two others take the shard over, or begin to and end in the middle; and while one owner
 * adopts newer generations with layers that are not stored yet. Method: an object store whose calls take effect in every
 * order that fast-check thinks of, and fail from some call on.
 */
import { Mailbox } from '@understory/actor'
import { fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realEnv, silentLog } from '@understory/env'
import { memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { crc32c } from '@understory/postgres/wal'
import { shardPrefix } from '@understory/protocol'
import { LAYER_KIND_DELTA, layerName } from '@understory/storage'
import type { IndexPart, LayerEntry } from '@understory/storage'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { EMPTY_INDEX } from '../../test/layer-support.ts'
import { LayerUploads } from './layer-uploads.ts'
import { LocalIndex } from './local-index.ts'
import { RemoteIndex } from './remote-index.ts'
import type { ShardFiles } from './shard-files.ts'

const BYTES = Uint8Array.of(1, 2, 3)
const entry = (sequence: number, generation: number): LayerEntry => ({
  name: layerName(LAYER_KIND_DELTA, 1 as Lsn, 2 as Lsn, sequence, generation),
  kind: LAYER_KIND_DELTA,
  sizeBytes: BYTES.length,
  crc: crc32c(BYTES, 0, BYTES.length),
  lsnMin: 1 as Lsn,
  lsnMax: 2 as Lsn,
})
const INDEX: IndexPart = {
  ...EMPTY_INDEX,
  consistentLsn: 0x2000 as Lsn,
  nextSequence: 4,
  layers: [0, 1, 2, 3].map((sequence) => entry(sequence, 1)),
}

const FILES = {
  readLayer: async () => BYTES,
  writeIndex: async () => undefined,
  room: { trim: async () => undefined },
} as unknown as ShardFiles

function uploadsOf(store: ObjectStore, part: IndexPart): { index: LocalIndex; uploads: LayerUploads } {
  const index = new LocalIndex(FILES, part, new Mailbox({ name: 'index' }))
  const remote = new RemoteIndex(store, part.owner)
  const uploads = new LayerUploads(
    { env: realEnv(silentLog), files: FILES, index, remote },
    new Mailbox({ name: 'uploads' }),
  )
  return { index, uploads }
}

/** As a merge does it. */
async function merge({ index, uploads }: ReturnType<typeof uploadsOf>, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    await index.run((change) => {
      const { layers, nextSequence, generation, retiredLayers = [] } = index.current
      const [first, second, ...others] = layers
      if (first === undefined || second === undefined) return Promise.resolve()
      return change({
        layers: [entry(nextSequence, generation), ...others],
        nextSequence: nextSequence + 1,
        retiredLayers: [...retiredLayers, first.name, second.name],
      })
    })
    await uploads.upload()
  }
}

/** As the registry does it: takes the newest index over, and continues with it. */
async function take(store: ObjectStore, generation: number, rounds: number): Promise<void> {
  const taken = (await new RemoteIndex(store, INDEX.owner).takeOver(generation, (same) => same)) as IndexPart
  const uploaded = uploadsOf(store, { ...taken, generation })
  await uploaded.uploads.upload()
  await merge(uploaded, rounds)
}

/**
 * Its calls take effect one by one, in the order of the scheduler; after `callsMax` of them it does not answer any
 * more.
 */
function scheduled(store: ObjectStore, scheduler: fc.Scheduler, callsMax = Infinity): ObjectStore {
  let calls = 0
  const turn = async (): Promise<void> => {
    await scheduler.schedule(Promise.resolve())
    if (++calls > callsMax) throw fail('cancelled', 'this one is dead')
  }
  return {
    ...store,
    get: async (...args) => (await turn(), store.get(...args)),
    put: async (...args) => (await turn(), store.put(...args)),
    putIfAbsent: async (...args) => (await turn(), store.putIfAbsent(...args)),
    putIfMatch: async (...args) => (await turn(), store.putIfMatch(...args)),
    delete: async (...args) => (await turn(), store.delete(...args)),
    list: async function* (...args) {
      await turn()
      yield* store.list(...args)
    },
  }
}

test('an owner that stood still while another had the shard does not continue with its layers', async () => {
  const store = memoryObjectStore()
  const { uploads } = uploadsOf(store, INDEX)
  await uploads.upload()
  await take(store, 2, 1)
  expect(await uploads.claim(3, async () => undefined)).toBe(false)
  const part = (await new RemoteIndex(store, INDEX.owner).takeOver(4, (same) => same)) as IndexPart
  expect(part.generation).toBe(2)
  // An owner without another one in between continues.
  const other = uploadsOf(store, { ...part, generation: 4 })
  await other.uploads.upload()
  expect(await other.uploads.claim(5, async () => undefined)).toBe(true)
})

test('the newest index has all its layers, also where the shard is taken over while layers are removed', async () => {
  const ends = { taken: 0, stale: 0, removed: 0 }
  await fc.assert(
    fc.asyncProperty(
      fc.scheduler(),
      fc.integer({ min: 1, max: 3 }),
      fc.option(fc.integer({ min: 1, max: 12 }), { nil: undefined }),
      fc.integer({ min: 0, max: 1 }),
      async (scheduler, rounds, deathAfter, merges) => {
        const store = memoryObjectStore()
        const old = uploadsOf(scheduled(store, scheduler), INDEX)
        const first = old.uploads.upload()
        await scheduler.waitFor(first)
        const note = (name: 'taken' | 'stale') => () => void ends[name]++
        const all = [
          merge(old, rounds).then(() => undefined, note('stale')),
          take(scheduled(store, scheduler, deathAfter), 2, merges).then(note('taken'), () => undefined),
          take(scheduled(store, scheduler), 3, merges).then(note('taken'), () => undefined),
        ]
        await scheduler.waitFor(Promise.all(all))
        // The index that an undisturbed owner finds.
        const part = (await new RemoteIndex(store, INDEX.owner).takeOver(4, (same) => same)) as IndexPart
        const keys = new Set<string>()
        for await (const { key } of store.list(shardPrefix(INDEX.owner))) keys.add(key)
        expect(part.layers.filter(({ name }) => !keys.has(shardPrefix(INDEX.owner) + name))).toEqual([])
        if (!keys.has(shardPrefix(INDEX.owner) + entry(0, 1).name)) ends.removed++
      },
    ),
    { numRuns: 500 },
  )
  expect(Math.min(...Object.values(ends))).toBeGreaterThan(20)
})

test('the newest index has all its layers, also where its owner adopts generations between uploads and dies anywhere', async () => {
  const ends = { lived: 0, died: 0, adopted: 0 }
  const life = fc.record({
    uploadsFirst: fc.boolean(),
    adopts: fc.boolean(),
    deathAfter: fc.option(fc.integer({ min: 0, max: 16 }), { nil: undefined }),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.scheduler(),
      fc.array(life, { minLength: 2, maxLength: 5 }),
      async (scheduler, lives) => {
        const store = memoryObjectStore()
        let part = INDEX
        for (const { uploadsFirst, adopts, deathAfter } of lives) {
          const { index, uploads } = uploadsOf(scheduled(store, scheduler, deathAfter), part)
          const live = async (): Promise<void> => {
            if (uploadsFirst) await uploads.upload()
            const { layers, nextSequence, generation } = index.current
            const written = {
              layers: [...layers, entry(nextSequence, generation)],
              nextSequence: nextSequence + 1,
            }
            await index.run((change) => change(written))
            const adopt = (): Promise<void> => index.run((change) => change({ generation: generation + 1 }))
            if (adopts && (await uploads.claim(generation + 1, adopt))) ends.adopted++
            await uploads.upload()
          }
          await scheduler.waitFor(
            live().then(
              () => void ends.lived++,
              () => void ends.died++,
            ),
          )
          // The disk stays.
          part = index.current
          const remote = new RemoteIndex(store, INDEX.owner)
          const newest = await remote.newestGeneration()
          const listed = newest === undefined ? [] : (await remote.read(newest)).layers
          const keys = new Set<string>()
          for await (const { key } of store.list(shardPrefix(INDEX.owner))) keys.add(key)
          expect(listed.filter(({ name }) => !keys.has(shardPrefix(INDEX.owner) + name))).toEqual([])
        }
      },
    ),
    { numRuns: 300 },
  )
  expect(Math.min(...Object.values(ends))).toBeGreaterThan(50)
})
