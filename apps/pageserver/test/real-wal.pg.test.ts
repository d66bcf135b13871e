// Goal: shards that took in a real Postgres's base files and WAL give its data directory back, page by page, also after
// a restart and from the object store alone; chains stay within their bound; damage is reported.
// Method: full_page_writes off all the time, so every page is redone; a stopped server's files are the oracle, under
// Postgres's own masks, with pd_lsn compared exactly and the visibility map bit by bit.
import type { PgMajor } from '@understory/postgres/wal'
import { readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realEnv, silentLog } from '@understory/env'
import { ORIGIN_CHECKPOINT_PATH, parseRelationPath, parseSlruSegmentPath } from '@understory/postgres/cluster'
import { PAGE_SIZE, getPageLsn, isZeroPage, maskRelationPage, pageOf } from '@understory/postgres/page'
import type { PageKind } from '@understory/postgres/page'
import { FORK_FSM, FORK_VM } from '@understory/postgres/wal'
import { blockKey, isStorageImaged, shardOfBlock } from '@understory/storage'
import { startPostgres, temporaryDirectory } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { streamFiles } from '../src/serve/file-stream.ts'
import { readPages } from '../src/serve/page-reads.ts'
import { RemoteIndex } from '../src/layers/remote-index.ts'
import type { Shard } from '../src/shard/shard.ts'
import { attach, feedWal, importCluster, openBench, stateOf } from './support.ts'

const LAYOUT = { count: 2, stripeBlocks: 4 }
const IMAGES_AT_4 = { enabled: true, thresholdRecords: 4 }

/** By the size of the page's special space; only the catalogs' kinds of relations are here. */
function kindOf(page: Buffer): PageKind {
  const special = PAGE_SIZE - page.readUInt16LE(16)
  return special === 16 ? 'btree' : special === 8 ? 'sequence' : 'heap'
}

/** Returns the oid of the database that was made with strategy wal_log. */
async function runWorkload(server: PostgresServer): Promise<number> {
  const client = await server.connect()
  const run = async (...statements: readonly string[]): Promise<void> => {
    for (const statement of statements) await client.query(statement)
  }
  await run(
    'create table hot (id int primary key, n int, filler text) with (fillfactor = 60)',
    "insert into hot select g, 0, repeat('x', 50) from generate_series(1, 300) g",
    'create table big (id bigserial primary key, t text, v int)',
    'insert into big (t, v) select md5(g::text), g % 97 from generate_series(1, 20000) g',
    'create index big_v on big (v, t)',
    'vacuum (freeze) big',
    'create unlogged table gone (id int primary key)',
    'insert into gone values (1)',
  )
  for (let i = 0; i < 400; i++) await run(`update hot set n = n + 1 where id = ${(i % 7) + 1}`)
  await run(
    'delete from big where id > 12000',
    'vacuum (truncate) big',
    'insert into big (t, v) select md5(g::text), g % 89 from generate_series(1, 5000) g',
    'update big set v = v + 1 where id % 50 = 0',
    'create table dropped (a int)',
    'insert into dropped select generate_series(1, 5000)',
    'drop table dropped',
    'create table cut (a int)',
    'insert into cut select generate_series(1, 5000)',
    'truncate cut',
    'insert into cut values (1)',
    'create database copied strategy file_copy',
    'create database logged strategy wal_log',
    'begin; savepoint s; select * from hot where id = 3 for share; savepoint t; update hot set n = -1 where id = 3; commit',
  )
  await run("begin; insert into hot values (1000, 1, 'p'); prepare transaction 'kept'")
  await run(
    "begin; insert into hot values (1001, 1, 'p'); prepare transaction 'done'",
    "commit prepared 'done'",
  )
  for (const name of ['applied', 'dropped']) {
    await run(
      `select pg_replication_origin_create('${name}')`,
      `select pg_replication_origin_session_setup('${name}')`,
      `begin; select pg_replication_origin_xact_setup('7/1000', now()); insert into cut values (2); commit`,
      `begin; select pg_replication_origin_xact_setup('7/2000', now()); insert into cut values (2); commit`,
      'select pg_replication_origin_session_reset()',
    )
  }
  await run("select pg_replication_origin_drop('dropped')")
  const other = await server.connect()
  await client.query('begin; select * from hot where id = 5 for share')
  await other.query('begin; select * from hot where id = 5 for share')
  await client.query('commit')
  await other.query('commit')
  const copied = await server.connect('copied')
  await copied.query('create table there as select g a from generate_series(1, 1000) g')
  await copied.end()
  await run('vacuum hot', 'analyze', 'checkpoint')
  return (await client.query<{ oid: number }>("select oid::int from pg_database where datname = 'logged'"))
    .rows[0]!.oid
}

