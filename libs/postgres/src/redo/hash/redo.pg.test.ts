/**
 * Redo of every hash index record equals what a real Postgres made of the page, block by block under
 * `wal_consistency_checking` and once more against the files of the stopped server.
 */
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import { formatCounts, recordHistory, verifyHistory } from '../../../test/verify-server.ts'

async function workload(client: Client): Promise<void> {
  const statements = [
    `create table h (k int, t text)`,
    `create index h_k on h using hash (k)`,
    `create index h_t on h using hash (t) with (fillfactor = 10)`,
    `insert into h select g % 7, 'same' from generate_series(1, 6000) g`, // long chains of overflow pages
    `insert into h select g, md5(g::text) from generate_series(1, 6000) g`, // splits
    `create index h_built on h using hash (k)`, // a build of known size
    `delete from h where k < 7 and ctid in (select ctid from h where k < 7 order by random() limit 4000)`,
    `vacuum h`, // squeezes chains
    `delete from h where k between 100 and 5000`,
    `vacuum h`,
    `insert into h select g % 5, 'again' from generate_series(1, 4000) g`,
    `delete from h where k < 5`,
    `vacuum h`,
    // Dead tuples that a scan marked go when their page is full.
    `create table d (k int, n int)`,
    `create index d_k on d using hash (k)`,
    `insert into d select g % 3, g from generate_series(1, 1200) g`,
    `delete from d where n % 2 = 0`,
    `set enable_seqscan = off`,
    `set enable_bitmapscan = off`,
    `select count(n) from d where k = 0`,
    `select count(n) from d where k = 1`,
    `select count(n) from d where k = 2`,
    `reset enable_seqscan`,
    `reset enable_bitmapscan`,
    `insert into d select g % 3, g from generate_series(1, 2000) g`,
    `insert into h select g, md5(g::text) from generate_series(20000, 26000) g`,
    `vacuum h`,
  ]
  for (const sql of statements) await client.query(sql)
}

const RECORD_TYPES = [
  'INIT_META_PAGE',
  'INIT_BITMAP_PAGE',
  'INSERT',
  'ADD_OVFL_PAGE',
  'SPLIT_ALLOCATE_PAGE',
  'SPLIT_COMPLETE',
  'MOVE_PAGE_CONTENTS',
  'SQUEEZE_PAGE',
  'DELETE',
  'SPLIT_CLEANUP',
  'UPDATE_META_PAGE',
  'VACUUM_ONE_PAGE',
]

test.for([16, 17, 18] as const)(
  'redo of hash records equals PostgreSQL %i',
  { timeout: 240_000 },
  async (major) => {
    await using history = await recordHistory({ major, workload: ({ client }) => workload(client) })
    const verifier = verifyHistory(history)
    if (process.env['SHOW_COUNTS'] !== undefined) console.log(formatCounts(verifier))
    expect(verifier.differences).toEqual([])
    for (const type of RECORD_TYPES) {
      expect(verifier.counts.get(`Hash/${type}`)?.compared ?? 0, `${type} was compared`).toBeGreaterThan(0)
    }
    // SPLIT_PAGE is nothing but an image.
    expect(verifier.counts.get('Hash/SPLIT_PAGE')?.restored ?? 0).toBeGreaterThan(0)
  },
)
