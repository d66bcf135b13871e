/**
 * Goal: a full disk, threads that refuse jobs and threads that die stall a shard and end nothing: once it is over the
 * shard has what one without trouble has. Method: the same WAL of a real Postgres into a shard without trouble, the
 * oracle, and into one with it; a real tmpfs that is made larger later (needs root and mount), a pool that refuses,
 * real threads that exit.
 */
import { spawnSync } from 'node:child_process'
import { cp, mkdir, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Lsn } from '@understory/base'
import { describeError, fail } from '@understory/base'
import { inlineWorkers, realWorkers } from '@understory/env'
import type { Workers } from '@understory/env'
import { startPostgres, temporaryDirectory } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { streamFiles } from '../src/serve/file-stream.ts'
import type { ImageJobs } from '../src/images/image-protocol.ts'
import { imageHandlers } from '../src/images/image-worker.ts'
import type { Shard } from '../src/shard/shard.ts'
import { LIMITS, attach, feedWal, importCluster, openBench } from './support.ts'
import type { Bench } from './support.ts'

const LAYOUT = { count: 1, stripeBlocks: 4 }
const SMALL_LAYERS = { ...LIMITS, openLayerBytesMax: 512 * 1024 }
const IMAGES_AT_4 = { enabled: true, thresholdRecords: 4 }
const MIB = 1024 * 1024

const resources = new AsyncDisposableStack()
afterAll(() => resources.disposeAsync())

/** A stopped server's files from before some work, its WAL of that work, and what a shard has of both. */
let backup: string
let root: string
let endLsn: Lsn
let wanted: ReadonlyMap<string, string>

beforeAll(async () => {
  const settings = {
    full_page_writes: false,
    autovacuum: false,
    checkpoint_timeout: '1h',
    wal_keep_size: '1GB',
  }
  const server = resources.use(await startPostgres({ major: 17, started: false, settings }))
  const directory = resources.use(await temporaryDirectory({ prefix: 'to' }))
  root = server.dataDirectory
  backup = join(directory.path, 'backup')
  await cp(root, backup, { recursive: true })
  await server.start()
  const client = await server.connect()
  await client.query("create table t as select i, 0 as n, repeat('x', 50) from generate_series(1, 30000) i")
  for (let i = 0; i < 8; i++) await client.query('update t set n = n + 1 where i % 40 = $1', [i])
  await server.stop()
  const bench = resources.use(await openBench(join(directory.path, 'oracle'), SMALL_LAYERS))
  const shard = await begin(bench)
  endLsn = await feedWal([shard], root)
  wanted = await contentOf(shard, endLsn)
  expect(shard.index.nextSequence).toBeGreaterThan(8)
  expect(shard.counts.generatedImagesCount).toBeGreaterThan(100)
  expect(bench.warnings).toEqual([])
})

async function begin(bench: Bench): Promise<Shard> {
  const [shard] = await attach(bench, LAYOUT, 1, true, IMAGES_AT_4)
  await importCluster([shard!], backup, 17)
  return shard!
}

async function contentOf(shard: Shard, at: Lsn): Promise<Map<string, string>> {
  const content = new Map<string, string>()
  for await (const { piece } of streamFiles(shard.reader, at)) {
    if (piece?.$case !== 'file') continue
    const { path, offset, data } = piece.value
    content.set(`${path} ${offset}`, Buffer.from(data).toString('base64'))
  }
  return content
}

async function expectWhole(bench: Bench, shard: Shard): Promise<void> {
  const found = await contentOf(shard, endLsn)
  expect([...wanted.keys()].filter((key) => found.get(key) !== wanted.get(key))).toEqual([])
  expect(found.size).toBe(wanted.size)
  expect(shard.failure).toBeUndefined()
  // A job may be waiting to be asked again.
  await expect.poll(() => shard.flush().catch(describeError)).toBe(endLsn)
  expect(shard.stall).toBeUndefined()
  expect(bench.errors).toEqual([])
}

