/**
 * Goal: the large records that a real Postgres writes reach every shard, and the pages they change are byte for byte
 * those on its disk. Method: a real server's WAL through a safekeeper and two shards over gRPC: transactions with
 * hundreds of thousands of subtransactions, committed, prepared and aborted, and a logical message of 200 MB, which is
 * one record.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Lsn } from '@understory/base'
import { startPostgres } from '@understory/testcontainers'
import { KEY_TWO_PHASE, shardOfSlruPage, slruKey, slruNumber, smallKey } from '@understory/storage'
import { expect, test } from 'vitest'
import { openTestStorage } from '../support/test-storage.ts'
import { readSlruPage, slruPages, twoPhaseFiles } from '../../libs/postgres/test/data-directory.ts'
import { newPage } from '../../apps/pageserver/src/state/shard-reader.ts'

const MESSAGE_BYTES = 200_000_000
const SETTINGS = {
  max_prepared_transactions: 4,
  track_commit_timestamp: true,
  autovacuum: false,
  wal_keep_size: '1GB',
  checkpoint_timeout: '1h',
  max_wal_size: '4GB',
}

/** Subtransactions that write no WAL of their own. */
const subtransactions = (count: number): string => `do $$ begin
  for i in 1..${count} loop
    begin insert into nowal values (i); exception when division_by_zero then null; end;
  end loop;
end $$`

const SQL = [
  'create unlogged table nowal (id int)',
  subtransactions(300_000),
  'begin',
  subtransactions(100_000),
  'rollback',
  'begin',
  subtransactions(100_000),
  "prepare transaction 'kept'",
  `select pg_logical_emit_message(false, 'bulk', repeat('x', ${MESSAGE_BYTES}))`,
  'create table after (id int)',
  'insert into after select generate_series(1, 100)',
]

async function walBytes(directory: string): Promise<number> {
  const names = await readdir(join(directory, 'pg_wal'))
  return names.filter((name) => /^[0-9A-F]{24}$/.test(name)).length * 16 * 1024 * 1024
}

test('large records of a real Postgres reach every shard', { timeout: 300_000 }, async () => {
  await using server = await startPostgres({ major: 17, settings: SETTINGS, started: false })
  await using storage = await openTestStorage(server, { count: 2, stripeBlocks: 4 })
  await server.start()
  const client = await server.connect()
  for (const sql of SQL) await client.query(sql)
  const endLsn: Lsn = await storage.feed()
  expect(await walBytes(server.dataDirectory)).toBeGreaterThan(MESSAGE_BYTES)
  const startMs = performance.now()
  for (const shard of storage.shards) await shard.waitFor(endLsn, 120_000)
  process.stderr.write(`the shards were there after ${(performance.now() - startMs).toFixed(0)} ms\n`)
  expect(storage.errors).toEqual([])
  await client.end()
  await server.stop()

  let comparedCount = 0
  for (const kind of ['pg_xact', 'pg_commit_ts'] as const) {
    for (const number of slruPages(server.dataDirectory, kind)) {
      const expected = readSlruPage(server.dataDirectory, kind, number)
      const owner = shardOfSlruPage({ count: 2, stripeBlocks: 4 }, slruNumber(kind), number)
      const page = newPage()
      const key = slruKey(kind, number)
      const outcome = await storage.shards[owner]?.reader.readPage(key, endLsn, page)
      expect([outcome, Buffer.compare(page.bytes, expected ?? newPage().bytes)], `${kind} ${number}`).toEqual(
        ['made', 0],
      )
      comparedCount++
    }
  }
  // 500,000 transactions: 16 pages of pg_xact, 611 of pg_commit_ts for what is committed or prepared.
  expect(comparedCount).toBeGreaterThan(350)
  for (const [xid, file] of twoPhaseFiles(server.dataDirectory)) {
    const content = await storage.shards[0]?.reader.readBytes(smallKey(KEY_TWO_PHASE, 0, 0, xid), endLsn)
    expect(Buffer.compare(content as Uint8Array, file)).toBe(0)
    expect(file.length).toBeGreaterThan(400_000)
  }
  expect(twoPhaseFiles(server.dataDirectory).size).toBe(1)
})
