// Goal: what another node has published under a newer generation, or this one before its disk went back in time, is
// never replaced by an older index.
// Method: a shard without layers; the published indexes are put in place by hand.
import { cp, mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fail } from '@understory/base'
import type { Lsn, ShardIdentity, TimelineId } from '@understory/base'
import { realDisk, realEnv, silentLog } from '@understory/env'
import type { Disk } from '@understory/env'
import { shardPrefix } from '@understory/protocol'
import { temporaryDirectory } from '@understory/testcontainers'
import {
  KeyTable,
  LAYER_KIND_DELTA,
  META_IMAGE,
  OpenLayer,
  encodeIndexPart,
  indexPartName,
  layerName,
  smallKey,
} from '@understory/storage'
import type { IndexPart, LayerEntry } from '@understory/storage'
import { expect, test, vi } from 'vitest'
import { EMPTY_INDEX, layerStoreParts } from '../../test/layer-support.ts'
import { LIMITS, TENANT, TIMELINE, attach, openBench } from '../../test/support.ts'
import { LayerStore } from '../layers/layer-store.ts'
import { RemoteIndex } from '../layers/remote-index.ts'
import type { AttachRequest } from './starting-index.ts'

const LAYOUT = { count: 1, stripeBlocks: 8 }
const SHARD: ShardIdentity = { ...LAYOUT, number: 0 }
const OWNER = { tenantId: TENANT, timelineId: TIMELINE, shard: SHARD }
const IMAGES = { enabled: false, thresholdRecords: 32 }

const publishedAt = (index: IndexPart, generation: number, at: number): IndexPart => ({
  ...index,
  generation,
  startLsn: 0x1000 as Lsn,
  readableLsn: 0x1000 as Lsn,
  consistentLsn: at as Lsn,
})

test('a shard that comes back takes over what another node has published since', async () => {
  await using directory = await temporaryDirectory()
  await using bench = await openBench(directory.path)
  const [first] = await attach(bench, LAYOUT, 1, true, IMAGES)
  await new RemoteIndex(bench.store, OWNER).publish(publishedAt(first!.index, 2, 0x2000))
  const [again] = await attach(bench, LAYOUT, 3, false, IMAGES)
  expect(again!.ingestedLsn).toBe(0x2000)
  const published = await new RemoteIndex(bench.store, OWNER).read(3)
  expect(published.consistentLsn).toBe(0x2000)
})

test('local files that are older than what their own generation has published are of the past', async () => {
  await using directory = await temporaryDirectory()
  {
    await using bench = await openBench(directory.path)
    const [shard] = await attach(bench, LAYOUT, 1, true, IMAGES)
    await new RemoteIndex(bench.store, OWNER).publish(publishedAt(shard!.index, 1, 0x2000))
    await shard!.stop()
  }
  await using bench = await openBench(directory.path)
  const [shard] = await attach(bench, LAYOUT, 2, false, IMAGES)
  expect(shard!.ingestedLsn).toBe(0x2000)
})

test('what a crash left of replaced files and layers goes when the shard is opened or attached', async () => {
  await using directory = await temporaryDirectory()
  const path = join(directory.path, 'local', shardPrefix(OWNER))
  const leave = async (): Promise<void> => {
    for (const name of ['index.json.new-1-0', 'attach.json.new-0123456789abcdef', 'layer.new-1-7'])
      await writeFile(join(path, name), 'left by a crash')
  }
  {
    await using bench = await openBench(directory.path)
    await attach(bench, LAYOUT, 1, true, IMAGES)
  }
  await leave()
  {
    await using bench = await openBench(directory.path)
    expect(bench.registry.all).toHaveLength(1)
    expect((await readdir(path)).sort()).toEqual(['attach.json', 'index.json'])
  }
  await leave()
  await rm(join(path, 'attach.json'))
  await using bench = await openBench(directory.path)
  expect(bench.registry.all).toHaveLength(0)
  await attach(bench, LAYOUT, 1, true, IMAGES)
  expect((await readdir(path)).sort()).toEqual(['attach.json', 'index.json'])
})

