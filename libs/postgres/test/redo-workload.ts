/**
 * A history that makes Postgres write every record type of heap, heap2 and the access methods that redo knows. One
 * step at a time, so that a difference names what led to it; two sessions only where locks need them.
 */
import type { Client } from 'pg'

export interface WorkloadSession {
  readonly client: Client
  /** Another session, of the same database if none is named. */
  readonly connect: (database?: string) => Promise<Client>
  readonly connectionString: string
}

async function run(client: Client, ...statements: string[]): Promise<void> {
  for (const sql of statements) await client.query(sql)
}

/** Inserts by one and by many, updates on the page and off it, with common prefixes and suffixes, and deletes. */
async function changeRows(client: Client): Promise<void> {
  await run(
    client,
    `create table t (id int primary key, a text, b text, n int) with (autovacuum_enabled = off)`,
    `create index t_b on t (b)`,
    ...Array.from({ length: 200 }, (_, i) => `insert into t values (${i}, 'a${i}', md5('${i}'), ${i})`),
    `insert into t select g, 'a' || g, md5(g::text), g from generate_series(1000, 8000) g`,
    `update t set n = n + 1 where id < 200`, // HOT, with prefix and suffix
    `update t set a = 'longer value ' || a where id % 7 = 0`, // HOT and not
    `update t set b = md5(b) where id % 5 = 0`, // an indexed column: never HOT
    `update t set a = null where id % 11 = 0`, // the null bitmap changes
    `update t set a = 'x' || repeat(a, 3) where id % 11 <> 0 and id % 13 = 0`,
    `delete from t where id % 3 = 0`,
    `begin`,
    `insert into t select g, 'gone', 'gone', g from generate_series(30000, 30300) g`,
    `rollback`,
    `begin`,
    `savepoint s1`,
    `update t set n = -1 where id % 17 = 0`,
    `rollback to s1`,
    `update t set n = -2 where id % 19 = 0`,
    `commit`,
    `insert into t values (1, 'conflict', 'b', 1) on conflict (id) do update set a = excluded.a`,
    `insert into t values (100000, 'speculative', 'b', 1) on conflict (id) do nothing`, // CONFIRM
  )
}

/** Values that are moved out of line, compressed and plain. */
async function changeToasted(client: Client): Promise<void> {
  await run(
    client,
    `create table big (id int primary key, v text, w text)`,
    `alter table big alter w set storage external`,
    `insert into big select g, repeat(md5(g::text), 400), repeat(md5(g::text), 200) from generate_series(1, 150) g`,
    `update big set v = v || 'x' where id % 2 = 0`,
    `update big set id = id + 1000 where id % 5 = 0`, // keeps the out-of-line values
    `delete from big where id % 3 = 0`,
    `vacuum big`,
  )
}

/** Multi-insert, with and without a fresh page, frozen at once, and into a page that was all-visible. */
async function copyRows(client: Client): Promise<void> {
  await run(
    client,
    `create table c (id int, body text)`,
    `create table c2 as select g as id, md5(g::text) as body from generate_series(1, 3000) g`,
  )
  await run(
    client,
    `copy c from program 'seq -f "%.0f,one row of many" 1 3000' with (format csv)`,
    `copy c from program 'seq -f "%.0f," 1 3' with (format csv)`,
    `vacuum (freeze) c`,
    `copy c from program 'seq -f "%.0f,clears visibility" 1 50' with (format csv)`,
    `begin`,
    `truncate c2`,
    `copy c2 from program 'seq -f "%.0f,frozen" 1 2000' with (format csv, freeze)`,
    `commit`,
    `copy c2 from program 'seq -f "%.0f,one more" 1 1' with (format csv)`,
  )
}

