/**
 * Redo of every BRIN record equals what a real Postgres made of the page, block by block under
 * `wal_consistency_checking` and once more against the files of the stopped server.
 */
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import { formatCounts, recordHistory, verifyHistory } from '../../../test/verify-server.ts'

async function workload(client: Client): Promise<void> {
  const statements = [
    `create table b (k int, t text)`,
    `insert into b select g, repeat('b', 60) from generate_series(1, 2000) g`,
    `create index b_k on b using brin (k) with (pages_per_range = 1, autosummarize = off)`,
    `create index b_t on b using brin (t) with (pages_per_range = 2)`,
    `create index b_multi on b using brin (k int4_minmax_multi_ops) with (pages_per_range = 1)`,
    `insert into b select g, repeat('c', 1 + g % 900) from generate_series(2001, 9000) g`,
    `select brin_summarize_new_values('b_k'), brin_summarize_new_values('b_t'), brin_summarize_new_values('b_multi')`,
    `update b set k = -k where k % 97 = 0`, // widens ranges in place
    `update b set t = t || repeat('z', 1500) where k % 300 = 0`, // summaries outgrow their pages
    `update b set t = repeat(md5(k::text), 60) where k % 301 = 0`,
    `insert into b select (random() * 100000)::int, md5(g::text) from generate_series(1, 3000) g`,
    `vacuum b`,
    `select brin_desummarize_range('b_k', g) from generate_series(0, 40, 3) g`,
    `select brin_desummarize_range('b_t', g) from generate_series(0, 40, 4) g`,
    `select brin_summarize_new_values('b_k'), brin_summarize_new_values('b_t')`,
    // More ranges than one revmap page holds.
    `create table many (k int, pad text) with (fillfactor = 10)`,
    `create index many_k on many using brin (k) with (pages_per_range = 1)`,
    `insert into many select g, repeat('m', 700) from generate_series(1, 3000) g`,
    `vacuum many`,
    `update many set k = k + 100000 where k % 10 = 0`,
  ]
  for (const sql of statements) await client.query(sql)
}

const RECORD_TYPES = [
  'CREATE_INDEX',
  'INSERT',
  'INSERT+INIT',
  'UPDATE',
  'UPDATE+INIT',
  'SAMEPAGE_UPDATE',
  'REVMAP_EXTEND',
  'DESUMMARIZE',
]

test.for([16, 17, 18] as const)(
  'redo of BRIN records equals PostgreSQL %i',
  { timeout: 240_000 },
  async (major) => {
    await using history = await recordHistory({ major, workload: ({ client }) => workload(client) })
    const verifier = verifyHistory(history)
    if (process.env['SHOW_COUNTS'] !== undefined) console.log(formatCounts(verifier))
    expect(verifier.differences).toEqual([])
    for (const type of RECORD_TYPES) {
      expect(verifier.counts.get(`BRIN/${type}`)?.compared ?? 0, `${type} was compared`).toBeGreaterThan(0)
    }
  },
)
