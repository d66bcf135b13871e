/** Redo of generic records equals what a real Postgres made of the page; bloom indexes write nothing else. */
import { expect, test } from 'vitest'
import { formatCounts, recordHistory, verifyHistory } from '../../../test/verify-server.ts'

const STATEMENTS = [
  `create extension bloom`,
  `create table b (i int, j int)`,
  `create index b_ij on b using bloom (i, j)`,
  `insert into b select g, g % 100 from generate_series(1, 4000) g`,
  `delete from b where i % 3 = 0`,
  `vacuum b`,
  `insert into b select g, g from generate_series(1, 500) g`,
]

test.for([16, 17, 18] as const)('redo of generic records equals PostgreSQL %i', async (major) => {
  await using history = await recordHistory({
    major,
    workload: async ({ client }) => {
      for (const sql of STATEMENTS) await client.query(sql)
    },
  })
  const verifier = verifyHistory(history)
  if (process.env['SHOW_COUNTS'] !== undefined) console.log(formatCounts(verifier))
  expect(verifier.differences).toEqual([])
  expect(verifier.counts.get('Generic/Generic')?.compared ?? 0).toBeGreaterThan(1000)
})
