/**
 * Redo of every btree record equals what a real Postgres made of the page, block by block under
 * `wal_consistency_checking` and once more against the files of the stopped server.
 */
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import type { WorkloadSession } from '../../../test/redo-workload.ts'
import { formatCounts, recordHistory, verifyHistory } from '../../../test/verify-server.ts'

async function run(client: Client, ...statements: string[]): Promise<void> {
  for (const sql of statements) await client.query(sql)
}

/** Keys of 400 bytes that differ at their end only: 18 a page on every level, so that trees grow tall soon. */
const KEY = `lpad(k::text, 400, '0')`

async function splitEverywhere(client: Client): Promise<void> {
  await run(
    client,
    `create table tall (k int, s text)`,
    `create index tall_s on tall (s)`,
    `create unique index tall_u on tall (k)`,
    `insert into tall select k, ${KEY} from generate_series(1, 1500) k`, // rightmost splits
    `insert into tall select k, ${KEY} from generate_series(6500, 5001, -1) k`, // leftmost of a range
    `insert into tall select k, ${KEY} from generate_series(10000, 11500) k order by hashint4(k)`, // in between
    `create table mixed (k float8, v text collate "C")`,
    `create index mixed_kv on mixed (k, v) include (v)`,
    `insert into mixed select hashint4(k), repeat('x', 1 + k % 700) from generate_series(1, 2500) k`,
  )
}

/** Tuples of one key become posting lists; later TIDs fall into them, split them, or take some of theirs away. */
async function deduplicate(client: Client): Promise<void> {
  await run(
    client,
    `create table dup (k int, pad text, t text)`,
    `create index dup_k on dup (k)`,
    `create index dup_t on dup (t)`,
    `create index dup_plain on dup (k, pad) with (deduplicate_items = off)`,
    `insert into dup select k % 20, repeat('p', 20), 'value ' || k % 7 from generate_series(1, 8000) k`,
    `delete from dup where ctid in (select ctid from dup order by random() limit 3500)`,
    `vacuum dup`, // VACUUM with updated posting lists; frees TIDs in the middle of lists
    `insert into dup select k % 20, repeat('q', 20), 'value ' || k % 7 from generate_series(1, 3500) k order by random()`,
    `delete from dup where k = 3`,
    `vacuum dup`,
    `insert into dup select 3, 'r', 'value 3' from generate_series(1, 1500) k`,
    // Random TIDs into long lists on full pages: splits that must split a posting list too.
    ...Array.from({ length: 6 }, (_, round) => [
      `delete from dup where ctid in (select ctid from dup order by random() limit 1000)`,
      `vacuum dup`,
      `insert into dup select (k * 7) % 20, 's${round}', 'value ' || k % 7 from generate_series(1, 1500) k order by random()`,
    ]).flat(),
  )
}

/** Dead tuples that a scan marked go before a split; versions of the same row go by bottom-up deletion. */
async function deleteOnInsert(client: Client): Promise<void> {
  await run(
    client,
    `create table churn (id int primary key, n int, t text) with (fillfactor = 90)`,
    `create index churn_n on churn (n)`,
    `create index churn_t on churn (t)`,
    `insert into churn select g, g % 50, 'text ' || g % 30 from generate_series(1, 3000) g`,
    `set enable_seqscan = off`,
    `set enable_bitmapscan = off`,
    ...Array.from({ length: 12 }, (_, i) => `update churn set n = n + ${i % 2 === 0 ? 1 : -1}, t = t || ''`),
    `delete from churn where id between 500 and 1500`,
    `select count(*) from (select id from churn where id between 1 and 3000 order by id) x`, // marks dead items
    `select count(*) from (select n from churn where n between 0 and 60 order by n) x`,
    `insert into churn select g, g % 50, 'text' from generate_series(500, 1500) g`,
    ...Array.from({ length: 6 }, () => `update churn set n = 5 where id % 3 = 0`),
    `reset enable_seqscan`,
    `reset enable_bitmapscan`,
  )
}

/** Whole subtrees go, the fast root sinks, the pages are used again, and the fast root rises. */
async function deletePages(client: Client): Promise<void> {
  await run(
    client,
    `delete from tall where k between 100 and 6000`,
    `vacuum tall`, // half-dead, unlinked, internal pages too
    `vacuum tall`,
    `select pg_current_xact_id()`,
    `select pg_current_xact_id()`,
    `vacuum tall`,
    `insert into tall select k, ${KEY} from generate_series(100, 1000) k`, // REUSE_PAGE
    `delete from tall where k < 11490`,
    `vacuum tall`, // one page is left on its level: UNLINK_PAGE_META
    `select pg_current_xact_id()`,
    `select pg_current_xact_id()`,
    `vacuum tall`,
    `insert into tall select k, ${KEY} from generate_series(20000, 22000) k`, // INSERT_META
    `delete from tall`,
    `vacuum tall`,
    `select pg_current_xact_id()`,
    `vacuum tall`, // META_CLEANUP
    `insert into tall select k, ${KEY} from generate_series(1, 500) k`,
  )
}

/**
 * Three sessions insert and update beside each other on the same pages while a fourth vacuums. Each keeps to its own
 * rows: two that update the same ones in different order would deadlock.
 */
async function useTogether({ client, connect }: WorkloadSession): Promise<void> {
  await run(
    client,
    `create table busy (id bigint generated always as identity primary key, owner int, k int, t text)`,
    `create index busy_k on busy (k)`,
    `create index busy_t on busy (t)`,
  )
  const writers = await Promise.all([connect(), connect(), connect()])
  const cleaner = await connect()
  let isDone = false
  const vacuums = (async () => {
    while (!isDone) await cleaner.query('vacuum busy')
  })()
  await Promise.all(
    writers.map(async (writer, n) => {
      for (let i = 0; i < 12; i++) {
        await run(
          writer,
          `insert into busy (owner, k, t) select ${n}, (random() * 100)::int, 't' || (random() * 1000)::int from generate_series(1, 150)`,
          `update busy set k = k + 1 where owner = ${n} and id % 13 < 3`,
          `delete from busy where owner = ${n} and id % 17 < 3 and k < 40`,
        )
      }
    }),
  )
  isDone = true
  await vacuums
}

const RECORD_TYPES = [
  'INSERT_LEAF',
  'INSERT_UPPER',
  'INSERT_META',
  'SPLIT_L',
  'SPLIT_R',
  'INSERT_POST',
  'DEDUP',
  'DELETE',
  'UNLINK_PAGE',
  'UNLINK_PAGE_META',
  'NEWROOT',
  'MARK_PAGE_HALFDEAD',
  'VACUUM',
  'META_CLEANUP',
]

test.for([16, 17, 18] as const)(
  'redo of btree records equals PostgreSQL %i',
  { timeout: 300_000 },
  async (major) => {
    await using history = await recordHistory({
      major,
      workload: async (session) => {
        await splitEverywhere(session.client)
        await deduplicate(session.client)
        await deleteOnInsert(session.client)
        await deletePages(session.client)
        await useTogether(session)
      },
    })
    const verifier = verifyHistory(history, { concurrent: true })
    if (process.env['SHOW_COUNTS'] !== undefined) console.log(formatCounts(verifier))
    expect(verifier.differences).toEqual([])
    for (const type of RECORD_TYPES) {
      expect(verifier.counts.get(`Btree/${type}`)?.compared ?? 0, `${type} was compared`).toBeGreaterThan(0)
    }
    expect(verifier.counts.get('Btree/REUSE_PAGE')?.records ?? 0, 'pages were reused').toBeGreaterThan(0)
  },
)
