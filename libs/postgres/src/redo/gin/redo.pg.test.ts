/**
 * Redo of every GIN record equals what a real Postgres made of the page, block by block under
 * `wal_consistency_checking` and once more against the files of the stopped server.
 */
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import { formatCounts, recordHistory, verifyHistory } from '../../../test/verify-server.ts'

async function workload(client: Client): Promise<void> {
  const statements = [
    `create table n (id int, a int[], t tsvector)`,
    `create index n_a on n using gin (a) with (fastupdate = off)`,
    `create index n_t on n using gin (t)`, // with a pending list
    `insert into n select g, array[g % 5, g % 100, g], to_tsvector('simple', 'all w' || g % 50 || ' x' || g)
       from generate_series(1, 4000) g`, // posting lists grow into posting trees
    `vacuum n`, // moves the pending list
    `insert into n select g, array[g % 3], to_tsvector('simple', 'all ' || md5(g::text)) from generate_series(1, 3000) g`,
    // TIDs into the middle of posting trees.
    `delete from n where id % 4 = 0`,
    `vacuum n`,
    `insert into n select g, array[g % 5, -g], to_tsvector('simple', 'all w' || g % 50) from generate_series(1, 3000) g`,
    `select gin_clean_pending_list('n_t')`,
    // One tree with internal pages, of which whole leaves go.
    `create table deep (id int, a int[]) with (autovacuum_enabled = off)`,
    `create index deep_a on deep using gin (a) with (fastupdate = off)`,
    `insert into deep select g, array[1] from generate_series(1, 30000) g`,
    `delete from deep where id between 3000 and 27000`,
    `vacuum deep`,
    `insert into deep select g, array[1, g % 2] from generate_series(1, 5000) g`,
    `delete from deep where id % 3 = 0`,
    `vacuum deep`,
    `create index n_built on n using gin (a)`,
    `update n set a = a || 7 where id % 10 = 0`,
  ]
  for (const sql of statements) await client.query(sql)
}

const COMPARED_TYPES = [
  'CREATE_PTREE',
  'INSERT',
  'SPLIT',
  'VACUUM_DATA_LEAF_PAGE',
  'DELETE_PAGE',
  'UPDATE_META_PAGE',
  'INSERT_LISTPAGE',
  'DELETE_LISTPAGE',
]

test.for([16, 17, 18] as const)(
  'redo of GIN records equals PostgreSQL %i',
  { timeout: 240_000 },
  async (major) => {
    await using history = await recordHistory({ major, workload: ({ client }) => workload(client) })
    const verifier = verifyHistory(history)
    if (process.env['SHOW_COUNTS'] !== undefined) console.log(formatCounts(verifier))
    expect(verifier.differences).toEqual([])
    for (const type of COMPARED_TYPES) {
      const counts = verifier.counts.get(`Gin/${type}`)
      expect(
        (counts?.compared ?? 0) + (type === 'SPLIT' ? (counts?.restored ?? 0) : 0),
        type,
      ).toBeGreaterThan(0)
    }
    // VACUUM_PAGE is nothing but an image.
    expect(verifier.counts.get('Gin/VACUUM_PAGE')?.restored ?? 0).toBeGreaterThan(0)
  },
)
