// Goal: layers that the disk refuses are tried again and never skipped, whatever happens after; damaged ones are
// fetched again. Method: real files, a disk that refuses some of them as a full one does, bits that are flipped.
import { readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { LSN_MAX, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realEnv, silentLog } from '@understory/env'
import type { Disk } from '@understory/env'
import { shardPrefix } from '@understory/protocol'
import {
  KeyTable,
  LAYER_KIND_DELTA,
  LayerMap,
  META_IMAGE,
  OpenLayer,
  smallKey,
  writeOpenLayer,
} from '@understory/storage'
import type { LayerEntry, LayerFile, ValueRef } from '@understory/storage'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test, vi } from 'vitest'
import { EMPTY_INDEX, cacheOf, layerStoreParts } from '../../test/layer-support.ts'
import { LayerStore } from './layer-store.ts'
import { RemoteIndex } from './remote-index.ts'

const VALUE = Uint8Array.of(1)

function frozenLayer(at: Lsn): OpenLayer {
  const layer = new OpenLayer(new KeyTable())
  layer.putBytes(layer.keys.intern(smallKey(7, 1663, 5, 0)), at, META_IMAGE, VALUE)
  layer.freeze()
  return layer
}

/** Files and a store over a disk that refuses what `refusal` says. */
async function open(refusal: (path: string) => Error | undefined): Promise<LayerStore> {
  const directory = await temporaryDirectory()
  onTestFinished(() => directory[Symbol.asyncDispose]())
  const env = realEnv(silentLog)
  const disk: Disk = {
    ...env.disk,
    durableReplace: async (path, bytes) => {
      const error = refusal(path)
      if (error !== undefined) throw error
      await env.disk.durableReplace(path, bytes)
    },
  }
  const parts = await layerStoreParts({ env, directory: directory.path, disk })
  return new LayerStore(parts, EMPTY_INDEX)
}

