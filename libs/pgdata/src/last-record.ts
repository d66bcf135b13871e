/**
 * WAL from any safekeeper that has it, and the last record before a position.
 *
 * A record end is where the next record's bytes would go; where that is the start of a page, Postgres itself prints the
 * position behind the page's header.
 */
import { advance, formatLsn, isErrorCode, maxLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { isRetryable } from '@understory/env'
import {
  RM_XLOG_ID,
  WalStreamDecoder,
  XLOG_BLCKSZ,
  XLogRecord,
  pageHeaderBytes,
} from '@understory/postgres/wal'
import { safekeeperClient } from '@understory/protocol/clients'
import type { SafekeeperClient } from '@understory/protocol/clients'
import { patiently } from './source.ts'
import type { PgdataSource } from './source.ts'

const STATUS_DEADLINE_MS = 3_000
/** WAL may come from the object store; a safekeeper that sends nothing for longer is left for another. */
const SILENCE_MS_MAX = 20_000
/** How far back the last record is looked for: further if a record is longer. */
const WINDOW_BYTES_MIN = 64 * 1024
const WINDOW_GROWTH = 16

/** The same position as record ends are written here: the start of a page, not the first byte behind its header. */
export function asRecordEnd(at: Lsn, segmentBytes: number): Lsn {
  const inPage = at % XLOG_BLCKSZ
  const pageStart = advance(at, -inPage)
  return inPage !== 0 && inPage === pageHeaderBytes(pageStart, segmentBytes) ? pageStart : at
}

export interface LastRecord {
  readonly recordLsn: Lsn
  /** Its end. */
  readonly nextLsn: Lsn
  readonly rmid: number
  readonly info: number
  /** The whole record, header first. */
  /** Of a large record that is not of RM_XLOG_ID its header alone. */
  readonly bytes: Uint8Array
}

/** The last record that ends at or before `at`, committed. Errors: `bad_lsn` if the timeline has none. */
export function lastRecordAtOrBefore(source: PgdataSource, at: Lsn): Promise<LastRecord> {
  return withSafekeeper(source, at, async (client, timelineStartLsn) => {
    for (let window = WINDOW_BYTES_MIN; ; window *= WINDOW_GROWTH) {
      const from = Math.max(timelineStartLsn, at - window)
      const startLsn = maxLsn(timelineStartLsn, advance(at, -(at - from) - (from % XLOG_BLCKSZ)))
      const found = await lastRecordBetween(client, source, startLsn, at)
      if (found !== undefined) return found
      if (startLsn <= timelineStartLsn) {
        throw fail('bad_lsn', `there is no WAL record before ${formatLsn(at)}`, {
          hint: `The timeline's WAL begins at ${formatLsn(timelineStartLsn)}.`,
        })
      }
    }
  })
}

async function lastRecordBetween(
  client: SafekeeperClient,
  source: PgdataSource,
  startLsn: Lsn,
  at: Lsn,
): Promise<LastRecord | undefined> {
  const { major, systemId, pgTimelineId, walSegmentBytes } = source.postgres
  let decoder: WalStreamDecoder | undefined
  let found: LastRecord | undefined
  let positionLsn = startLsn
  for await (const wal of readWal(client, source, startLsn, at)) {
    let chunkStart = positionLsn
    positionLsn = advance(positionLsn, wal.length)
    let chunk: Uint8Array = wal
    if (decoder === undefined) {
      // A segment that ended with a switch is zeros behind it: a search cannot begin there.
      const skipped = leadingZeroPagesBytes(wal)
      chunkStart = advance(chunkStart, skipped)
      chunk = wal.subarray(skipped)
      if (chunk.length === 0) continue
      decoder = new WalStreamDecoder({
        startLsn: chunkStart,
        findFirst: true,
        segmentBytes: walSegmentBytes,
        major,
        systemId,
        timelineId: pgTimelineId,
        keepsBody: (rmid) => rmid === RM_XLOG_ID,
      })
    }
    decoder.push(chunkStart, chunk)
    while (decoder.next()) {
      // A copy: the decoder's bytes are borrowed, and `slice` of a Buffer would be a view.
      const bytes = new Uint8Array(decoder.bytes.subarray(decoder.start, decoder.start + decoder.length))
      const view = new DataView(bytes.buffer)
      const { recordLsn, nextLsn } = decoder
      found = {
        recordLsn,
        nextLsn,
        rmid: XLogRecord.rmid.get(view, 0),
        info: XLogRecord.info.get(view, 0),
        bytes,
      }
    }
  }
  return found
}

/** Bytes of the pages that have no header, up to the first that has one; `wal` begins with a page. */
function leadingZeroPagesBytes(wal: Uint8Array): number {
  let at = 0
  while (at < wal.length && wal[at] === 0 && (at + 1 >= wal.length || wal[at + 1] === 0)) at += XLOG_BLCKSZ
  return Math.min(at, wal.length)
}

/** The bytes of `[startLsn, endLsn)`, committed. */
export function readWalBytes(source: PgdataSource, startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
  return withSafekeeper(source, endLsn, async (client) => {
    const bytes = new Uint8Array(endLsn - startLsn)
    let at = 0
    for await (const wal of readWal(client, source, startLsn, endLsn)) {
      bytes.set(wal, at)
      at += wal.length
    }
    if (at === bytes.length) return bytes
    throw fail(
      'unavailable',
      `safekeeper gave ${at} bytes of WAL, not ${bytes.length}, from ${formatLsn(startLsn)} on`,
    )
  })
}

const readWal = (
  client: SafekeeperClient,
  { timeline, signal }: PgdataSource,
  startLsn: Lsn,
  endLsn: Lsn,
): AsyncGenerator<Uint8Array, void, void> =>
  client.readWal(timeline, startLsn, endLsn, { signal, silenceMsMax: SILENCE_MS_MAX })

/** Runs `work` on the first safekeeper that knows everything before `endLsn` to be committed; waits until one does. */
function withSafekeeper<T>(
  source: PgdataSource,
  endLsn: Lsn,
  work: (client: SafekeeperClient, timelineStartLsn: Lsn) => Promise<T>,
): Promise<T> {
  const mayRetry = (error: unknown): boolean => isRetryable(error) || isErrorCode(error, 'unknown_timeline')
  return patiently(source, () => tryEach(source, endLsn, work), { mayRetry })
}

async function tryEach<T>(
  source: PgdataSource,
  endLsn: Lsn,
  work: (client: SafekeeperClient, timelineStartLsn: Lsn) => Promise<T>,
): Promise<T> {
  let behind: unknown
  let failure: unknown
  for (const address of source.safekeepers) {
    const client = safekeeperClient(source.rpc, address)
    try {
      const options = { deadlineMs: STATUS_DEADLINE_MS, signal: source.signal }
      const { commitLsn, timelineStartLsn } = await client.walStatus(source.timeline, options)
      if (commitLsn >= endLsn) return await work(client, timelineStartLsn)
      behind ??= fail('unavailable', `no safekeeper knows ${formatLsn(endLsn)} to be committed`, {
        detail: `${address} is at ${formatLsn(commitLsn)}`,
      })
    } catch (error) {
      if (isErrorCode(error, 'bad_lsn') || isErrorCode(error, 'cancelled')) throw error
      failure = error
    } finally {
      client.close()
    }
  }
  throw behind ?? failure
}
