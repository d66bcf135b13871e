/**
 * Redo of every GiST record equals what a real Postgres made of the page, block by block under
 * `wal_consistency_checking` and once more against the files of the stopped server. The split marks (NSN and
 * F_FOLLOW_RIGHT), which Postgres's masks hide, are compared exactly at the end.
 */
import { readFileSync } from 'node:fs'
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import { relationFiles } from '../../../test/data-directory.ts'
import { formatCounts, recordHistory, verifyHistory } from '../../../test/verify-server.ts'
import type { RedoVerifier } from '../../verify/redo-verifier.ts'

async function workload(client: Client): Promise<void> {
  const statements = [
    `create table g (id int, p point, b box, r int4range)`,
    `create index g_p on g using gist (p)`,
    `create index g_b on g using gist (b)`,
    `create index g_r on g using gist (r)`,
    `insert into g select k, point(random() * 1000, random() * 1000), box(point(k, k), point(k + 5, k + 5)),
       int4range(k, k + k % 10 + 1) from generate_series(1, 5000) k`,
    `checkpoint`,
    `insert into g select k, point(random() * 1000, random() * 1000), box(point(k, -k), point(k + 5, 5 - k)),
       int4range(-k, -k + k % 10 + 1) from generate_series(1, 4000) k`,
    `checkpoint`,
    `update g set p = point(id, id) where id % 3 = 0`,
    `delete from g where id between 500 and 4000`,
    `set enable_seqscan = off`,
    `set enable_bitmapscan = off`,
    `select count(id) from g where p <@ box '((0,0),(1000,1000))'`, // marks dead items
    `select count(id) from g where b && box '((-9000,-9000),(9000,9000))'`,
    `reset enable_seqscan`,
    `reset enable_bitmapscan`,
    `insert into g select k, point(k % 1000, k % 1000), box(point(k, k), point(k + 5, k + 5)), int4range(k, k + 1)
       from generate_series(1, 3000) k`,
    `delete from g where id < 4500`,
    `vacuum g`, // deletes pages
    `vacuum g`,
    `select pg_current_xact_id()`,
    `select pg_current_xact_id()`,
    `vacuum g`,
    `insert into g select k, point(k % 1000, k % 1000), box(point(k, k), point(k + 5, k + 5)), int4range(k, k + 1)
       from generate_series(1, 4000) k`, // PAGE_REUSE
  ]
  for (const sql of statements) await client.query(sql)
}

const OPAQUE_AT = 8192 - 16
const GIST_PAGE_ID = 0xff81
const F_FOLLOW_RIGHT = 1 << 3

/** NSN, right link and F_FOLLOW_RIGHT. */
const splitMarks = (page: Uint8Array): string => {
  const opaque = Buffer.from(page.buffer, page.byteOffset + OPAQUE_AT, 16)
  return `${opaque.subarray(0, 12).toString('hex')} ${opaque.readUInt16LE(12) & F_FOLLOW_RIGHT}`
}

/** Compares the marks of every redone GiST page with the server's; returns how many pages there were. */
function compareSplitMarks(directory: string, verifier: RedoVerifier): number {
  let pages = 0
  for (const { rel, fork, firstBlock, path } of relationFiles(directory)) {
    const bytes = readFileSync(path)
    for (let i = 0; i * 8192 < bytes.length; i++) {
      const page = bytes.subarray(i * 8192, (i + 1) * 8192)
      const redone = verifier.page(rel, fork, firstBlock + i)
      if (
        redone === undefined ||
        page.readUInt16LE(8190) !== GIST_PAGE_ID ||
        page.readUInt16LE(16) !== OPAQUE_AT
      )
        continue
      expect(splitMarks(redone), `block ${firstBlock + i} of ${path}`).toBe(splitMarks(page))
      pages++
    }
  }
  return pages
}

const RECORD_TYPES = ['PAGE_UPDATE', 'DELETE', 'PAGE_SPLIT', 'PAGE_DELETE']

test.for([16, 17, 18] as const)(
  'redo of GiST records equals PostgreSQL %i',
  { timeout: 240_000 },
  async (major) => {
    await using history = await recordHistory({ major, workload: ({ client }) => workload(client) })
    const verifier = verifyHistory(history)
    if (process.env['SHOW_COUNTS'] !== undefined) console.log(formatCounts(verifier))
    expect(verifier.differences).toEqual([])
    expect(compareSplitMarks(history.dataDirectory, verifier)).toBeGreaterThan(100)
    for (const type of RECORD_TYPES) {
      expect(verifier.counts.get(`Gist/${type}`)?.compared ?? 0, `${type} was compared`).toBeGreaterThan(0)
    }
    expect(verifier.counts.get('Gist/PAGE_REUSE')?.records ?? 0).toBeGreaterThan(0)
  },
)