test.each([
  ['disk_full', 'a layer'],
  ['disk_full', 'an index'],
  ['disk_failed', 'a layer'],
  ['disk_failed', 'an index'],
] as const)(
  'while the disk says %s of %s no later layer is listed, and once it does not all are, in order',
  async (code, what) => {
    let isFull = false
    let refusals = 0
    const layers = await open((path) => {
      if (!isFull || path.endsWith('index.json') !== (what === 'an index')) return undefined
      refusals++
      return fail(code, 'the disk is in the way')
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
    await layers.uploads.upload()
    expect(layers.uploads.remoteConsistentLsn).toBe(0x2000)
    isFull = false
    await Promise.all(later)
    expect(layers.index).toMatchObject({
      consistentLsn: 0x5000,
      layers: [{ lsnMax: 0x2000 }, { lsnMax: 0x3000 }, { lsnMax: 0x4000 }],
    })
  },
)

test('after a layer that is not written for good no later one is listed', async () => {
  const damage = fail('bad_file', 'damaged')
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

/** Two layers, one of them with a block of its own, on the disk and in the object store. */
async function withTwoLayers() {
  const directory = await temporaryDirectory()
  onTestFinished(() => directory[Symbol.asyncDispose]())
  const warnings: string[] = []
  const env = realEnv({ ...silentLog, warn: (event) => warnings.push(event) })
  const parts = await layerStoreParts({ env, directory: directory.path })
  const { store, files } = parts
  const layers = new LayerStore(parts, EMPTY_INDEX)
  for (const at of [0x2000, 0x3000] as Lsn[]) await layers.write(frozenLayer(at), at)
  const [first] = layers.index.layers as [LayerEntry]
  const prefix = shardPrefix(EMPTY_INDEX.owner)
  return {
    layers,
    remote: new RemoteIndex(store, EMPTY_INDEX.owner),
    store,
    files,
    warnings,
    again: () => new LayerStore({ ...parts, ...cacheOf(store) }, layers.index),
    /** Flips a bit of the first layer. */
    damage: async (where: 'local' | 'objects', offset: number): Promise<void> => {
      const path = join(directory.path, where, prefix, first.name)
      const bytes = await readFile(path)
      const at = offset < 0 ? bytes.length + offset : offset
      bytes[at] = (bytes[at] as number) ^ 0x10
      await writeFile(path, bytes)
    },
    removeLocal: () => rm(files.layerPath(first.name)),
  }
}
/** Within the footer, and behind the header. */
const [IN_FOOTER, IN_BLOCK] = [-40, 180]

/** The value that `frozenLayer` puts. */
async function valueOf(layer: LayerFile | undefined): Promise<number[]> {
  const map = new LayerMap()
  map.push(layer as LayerFile)
  const value = await map.newest(smallKey(7, 1663, 5, 0), LSN_MAX)
  return [...(await (value as ValueRef).load())]
}

test('a damaged local layer whose object is whole is fetched again, when it is opened and when it is read', async () => {
  const { layers, again, damage, warnings } = await withTwoLayers()
  await layers.uploads.upload()
  await damage('local', IN_FOOTER)
  const [first] = await again().openAll()
  expect(warnings).toEqual(['layer_fetched_again'])
  await damage('local', IN_BLOCK)
  // It is fetched once only: a disk that damages it again is broken.
  await expect(valueOf(first)).rejects.toMatchObject({ code: 'bad_file' })
  const [second] = await again().openAll()
  expect(await valueOf(second)).toEqual([...VALUE])
  expect(warnings).toHaveLength(2)
})

test('a layer without a file is read from the object store, also where the file is lost once it is open', async () => {
  const { layers, again, removeLocal, warnings } = await withTwoLayers()
  await layers.uploads.upload()
  const [open] = await again().openAll()
  await removeLocal()
  expect(await valueOf(open)).toEqual([...VALUE])
  const [first] = await again().openAll()
  expect(await valueOf(first)).toEqual([...VALUE])
  expect(warnings).toEqual([])
})

test('a damaged layer is fetched again later where the object store does not answer at first', async () => {
  const { layers, store, again, damage, warnings } = await withTwoLayers()
  await layers.uploads.upload()
  const [first] = await again().openAll()
  await damage('local', IN_BLOCK)
  vi.spyOn(store, 'get').mockRejectedValueOnce(fail('unavailable', 'the store is away'))
  await expect(valueOf(first)).rejects.toMatchObject({ code: 'unavailable' })
  expect(await valueOf(first)).toEqual([...VALUE])
  expect(warnings).toEqual(['layer_fetched_again'])
})

test('a layer that is damaged in the object store, too, is reported with both', async () => {
  const { layers, again, damage } = await withTwoLayers()
  await layers.uploads.upload()
  await damage('objects', IN_BLOCK)
  await damage('local', IN_FOOTER)
  await expect(again().openAll()).rejects.toThrow(/layer .* is damaged: footer at byte/)
  await expect(again().openAll()).rejects.toMatchObject({
    code: 'bad_file',
    detail: expect.stringMatching(/layer object .* is damaged/),
  })
})

test('a local layer that is damaged before it is uploaded does not become an object', async () => {
  const { layers, remote, damage } = await withTwoLayers()
  await damage('local', IN_BLOCK)
  await expect(layers.uploads.uploadWithRetries()).rejects.toThrow(
    /is damaged before it is in the object store/,
  )
  expect(await remote.newestGeneration()).toBeUndefined()
})

test('a local layer that is gone before it is uploaded ends the uploads as a damaged one does', async () => {
  const { layers, remote, removeLocal } = await withTwoLayers()
  await removeLocal()
  await expect(layers.uploads.uploadWithRetries()).rejects.toThrow(
    /is missing before it is in the object store/,
  )
  expect(await remote.newestGeneration()).toBeUndefined()
})

test('a stop ends an upload between two layers, however many wait', async () => {
  const { layers, store } = await withTwoLayers()
  const put = vi.spyOn(store, 'put')
  put.mockImplementationOnce(async () => {
    layers.uploads.cancel()
    return '1'
  })
  await expect(layers.uploads.upload()).rejects.toMatchObject({ code: 'cancelled' })
  expect(put).toHaveBeenCalledTimes(1)
})

test('a layer that is merged away during an upload stays until that upload has ended', async () => {
  const { layers, store, files } = await withTwoLayers()
  const entries = layers.index.layers
  const [putBegins, putEnds] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const put = store.put.bind(store)
  vi.spyOn(store, 'put').mockImplementationOnce(async (...args) => {
    putBegins.resolve()
    await putEnds.promise
    return put(...args)
  })
  const uploaded = layers.uploads.upload()
  await putBegins.promise
  const pause = async (): Promise<void> => undefined
  const written = await writeOpenLayer(
    frozenLayer(0x3000 as Lsn),
    EMPTY_INDEX.owner,
    LAYER_KIND_DELTA,
    1,
    pause,
  )
  const merged = await layers.writeMerged(written, { lsnMin: 0x2000 as Lsn, lsnMax: 0x3000 as Lsn })
  const names = entries.map(({ name }) => name)
  layers.uploads.hold(names)
  await layers.replace(entries, [merged.entry], 0x2000 as Lsn)
  const retired = layers.uploads.retire(names, Promise.resolve(), () => layers.removeFiles(entries))
  putEnds.resolve()
  await uploaded
  await retired
  expect(await Promise.all(names.map((name) => files.layerSize(name)))).toEqual([undefined, undefined])
  await layers.uploads.upload()
  expect(layers.index).toMatchObject({ layers: [merged.entry], retiredLayers: [], readableLsn: 0x2000 })
  for (const name of names)
    await expect(store.head(shardPrefix(EMPTY_INDEX.owner) + name)).resolves.toBeUndefined()
})

test('an upload that waits while a newer generation is adopted publishes under that one', async () => {
  const { layers, remote } = await withTwoLayers()
  await layers.uploads.upload()
  const adopted = layers.uploads.claim(2, () => layers.changeIndex({ generation: 2 }))
  const uploaded = layers.uploads.upload()
  expect(await adopted).toBe(true)
  await uploaded
  expect(await remote.newestGeneration()).toBe(2)
})

test.each(['at once', 'after a crash'])(
  'a layer that is not uploaded yet when a newer generation is adopted is uploaded before it is listed, %s',
  async (when) => {
    const directory = await temporaryDirectory()
    onTestFinished(() => directory[Symbol.asyncDispose]())
    const parts = await layerStoreParts({
      env: realEnv(silentLog),
      directory: directory.path,
      filesBytesMax: 1,
    })
    const first = new LayerStore(parts, EMPTY_INDEX)
    await first.write(frozenLayer(0x2000 as Lsn), 0x2000 as Lsn)
    await first.uploads.upload()
    await first.stop()
    // As after a restart while the object store was away.
    let layers = new LayerStore({ ...parts, ...cacheOf(parts.store) }, first.index)
    await layers.openAll()
    await layers.write(frozenLayer(0x3000 as Lsn), 0x3000 as Lsn)
    expect(await layers.uploads.claim(2, () => layers.changeIndex({ generation: 2 }))).toBe(true)
    if (when === 'after a crash') {
      await layers.stop()
      layers = new LayerStore({ ...parts, ...cacheOf(parts.store) }, (await parts.files.readIndex())!)
      await layers.openAll()
    }
    await layers.uploads.upload()
    await layers.stop()
    for (const { name } of layers.index.layers)
      expect(await parts.store.head(shardPrefix(EMPTY_INDEX.owner) + name), name).toBeDefined()
    const again = new LayerStore({ ...parts, ...cacheOf(parts.store) }, layers.index)
    expect(await again.openAll()).toHaveLength(2)
    await again.stop()
  },
)

test('a disk that refuses an index for a while keeps one file of each layer', async () => {
  let refusalsLeft = 0
  const layers = await open((path) =>
    path.endsWith('index.json') && refusalsLeft-- > 0
      ? fail('disk_failed', 'the disk is in the way')
      : undefined,
  )
  refusalsLeft = 3
  await layers.write(frozenLayer(0x2000 as Lsn), 0x2000 as Lsn)
  expect(refusalsLeft).toBeLessThanOrEqual(0)
  const files = await readdir(dirname(layers.pathOf(layers.index.layers[0]!)))
  expect(files.filter((name) => !name.endsWith('.json'))).toEqual([layers.index.layers[0]!.name])
})

test('files older than what is published are not published over it', async () => {
  await using directory = await temporaryDirectory()
  const env = realEnv(silentLog)
  const parts = await layerStoreParts({ env, directory: directory.path })
  const layers = new LayerStore(parts, EMPTY_INDEX)
  await layers.write(frozenLayer(0x2000 as Lsn), 0x2000 as Lsn)
  await layers.uploads.upload()
  await expect(new LayerStore(parts, EMPTY_INDEX).uploads.upload()).rejects.toThrow(/only up to 0\/1000/i)
  expect((await new RemoteIndex(parts.store, EMPTY_INDEX.owner).read(1)).layers).toHaveLength(1)
})
