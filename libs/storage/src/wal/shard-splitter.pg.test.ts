/**
 * Goal: every shard gets exactly its part of what a real Postgres writes, and the parts together are the whole.
 * Method: the WAL of a workload with DDL, two-phase commits and database copies is split for several layouts; what
 * each shard should get is derived again here, from the record and its effects.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { lsn, present } from '@understory/base'
import type { Lsn, ShardLayout } from '@understory/base'
import { vmBlockOf } from '@understory/postgres/page'
import { maxXidOf, recordEffects, xidPrecedes } from '@understory/postgres/redo'
import type { EffectSink, RedoSettings } from '@understory/postgres/redo'
import {
  FORK_FSM,
  readRecordsOfSegments,
  parseWalFileName,
  WAL_SEGMENT_BYTES,
} from '@understory/postgres/wal'
import type { DecodedRecord } from '@understory/postgres/wal'
import { startPostgres } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { KEY_RELATION_BLOCK, KEY_SLRU_PAGE, slruNumber } from '../key/key.ts'
import { homeShard, shardOfBlock, shardOfSlruPage } from '../key/shard.ts'
import { readShardEntries } from './shard-stream.ts'
import type { ShardEntry } from './shard-stream.ts'
import { ShardSplitter } from './shard-splitter.ts'

const WORKLOAD = `
  create table account (id int primary key, name text, amount int);
  insert into account select i, repeat('x', 200), 0 from generate_series(1, 4000) i;
  vacuum (freeze) account;
  update account set amount = amount + 1 where id % 3 = 0;
  delete from account where id > 2500;
  vacuum account;
  begin; insert into account values (9001); savepoint s; insert into account values (9002); release s; prepare transaction 'p1';
  commit prepared 'p1';
  create table gone as select * from account; drop table gone;
  create table emptied as select * from account; truncate emptied;
  create sequence numbers; select nextval('numbers') from generate_series(1, 50);
  begin; select * from account where id = 5 for share; savepoint a; update account set amount = 7 where id = 5; commit;
  checkpoint;
  create database copied strategy file_copy;
  create database logged strategy wal_log;
  drop database copied;
  cluster account using account_pkey;
`

async function recordWorkload(): Promise<{ segments: Map<number, Uint8Array>; startLsn: Lsn }> {
  await using server = await startPostgres({
    major: 17,
    settings: { max_prepared_transactions: 4, autovacuum: false },
  })
  const client = await server.connect()
  const { rows } = await client.query<{ lsn: string }>('select redo_lsn as lsn from pg_control_checkpoint()')
  const [high, low] = present(rows[0], 'row')
    .lsn.split('/')
    .map((half) => Number.parseInt(half, 16))
  for (const statement of WORKLOAD.split(';')
    .map((text) => text.trim())
    .filter((text) => text !== ''))
    await client.query(statement)
  await client.end()
  await server.stop()
  const segments = new Map<number, Uint8Array>()
  for (const name of await readdir(join(server.dataDirectory, 'pg_wal'))) {
    const parsed = name.length === 24 ? parseWalFileName(name, WAL_SEGMENT_BYTES) : undefined
    if (parsed !== undefined)
      segments.set(parsed.segment, await readFile(join(server.dataDirectory, 'pg_wal', name)))
  }
  return { segments, startLsn: lsn((high as number) * 2 ** 32 + (low as number)) }
}

/** What each shard should get of a record, said plainly. */
function expectedOf(
  record: DecodedRecord,
  layout: ShardLayout,
  settings: RedoSettings,
): { keys: string[][]; effects: boolean[] } {
  const keys = Array.from({ length: layout.count }, (): string[] => [])
  const effects = Array.from({ length: layout.count }, () => false)
  const put = (shard: number, key: string): void => {
    if (keys[shard]?.includes(key) !== true) keys[shard]?.push(key)
  }
  for (let i = 0; i < record.blockCount; i++) {
    const { spcOid, dbOid, relNumber, fork, blockNumber, applyImage, willInit } = present(
      record.blocks[i],
      'block',
    )
    if (fork === FORK_FSM && !applyImage && !willInit) continue
    put(
      shardOfBlock(layout, relNumber, blockNumber),
      `${applyImage ? 1 : willInit ? 2 : 0} ${i} block ${spcOid}/${dbOid}/${relNumber} ${fork} ${blockNumber}`,
    )
  }
  const all = (): void => void effects.fill(true)
  const first = (): void => void (effects[0] = true)
  const sink: EffectSink = {
    visibilityClear: ({ spcOid, dbOid, relNumber }, heapBlock) => {
      const block = vmBlockOf(heapBlock)
      put(shardOfBlock(layout, relNumber, block), `3 0 block ${spcOid}/${dbOid}/${relNumber} 2 ${block}`)
    },
    slruPage: (kind, page, init) =>
      put(
        shardOfSlruPage(layout, slruNumber(kind), page),
        `${init ? 5 : 4} 0 slru ${slruNumber(kind)} ${page}`,
      ),
    slruTruncate: all,
    relationCreate: all,
    relationTruncate: all,
    relationDrop: all,
    databaseCopy: all,
    databaseCreate: all,
    databaseDrop: all,
    relationMap: first,
    twoPhasePrepare: first,
    twoPhaseRemove: first,
    tablespaceCreate: first,
    tablespaceDrop: first,
    originAdvance: first,
    originDrop: first,
  }
  recordEffects(record, sink, settings)
  return { keys, effects }
}

