/**
 * What WAL says about transactions beyond relation pages equals what a real Postgres left on disk, byte for byte: every
 * page of pg_xact, pg_multixact and pg_commit_ts, the state files of prepared transactions, the relation maps.
 */
import pg from 'pg'
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import { SLRU_KINDS, slruPages, twoPhaseFiles } from '../../../test/data-directory.ts'
import type { WorkloadSession } from '../../../test/redo-workload.ts'
import { formatCounts, recordHistory, verifyHistory } from '../../../test/verify-server.ts'

async function run(client: Client, ...statements: string[]): Promise<void> {
  for (const sql of statements) await client.query(sql)
}

/** `count` subtransactions that write no WAL of their own; every `abortEvery`th fails. */
const subtransactions = (count: number, abortEvery: number): string => `do $$ begin
  for i in 1..${count} loop
    begin
      insert into nowal values (i);
      if i % ${abortEvery} = 0 then raise division_by_zero; end if;
    exception when division_by_zero then null;
    end;
  end loop;
end $$`

/** Trees of transactions over several pages of pg_xact, kept and not. */
async function endTransactions(client: Client): Promise<void> {
  await run(
    client,
    `create table x (id int, v text)`,
    `create unlogged table nowal (id int)`,
    subtransactions(70_000, 7), // commits, with subtransactions on three pages, some aborted before
    `begin`,
    subtransactions(40_000, 1_000_000),
    `rollback`, // aborts, over two pages
    `begin`,
    `insert into x values (1)`,
    `savepoint a`,
    `insert into x values (2)`,
    `savepoint b`,
    `insert into x values (3)`,
    `rollback to a`,
    `savepoint c`,
    `insert into x values (4)`,
    `release c`,
    `commit`,
    ...Array.from({ length: 50 }, (_, i) => `insert into x values (${i})`),
    `begin`,
    `create table dropped (id int primary key)`,
    `insert into dropped values (1)`,
    `commit`,
    `drop table dropped`,
  )
}

/** Rows locked by two and three transactions, over several pages of offsets and members. */
async function shareLocks({ client, connect }: WorkloadSession): Promise<void> {
  await run(client, `create table l (id int primary key)`, `insert into l select generate_series(1, 2500)`)
  const [second, third] = [await connect(), await connect()]
  const lockEach = (mode: string): string => `do $$ begin
    for i in 1..2500 loop
      begin perform 1 from l where id = i for ${mode}; exception when division_by_zero then null; end;
    end loop;
  end $$`
  await run(client, `begin`, `select * from l for share`)
  await run(second, `begin`, lockEach('key share')) // each row by another subtransaction: a multixact of its own
  await run(third, `begin`, `select * from l where id <= 500 for share`, `commit`)
  await run(second, `commit`)
  await run(client, `commit`)
  await run(
    client,
    `begin`,
    `update l set id = id where id <= 20`,
    `savepoint s`,
    `select * from l where id <= 20 for update`,
  )
  await run(third, `begin`, `select * from l where id between 21 and 30 for key share`)
  await run(client, `update l set id = id where id between 21 and 30`, `commit`)
  await run(third, `commit`)
}

/** Prepared transactions that stay, commit and abort, with everything that a state file can hold. */
async function prepareTransactions(client: Client): Promise<void> {
  const contents = (n: number): string[] => [
    `begin`,
    `create table made${n} (id serial primary key, v text)`,
    `insert into made${n} (v) values ('x')`,
    `savepoint s`,
    `insert into x values (${n})`,
    `savepoint t`,
    `insert into x values (-${n})`,
    `rollback to t`,
    `drop table victim${n}`,
    `analyze made${n}`,
  ]
  for (const n of [1, 2, 3])
    await run(
      client,
      `create table victim${n} (id serial primary key)`,
      `insert into victim${n} default values`,
    )
  await run(
    client,
    ...contents(1),
    `prepare transaction 'commits'`,
    ...contents(2),
    `prepare transaction 'aborts'`,
    ...contents(3),
    `prepare transaction 'stays, with a name of some length'`,
    `begin`,
    `insert into x values (77)`,
    `prepare transaction 'small'`,
    `commit prepared 'commits'`,
    `rollback prepared 'aborts'`,
    `begin`,
    subtransactions(3000, 10),
    `prepare transaction 'many subtransactions'`,
    `begin`,
    subtransactions(500, 10),
    `prepare transaction 'many that commit'`,
    `commit prepared 'many that commit'`,
  )
}

/** Mapped catalogs get new files; what is old enough is forgotten. */
async function rewriteMaps(client: Client): Promise<void> {
  await run(
    client,
    `vacuum full pg_class`,
    `vacuum full pg_proc`,
    `vacuum full pg_database`,
    `cluster pg_attribute using pg_attribute_relid_attnum_index`,
    `vacuum (freeze)`,
    `checkpoint`,
  )
}

/** Every database forgets what is old: the SLRUs lose their first segments. */
async function freezeAll(client: Client): Promise<void> {
  await run(client, `alter database template0 allow_connections true`)
  for (const database of ['template0', 'template1', 'postgres']) {
    const other = new pg.Client({ host: client.host, port: client.port, user: 'postgres', database })
    await other.connect()
    try {
      await run(other, `vacuum (freeze)`)
    } finally {
      await other.end()
    }
  }
}

const RECORD_TYPES = [
  'Transaction/COMMIT',
  'Transaction/ABORT',
  'Transaction/PREPARE',
  'Transaction/COMMIT_PREPARED',
  'Transaction/ABORT_PREPARED',
  'Transaction/ASSIGNMENT',
  'Transaction/INVALIDATION',
  'CLOG/ZEROPAGE',
  'CommitTs/ZEROPAGE',
  'MultiXact/CREATE_ID',
  'MultiXact/ZERO_OFF_PAGE',
  'MultiXact/ZERO_MEM_PAGE',
  'CommitTs/TRUNCATE',
  'MultiXact/TRUNCATE_ID',
  'RelMap/UPDATE',
]

test.for([16, 17, 18] as const)(
  'transaction state equals that of PostgreSQL %i',
  { timeout: 240_000 },
  async (major) => {
    await using history = await recordHistory({
      major,
      workload: async (session) => {
        await endTransactions(session.client)
        await shareLocks(session)
        await rewriteMaps(session.client)
        await freezeAll(session.client)
        await prepareTransactions(session.client)
      },
    })
    const verifier = verifyHistory(history)
    if (process.env['SHOW_COUNTS'] !== undefined) console.log(formatCounts(verifier))
    expect(verifier.differences).toEqual([])
    for (const kind of SLRU_KINDS)
      expect(slruPages(history.dataDirectory, kind).length, kind).toBeGreaterThan(1)
    expect(twoPhaseFiles(history.dataDirectory).size).toBe(3)
    for (const type of RECORD_TYPES) expect(verifier.counts.get(type)?.records ?? 0, type).toBeGreaterThan(0)
  },
)
