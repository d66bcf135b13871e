// Goal: a data directory from storage is one on which a stock Postgres starts without recovery, answers the same as the
// original at that LSN, and passes amcheck and pg_visibility; one that cannot be completed cannot start.
// Method: a real server's WAL through a real safekeeper and shards over gRPC; the server is then killed.
import { existsSync } from 'node:fs'
import { mkdir, readFile, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { advance } from '@understory/base'
import { unprivilegedUser } from '@understory/env'
import { CONTROL_FILE_PATH, parseControlFile } from '@understory/postgres/cluster'
import { startPostgres, temporaryDirectory } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import type pg from 'pg'
import { describe, expect, test } from 'vitest'
import {
  assemblePgdata,
  lastRecordAtOrBefore,
  prepareCheckpoint,
  writeStandaloneConfiguration,
} from '@understory/pgdata'
import { openTestStorage } from '../support/test-storage.ts'

const SETTINGS = {
  max_prepared_transactions: 4,
  track_commit_timestamp: true,
  autovacuum: false,
  wal_keep_size: '1GB',
  full_page_writes: false,
  checkpoint_timeout: '1h',
  allow_in_place_tablespaces: true,
}

async function runWorkload(server: PostgresServer): Promise<void> {
  const client = await server.connect()
  const other = await server.connect()
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
    'create unlogged table gone (id serial primary key, t text)',
    "insert into gone (t) values ('x')",
    'set allow_in_place_tablespaces = on',
    "create tablespace aside location ''",
    'create table there (id int primary key) tablespace aside',
    'insert into there select generate_series(1, 500)',
    'create database copied',
    'begin; select * from hot where id = 3 for share; savepoint t; update hot set n = -1 where id = 3; commit',
    "begin; insert into hot values (1000, 1, 'p'); prepare transaction 'kept'",
    "begin; insert into hot values (1001, 1, 'p'); prepare transaction 'done'",
    "commit prepared 'done'",
  )
  await run("select pg_replication_origin_create('upstream')", ...applying('A/1000'))
  for (let i = 0; i < 200; i++) await run(`update hot set n = n + 1 where id = ${(i % 7) + 1}`)
  await client.query('begin; select * from hot where id = 5 for share')
  await other.query('begin; select * from hot where id = 5 for share; commit')
  await client.query('commit')
  await run('delete from big where id > 15000', 'vacuum big', 'update big set v = v + 1 where id % 50 = 0')
  const copied = await server.connect('copied')
  await copied.query('create table here as select g a from generate_series(1, 1000) g')
  await copied.end()
  await run('create extension amcheck', 'create extension pg_visibility', 'vacuum full there', 'analyze')
}

/** A transaction that comes from a publisher, where it ended at `remoteLsn`. */
const applying = (remoteLsn: string): string[] => [
  "select pg_replication_origin_session_setup('upstream')",
  `begin; select pg_replication_origin_xact_setup('${remoteLsn}', now()); update hot set n = n + 1 where id = 9; commit`,
  'select pg_replication_origin_session_reset()',
]

/** The contents of the database, as text. */
async function answers(client: pg.Client): Promise<unknown> {
  const queries = [
    'select count(*), sum(n), md5(string_agg(id || filler || n, chr(44) order by id)) from hot',
    'select count(*), sum(v), md5(string_agg(t, chr(44) order by id)) from big',
    'select count(*), sum(id) from there',
    'select gid from pg_prepared_xacts',
    'select oid::int, datname from pg_database order by 1',
    'select count(*), count(pg_xact_commit_timestamp(xmin)) from hot',
    'select relname, relpages, relkind from pg_class where oid >= 16384 order by 1',
    'select spcname from pg_tablespace order by 1',
    'select external_id, remote_lsn::text from pg_show_replication_origin_status()',
  ]
  const results = []
  for (const query of queries) results.push((await client.query(query)).rows)
  return results
}

async function check(client: pg.Client): Promise<void> {
  await client.query(`
    select bt_index_check(c.oid, i.indisunique) from pg_class c join pg_index i on i.indexrelid = c.oid
    join pg_am a on a.oid = c.relam where a.amname = 'btree' and c.relpersistence = 'p' and i.indisready and i.indisvalid`)
  const heaps = "from pg_class c where relkind in ('r', 't', 'm') and relpersistence = 'p'"
  const { rows } = await client.query(
    `select c.relname, v.* ${heaps.replace('where', ', lateral verify_heapam(c.oid) v where')}`,
  )
  expect(rows).toEqual([])
  for (const name of ['pg_check_visible', 'pg_check_frozen']) {
    const wrong = await client.query(
      `select c.relname, v.* ${heaps.replace('where', `, lateral ${name}(c.oid) v where`)}`,
    )
    expect(wrong.rows).toEqual([])
  }
}