function keyText({ role, blockIndex, key }: Extract<ShardEntry, { kind: 'record' }>['keys'][number]): string {
  if (key.keyClass === KEY_SLRU_PAGE) return `${role} ${blockIndex} slru ${key.spcOid} ${key.block}`
  expect(key.keyClass).toBe(KEY_RELATION_BLOCK)
  return `${role} ${blockIndex} block ${key.spcOid}/${key.dbOid}/${key.rel} ${key.fork} ${key.block}`
}

test('each shard gets its keys, its effects, and what keeps sizes and xids right', async () => {
  const { segments, startLsn } = await recordWorkload()
  const settings: RedoSettings = { major: 17, dataChecksums: false, walLogHints: false }
  const seen = new Set<string>()
  for (const layout of [
    { count: 1, stripeBlocks: 256 },
    { count: 3, stripeBlocks: 2 },
    { count: 8, stripeBlocks: 1 },
  ]) {
    const splitter = new ShardSplitter(layout, settings)
    splitter.want(new Set(Array(layout.count).keys()))
    const sizes = new Map<string, number>()
    const truth = new Map<string, number>()
    let newestXid = 0
    let trackedXid = 0
    for (const record of readRecordsOfSegments((segment) => segments.get(segment), { startLsn })) {
      const { keys, effects } = expectedOf(record, layout, settings)
      const recordXid = maxXidOf(record, 17)
      if (recordXid !== 0 && (newestXid === 0 || xidPrecedes(newestXid, recordXid))) newestXid = recordXid
      for (let i = 0; i < record.blockCount; i++) {
        const { relNumber, dbOid, fork, blockNumber } = present(record.blocks[i], 'block')
        const fork4 = `${dbOid}/${relNumber}/${fork}`
        truth.set(fork4, Math.max(truth.get(fork4) ?? 0, blockNumber + 1))
      }
      splitter.split(record)
      splitter.take().forEach((batch, number) => {
        const entries = [...readShardEntries(batch)]
        const records = entries.filter((entry) => entry.kind === 'record')
        expect(records.length).toBeLessThanOrEqual(1)
        const got = records[0]
        expect(got?.keys.map(keyText) ?? []).toEqual(keys[number])
        expect(got?.hasEffects ?? false).toBe(effects[number])
        if (got !== undefined) {
          expect(got.record.length).toBe(record.totLen)
          expect([got.recordLsn, got.nextLsn]).toEqual([record.recordLsn, record.nextLsn])
          for (const key of got.keys) seen.add(`role ${key.role}`)
          if (got.hasEffects) seen.add('effects')
          if (number === 0 && recordXid !== 0 && (trackedXid === 0 || xidPrecedes(trackedXid, recordXid)))
            trackedXid = recordXid
        }
        for (const entry of entries) {
          if (entry.kind === 'size') {
            expect(homeShard(layout, entry.rel)).toBe(number)
            const fork4 = `${entry.dbOid}/${entry.rel}/${entry.fork}`
            sizes.set(fork4, Math.max(sizes.get(fork4) ?? 0, entry.blocks))
          }
          if (entry.kind === 'xid') {
            expect(number).toBe(0)
            trackedXid = entry.xid
          }
        }
      })
      expect(trackedXid).toBe(newestXid)
    }
    expect(sizes).toEqual(truth)
    expect(truth.size).toBeGreaterThan(50)
  }
  expect([...seen]).toEqual(
    expect.arrayContaining(['effects', 'role 0', 'role 1', 'role 2', 'role 3', 'role 4']),
  )
})
