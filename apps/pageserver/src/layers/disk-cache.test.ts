/**
 * Goal: the disk is a cache of the object store: layers that the store has make room, coldest first, and are read from
 * there with few requests; what the store does not have stays; a layer that is read often comes back where there is
 * room. Method: real files, a local object store whose requests are counted, layers made by hand.
 */
import { readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LSN_MAX, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realEnv, seededRng, silentLog } from '@understory/env'
import type { Disk } from '@understory/env'
import { PAGE_SIZE } from '@understory/postgres/page'
import { shardPrefix } from '@understory/protocol'
import { KeyTable, LayerMap, META_IMAGE, OpenLayer, blockKey } from '@understory/storage'
import type { Key, LayerFile, ValueRef } from '@understory/storage'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test, vi } from 'vitest'
import { EMPTY_INDEX, cacheOf, layerStoreParts } from '../../test/layer-support.ts'
import { LayerStore } from './layer-store.ts'
import { ObjectChunks } from './object-chunks.ts'

const KIB = 1024
const LAYER_PAGES = 256
const rng = seededRng(11)
const key = (layer: number, block: number): Key => blockKey(1663, 5, 1000 + layer, 0, block)

/** They do not get smaller when they are compressed. */
const randomPages = (): Uint8Array[] =>
  Array.from({ length: LAYER_PAGES }, () => Uint8Array.from({ length: PAGE_SIZE }, () => rng.below(256)))

/** Of a relation of its own. */
function layerWith(layer: number, at: Lsn, pages: readonly Uint8Array[]): OpenLayer {
  const open = new OpenLayer(new KeyTable())
  for (const [block, page] of pages.entries())
    open.putBytes(open.keys.intern(key(layer, block)), at, META_IMAGE, page)
  open.freeze()
  return open
}

async function begin({
  filesBytesMax,
  freeBytes,
}: { filesBytesMax?: number; freeBytes?: () => number } = {}) {
  const directory = await temporaryDirectory({ prefix: 'disk-cache' })
  onTestFinished(() => directory[Symbol.asyncDispose]())
  const warnings: string[] = []
  const env = realEnv({ ...silentLog, warn: (event) => warnings.push(event) })
  let nowMs = 0
  const clock = { ...env.clock, nowMs: () => nowMs }
  const disk: Disk = {
    ...env.disk,
    ...(freeBytes === undefined ? {} : { freeBytes: async () => freeBytes() }),
  }
  const parts = await layerStoreParts({
    env: { ...env, clock },
    directory: directory.path,
    disk,
    filesBytesMax,
  })
  const layers = new LayerStore(parts, EMPTY_INDEX)
  let store = layers
  onTestFinished(() => store.stop())
  const getPart = parts.store.getRange.bind(parts.store)
  const getRange = vi.spyOn(parts.store, 'getRange')
  const contents: Uint8Array[][] = []
  const files: LayerFile[] = []
  const localNames = async (): Promise<string[]> =>
    (await readdir(parts.files.directory)).filter((name) => !name.endsWith('.json')).toSorted()
  return {
    parts,
    room: parts.room,
    layers,
    warnings,
    getPart,
    getRange,
    localNames,
    files,
    nameOf: (layer: number) => layers.index.layers[layer]!.name,
    objectPath: (layer: number) =>
      join(directory.path, 'objects', shardPrefix(EMPTY_INDEX.owner), layers.index.layers[layer]!.name),
    current: () => store,
    advance: (ms: number) => (nowMs += ms),
    /** Writes the next layer, and publishes it unless it is not to be. */
    add: async (isPublished = true): Promise<void> => {
      const at = (0x2000 + 0x1000 * contents.length) as Lsn
      const pages = randomPages()
      files.push(await layers.write(layerWith(contents.length, at, pages), at))
      contents.push(pages)
      if (isPublished) await layers.uploads.upload()
    },
    expectPage: async (layer: number, block: number, file = files[layer]): Promise<void> => {
      const map = new LayerMap()
      map.push(file as LayerFile)
      const value = (await map.newest(key(layer, block), LSN_MAX)) as ValueRef
      const found = value.bytes() ?? (await value.load())
      expect(Buffer.compare(found, contents[layer]![block]!), `page ${block} of layer ${layer}`).toBe(0)
    },
    /** The same layers after a restart: nothing is in memory. */
    again: async (): Promise<LayerFile[]> => {
      await store.stop()
      store = new LayerStore({ ...parts, ...cacheOf(parts.store) }, layers.index)
      const opened = await store.openAll()
      await store.uploads.upload()
      return opened
    },
  }
}

test('over its limit the disk keeps the layers that were read last, and the others are read from the store', async () => {
  const shard = await begin({ filesBytesMax: 7 * KIB * KIB })
  for (let layer = 0; layer < 3; layer++) {
    await shard.add()
    shard.advance(1)
  }
  await shard.expectPage(0, 3)
  shard.advance(1)
  await shard.add()
  expect(await shard.localNames()).toEqual([0, 2, 3].map((layer) => shard.nameOf(layer)).toSorted())
  expect(shard.room.filesBytes).toBeLessThanOrEqual(7 * KIB * KIB)
  for (let layer = 0; layer < 4; layer++)
    for (const block of [0, 100, 255]) await shard.expectPage(layer, block)
  const [, second] = await shard.again()
  await shard.expectPage(1, 77, second)
  expect(shard.warnings).toEqual([])
})