/** The files of all shards put together. */
async function filesOf(shards: readonly Shard[], at: Lsn): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>()
  const room = (path: string, size: number): Buffer => {
    const known = files.get(path) ?? Buffer.alloc(0)
    const file = known.length >= size ? known : Buffer.concat([known, Buffer.alloc(size - known.length)])
    files.set(path, file)
    return file
  }
  for (const shard of shards) {
    for await (const { piece } of streamFiles(shard.reader, at)) {
      if (piece?.$case !== 'file') continue
      const { path, offset, data, size } = piece.value
      room(path, Math.max(Number(size), Number(offset) + data.length)).set(data, Number(offset))
    }
  }
  return files
}

interface Difference {
  readonly path: string
  readonly block: number
  readonly what: string
}

function comparePage(
  fork: number,
  block: number,
  expected: Buffer,
  actual: Buffer,
  isMapLost: boolean,
): string | undefined {
  if (isZeroPage(expected) && isZeroPage(actual)) return undefined
  const lsns = [expected, actual].map((bytes) => formatLsn(getPageLsn(pageOf(bytes))))
  if (lsns[0] !== lsns[1]) return `pd_lsn is ${lsns[1]}, not ${lsns[0]}`
  if (fork === FORK_VM) {
    const isSame = expected.subarray(24).equals(actual.subarray(24))
    return isSame || (isMapLost && actual.subarray(24).every((byte) => byte === 0))
      ? undefined
      : 'visibility bits differ'
  }
  // Sequences log 32 values ahead of what the page says.
  if (kindOf(expected) === 'sequence') return undefined
  const [a, b] = [Buffer.from(expected), Buffer.from(actual)]
  maskRelationPage(kindOf(expected), pageOf(a), block)
  maskRelationPage(kindOf(expected), pageOf(b), block)
  const at = a.findIndex((byte, i) => byte !== b[i])
  return at < 0 ? undefined : `byte ${at} is ${b[at]}, not ${a[at]}`
}

/**
 * Every page of the data directory against the shards at `at`. Of the database `mapsLostOid` visibility maps may be
 * empty: CREATE DATABASE with strategy wal_log logs map pages as if their content were a hole (bufmgr.c
 * RelationCopyStorageUsingBuffer, 17.11), so stock recovery loses these bits too.
 */
async function differences(
  shards: readonly Shard[],
  root: string,
  at: Lsn,
  mapsLostOid: number,
  major: PgMajor,
): Promise<{ readonly compared: number; readonly found: readonly Difference[] }> {
  const streamed = await filesOf(shards, at)
  const found: Difference[] = []
  let compared = 0
  const entries = await readdir(root, { recursive: true, withFileTypes: true })
  for (const entry of entries.filter((each) => each.isFile())) {
    const path = join(entry.parentPath, entry.name).slice(root.length + 1)
    const relation = parseRelationPath(path, major)
    const isSlru = parseSlruSegmentPath(path) !== undefined
    const bytes = await readFile(join(root, path))
    const actual = streamed.get(path)
    if (relation !== undefined) {
      const { spcOid, dbOid, relNumber, fork } = relation
      const unlogged = streamed.has(path.replace(/(_init)?$/, '_init'))
      if (fork === FORK_FSM || unlogged) continue
      for (let block = 0; block * PAGE_SIZE < bytes.length; block++) {
        const expected = bytes.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE)
        const part = actual?.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE)
        // Postgres extends files without a record; what it did not write yet is zeros.
        const page = part?.length === PAGE_SIZE ? part : Buffer.alloc(PAGE_SIZE)
        const what = comparePage(fork, block, expected, page, dbOid === mapsLostOid)
        if (what !== undefined) found.push({ path, block, what: `${what} (${spcOid}/${dbOid}/${relNumber})` })
        compared++
      }
    } else if (
      isSlru ||
      path.endsWith('pg_filenode.map') ||
      path.startsWith('pg_twophase/') ||
      path === ORIGIN_CHECKPOINT_PATH ||
      path.endsWith('PG_VERSION')
    ) {
      const same = actual !== undefined && Buffer.compare(actual.subarray(0, bytes.length), bytes) === 0
      if (!same) found.push({ path, block: 0, what: `${actual?.length ?? 'no'} bytes, not ${bytes.length}` })
      compared++
    }
  }
  for (const path of streamed.keys()) {
    const relation = parseRelationPath(path, major)
    const isThere = entries.some((entry) => join(entry.parentPath, entry.name) === join(root, path))
    if (
      relation !== undefined &&
      relation.fork !== FORK_FSM &&
      !isThere &&
      (streamed.get(path) as Buffer).length > 0
    ) {
      found.push({ path, block: 0, what: 'file is only in storage' })
    }
  }
  return { compared, found }
}