/** Row locks of one and of several transactions, before and after updates, on pages that are frozen. */
async function lockRows(client: Client, other: Client): Promise<void> {
  await run(
    client,
    `create table l (id int primary key, v int)`,
    `create table child (id int references l)`,
    `insert into l select g, g from generate_series(1, 500) g`,
    `vacuum (freeze) l`,
    `begin`,
    `select * from l where id <= 10 for update`,
    `commit`, // LOCK clears all-frozen
    `begin`,
    `select * from l where id between 11 and 20 for share`,
  )
  await run(other, `begin`, `select * from l where id between 11 and 20 for share`) // multixact
  await run(client, `commit`)
  await run(other, `commit`)
  await run(client, `begin`, `select * from l where id between 21 and 30 for key share`)
  await run(other, `begin`, `update l set v = -v where id between 21 and 30`) // update with a locker
  await run(client, `commit`)
  await run(client, `begin`, `select * from l where id between 31 and 40 for no key update`)
  await run(other, `commit`, `begin`, `select * from l where id between 31 and 40 for key share`)
  await run(client, `update l set v = 7 where id between 31 and 35`, `commit`)
  await run(other, `commit`)
  await run(client, `insert into child select g from generate_series(100, 200) g`) // foreign keys: key share
  // A locker of an older snapshot follows the chain of updates: LOCK_UPDATED.
  await run(client, `begin`, `update l set v = v + 1 where id between 41 and 45`)
  await run(other, `begin isolation level repeatable read`, `select count(*) from l`)
  await run(client, `commit`)
  await run(other, `select * from l where id between 41 and 45 for key share`, `commit`)
  await run(
    client,
    `begin`,
    `update l set v = v + 1 where id between 46 and 50`,
    `savepoint s`,
    `select * from l where id between 51 and 55 for update`,
    `update l set v = 0 where id between 51 and 55`,
    `rollback to s`,
    `delete from l where id between 56 and 60`,
    `commit`,
  )
  // The remains of a rolled-back change go when the tuple is locked, updated or deleted again.
  await run(
    client,
    `begin`,
    `delete from l where id between 61 and 65`,
    `rollback`,
    `begin`,
    `update l set id = id + 1000 where id between 66 and 70`,
    `rollback`,
    `begin`,
    `update l set v = -1 where id between 71 and 80`,
    `rollback`,
    `begin`,
    `select * from l where id between 61 and 75 for share`,
    `commit`,
    `begin`,
    `select * from l where id between 61 and 75 for update`,
    `commit`,
    `update l set v = -2 where id between 61 and 65`,
    `delete from l where id between 71 and 80`,
  )
}

/** Two sessions insert the same key at the same time: the later one's tuple is taken back at once. */
async function insertSpeculatively(client: Client, other: Client): Promise<void> {
  // The second call in a session comes after the heap tuple was inserted and before the index entry is.
  await run(
    client,
    `create function key_of(text) returns text immutable language plpgsql as $$
      begin
        if current_setting('spec.calls', true) <> '' then
          perform set_config('spec.calls', (current_setting('spec.calls')::int + 1)::text, false);
          if current_setting('spec.calls')::int = 2 then
            perform pg_advisory_lock(1);
            perform pg_advisory_unlock(1);
          end if;
        end if;
        return $1;
      end $$`,
    `create table s (k text, big text)`,
    `alter table s alter big set storage external`,
    `create unique index s_k on s (key_of(k))`,
    `select pg_advisory_lock(1)`,
  )
  await run(other, `set spec.calls = '0'`)
  const later = other.query(`insert into s values ('k', repeat('late', 3000)) on conflict do nothing`)
  for (;;) {
    const {
      rows: [row],
    } = await client.query(
      `select count(*)::int as n from pg_locks where locktype = 'advisory' and not granted`,
    )
    if (row.n === 1) break
  }
  await run(client, `insert into s values ('k', 'first')`, `select pg_advisory_unlock(1)`)
  await later
}

