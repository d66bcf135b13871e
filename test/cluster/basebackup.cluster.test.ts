/**
 * Goal: what `understory timeline basebackup` writes is a data directory on which a stock server of the same version
 * starts by itself, without recovery, and answers as the primary did at that LSN. Method: a tenant of each version on
 * one cluster, the command as its users run it, at a position of the past and at the newest; amcheck and pg_visibility
 * then look at every relation.
 */
import { join } from 'node:path'
import { parseLsn } from '@understory/base'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresMajor, PostgresServer } from '@understory/testcontainers'
import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const MAJORS = [16, 17, 18] as const
const SETTINGS = { max_prepared_transactions: '4', autovacuum: 'off' }
const tenantOf = (major: PostgresMajor): string => (major === 17 ? 'road' : `road-${major}`)

let road: Road

beforeAll(async () => {
  road = await startRoad({ majors: MAJORS, settings: SETTINGS })
  await Promise.all(
    MAJORS.filter((major) => major !== 17).map((major) =>
      road.createTenant(tenantOf(major), major, SETTINGS),
    ),
  )
})
afterAll(() => road?.[Symbol.asyncDispose]())

const PAST = [
  'create extension amcheck',
  'create extension pg_visibility',
  'create table hot (id int primary key, n int, filler text) with (fillfactor = 70)',
  "insert into hot select g, 0, repeat('x', 100) from generate_series(1, 2000) g",
  'create table big (id int primary key, v int, t text)',
  'insert into big select g, g, case when g % 100 = 0 then repeat(md5(g::text), 200) else md5(g::text) end from generate_series(1, 5000) g',
  'create index on big (t)',
  "create index on big using gin (string_to_array(t, 'a'))",
  'create index on big using brin (v)',
  'create sequence numbers',
  "select nextval('numbers') from generate_series(1, 50)",
  'create materialized view sums as select v % 10 k, count(*) from big group by 1',
  'delete from big where id % 7 = 0',
  'vacuum big',
  'vacuum freeze hot',
  'update hot set n = n + 1 where id % 3 = 0',
  'create table shapes (id int, p point, r int4range, t text)',
  "insert into shapes select g, point(g % 100, g / 100), int4range(g, g + 10), 'shape ' || g from generate_series(1, 3000) g",
  'create index on shapes using gist (p)',
  'create index on shapes using gist (r)',
  'create index on shapes using spgist (t)',
  'create index on shapes using hash (id)',
  "select lo_from_bytea(4711, repeat('large', 2000)::bytea)",
  'create database second',
  'create database by_files strategy file_copy',
  "begin; insert into hot values (90000, 1, 'p'); prepare transaction 'kept'",
  'create table gone as select 1 a',
  'create unlogged table fleeting as select 1 a',
  'create unlogged table never_logged as select 1 a',
]
/** Runs with full_page_writes off. */
const LATER = [
  'checkpoint',
  "commit prepared 'kept'",
  'delete from shapes where id % 3 = 0',
  'vacuum shapes',
  "insert into shapes select g, point(g, g), int4range(g, g + 1), 's' || g from generate_series(1, 3000) g",
  'begin; savepoint a; update hot set n = 5 where id = 1; savepoint b; select * from hot where id = 2 for share; rollback to b; commit',
  'vacuum full pg_class',
  'vacuum full pg_database',
  'cluster big using big_pkey',
  'alter table fleeting set logged',
  'alter table sums_of_later set unlogged',
  'alter table sums_of_later set logged',
  'begin; truncate hot; rollback',
  'drop database by_files',
  'create database third template second',
  "select lo_put(4711, 3, 'changed'::bytea)",
  'create table parts (k int) partition by hash (k)',
  'create table parts_0 partition of parts for values with (modulus 1, remainder 0)',
  'insert into parts select generate_series(1, 2000)',
  'alter table hot add column extra text default md5(random()::text)',
  'checkpoint',
  'drop table gone',
  'update hot set n = n + 100',
  "insert into hot values (70000, 1, 'later')",
  'truncate sums_of_later',
  'delete from big where id > 4000',
  'vacuum big',
  'update big set v = v + 1 where id % 50 = 0',
  "begin; insert into hot values (90001, 1, 'q'); prepare transaction 'kept on'",
  'refresh materialized view sums',
  "select nextval('numbers') from generate_series(1, 100)",
  'reindex table big',
]

