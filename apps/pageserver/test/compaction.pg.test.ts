/**
 * Goal: layers that are merged while WAL comes give a real Postgres's pages back at every LSN that history still has,
 * with few layers and without what is older; nothing that left the index stays, neither here nor in the object store;
 * a shard that is taken over in the middle of it has everything. Method: a window of less than a second, small
 * layers, real WAL; a shard that merges nothing says what is right.
 */
import { cp, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { isErrorCode } from '@understory/base'
import type { Lsn } from '@understory/base'
import { shardPrefix } from '@understory/protocol'
import { LAYER_KIND_IMAGE } from '@understory/storage'
import { startPostgres, temporaryDirectory } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { streamFiles } from '../src/serve/file-stream.ts'
import type { Shard } from '../src/shard/shard.ts'
import { LIMITS, attach, batchesOf, feedWal, importCluster, openBench, stateOf } from './support.ts'
import type { Bench } from './support.ts'

const LAYOUT = { count: 1, stripeBlocks: 4 }
const IMAGES_AT_4 = { enabled: true, thresholdRecords: 4 }
const ONE_LAYER = { ...LIMITS, openLayerBytesMax: 1 << 30 }
const MERGING = {
  ...LIMITS,
  openLayerBytesMax: 256 * 1024,
  compaction: { historyMs: 640, historyBytesMin: 64 * 1024, mergedLayerBytesMax: 256 * 1024 },
}

const resources = new AsyncDisposableStack()
afterAll(() => resources.disposeAsync())

let backup: string
let root: string
/** Takes everything into one layer. */
let oracle: Shard
let endLsn: Lsn

beforeAll(async () => {
  const settings = {
    full_page_writes: false,
    autovacuum: false,
    checkpoint_timeout: '1h',
    wal_keep_size: '1GB',
  }
  const server = resources.use(await startPostgres({ major: 17, started: false, settings }))
  const directory = resources.use(await temporaryDirectory({ prefix: 'compaction' }))
  root = server.dataDirectory
  backup = join(directory.path, 'backup')
  await cp(root, backup, { recursive: true })
  await server.start()
  const client = await server.connect()
  const run = async (...statements: readonly string[]): Promise<void> => {
    for (const statement of statements) await client.query(statement)
  }
  await run(
    'create table t (i int primary key, n int, filler text)',
    'insert into t select i, 0, md5(i::text) || md5((-i)::text) from generate_series(1, 16000) i',
  )
  for (let i = 0; i < 12; i++) {
    await run(
      `update t set n = n + 1, filler = md5(filler) || md5(n::text) where i % 12 = ${i}`,
      `create table gone_${i} as select md5(i::text) as t from generate_series(1, 2500) i`,
      i % 3 === 0 ? `drop table gone_${i}` : `truncate gone_${i}`,
      `delete from t where i > ${16_000 - i * 250}`,
      'vacuum (truncate) t',
    )
  }
  await server.stop()
  const bench = resources.use(await openBench(join(directory.path, 'oracle'), ONE_LAYER))
  oracle = await begin(bench)
  endLsn = await feedWal([oracle], root)
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

async function expectSame(shard: Shard, at: Lsn): Promise<void> {
  // The shard's first: its history at `at` stays from now on.
  const found = await contentOf(shard, at)
  const wanted = await contentOf(oracle, at)
  expect([...wanted.keys()].filter((key) => found.get(key) !== wanted.get(key))).toEqual([])
  expect(found.size).toBe(wanted.size)
}

/** Again where the horizon has moved on before the read began. */
async function expectSameAtHorizon(shard: Shard): Promise<void> {
  for (;;) {
    const { readableLsn } = shard.index
    try {
      return await expectSame(shard, readableLsn)
    } catch (error) {
      if (shard.index.readableLsn === readableLsn || !isErrorCode(error, 'out_of_range')) throw error
    }
  }
}

/** Nothing is left to merge: what has come is older than the window. */
async function settled(shard: Shard): Promise<void> {
  await expect
    .poll(() => stateOf(shard).map.levels.filter((level) => level[0] !== stateOf(shard).open).length, {
      timeout: 60_000,
    })
    .toBeLessThan(16)
  await expect
    .poll(() => shard.index.layers.some(({ kind }) => kind === LAYER_KIND_IMAGE), { timeout: 60_000 })
    .toBe(false)
}

const objectsOf = async ({ store }: Bench, shard: Shard): Promise<string[]> => {
  const prefix = shardPrefix(shard.owner)
  const found: string[] = []
  for await (const { key } of store.list(prefix)) found.push(key.slice(prefix.length))
  return found.sort()
}

test(
  'a shard that merges gives back what it was given, and keeps nothing else',
  { timeout: 180_000 },
  async () => {
    await using directory = await temporaryDirectory({ prefix: 'merging' })
    const bench = await openBench(directory.path, MERGING)
    await using _ = bench
    const shard = await begin(bench)
    const looks: Promise<void>[] = []
    let batches = 0
    for await (const batch of batchesOf(
      root,
      shard.owner.shard,
      shard.reader.settings,
      shard.ingestedLsn,
      64 * 1024,
    )) {
      await shard.take(batch).catch((error: unknown) => {
        throw new Error(`${shard.failure} ${bench.errors.join('; ')}`, { cause: error })
      })
      // The LSN stays readable for as long as the stream lasts, also while layers are merged.
      if (++batches % 30 === 0) looks.push(expectSame(shard, batch.endLsn))
    }
    expect(looks.length).toBeGreaterThan(3)
    await Promise.all(looks)
    await shard.flush()
    await settled(shard)

    const { readableLsn, nextSequence, layers } = shard.index
    expect(readableLsn).toBeGreaterThan(shard.index.startLsn)
    expect(nextSequence).toBeGreaterThan(layers.length * 2)
    await expectSame(shard, endLsn)
    await expectSameAtHorizon(shard)
    await expect(contentOf(shard, (readableLsn - 8) as Lsn)).rejects.toMatchObject({ code: 'out_of_range' })
    await expect(shard.waitFor((readableLsn - 8) as Lsn, 0)).rejects.toMatchObject({ code: 'out_of_range' })

    // More may be merged between two looks.
    const differing = async (found: Promise<string[]>, ...others: string[]): Promise<string[]> => {
      const names = new Set(await found)
      const listed = new Set([...shard.index.layers.map(({ name }) => name), ...others])
      return [...names, ...listed].filter((name) => !names.has(name) || !listed.has(name))
    }
    const objects = () => differing(objectsOf(bench, shard), 'index_part-00000001.json')
    await expect.poll(objects, { timeout: 20_000 }).toEqual([])
    const local = join(directory.path, 'local', shardPrefix(shard.owner))
    const files = () => differing(readdir(local), 'attach.json', 'index.json')
    await expect.poll(files, { timeout: 20_000 }).toEqual([])
    expect(bench.errors).toEqual([])
    expect(bench.warnings).toEqual([])
  },
)

test(
  'a shard that is taken over while it merges has everything, and its old owner removes nothing more',
  {
    timeout: 180_000,
  },
  async () => {
    await using directory = await temporaryDirectory({ prefix: 'taken' })
    const first = await openBench(directory.path, MERGING)
    await using _ = first
    const shard = await begin(first)
    await feedWal([shard], root, 64 * 1024)
    await shard.flush()
    await using second = await openBench(directory.path, MERGING, {
      dataDirectory: join(directory.path, 'other'),
    })
    // The first one still merges, uploads and removes.
    const [taken] = await attach(second, LAYOUT, 2, false, IMAGES_AT_4)
    expect(taken?.failure).toBeUndefined()
    await feedWal([taken!], root, 64 * 1024)
    await expectSame(taken!, endLsn)
    await taken!.flush()
    await settled(taken!)
    await expectSame(taken!, endLsn)
    // What it has taken over is there to the last object.
    await using third = await openBench(directory.path, MERGING, {
      dataDirectory: join(directory.path, 'third'),
    })
    const [again] = await attach(third, LAYOUT, 3, false, IMAGES_AT_4)
    await expectSame(again!, endLsn)
    expect(again?.failure).toBeUndefined()
    await expect(shard.upload()).rejects.toMatchObject({ code: 'stale' })
  },
)