/** Dead rows go by pruning, by vacuum's two passes, with and without indexes; rows are frozen; files are cut. */
async function vacuumRows(client: Client): Promise<void> {
  await run(
    client,
    `create table p (id int primary key, v text) with (fillfactor = 60)`,
    `insert into p select g, repeat('v', 20) from generate_series(1, 3000) g`,
    ...Array.from({ length: 6 }, (_, i) => `update p set v = v || '${i}'`),
    `select sum(length(v)) from p`, // prunes on access
    `delete from p where id % 4 = 0`,
    `vacuum p`,
    `vacuum p`,
    `update p set v = 'after the map' where id % 100 = 1`, // clears the map's bits
    `delete from p where id % 100 = 2`,
    `vacuum (freeze) p`,
    `delete from p where id > 1500`,
    `vacuum p`, // cuts the file, and the map's tail
    `insert into p select g, 'again' from generate_series(6000, 7500) g`,
    `create table q (v int)`, // no index: dead items become unused at once
    `insert into q select generate_series(1, 3000)`,
    `delete from q where v % 2 = 0`,
    `vacuum q`,
    `delete from q`,
    `vacuum q`,
    `insert into q select generate_series(1, 300)`,
    `vacuum (freeze, index_cleanup off) t`,
    `vacuum t`,
    `vacuum (freeze) t`,
    `vacuum (freeze) big`,
    `update t set n = 5 where id % 50 = 1`,
    `vacuum (freeze) l`,
    `update l set v = 3 where id % 9 = 0`,
    `analyze`, // in-place updates of pg_class
    `vacuum (freeze)`,
  )
}

/** Index builds, page splits from all sides, deleted and recycled index pages, deduplication. */
async function changeIndexes(client: Client): Promise<void> {
  await run(
    client,
    `create table i (k int, s text)`,
    `create index i_k on i (k)`,
    `create index i_s on i (s)`,
    `insert into i select g, md5(g::text) from generate_series(1, 12000) g`,
    `insert into i select -g, 'same' from generate_series(1, 2000) g`, // duplicates
    `create unique index i_u on i (k, s)`,
    `delete from i where k between 1000 and 10000`,
    `vacuum i`, // deletes pages
    `insert into i select g, md5(g::text) from generate_series(1000, 5000) g`,
    `vacuum i`,
    `reindex index i_k`,
    `cluster i using i_k`,
    `insert into i select g, repeat('w', 500) || g from generate_series(1, 800) g`,
    ...Array.from({ length: 8 }, () => `update i set k = k - 2000 where s = 'same'`), // bottom-up deletion
  )
}

/**
 * Everything else with pages or files: sequences, truncation, rewrites, databases, unlogged and partitioned tables.
 * Last of all, because of the prepared transaction that stays: vacuum cleans up nothing after it.
 */
async function changeFiles(client: Client): Promise<void> {
  await run(
    client,
    `create sequence seq`,
    `select nextval('seq') from generate_series(1, 100)`,
    `select setval('seq', 5000)`,
    `create unlogged table u (id int primary key)`,
    `insert into u select generate_series(1, 1000)`,
    `create table tr as select g from generate_series(1, 2000) g`,
    `truncate tr`,
    `insert into tr values (1)`,
    `alter table tr add column extra text default 'x' || random()`, // rewrite
    `vacuum full t`,
    `create table part (id int, v text) partition by range (id)`,
    `create table part1 partition of part for values from (0) to (100)`,
    `create table part2 partition of part for values from (100) to (200)`,
    `insert into part select g, 'p' from generate_series(0, 199) g`,
    `update part set id = id + 100 where id < 50`, // moves to another partition
    `create materialized view mv as select id, count(*) from t group by id`,
    `refresh materialized view mv`,
    `drop table c`,
    `create database d1 strategy wal_log`,
    `create database d2 strategy file_copy`,
    `drop database d1`,
    `checkpoint`,
    `begin`,
    `insert into tr values (2)`,
    `prepare transaction 'kept'`,
    `begin`,
    `insert into tr values (3)`,
    `prepare transaction 'done'`,
    `commit prepared 'done'`,
    `begin`,
    `create table never (x int)`,
    `insert into never values (1)`,
    `prepare transaction 'undone'`,
    `rollback prepared 'undone'`,
  )
}