test('a full disk stalls ingest, and documents and reads continue; with more room all of it is there', async ({
  skip,
}) => {
  await using directory = await temporaryDirectory({ prefix: 'full' })
  const dataDirectory = join(directory.path, 'local')
  await mkdir(dataDirectory)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256m', 'tmpfs', dataDirectory])
  if (mounted.status !== 0) skip('mount of a tmpfs is not permitted here')
  using unmounting = new DisposableStack()
  unmounting.defer(() => void spawnSync('umount', ['-l', dataDirectory]))
  const resize = (bytes: number): void =>
    expect(spawnSync('mount', ['-o', `remount,size=${bytes}`, dataDirectory]).status).toBe(0)
  await using bench = await openBench(directory.path, SMALL_LAYERS, { dataDirectory })
  const shard = await begin(bench)
  await shard.flush()
  // From now on the store takes no layers, and only what it has makes room.
  const put = vi.spyOn(bench.store, 'put').mockImplementation(async () => {
    throw fail('unavailable', 'the store is away')
  })
  const { blocks, bfree, bsize } = await statfs(dataDirectory)
  // Room for a few layers beside what is kept for documents, once those of the import are gone.
  resize((blocks - bfree) * bsize - shard.counts.layerBytes + 17 * MIB)

  const fed = feedWal([shard], root)
  await vi.waitFor(() => expect(shard.stall).toContain('layer write: could not write a layer'), 20_000)
  const { ingestedLsn } = shard
  expect(ingestedLsn).toBeLessThan(endLsn)
  // Read while it is full, and written: a setting is durable in the index.
  await shard.waitFor(ingestedLsn, 5)
  expect((await contentOf(shard, ingestedLsn)).size).toBeGreaterThan(500)
  const isAway = { code: 'unavailable', message: 'the store is away' }
  await expect(shard.setImageGeneration({ enabled: true, thresholdRecords: 5 }, 1)).rejects.toMatchObject(
    isAway,
  )
  await expect(shard.setImageGeneration(IMAGES_AT_4, 2)).rejects.toMatchObject(isAway)
  expect(shard.index.imageGenerationRevision).toBe(2)
  expect(shard.failure).toBeUndefined()

  put.mockRestore()
  resize(256 * MIB)
  await fed
  await expectWhole(bench, shard)
  expect(bench.warnings.filter((line) => line.startsWith('shard_stalled'))).toHaveLength(1)
})

test('a disk for a fifth of the layers is enough: the others are read from the object store', async () => {
  await using directory = await temporaryDirectory({ prefix: 'small' })
  const layerFilesBytesMax = MIB
  const limits = {
    ...SMALL_LAYERS,
    layerFilesBytesMax,
    compaction: { ...SMALL_LAYERS.compaction, mergedLayerBytesMax: 512 * 1024 },
  }
  await using bench = await openBench(directory.path, limits)
  const shard = await begin(bench)
  await feedWal([shard], root)
  await expectWhole(bench, shard)
  expect(shard.counts.layerBytes).toBeGreaterThan(5 * MIB)
  await expect.poll(() => bench.registry.layerFilesBytes).toBeLessThanOrEqual(layerFilesBytesMax)
  await bench.registry.stop()
  await using later = await openBench(directory.path, limits)
  const [again] = await attach(later, LAYOUT, 2, false, IMAGES_AT_4)
  await expectWhole(later, again!)
  expect(later.warnings).toEqual([])
})

test('threads that refuse jobs for a while are asked again', async () => {
  await using directory = await temporaryDirectory({ prefix: 'refuse' })
  const threads = inlineWorkers<ImageJobs>(imageHandlers)
  let askedCount = 0
  const workers: Workers<ImageJobs> = {
    ...threads,
    run: (kind, request, options) =>
      ++askedCount % 3 > 0
        ? Promise.reject(fail('unavailable', '1024 jobs wait for the threads already'))
        : threads.run(kind, request, options),
  }
  await using bench = await openBench(directory.path, SMALL_LAYERS, { workers })
  const shard = await begin(bench)
  await feedWal([shard], root)
  // No page of a job that was refused is left out.
  await expect.poll(() => shard.counts.chains.max).toBeLessThan(IMAGES_AT_4.thresholdRecords)
  await expectWhole(bench, shard)
  expect(askedCount).toBeGreaterThan(3)
  expect(shard.counts.generatedImagesCount).toBeGreaterThan(0)
})

test('threads that die are replaced, and the images of their jobs are made', async () => {
  await using directory = await temporaryDirectory({ prefix: 'die' })
  const deathsLeft = new Int32Array(new SharedArrayBuffer(4)).fill(5)
  await using workers = realWorkers<ImageJobs>({
    script: new URL('./dying-image-worker.ts', import.meta.url),
    threadsCount: 2,
    workerData: { deathsLeft },
    name: 'image',
  })
  await using bench = await openBench(directory.path, SMALL_LAYERS, { workers })
  const shard = await begin(bench)
  await feedWal([shard], root)
  await expect.poll(() => shard.counts.chains.max).toBeLessThan(IMAGES_AT_4.thresholdRecords)
  await expectWhole(bench, shard)
  expect(Atomics.load(deathsLeft, 0)).toBeLessThan(0)
  expect(bench.warnings.filter((line) => line.startsWith('shard_stalled'))).toHaveLength(1)
})