test.each([16, 17, 18] as const)(
  'two shards give back a real cluster of %i, live, after a restart, and from the object store alone',
  { timeout: 240_000 },
  async (major) => {
    const settings = {
      full_page_writes: false,
      max_prepared_transactions: 4,
      autovacuum: false,
      checkpoint_timeout: '1h',
      wal_keep_size: '1GB',
    }
    await using server = await startPostgres({ major, started: false, settings, dataChecksums: false })
    await using directory = await temporaryDirectory({ prefix: 'ps' })
    const root = server.dataDirectory
    const first = await openBench(directory.path)
    onTestFinished(() => first[Symbol.asyncDispose]())
    const shards = await attach(first, LAYOUT, 1, true, IMAGES_AT_4, major)
    const startLsn = await importCluster(shards, root, major)

    await server.start()
    const mapsLostOid = await runWorkload(server)
    await server.stop()

    let chainMax = 0
    const watched = setInterval(() => {
      for (const state of shards.map(stateOf)) chainMax = Math.max(chainMax, state.ledger.max)
    }, 1)
    const endLsn = await feedWal(shards, root)
    clearInterval(watched)
    expect(endLsn - startLsn).toBeGreaterThan(5_000_000)
    expect(first.errors).toEqual([])
    for (const state of shards.map(stateOf)) {
      chainMax = Math.max(chainMax, state.ledger.max)
      expect(state.generatedImagesCount).toBeGreaterThan(0)
      expect(state.tracker?.fullPageWrites ?? false).toBe(false)
    }
    expect(chainMax).toBeGreaterThan(1)
    expect(chainMax).toBeLessThanOrEqual(IMAGES_AT_4.thresholdRecords * 2)

    const live = await differences(shards, root, endLsn, mapsLostOid, major)
    expect(live.found.slice(0, 10)).toEqual([])
    expect(live.compared).toBeGreaterThan(1500)

    // A read in the past, and reads that must be refused.
    const clock = realEnv(silentLog).clock
    const never = new AbortController().signal
    const key = blockKey(1663, 5, 1259, 0, 0)
    const owner = shards[shardOfBlock(LAYOUT, key.rel, key.block)] as Shard
    const past = await readPages(owner, [{ key, lsn: startLsn }], clock, never)
    expect(getPageLsn(pageOf(past.pages))).toBeLessThanOrEqual(startLsn)
    await expect(readPages(owner, [{ key, lsn: (startLsn - 8) as Lsn }], clock, never)).rejects.toMatchObject(
      { code: 'out_of_range' },
    )
    await expect(owner.waitFor((endLsn + 8) as Lsn, 5)).rejects.toMatchObject({ code: 'timeout' })

    const counts = shards.map((shard) => ({ ...stateOf(shard).ledger.summary() }))
    for (const shard of shards) expect(await shard.flush()).toBe(endLsn)
    await first[Symbol.asyncDispose]()

    {
      await using second = await openBench(directory.path)
      const local = second.registry.all.toSorted((a, b) => a.owner.shard.number - b.owner.shard.number)
      expect(local.map((shard) => [shard.ingestedLsn, shard.failure])).toEqual([
        [endLsn, undefined],
        [endLsn, undefined],
      ])
      expect(local.map((shard) => ({ ...stateOf(shard).ledger.summary() }))).toEqual(counts)
      expect((await differences(local, root, endLsn, mapsLostOid, major)).found.slice(0, 10)).toEqual([])
      await expect(attach(second, LAYOUT, 0, false, IMAGES_AT_4, major)).rejects.toMatchObject({
        code: 'stale',
      })
    }

    await rm(join(directory.path, 'local'), { recursive: true })
    {
      await using third = await openBench(directory.path)
      const remote = await attach(third, LAYOUT, 2, false, IMAGES_AT_4, major)
      expect((await differences(remote, root, endLsn, mapsLostOid, major)).found.slice(0, 10)).toEqual([])
      // The first generation may not publish again (I9).
      await rm(join(directory.path, 'local'), { recursive: true })
      await using stale = await openBench(directory.path)
      await expect(attach(stale, LAYOUT, 1, false, IMAGES_AT_4, major)).rejects.toMatchObject({
        code: 'stale',
      })
    }

    // One byte of one layer: here alone, then in the object store, too.
    await using fourth = await openBench(directory.path)
    await attach(fourth, LAYOUT, 3, false, IMAGES_AT_4, major)
    const damaged = fourth.registry.all[0] as Shard
    const folder = join(
      directory.path,
      'local/tenants',
      damaged.owner.tenantId,
      'timelines',
      damaged.owner.timelineId,
    )
    const shardFolder = join(folder, `shard-${damaged.owner.shard.number}-of-2`)
    const largest = damaged.index.layers.toSorted((a, b) => b.sizeBytes - a.sizeBytes)[0]!
    const objectFolder = shardFolder.replace(`${directory.path}/local`, `${directory.path}/objects`)
    const layer = await readFile(join(objectFolder, largest.name))
    layer[largest.sizeBytes >> 2]! ^= 0x10
    await fourth[Symbol.asyncDispose]()
    const damage = async (folder: string): Promise<void> => writeFile(join(folder, largest.name), layer)
    await damage(shardFolder)
    {
      await using repaired = await openBench(directory.path)
      const local = repaired.registry.all.toSorted((a, b) => a.owner.shard.number - b.owner.shard.number)
      expect((await differences(local, root, endLsn, mapsLostOid, major)).found.slice(0, 10)).toEqual([])
      expect(repaired.warnings.some((line) => line.startsWith('layer_fetched_again'))).toBe(true)
    }
    await damage(shardFolder)
    await damage(objectFolder)
    await using fifth = await openBench(directory.path)
    const again = fifth.registry.all.find(
      ({ owner: { shard } }) => shard.number === damaged.owner.shard.number,
    ) as Shard
    await expect(filesOf([again], endLsn)).rejects.toMatchObject({ code: 'bad_file' })
  },
)