/** Changes of frozen pages that no later vacuum covers up, so that the files show at the end what each left. */
async function changeFrozenPages(client: Client): Promise<void> {
  const kinds = ['f_insert', 'f_copy', 'f_delete', 'f_update', 'f_hot', 'f_lock', 'f_cut']
  for (const table of kinds) {
    await run(
      client,
      `create table ${table} (id int primary key, v text) with (fillfactor = 90)`,
      `insert into ${table} select g, md5(g::text) from generate_series(1, 4000) g`,
      `vacuum (freeze) ${table}`,
    )
  }
  await run(
    client,
    `insert into f_insert select g, 'x' from generate_series(5000, 5002) g`,
    `copy f_copy from program 'seq -f "%.0f,many" 5000 5100' with (format csv)`,
    `delete from f_delete where id % 500 = 0`,
    `update f_update set v = repeat('moves elsewhere', 200) where id % 500 = 0`,
    `update f_hot set v = 'stays' where id % 500 = 0`,
    `begin`,
    `select * from f_lock where id % 500 = 0 for update`,
    `commit`,
    `begin`,
    `select * from f_lock where id % 700 = 0 for key share`,
    `commit`,
    `delete from f_cut where id > 1000`,
    `vacuum f_cut`, // cuts the file behind bits of the map that were set
  )
}

export async function runRedoWorkload({ client, connect }: WorkloadSession): Promise<void> {
  await changeRows(client)
  await changeToasted(client)
  await copyRows(client)
  const other = await connect()
  await lockRows(client, other)
  await insertSpeculatively(client, other)
  await vacuumRows(client)
  await changeIndexes(client)
  await changeFrozenPages(client)
  await changeFiles(client)
}

const CONCURRENT_SESSIONS_COUNT = 6
const STATEMENTS_COUNT = 600
const ROWS_COUNT = 3000

/** Settings under which vacuum runs all the time beside the sessions of `runConcurrentWorkload`. */
export const BUSY_AUTOVACUUM = {
  autovacuum: true,
  autovacuum_naptime: 1,
  autovacuum_vacuum_threshold: 20,
  autovacuum_vacuum_scale_factor: 0.01,
  autovacuum_vacuum_insert_threshold: 50,
  autovacuum_vacuum_cost_delay: 0,
  vacuum_freeze_min_age: 0,
} as const

/** Sessions that change and lock the same rows at the same time; each chooses by its own numbers. */
export async function runConcurrentWorkload({ client, connect }: WorkloadSession): Promise<void> {
  await run(
    client,
    `create table a (id int primary key, v text, n int)`,
    `create table b (id serial primary key, a int references a, t text)`,
    `create index b_t on b (t)`,
    `insert into a select g, md5(g::text), 0 from generate_series(1, ${ROWS_COUNT}) g`,
  )
  const sessions = Array.from({ length: CONCURRENT_SESSIONS_COUNT }, async (_, i) =>
    changeAtRandom(await connect(), i + 1),
  )
  await Promise.all(sessions)
}

async function changeAtRandom(client: Client, seed: number): Promise<void> {
  let state = seed * 7919
  // xorshift32
  const below = (bound: number): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return Math.floor(((state >>> 0) / 2 ** 32) * bound)
  }
  const kinds: readonly ((key: number) => string)[] = [
    (key) => `update a set n = n + 1 where id = ${key}`,
    (key) =>
      `insert into b (a, t) select ${key}, repeat(md5('${key}'), ${below(20)}) from generate_series(1, ${below(30)})`,
    (key) => `delete from b where a between ${key} and ${key + 30}`,
    (key) => `begin; select * from a where id between ${key} and ${key + 5} for share;
      update a set v = md5(v) where id = ${key}; commit`,
    (key) => `begin; update a set v = v || 'x' where id between ${key} and ${key + 20}; rollback`,
    (key) => `begin; select * from a where id between ${key} and ${key + 3} for key share; savepoint s;
      update a set n = 3 where id = ${key + 1}; rollback to s; commit`,
    (key) => `insert into a values (${key}, 'c', 1) on conflict (id) do update set n = a.n + 1`,
    (key) => `update b set t = t || 'y' where a = ${key}`,
    (key) => `update a set v = substr(v || md5(v), 1, 60) where id between ${key} and ${key + 40}`,
    () =>
      ['checkpoint', 'vacuum a', 'vacuum (freeze) b', 'vacuum (freeze) a'][below(20)] ??
      'select count(*) from a',
  ]
  for (let i = 0; i < STATEMENTS_COUNT; i++) {
    try {
      await client.query((kinds[below(kinds.length)] as (key: number) => string)(below(ROWS_COUNT) + 1))
    } catch (error) {
      // A deadlock: this session gave way.
      if ((error as { code?: string }).code !== '40P01') throw error
      await client.query('rollback')
    }
  }
}