describe.each(MAJORS)('PostgreSQL %i', (major) => {
  test('a stock server starts on a base backup of the past and of the newest, and answers the same', async () => {
    const tenant = tenantOf(major)
    const run = (statements: readonly string[]) =>
      road.withClient(async (client) => {
        for (const statement of statements) await client.query(statement)
      }, tenant)
    await run(['create table sums_of_later as select g from generate_series(1, 100) g', ...PAST])
    const past = await road.withClient(answers, tenant)
    const [mark] = await road.query("select pg_logical_emit_message(true, 'mark', '') as lsn", tenant)
    const pastLsn = String(mark?.['lsn'])
    await road.client.switchFullPageWrites(tenant, 'off')
    await road.client.waitForFullPageWrites(tenant)
    await run(LATER)
    const newest = await road.withClient(answers, tenant)
    expect(newest).not.toEqual(past)

    await startsOn(major, 'past', ['--lsn', pastLsn], past)
    const { lsn } = await startsOn(major, 'newest', [], newest)
    expect(parseLsn(lsn)).toBeGreaterThan(parseLsn(pastLsn))
    // Storage has it all, and so has a compute that is made of it.
    await road.expectVerified(tenant)
    const { pid, postmasterPid, term } = await road.runningCompute(tenant)
    process.kill(pid, 'SIGKILL')
    process.kill(postmasterPid, 'SIGKILL')
    await until('the compute to be rebuilt', async () => {
      const { compute } = await road.timeline(tenant)
      return compute !== undefined && compute.term > term && compute.connectionString !== ''
        ? true
        : undefined
    })
    expect(await road.withClient(answers, tenant)).toEqual(newest)
    await road.query('update hot set n = n + 1', tenant)
    expect((await road.expectVerified(tenant)).pagesFromStorage).toBeGreaterThan(0n)
  })
})

/** Makes the base backup, starts a server on it, and finds the answers there and nothing wrong. */
async function startsOn(
  major: PostgresMajor,
  name: string,
  args: readonly string[],
  expected: unknown,
): Promise<{ lsn: string }> {
  const dataDirectory = join(road.folder, `${name}-${major}`)
  const cli = await runCli(
    road.cluster,
    '--format',
    'json',
    'timeline',
    'basebackup',
    tenantOf(major),
    '--output',
    dataDirectory,
    ...args,
  )
  expect(cli).toMatchObject({ code: 0, stderr: '' })
  const [row] = JSON.parse(cli.stdout) as [{ directory: string; lsn: string; files: number; start: string }]
  expect(row).toMatchObject({ directory: dataDirectory })
  expect(row.start).toContain(dataDirectory)
  await using server = await startPostgres({ major, dataDirectory })
  expect(server.log()).toMatch(/database system was shut down at/)
  expect(server.log()).not.toMatch(/recovery|redo starts|FATAL|PANIC/)
  await expectWhole(server, expected)
  return row
}

async function expectWhole(server: PostgresServer, expected: unknown): Promise<void> {
  const client = await server.connect()
  expect(await answers(client)).toEqual(expected)
  // No WAL has an unlogged table's rows: it is there, and empty.
  expect((await client.query('select from never_logged')).rowCount).toBe(0)
  await client.query(`
    select bt_index_check(c.oid, true) from pg_class c join pg_index i on i.indexrelid = c.oid join pg_am a on a.oid = c.relam
     where a.amname = 'btree' and c.relpersistence = 'p' and i.indisready and i.indisvalid`)
  for (const check of ['verify_heapam(c.oid)', 'pg_check_visible(c.oid)', 'pg_check_frozen(c.oid)']) {
    const { rows } = await client.query(
      `select c.relname, v.* from pg_class c, lateral ${check} v where relkind in ('r', 't', 'm') and relpersistence = 'p'`,
    )
    expect(rows, check).toEqual([])
  }
  // It is a server like any other: it takes writes, and a clean stop and start.
  await client.query('update hot set n = n + 1')
  await client.end()
  const second = await server.connect('second')
  await second.query('create table here as select 1')
  await second.end()
  await server.stop('fast')
  await server.start()
}

/** The database's answers about itself and its rows. */
async function answers(client: pg.Client): Promise<unknown> {
  const queries = [
    'select count(*), sum(n), md5(string_agg(id || filler || n, chr(44) order by id)) from hot',
    'select count(*), sum(v), md5(string_agg(id || t, chr(44) order by id)) from big',
    'select count(*), sum(g) from sums_of_later',
    'select * from sums order by k',
    'select count(*), sum(id), min(p::text), max(r::text) from shapes',
    "select id from shapes where p <@ box '((0,0),(20,20))' order by id",
    'select md5(lo_get(4711))',
    'select gid from pg_prepared_xacts',
    'select oid::int8, datname from pg_database order by 1',
    'select oid::int8, relname, relkind, relfilenode from pg_class where oid >= 16384 order by 1',
    'select (system_identifier)::text from pg_control_system()',
  ]
  const results = []
  for (const query of queries) results.push((await client.query(query)).rows)
  return results
}