async function startOn(major: 16 | 17 | 18, dataDirectory: string): Promise<PostgresServer> {
  return startPostgres({
    major,
    dataDirectory,
    settings: { max_prepared_transactions: 4, track_commit_timestamp: true },
  })
}

describe.each([16, 17, 18] as const)('PostgreSQL %i', (major) => {
  test('a stock server starts on storage at an LSN and answers the same', { timeout: 240_000 }, async () => {
    await using server = await startPostgres({ major, settings: SETTINGS, started: false })
    await using storage = await openTestStorage(server)
    await using folder = await temporaryDirectory({ prefix: 'pgd', owner: unprivilegedUser() })
    await server.start()
    await runWorkload(server)
    const client = await server.connect()
    const expected = await answers(client)
    const lsn = await storage.feed()
    // Beyond it: must not be seen.
    await client.query("insert into hot values (-1, 0, 'later')")
    for (const statement of applying('A/2000')) await client.query(statement)
    await storage.feed()
    expect((await lastRecordAtOrBefore(storage.source, lsn)).nextLsn).toBe(lsn)

    const user = unprivilegedUser()
    const directory = join(folder.path, 'made')
    const progress: number[] = []
    const made = await assemblePgdata({
      ...storage.source,
      directory,
      lsn,
      checkpoint: { kind: 'forge' },
      owner: user,
      onProgress: (done, total) => progress.push(done / total),
    })
    expect(made).toMatchObject({ lsn, recordLsn: lsn % 8192 === 0 ? expect.any(Number) : lsn })
    expect(made.nextLsn).toBeGreaterThan(lsn)
    expect(made.files).toBeGreaterThan(1000)
    expect(progress.at(-1)).toBe(1)
    expect((await stat(directory)).mode & 0o777).toBe(0o700)
    expect((await stat(join(directory, CONTROL_FILE_PATH))).mode & 0o777).toBe(0o600)
    if (user !== undefined) expect((await stat(join(directory, 'base'))).uid).toBe(user.uid)
    const { state } = await prepareCheckpoint({ ...storage.source, lsn })
    await writeStandaloneConfiguration(directory, { state, owner: user })

    await using copy = await startOn(major, directory)
    expect(copy.log()).toContain('database system was shut down at')
    expect(copy.log()).not.toMatch(/redo|recovery|not properly|FATAL|WARNING/)
    const reader = await copy.connect()
    expect(await answers(reader)).toEqual(expected)
    expect((await reader.query('select * from gone')).rows).toEqual([])
    await reader.query("insert into gone (t) values ('again')")
    await check(reader)
    const there = await copy.connect('copied')
    expect((await there.query('select count(*)::int n from here')).rows).toEqual([{ n: 1000 }])
    await reader.query("commit prepared 'kept'")
    await reader.query('update hot set n = 0')
    await reader.query('vacuum')
    await check(reader)
    expect(storage.errors).toEqual([])
  })

  test('a lost compute continues in the same WAL', { timeout: 240_000 }, async () => {
    await using server = await startPostgres({ major, settings: SETTINGS, started: false })
    await using storage = await openTestStorage(server)
    await using folder = await temporaryDirectory({ prefix: 'pgd', owner: unprivilegedUser() })
    await server.start()
    await runWorkload(server)
    const client = await server.connect()
    const expected = await answers(client)
    const lsn = await storage.feed()
    await server.kill()

    const prepared = await prepareCheckpoint({ ...storage.source, lsn })
    expect(prepared.forged.bytes.length).toBeGreaterThanOrEqual(114)
    await storage.append(prepared.forged.bytes)
    expect(storage.endLsn).toBe(prepared.forged.nextLsn)
    const directory = join(folder.path, 'made')
    const checkpoint = { kind: 'inWal', prepared } as const
    const user = unprivilegedUser()
    await assemblePgdata({ ...storage.source, directory, lsn, checkpoint, owner: user })
    await writeStandaloneConfiguration(directory, { state: prepared.state, owner: user })
    {
      await using copy = await startOn(major, directory)
      expect(copy.log()).not.toMatch(/redo|recovery|not properly|FATAL|WARNING/)
      const reader = await copy.connect()
      expect(await answers(reader)).toEqual(expected)
      // Its WAL is one chain with the old: the whole segment can be read.
      await reader.query('create extension pg_walinspect')
      const [segment] = await readdir(join(directory, 'pg_wal')).then((names) =>
        names.filter((name) => /^[0-9A-F]{24}$/.test(name)),
      )
      const old = await readFile(join(server.dataDirectory, 'pg_wal', segment as string))
      const length = lsn % old.length
      expect(
        (await readFile(join(directory, 'pg_wal', segment as string)))
          .subarray(0, length)
          .equals(old.subarray(0, length)),
      ).toBe(true)
    }
    // After a clean stop the real checkpoint is in the WAL, and is used as it is: see the safekeeper's copy of it.
    const again = await prepareCheckpoint({ ...storage.source, lsn: prepared.forged.nextLsn })
    expect(again.forged).toMatchObject({
      recordLsn: prepared.forged.recordLsn,
      nextLsn: prepared.forged.nextLsn,
    })
    expect(again.forged.bytes).toHaveLength(0)
    expect(Buffer.from(again.forged.checkpoint).equals(prepared.forged.checkpoint)).toBe(true)
    const second = join(folder.path, 'second')
    await assemblePgdata({
      ...storage.source,
      directory: second,
      lsn: again.atLsn,
      checkpoint: { kind: 'inWal', prepared: again },
      owner: user,
    })
    await writeStandaloneConfiguration(second, { state: again.state, owner: user })
    await using copy = await startOn(major, second)
    expect(copy.log()).not.toMatch(/redo|recovery|not properly|FATAL|WARNING/)
    expect(await answers(await copy.connect())).toEqual(expected)
  })
})