test('a shard that is loading is not taken for a stopped one: callers are asked to retry', async () => {
  await using directory = await temporaryDirectory()
  const layer = layerName(LAYER_KIND_DELTA, 0x1000 as Lsn, 0x2000 as Lsn, 0, 1)
  const opening = Promise.withResolvers<void>()
  const disk: Disk = {
    ...realDisk,
    stat: async (path) => {
      if (path.endsWith(layer)) await opening.promise
      return realDisk.stat(path)
    },
  }
  await using bench = await openBench(directory.path, LIMITS, { disk })
  // Before the bench is stopped, which waits for the load.
  using opened = new DisposableStack()
  opened.defer(() => opening.resolve())
  const [first] = await attach(bench, LAYOUT, 1, true, IMAGES)
  const entry = {
    name: layer,
    kind: LAYER_KIND_DELTA,
    sizeBytes: 1000,
    crc: 0,
    lsnMin: 0x1000,
    lsnMax: 0x2000,
  }
  const index = { ...publishedAt(first!.index, 2, 0x2000), nextSequence: 1, layers: [entry as LayerEntry] }
  await new RemoteIndex(bench.store, OWNER).publish(index)
  const attached = attach(bench, LAYOUT, 3, false, IMAGES)
  const shard = await vi.waitFor(() => {
    const found = bench.registry.get(TENANT, TIMELINE, SHARD)
    expect(found.isLoading).toBe(true)
    return found
  })
  expect(shard.failure).toBeUndefined()
  const isLoading = { code: 'unavailable', message: expect.stringContaining('is loading its layers') }
  await expect(shard.waitFor(0x2000 as Lsn, 5)).rejects.toMatchObject(isLoading)
  await expect(shard.flush()).rejects.toMatchObject(isLoading)
  await expect(shard.setImageGeneration(IMAGES, 1)).rejects.toMatchObject(isLoading)
  expect(shard.index.consistentLsn).toBe(0x2000)
  opening.resolve()
  await attached
  // There is no such object, so that it has stopped now, and says why.
  expect(shard.isLoading).toBe(false)
  await expect(shard.waitFor(0x2000 as Lsn, 5)).rejects.toMatchObject({
    code: 'precondition',
    message: expect.stringMatching(/has stopped: layer object .* is missing/),
  })
})

test('while the store does not answer, shards without files wait for it, keep no other waiting, and can be detached', async () => {
  await using directory = await temporaryDirectory()
  const parts = await layerStoreParts({ env: realEnv(silentLog), directory: directory.path })
  const layers = new LayerStore(parts, EMPTY_INDEX)
  const open = new OpenLayer(new KeyTable())
  open.putBytes(open.keys.intern(smallKey(7, 1663, 5, 0)), 0x2000 as Lsn, META_IMAGE, Uint8Array.of(1))
  open.freeze()
  await layers.write(open, 0x2000 as Lsn)
  await layers.uploads.upload()
  await parts.files.writeAttach({ ...EMPTY_INDEX.owner, generation: 1, safekeepers: [] })
  await layers.stop()
  const files = parts.files.directory
  const waiting = Array.from({ length: 9 }, (_, i) => String(i).repeat(32) as TimelineId)
  for (const timelineId of waiting) {
    const owner = { ...EMPTY_INDEX.owner, timelineId }
    const folder = join(directory.path, 'local', shardPrefix(owner))
    await mkdir(folder, { recursive: true })
    for (const name of ['index.json', 'attach.json']) {
      const text = await readFile(join(files, name), 'utf8')
      await writeFile(join(folder, name), text.replaceAll(EMPTY_INDEX.owner.timelineId, timelineId))
    }
  }
  let isAway = true
  const bytes = (): Promise<never> =>
    Promise.reject(isAway ? fail('denied', 'the credentials are old') : fail('not_found', 'no object'))
  await using bench = await openBench(directory.path, LIMITS, { getRange: bytes, isLoaded: false })
  const { registry } = bench
  const of = (timelineId: string) => registry.ofTimeline(TENANT, timelineId)[0]!
  expect(registry.all).toHaveLength(10)
  await expect.poll(() => of(EMPTY_INDEX.owner.timelineId).isReadable).toBe(true)
  await expect.poll(() => waiting.filter((id) => of(id).stall?.includes('layer read')).length).toBe(9)
  for (const id of waiting) expect(of(id)).toMatchObject({ isLoading: true, failure: undefined })
  await registry.detach(TENANT, waiting[0]!, EMPTY_INDEX.owner.shard)
  expect(registry.all).toHaveLength(9)
  // Whether the objects are there is known once the store answers.
  isAway = false
  await registry.loaded()
  expect(waiting.slice(1).map((id) => of(id).failure)).toEqual(
    waiting.slice(1).map(() => expect.stringContaining('is missing')),
  )
})

