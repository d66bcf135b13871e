// Goal: WAL of real servers is read as Postgres itself reads it. Method: pg_walinspect lists every record of
// a varied history; the decoder must list the same, from the segment files and from chunks of random size.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { UnderstoryError, advance, formatLsn, parseLsn, segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import fc from 'fast-check'
import type { Client } from 'pg'
import { describe, expect, test } from 'vitest'
import { PAGE_SIZE } from '../page/index.ts'
import {
  DecodedRecord,
  RM_XLOG_ID,
  WAL_SEGMENT_BYTES,
  WalStreamDecoder,
  XLOG_SWITCH,
  decodeRecord,
  readRecordsOfSegments,
  restoreBlockImage,
  walFileName,
} from './index.ts'

/** As pg_get_wal_records_info lists it. */
interface Listed {
  readonly start: string
  readonly end: string
  readonly prev: string
  readonly xid: number
  readonly length: number
  readonly mainDataLength: number
  readonly fpiLength: number
}

const listingSql = `select start_lsn::text as start, end_lsn::text as end, prev_lsn::text as prev, xid::text::int as xid,
  record_length as length, main_data_length as "mainDataLength", fpi_length as "fpiLength"
  from pg_get_wal_records_info($1, $2)`

async function makeHistory(client: Client): Promise<void> {
  await client.query('create extension pg_walinspect')
  await client.query(
    "create table t (id int primary key, body text); create index on t using gin (to_tsvector('simple', body))",
  )
  await client.query(
    `insert into t select g, repeat(md5(g::text), 1 + g % 40) from generate_series(1, 3000) g`,
  )
  await client.query('checkpoint')
  await client.query('set wal_compression = pglz')
  await client.query(`update t set body = body || 'x' where id % 3 = 0`)
  await client.query('reset wal_compression')
  await client.query('select pg_switch_wal()')
  await client.query(
    `select pg_logical_emit_message(false, 'p', repeat('m', n)) from unnest(array[1, 200, 300, 8000, 8168, 70000]) n`,
  )
  await client.query(`select pg_logical_emit_message(true, 'p', repeat('m', 20000000))`) // longer than a segment
  await client.query(
    "begin; insert into t values (-1, 'a'); savepoint s; insert into t values (-2, 'b'); prepare transaction 'p1'",
  )
  await client.query(`commit prepared 'p1'`)
  for (const sql of ['delete from t where id % 2 = 0', 'vacuum t', 'truncate t']) await client.query(sql)
  await client.query('checkpoint')
}

const segmentReader =
  (server: PostgresServer) =>
  (segment: number): Uint8Array =>
    readFileSync(join(server.dataDirectory, 'pg_wal', walFileName(1, segment, WAL_SEGMENT_BYTES)))

function list(record: DecodedRecord): Listed {
  let fpiLength = 0
  for (let i = 0; i < record.blockCount; i++) fpiLength += record.blocks[i]?.imageLength ?? 0
  return {
    start: formatLsn(record.recordLsn),
    end: formatLsn(record.nextLsn),
    prev: formatLsn(record.prevLsn),
    xid: record.xid,
    length: record.totLen,
    mainDataLength: record.mainDataLength,
    fpiLength,
  }
}

