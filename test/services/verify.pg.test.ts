// Goal: a verification finds nothing where storage is right, under any load of the primary, and finds every kind of
// difference: a byte of a page, a page that one side lacks, a visibility bit, a transaction's status.
// Method: a real server whose WAL is followed by a real safekeeper and shards; then its files are damaged by hand.
import { open, readFile, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { parseLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { VerifyResult } from '@understory/rpc'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { openTestStorage } from '../support/test-storage.ts'
import type { TestStorage } from '../support/test-storage.ts'
import { verifyTimeline } from '../../apps/compute-proxy/src/verify/verify.ts'

const SETTINGS = {
  max_prepared_transactions: 4,
  track_commit_timestamp: true,
  autovacuum: false,
  wal_keep_size: '1GB',
  full_page_writes: false,
  checkpoint_timeout: '1h',
}

async function runWorkload(server: PostgresServer): Promise<void> {
  const client = await server.connect()
  const other = await server.connect()
  for (const statement of [
    'create table hot (id int primary key, n int, filler text) with (fillfactor = 60)',
    "insert into hot select g, 0, repeat('x', 50) from generate_series(1, 300) g",
    'create table big (id bigserial primary key, t text, v int)',
    'insert into big (t, v) select md5(g::text), g % 97 from generate_series(1, 30000) g',
    'create index big_v on big (v, t)',
    'vacuum (freeze) big',
    'create unlogged table gone (id int primary key)',
    'insert into gone values (1)',
    'create table dropped as select generate_series(1, 5000) a',
    'drop table dropped',
    "begin; insert into hot values (1000, 1, 'p'); prepare transaction 'kept'",
    'delete from big where id % 3 = 0',
    'create database copied',
    'begin; select * from hot where id = 5 for share',
  ])
    await client.query(statement)
  await other.query('begin; select * from hot where id = 5 for share; commit')
  await client.query('commit')
  for (let i = 0; i < 200; i++) await client.query(`update hot set n = n + 1 where id = ${(i % 7) + 1}`)
  const copied = await server.connect('copied')
  await copied.query('create table here as select g a from generate_series(1, 1000) g')
  await copied.query('vacuum')
  await copied.end()
  await client.query('vacuum big')
  await client.end()
  await other.end()
}

async function verify(
  server: PostgresServer,
  storage: TestStorage,
  startedAtLsn?: Lsn,
  more: { readonly quietPatienceMs?: number } = {},
): Promise<VerifyResult> {
  const { dataDirectory, major } = server
  await using _following = storage.follow()
  return await verifyTimeline({
    ...storage.source,
    dataDirectory,
    major,
    connect: (database) => server.connect(database),
    startedAtLsn,
    ...more,
  })
}

/** Changes a file as a fault would, checks what is said, and puts it back. */
async function withDamage(
  server: PostgresServer,
  storage: TestStorage,
  path: string,
  change: (file: Buffer) => Buffer | undefined,
): Promise<VerifyResult> {
  const full = join(server.dataDirectory, path)
  const before = await readFile(full)
  const copy = Buffer.from(before)
  const after = change(copy) ?? copy
  const put = async (bytes: Buffer): Promise<void> => {
    await using file = await open(full, 'r+')
    await file.write(bytes, 0, bytes.length, 0)
    await truncate(full, bytes.length)
  }
  await put(after)
  try {
    return await verify(server, storage)
  } finally {
    await put(before)
  }
}

test.each([16, 17, 18] as const)(
  'PostgreSQL %i agrees with its storage, under load and after it',
  { timeout: 240_000 },
  async (major) => {
    await using server = await startPostgres({ major, settings: SETTINGS, started: false })
    await using storage = await openTestStorage(server)
    await server.start()
    await runWorkload(server)

    // Writers continue for the fuzzy part; the exact part waits for them.
    const writer = await server.connect()
    let isOver = false
    const writing = (async () => {
      while (!isOver) {
        await writer.query(
          'insert into big (t, v) select md5(g::text), g from generate_series(1, 200) g; update hot set n = n + 1 where id < 40',
        )
        await writer.query('create table passing as select generate_series(1, 3000) a; drop table passing')
      }
    })()
    const timer = setTimeout(() => (isOver = true), 3_000)
    const result = await verify(server, storage)
    clearTimeout(timer)
    isOver = true
    await writing
    expect(result.differences).toEqual([])
    expect(result.differing).toBe(0n)
    expect(result.pagesIndependent).toBeGreaterThan(1500n)
    expect(result.pagesFromStorage).toBe(0n)
    expect(result.visibilityMapPages).toBeGreaterThan(20n)
    expect(result.slruPages).toBeGreaterThanOrEqual(4n)
    expect(result.otherFiles).toBeGreaterThanOrEqual(5n)
    expect(result.excludedBy['free-space map']).toBeGreaterThan(0n)
    expect(result.excludedBy['unlogged']).toBeGreaterThan(0n)
    expect(storage.errors).toEqual([])

    // The same, as if this Postgres had been started on storage here.
    const { rows } = await (
      await server.connect()
    ).query<{ at: string }>('select pg_current_wal_insert_lsn()::text as at')
    const client = await server.connect()
    await client.query('update hot set n = 0')
    const later = await verify(server, storage, parseLsn(rows[0]!.at))
    expect(later.differences).toEqual([])
    expect(later.pagesIndependent).toBeGreaterThan(0n)
    expect(later.pagesFromStorage).toBeGreaterThan(1000n)
  },
)

test('every kind of damage is found, with its place', { timeout: 240_000 }, async () => {
  await using server = await startPostgres({ major: 17, settings: SETTINGS, started: false })
  await using storage = await openTestStorage(server)
  await server.start()
  await runWorkload(server)
  const client = await server.connect()
  const pathOf = async (relation: string): Promise<string> => {
    const { rows } = await client.query<{ path: string }>('select pg_relation_filepath($1) as path', [
      relation,
    ])
    return rows[0]!.path
  }
  await client.query('checkpoint')
  const big = await pathOf('big')

  const byte = await withDamage(server, storage, big, (file) => void (file[3 * 8192 + 8000]! ^= 0x40))
  expect(byte.differing).toBe(1n)
  expect(byte.differences[0]).toMatch(
    /^relation postgres\.big \(base\/5\/\d+\) block 3: at 0\/[0-9A-F]+: byte 8000 is 0x.. on the primary and 0x.. in storage$/,
  )

  const index = await withDamage(
    server,
    storage,
    await pathOf('big_v'),
    (file) => void (file[2 * 8192 + 8000]! ^= 0x01),
  )
  expect(index.differences).toEqual([expect.stringContaining('relation postgres.big_v')])

  const lsn = await withDamage(server, storage, big, (file) => void (file[5 * 8192 + 4]! ^= 0x08))
  expect(lsn.differences).toEqual([expect.stringMatching(/block 5: (pd_lsn is|at)/)])
  const beyond = await withDamage(server, storage, big, (file) => void (file[5 * 8192]! ^= 0x08))
  expect(beyond.differences).toEqual([expect.stringContaining('block 5: the LSN of the primary')])

  const more = await withDamage(server, storage, big, (file) => Buffer.concat([file, file.subarray(0, 8192)]))
  expect(more.differences).toEqual([
    expect.stringMatching(/block \d+: the primary has a page of 0\/[0-9A-F]+, storage has none$/),
  ])
  const zeros = await withDamage(server, storage, big, (file) => void file.fill(0, 8192, 2 * 8192))
  expect(zeros.differences).toEqual([
    expect.stringContaining('block 1: zeros on the primary, but storage has a page'),
  ])
  const less = await withDamage(server, storage, big, (file) => file.subarray(0, -8192))
  expect(less.differences).toEqual([
    expect.stringMatching(/^relation postgres\.big .* bytes on the primary and \d+ in storage$/),
  ])

  const map = await withDamage(server, storage, `${big}_vm`, (file) => void (file[24 + 3]! ^= 0x01))
  expect(map.differences).toEqual([expect.stringContaining('visibility map of relation postgres.big')])
  const status = await withDamage(server, storage, 'pg_xact/0000', (file) => void (file[185]! ^= 0x04))
  expect(status.differences).toEqual([expect.stringMatching(/^pg_xact page 0: byte 185 is/)])
  const relmap = await withDamage(
    server,
    storage,
    'base/4/pg_filenode.map',
    (file) => void (file[100]! ^= 0x04),
  )
  expect(relmap.differences).toEqual([expect.stringContaining('base/4/pg_filenode.map: byte 100 is')])

  const clean = await verify(server, storage)
  expect(clean.differences).toEqual([])
})

test('writers that never stop are named as the reason', { timeout: 120_000 }, async () => {
  await using server = await startPostgres({ major: 17, settings: SETTINGS, started: false })
  await using storage = await openTestStorage(server)
  await server.start()
  const writer = await server.connect()
  await writer.query('create table t (a int)')
  let isOver = false
  const writing = (async () => {
    while (!isOver) await writer.query('insert into t select generate_series(1, 1000)')
  })()
  try {
    await expect(verify(server, storage, undefined, { quietPatienceMs: 1_000 })).rejects.toMatchObject({
      code: 'precondition',
      hint: expect.stringContaining('Stop the writers'),
    })
  } finally {
    isOver = true
    await writing
  }
})