test('a detached shard leaves nothing on the disk, however often it is asked for and whatever a crash left', async () => {
  await using directory = await temporaryDirectory()
  await using bench = await openBench(directory.path)
  await attach(bench, LAYOUT, 1, true, IMAGES)
  const path = join(directory.path, 'local', shardPrefix(OWNER))
  await expect(readdir(path)).resolves.toContain('attach.json')
  await bench.registry.detach(TENANT, TIMELINE, SHARD)
  await expect(readdir(join(directory.path, 'local', 'tenants'))).resolves.toEqual([])
  await mkdir(path, { recursive: true })
  await writeFile(join(path, 'a-layer'), '')
  await bench.registry.detach(TENANT, TIMELINE, SHARD)
  await expect(readdir(join(directory.path, 'local', 'tenants'))).resolves.toEqual([])
})

test("another shard's index or folder under a wrong name is refused, and the living shard stays", async () => {
  await using directory = await temporaryDirectory()
  const other = { ...OWNER, timelineId: '9'.repeat(32) as typeof TIMELINE }
  let index: IndexPart | undefined
  const requestFor = (owner: typeof OWNER, { postgres }: IndexPart): AttachRequest => ({
    owner,
    generation: 2,
    create: false,
    safekeepers: [],
    postgres,
    imageGeneration: IMAGES,
  })
  const local = (owner: typeof OWNER): string => join(directory.path, 'local', shardPrefix(owner))
  {
    await using bench = await openBench(directory.path)
    const [living] = await attach(bench, LAYOUT, 1, true, IMAGES)
    index = living!.index
    // As a restore into the wrong prefix leaves it.
    const key = `${shardPrefix(other)}${indexPartName(1)}`
    await bench.store.put(key, encodeIndexPart(publishedAt(living!.index, 1, 0x2000)))
    await expect(bench.registry.attach(requestFor(other, living!.index))).rejects.toMatchObject({
      code: 'bad_file',
      message: expect.stringContaining(`timeline ${TIMELINE}`),
    })
    expect(bench.registry.get(TENANT, TIMELINE, SHARD)).toBe(living)
    expect(bench.registry.all).toEqual([living])
  }
  await cp(local(OWNER), local(other), { recursive: true })
  await using bench = await openBench(directory.path)
  expect(bench.registry.all).toHaveLength(1)
  expect(bench.registry.get(TENANT, TIMELINE, SHARD).owner.timelineId).toBe(TIMELINE)
  // Attached under its own name, with the index of the other still in the folder.
  await bench.store.delete([`${shardPrefix(other)}${indexPartName(1)}`])
  await expect(bench.registry.attach(requestFor(other, index!))).rejects.toMatchObject({ code: 'bad_file' })
  expect(bench.registry.all).toHaveLength(1)
})

const OTHER_TIMELINE = { ...OWNER, timelineId: 'c'.repeat(32) as typeof TIMELINE }
const requestToCreate = (owner: typeof OWNER): AttachRequest => ({
  owner,
  generation: 1,
  create: true,
  safekeepers: [],
  postgres: { major: 17, systemId: 1n, pgTimelineId: 1, walSegmentBytes: 16 << 20 },
  imageGeneration: IMAGES,
})