describe.each([16, 17, 18] as const)('WAL of PostgreSQL %i', (major) => {
  test('is read as pg_walinspect reads it, however it is cut', { timeout: 60_000 }, async () => {
    await using server = await startPostgres({
      major,
      settings: {
        max_prepared_transactions: 5,
        wal_keep_size: '1GB',
        wal_level: 'logical',
        max_wal_size: '4GB',
      },
    })
    const client = await server.connect()
    const {
      rows: [at],
    } = await client.query(`select pg_current_wal_insert_lsn()::text as start, system_identifier::text as id
      from pg_control_system()`)
    const startLsn = parseLsn(at.start)
    await makeHistory(client)
    const {
      rows: [now],
    } = await client.query('select pg_current_wal_flush_lsn()::text as end')
    const { rows: expected } = await client.query<Listed>(listingSql, [at.start, now.end])
    const endLsn = parseLsn(expected.at(-1)?.end ?? '')
    expect(expected.length).toBeGreaterThan(5000)

    const read = segmentReader(server)
    const found: Listed[] = []
    const page = new Uint8Array(PAGE_SIZE)
    let imagesCount = 0
    let switchesCount = 0
    for (const record of readRecordsOfSegments(read, {
      startLsn,
      endLsn,
      major,
      systemId: BigInt(at.id),
      timelineId: 1,
    })) {
      found.push(list(record))
      if (record.rmid === RM_XLOG_ID && record.info === XLOG_SWITCH) switchesCount++
      for (let i = 0; i < record.blockCount; i++) {
        const ref = record.blocks[i] as DecodedRecord['blocks'][number]
        if (!ref.hasImage) continue
        restoreBlockImage(record, ref, page)
        const upper = (page[14] as number) + (page[15] as number) * 256
        if (upper < 24 || upper > PAGE_SIZE)
          throw new Error(`image of block ${ref.blockNumber} at ${formatLsn(record.recordLsn)} is not a page`)
        imagesCount++
      }
    }
    expect(found).toEqual(expected)
    expect(switchesCount).toBe(1)
    expect(imagesCount).toBeGreaterThan(50)

    const bytes = Buffer.concat(segmentsOf(read, startLsn, endLsn))
    checkCuts(bytes, startLsn, expected.slice(0, 3000))
    checkFlips(bytes.subarray(0, 300_000), startLsn)
  })
})

function segmentsOf(read: (segment: number) => Uint8Array, startLsn: Lsn, endLsn: Lsn): Uint8Array[] {
  const parts: Uint8Array[] = []
  for (
    let n = segmentOf(startLsn, WAL_SEGMENT_BYTES);
    n <= segmentOf(advance(endLsn, -1), WAL_SEGMENT_BYTES);
    n++
  ) {
    const from = segmentStart(n, WAL_SEGMENT_BYTES)
    parts.push(read(n).subarray(Math.max(0, startLsn - from), endLsn - from))
  }
  return parts
}

/** The first records come out the same, whatever the sizes of the chunks. */
function checkCuts(bytes: Uint8Array, startLsn: Lsn, expected: readonly Listed[]): void {
  const record = new DecodedRecord()
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 50_000 }), { minLength: 1, maxLength: 9 }), (cuts) => {
      const decoder = new WalStreamDecoder({ startLsn })
      const found: Listed[] = []
      for (let at = 0, i = 0; found.length < expected.length; i++) {
        const chunk = bytes.subarray(at, at + (cuts[i % cuts.length] as number))
        decoder.push(advance(startLsn, at), chunk)
        at += chunk.length
        while (decoder.next()) {
          decodeRecord(record, decoder.bytes, decoder.start, decoder.recordLsn, decoder.nextLsn)
          found.push(list(record))
        }
      }
      expect(found.slice(0, expected.length)).toEqual(expected)
    }),
    { numRuns: 5 },
  )
}

/** A damaged byte is a typed error or was not looked at; without the CRC's protection too. */
function checkFlips(bytes: Uint8Array, startLsn: Lsn): void {
  const record = new DecodedRecord()
  const page = new Uint8Array(PAGE_SIZE)
  fc.assert(
    fc.property(
      fc.nat(bytes.length - 1),
      fc.integer({ min: 1, max: 255 }),
      fc.boolean(),
      (at, mask, verifyCrc) => {
        bytes[at] = (bytes[at] as number) ^ mask
        try {
          const decoder = new WalStreamDecoder({ startLsn, verifyCrc })
          decoder.push(startLsn, bytes)
          while (decoder.next()) {
            decodeRecord(record, decoder.bytes, decoder.start, decoder.recordLsn, decoder.nextLsn)
            for (let i = 0; i < record.blockCount; i++) {
              const ref = record.blocks[i] as DecodedRecord['blocks'][number]
              if (ref.hasImage) restoreBlockImage(record, ref, page)
            }
          }
        } catch (error) {
          if (!(error instanceof UnderstoryError)) throw error
        } finally {
          bytes[at] = (bytes[at] as number) ^ mask
        }
      },
    ),
    { numRuns: 200 },
  )
}