test('a cold page costs two requests, 64 neighbours four, and readers of the same part share one', async () => {
  const shard = await begin()
  await shard.add()
  await rm(shard.layers.pathOf(shard.layers.index.layers[0]!))
  const [layer] = await shard.again()
  // Its header and its footer.
  shard.getRange.mockClear()
  await shard.expectPage(0, 128, layer)
  expect(shard.getRange.mock.calls.length).toBeLessThanOrEqual(1)
  const [other] = await shard.again()
  shard.getRange.mockClear()
  for (let block = 64; block < 128; block++) await shard.expectPage(0, block, other)
  expect(shard.getRange.mock.calls.length).toBeLessThanOrEqual(3)
  const [third] = await shard.again()
  shard.getRange.mockClear()
  await Promise.all([1, 2, 3, 4].map((block) => shard.expectPage(0, block, third)))
  expect(shard.getRange.mock.calls.length).toBeLessThanOrEqual(1)
})

test('while the store does not answer, readers of a part share its request, and wait for nothing else', async () => {
  const answer = Promise.withResolvers<void>()
  let requestsCount = 0
  const getRange = async (_key: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> => {
    requestsCount++
    await answer.promise
    return new Uint8Array(end - start)
  }
  const chunks = new ObjectChunks({ store: { getRange }, keptBytesMax: 4 * KIB * KIB })
  const all: Promise<Uint8Array>[] = []
  for (let round = 0; round < 20; round++)
    for (let part = 0; part < 50; part++)
      all.push(chunks.read('layer', 100 * KIB * KIB, part * KIB * KIB, 8 * KIB, () => undefined))
  answer.resolve()
  await Promise.all(all)
  expect(requestsCount).toBe(50)
})

test('a copy or a merge for which there can be no room leaves the files of others where they are', async () => {
  const shard = await begin({ filesBytesMax: 100 * KIB * KIB, freeBytes: () => 129 * KIB * KIB })
  for (let layer = 0; layer < 3; layer++) await shard.add()
  shard.advance(600_000)
  const names = await shard.localNames()
  for (const [purpose, bytes] of [
    ['merge', 30 * KIB * KIB],
    ['copy', 30 * KIB * KIB],
    ['copy', 200 * KIB * KIB],
  ] as const) {
    const claimed = shard.room.claim(shard.parts.files.directory, bytes, purpose, async () => undefined)
    await expect(claimed).rejects.toMatchObject({ code: 'disk_full' })
  }
  expect(await shard.localNames()).toEqual(names)
})

test('a damaged file for whose copy there is no room leaves, and the object is read', async () => {
  let freeBytes = 1e12
  const shard = await begin({ freeBytes: () => freeBytes })
  await shard.add()
  const path = shard.layers.pathOf(shard.layers.index.layers[0]!)
  const bytes = await readFile(path)
  await writeFile(path, bytes.fill(0, 1000, 2000))
  // Enough for a layer of ingest, not for what may wait.
  freeBytes = 100 * KIB * KIB
  await shard.expectPage(0, 0)
  expect(await shard.localNames()).toEqual([])
  expect(shard.room.filesBytes).toBe(0)
  expect(shard.warnings).toEqual(['damaged_layer_removed'])
})

test('a file that the disk does not remove stays in the account, and is read', async () => {
  let freeBytes = 1e12
  const shard = await begin({ freeBytes: () => freeBytes })
  await shard.add()
  const { filesBytes } = shard.room
  freeBytes = 0
  const refused = fail('disk_failed', 'the disk is in the way')
  vi.spyOn(shard.parts.files, 'removeLayer').mockRejectedValueOnce(refused)
  const claimed = shard.room.claim(shard.parts.files.directory, 1, 'ingest', async () => undefined)
  await expect(claimed).rejects.toBe(refused)
  expect(shard.room.filesBytes).toBe(filesBytes)
  await shard.expectPage(0, 0)
  expect(shard.getRange).not.toHaveBeenCalled()
})

test('reads that fail make no room for the layer', async () => {
  const shard = await begin({ filesBytesMax: 5 * KIB * KIB })
  for (let layer = 0; layer < 3; layer++) {
    await shard.add()
    shard.advance(1)
  }
  const [layer] = await shard.again()
  shard.advance(600_000)
  const claim = vi.spyOn(shard.room, 'claim')
  shard.getRange.mockRejectedValue(fail('unavailable', 'the store is away'))
  for (let block = 0; block < 64; block++)
    await expect(shard.expectPage(0, block, layer)).rejects.toMatchObject({ code: 'unavailable' })
  expect(claim).not.toHaveBeenCalled()
})

test('a stop waits for no object: reads and fetches end, and files are read as long as readers have them', async () => {
  const shard = await begin()
  await shard.add()
  await shard.add(false)
  await rm(shard.layers.pathOf(shard.layers.index.layers[0]!))
  const [first, second] = await shard.again()
  const never = new Promise<never>(() => undefined)
  shard.getRange.mockReturnValue(never)
  const get = vi.spyOn(shard.parts.store, 'get')
  get.mockImplementation((_key, options) => {
    const stopped = Promise.withResolvers<never>()
    options?.signal?.addEventListener('abort', () => stopped.reject(fail('cancelled', 'stopped')))
    return stopped.promise
  })
  const read = shard.expectPage(0, 100, first)
  const pinned = shard.current().pin([shard.layers.index.layers[0]!])
  await expect.poll(() => get.mock.calls.length).toBeGreaterThan(0)
  await Promise.all([
    expect(read).rejects.toMatchObject({ code: 'unavailable' }),
    expect(pinned).rejects.toMatchObject({ code: 'cancelled' }),
    shard.current().stop(),
  ])
  await shard.expectPage(1, 100, second)
})

test('layers that no published index lists stay, however full the disk is', async () => {
  let freeBytes = 1e12
  const shard = await begin({ freeBytes: () => freeBytes })
  await shard.add()
  await shard.add()
  await shard.add(false)
  freeBytes = 0
  const claimed = shard.room.claim(shard.parts.files.directory, 1, 'ingest', async () => undefined)
  await expect(claimed).rejects.toMatchObject({ code: 'disk_full' })
  expect(await shard.localNames()).toEqual([shard.nameOf(2)])
})

test('ingest waits for a full disk without anything to remove, and continues once there is', async () => {
  let freeBytes = 1e12
  const shard = await begin({ freeBytes: () => freeBytes })
  await shard.add(false)
  freeBytes = 0
  const written = shard.add()
  await expect.poll(() => shard.parts.stalls.reason ?? '').toContain('layer write')
  const remove = vi.spyOn(shard.parts.files, 'removeLayer')
  remove.mockImplementationOnce(async (name) => {
    freeBytes = 1e12
    await rm(join(shard.parts.files.directory, name))
  })
  await shard.layers.uploads.upload()
  await written
  expect(await shard.localNames()).toEqual([shard.nameOf(1)])
  await shard.expectPage(0, 1)
  await shard.expectPage(1, 1)
})

test('a layer that is read often has a file again where nothing warmer has to go', async () => {
  const shard = await begin({ filesBytesMax: 5 * KIB * KIB })
  for (let layer = 0; layer < 3; layer++) {
    await shard.add()
    shard.advance(1)
  }
  const [evicted] = [0, 1, 2]
  expect(await shard.localNames()).not.toContain(shard.nameOf(evicted))
  const readAll = async (laterMs: number): Promise<void> => {
    const [layer] = await shard.again()
    shard.advance(laterMs)
    for (let block = 0; block < LAYER_PAGES; block++) await shard.expectPage(evicted, block, layer)
  }
  const claim = vi.spyOn(shard.room, 'claim')
  await readAll(0)
  await expect.poll(() => claim.mock.calls.length).toBeGreaterThan(0)
  await Promise.allSettled(claim.mock.results.map(({ value }) => value as Promise<void>))
  expect(await shard.localNames()).not.toContain(shard.nameOf(evicted))
  await readAll(600_000)
  await expect.poll(() => shard.localNames()).toContain(shard.nameOf(evicted))
  expect(shard.room.filesBytes).toBeLessThanOrEqual(5 * KIB * KIB)
})

test('a part of an object that came damaged is read again; one that is damaged there is named', async () => {
  const shard = await begin()
  await shard.add()
  await rm(shard.layers.pathOf(shard.layers.index.layers[0]!))
  const [layer] = await shard.again()
  shard.getRange.mockImplementationOnce(async (...args) => (await shard.getPart(...args)).fill(0))
  await shard.expectPage(0, 0, layer)
  const path = shard.objectPath(0)
  const bytes = await readFile(path)
  bytes[1000] = bytes[1000]! ^ 1
  await writeFile(path, bytes)
  const [other] = await shard.again()
  await expect(shard.expectPage(0, 0, other)).rejects.toMatchObject({
    code: 'bad_file',
    message: expect.stringContaining(`${shardPrefix(EMPTY_INDEX.owner)}${shard.nameOf(0)}`),
  })
  await shard.expectPage(0, 200, other)
  await rm(path)
  const third = shard.again()
  await expect(third).rejects.toMatchObject({
    code: 'bad_file',
    message: expect.stringContaining('is missing'),
  })
})

test('a store that does not answer fails the read alone, and the next one succeeds', async () => {
  const shard = await begin()
  await shard.add()
  await rm(shard.layers.pathOf(shard.layers.index.layers[0]!))
  const [layer] = await shard.again()
  shard.getRange.mockRejectedValueOnce(fail('unavailable', 'the store is away'))
  await expect(shard.expectPage(0, 0, layer)).rejects.toMatchObject({ code: 'unavailable' })
  await shard.expectPage(0, 0, layer)
})