test('an import whose sender says nothing is ended by the detaching of its shard, and keeps no other shard waiting', async () => {
  await using directory = await temporaryDirectory()
  await using bench = await openBench(directory.path)
  const [shard] = await attach(bench, LAYOUT, 1, true, IMAGES)
  const asked = Promise.withResolvers<void>()
  const silence = Promise.withResolvers<never[]>()
  async function* silent(): AsyncGenerator<never[], void, void> {
    asked.resolve()
    yield await silence.promise
  }
  const imported = shard!.import(0x1000 as Lsn, silent(), () => undefined)
  const refused = expect(imported).rejects.toMatchObject({
    code: 'unavailable',
    message: 'shard 0 was detached during its import',
  })
  await asked.promise
  await bench.registry.attach(requestToCreate(OTHER_TIMELINE))
  await bench.registry.detach(TENANT, TIMELINE, SHARD)
  await refused
  expect(bench.registry.all.map(({ owner }) => owner.timelineId)).toEqual([OTHER_TIMELINE.timelineId])
  silence.resolve([])
})

test('a shard that is loading keeps no other shard from being attached or detached', async () => {
  await using directory = await temporaryDirectory()
  const layer = layerName(LAYER_KIND_DELTA, 0x1000 as Lsn, 0x2000 as Lsn, 0, 1)
  const opening = Promise.withResolvers<void>()
  const disk: Disk = {
    ...realDisk,
    stat: async (path) => {
      if (path.endsWith(layer)) await opening.promise
      return realDisk.stat(path)
    },
  }
  await using bench = await openBench(directory.path, LIMITS, { disk })
  const [first] = await attach(bench, LAYOUT, 1, true, IMAGES)
  const entry = {
    name: layer,
    kind: LAYER_KIND_DELTA,
    sizeBytes: 1000,
    crc: 0,
    lsnMin: 0x1000,
    lsnMax: 0x2000,
  }
  const index = { ...publishedAt(first!.index, 2, 0x2000), nextSequence: 1, layers: [entry as LayerEntry] }
  await new RemoteIndex(bench.store, OWNER).publish(index)
  const attached = attach(bench, LAYOUT, 3, false, IMAGES)
  await vi.waitFor(() => expect(bench.registry.get(TENANT, TIMELINE, SHARD).isLoading).toBe(true))
  await bench.registry.attach(requestToCreate(OTHER_TIMELINE))
  await bench.registry.detach(TENANT, OTHER_TIMELINE.timelineId, SHARD)
  expect(bench.registry.all.map(({ isLoading }) => isLoading)).toEqual([true])
  opening.resolve()
  await attached
})

test('a shard that is attached while the last other one of its timeline is detached keeps its files', async () => {
  await using directory = await temporaryDirectory()
  const [one, two] = [0, 1].map((number) => ({ ...OWNER, shard: { number, count: 2, stripeBlocks: 8 } }))
  const path = join(directory.path, 'local', shardPrefix(two!))
  let attached: Promise<unknown> | undefined
  const disk: Disk = {
    ...realDisk,
    list: async (folder) => {
      const entries = await realDisk.list(folder)
      if (folder !== join(path, '..') || entries.length > 0) return entries
      attached = bench.registry.attach(requestToCreate(two!))
      // Far more than the attach needs to make its folder, if nothing is in its way.
      for (let looks = 0; looks < 200; looks++) await stat(directory.path)
      return entries
    },
  }
  await using bench = await openBench(directory.path, LIMITS, { disk })
  await bench.registry.attach(requestToCreate(one!))
  await bench.registry.detach(TENANT, TIMELINE, one!.shard)
  expect(attached).toBeDefined()
  await attached
  expect((await readdir(path)).sort()).toEqual(['attach.json', 'index.json'])
})