test('while Postgres logs images, only pages that it logs none of get theirs from the storage', async () => {
  const settings = { autovacuum: false, checkpoint_timeout: '1h', wal_keep_size: '1GB' }
  await using server = await startPostgres({ major: 17, started: false, settings })
  await using directory = await temporaryDirectory({ prefix: 'ps' })
  await using bench = await openBench(directory.path)
  const images = { enabled: false, thresholdRecords: 4 }
  const shards = await attach(bench, LAYOUT, 1, true, images)
  await importCluster(shards, server.dataDirectory, 17)
  await server.start()
  const client = await server.connect()
  await client.query('create table t as select i, 0 as n from generate_series(1, 20000) i')
  await client.query('vacuum (freeze) t')
  // Each clears the bits of another page; each is a transaction of its own.
  for (let i = 1; i <= 20_000; i += 1000)
    await client.query('update t set n = n + 1 where i % 1000 = $1', [i % 997])
  await client.query('vacuum (freeze) t')
  for (let i = 1; i <= 20_000; i += 500) await client.query('update t set n = n + 1 where i = $1', [i])
  await client.query('select pg_switch_wal()')
  await server.stop()
  await feedWal(shards, server.dataDirectory)
  for (const shard of shards) await shard.flush()

  const [imaged, others] = [new Set<number>(), new Set<number>()]
  for (const state of shards.map(stateOf)) {
    for (let id = 0; id < state.keys.count; id++) {
      const key = state.keys.keyOf(id)
      ;(isStorageImaged(key) ? imaged : others).add(state.ledger.countOf(id))
    }
  }
  expect(bench.errors).toEqual([])
  expect(Math.max(...others)).toBeGreaterThan(8)
  expect(Math.max(...imaged)).toBeGreaterThan(1)
  expect(Math.max(...imaged)).toBeLessThanOrEqual(8)

  // Switched on, the object store says so at once: the node's disk may be lost next (I5).
  for (const shard of shards) {
    await shard.setImageGeneration({ enabled: true, thresholdRecords: 10_000 }, 1)
    const published = await new RemoteIndex(bench.store, shard.owner).read(shard.generation)
    expect(published.imageGeneration.enabled).toBe(true)
    // The chains that grew before are cut before it is said to be on.
    await shard.setImageGeneration({ ...images, enabled: true }, 2)
    expect(stateOf(shard).ledger.max).toBeLessThanOrEqual(8)
  }
}, 60_000)
