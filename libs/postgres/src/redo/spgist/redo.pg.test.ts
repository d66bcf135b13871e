/**
 * Redo of every SP-GiST record equals what a real Postgres made of the page, block by block under
 * `wal_consistency_checking` and once more against the files of the stopped server.
 */
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import { formatCounts, recordHistory, verifyHistory } from '../../../test/verify-server.ts'

async function workload(client: Client): Promise<void> {
  const statements = [
    `create table s (id int, t text, p point, q point)`,
    `create index s_t on s using spgist (t)`,
    `create index s_p on s using spgist (p)`,
    `create index s_q on s using spgist (q kd_point_ops)`,
    `create table root (id int, t text)`,
    `create index root_t on root using spgist (t)`,
    `insert into root select g, 'r' || g from generate_series(1, 60) g`,
    `insert into root select g, null from generate_series(1, 60) g`,
    `delete from root where id % 2 = 0`,
    `vacuum root`, // the root is a leaf: VACUUM_ROOT
    `insert into s select g, 'http://host' || g % 40 || '/path/' || md5(g::text), point(random() * 1000, random() * 1000),
       point(g, -g) from generate_series(1, 6000) g`,
    // Prefixes that must be split, and new nodes in between.
    `insert into s select g, repeat('prefix', g % 30) || chr(33 + g % 90) || g, point(g % 7, g % 11), point(g % 3, g)
       from generate_series(1, 4000) g`,
    `insert into s select g, chr(256 + g % 500) || repeat('x', g % 200), null, null from generate_series(1, 3000) g`,
    // Inner tuples that grow on full pages, and so move.
    ...Array.from(
      { length: 60 },
      (_, i) => `insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(${40 + i}) ||
       repeat(md5((g * ${i + 1})::text), 8), point(g, ${i}), point(${i}, g) from generate_series(1, 80) g`,
    ),
    `delete from s where id % 2 = 0`,
    `vacuum s`,
    `insert into s select g, 'http://other/' || md5(g::text), point(g, g), point(-g, g) from generate_series(1, 3000) g`,
    `delete from s where id between 100 and 2500`,
    `vacuum s`,
    `select pg_current_xact_id()`,
    `vacuum s`, // redirects become placeholders
    `insert into s select g, md5(g::text) || 'end', point(random() * 9, random() * 9), point(random(), g)
       from generate_series(1, 3000) g`,
    `update s set t = 'a' || t where id % 9 = 0`,
    `vacuum s`,
    `select pg_current_xact_id()`,
    `vacuum s`,
    `create index s_built on s using spgist (t)`,
  ]
  for (const sql of statements) await client.query(sql)
}

const RECORD_TYPES = [
  'ADD_LEAF',
  'MOVE_LEAFS',
  'ADD_NODE',
  'SPLIT_TUPLE',
  'PICKSPLIT',
  'VACUUM_LEAF',
  'VACUUM_ROOT',
  'VACUUM_REDIRECT',
]

test.for([16, 17, 18] as const)(
  'redo of SP-GiST records equals PostgreSQL %i',
  { timeout: 240_000 },
  async (major) => {
    await using history = await recordHistory({ major, workload: ({ client }) => workload(client) })
    const verifier = verifyHistory(history)
    if (process.env['SHOW_COUNTS'] !== undefined) console.log(formatCounts(verifier))
    expect(verifier.differences).toEqual([])
    for (const type of RECORD_TYPES) {
      expect(verifier.counts.get(`SPGist/${type}`)?.compared ?? 0, `${type} was compared`).toBeGreaterThan(0)
    }
    // Some nodes were added by moving their tuple to another page: two or three blocks.
    const moved = verifier.counts.get('SPGist/ADD_NODE')
    expect(moved?.compared ?? 0).toBeGreaterThan(moved?.records ?? 0)
  },
)