test('what cannot be completed is refused and cannot start', { timeout: 120_000 }, async () => {
  await using server = await startPostgres({ major: 17, settings: SETTINGS, started: false })
  await using storage = await openTestStorage(server)
  await using folder = await temporaryDirectory({ prefix: 'pgd' })
  await server.start()
  const lsn = await storage.feed()
  const made = { ...storage.source, lsn, checkpoint: { kind: 'forge' } as const, patienceMs: 3_000 }

  const full = join(folder.path, 'full')
  await mkdir(full)
  await writeFile(join(full, 'mine'), 'x')
  await expect(assemblePgdata({ ...made, directory: full })).rejects.toMatchObject({ code: 'precondition' })
  expect(await readdir(full)).toEqual(['mine'])

  const inside = join(folder.path, 'inside')
  await expect(assemblePgdata({ ...made, directory: inside, lsn: advance(lsn, -8) })).rejects.toMatchObject({
    code: 'bad_lsn',
  })
  expect(existsSync(inside)).toBe(false)
  const ahead = join(folder.path, 'ahead')
  await expect(
    assemblePgdata({ ...made, directory: ahead, lsn: advance(lsn, 80_000) }),
  ).rejects.toMatchObject({
    code: expect.stringMatching(/timeout|unavailable/),
  })

  expect(existsSync(ahead)).toBe(false)
  const halfWay = join(folder.path, 'half')
  await mkdir(halfWay)
  const oneIsDown = [storage.source.pageservers[0] as string, '127.0.0.1:9']
  await expect(assemblePgdata({ ...made, directory: halfWay, pageservers: oneIsDown })).rejects.toMatchObject(
    { code: 'unavailable' },
  )
  // As it was before.
  expect(await readdir(halfWay)).toEqual([])

  const stopped = join(folder.path, 'stopped')
  const stop = new AbortController()
  const onProgress = (): void => stop.abort()
  await expect(
    assemblePgdata({ ...made, directory: stopped, signal: stop.signal, onProgress }),
  ).rejects.toMatchObject({ code: 'cancelled' })
  expect(existsSync(stopped)).toBe(false)

  const whole = join(folder.path, 'whole')
  await assemblePgdata({ ...made, directory: whole, isDurable: true })
  expect(parseControlFile(await readFile(join(whole, CONTROL_FILE_PATH))).systemId).toBe(
    storage.source.postgres.systemId,
  )
})
