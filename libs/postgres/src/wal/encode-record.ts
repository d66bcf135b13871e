/**
 * Makes WAL: one record, and the bytes that put it into the stream. Source: xloginsert.c XLogRecordAssemble,
 * xlog.c CopyXLogRecordToWAL (16, 17, 18).
 */
import { LSN_ZERO, advance, alignUp8, assert } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  RECORD_HEADER_BYTES,
  XLOG_BLCKSZ,
  XLR_BLOCK_ID_DATA_LONG,
  XLR_BLOCK_ID_DATA_SHORT,
  XLR_BLOCK_ID_ORIGIN,
} from './constants.ts'
import { LONG_PAGE_HEADER_BYTES, SHORT_PAGE_HEADER_BYTES, pageHeaderBytes, writePageHeader } from './pages.ts'
import type { WalIdentity } from './pages.ts'
import { XLogRecord, recordCrc } from './record-header.ts'

export interface RecordToEncode {
  readonly rmid: number
  readonly info: number
  readonly xid?: number
  /** Start of the record before: it is part of what the CRC covers. */
  readonly prevLsn: Lsn
  readonly mainData: Uint8Array
  /** Replication origin; 0, the default, is none and takes no room. */
  readonly originId?: number
}

/** A record without block references, xl_tot_len bytes. */
export function encodeRecord(record: RecordToEncode): Uint8Array {
  const { mainData, originId = 0 } = record
  const isShort = mainData.length < 256
  const dataHeaderBytes = mainData.length === 0 ? 0 : isShort ? 2 : 5
  const originBytes = originId === 0 ? 0 : 3
  const dataHeader = RECORD_HEADER_BYTES + originBytes
  const out = new Uint8Array(dataHeader + dataHeaderBytes + mainData.length)
  const view = new DataView(out.buffer)
  XLogRecord.totLen.set(view, 0, out.length)
  XLogRecord.xid.set(view, 0, record.xid ?? 0)
  XLogRecord.prevLsn.set(view, 0, record.prevLsn)
  XLogRecord.info.set(view, 0, record.info)
  XLogRecord.rmid.set(view, 0, record.rmid)
  if (originId !== 0) {
    view.setUint8(RECORD_HEADER_BYTES, XLR_BLOCK_ID_ORIGIN)
    view.setUint16(RECORD_HEADER_BYTES + 1, originId, true)
  }
  if (mainData.length > 0) {
    view.setUint8(dataHeader, isShort ? XLR_BLOCK_ID_DATA_SHORT : XLR_BLOCK_ID_DATA_LONG)
    if (isShort) view.setUint8(dataHeader + 1, mainData.length)
    else view.setUint32(dataHeader + 1, mainData.length, true)
    out.set(mainData, dataHeader + dataHeaderBytes)
  }
  XLogRecord.crc.set(view, 0, recordCrc(out, 0, out.length))
  return out
}

export interface PlacedRecord {
  /** The bytes to write from `atLsn` on: page headers where pages begin, the record, zeros up to `nextLsn`. */
  readonly bytes: Uint8Array
  readonly recordLsn: Lsn
  readonly nextLsn: Lsn
}

/** Where a record starts that is appended at `atLsn`, the end of the record before. */
export function recordStartAt(atLsn: Lsn, segmentBytes: number): Lsn {
  return atLsn % XLOG_BLCKSZ === 0 ? advance(atLsn, pageHeaderBytes(atLsn, segmentBytes)) : atLsn
}

/** Lays `record` (as `encodeRecord` makes it) into WAL that so far ends at `atLsn`, a record end. */
export function placeRecord(atLsn: Lsn, record: Uint8Array, wal: WalIdentity): PlacedRecord {
  const minOffset = atLsn % wal.segmentBytes < XLOG_BLCKSZ ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES
  const pageOffset = atLsn % XLOG_BLCKSZ
  assert(
    atLsn % 8 === 0 && (pageOffset === 0 || pageOffset >= minOffset),
    () => `no record can end at ${atLsn}`,
  )
  const pagesMax = Math.ceil(record.length / (XLOG_BLCKSZ - LONG_PAGE_HEADER_BYTES)) + 1
  const out = new Uint8Array(record.length + pagesMax * LONG_PAGE_HEADER_BYTES + 8)
  const view = new DataView(out.buffer)
  let recordLsn = LSN_ZERO
  let at = 0
  for (let done = 0; done < record.length;) {
    let position = advance(atLsn, at)
    if (position % XLOG_BLCKSZ === 0) {
      at += writePageHeader(view, at, position, done === 0 ? 0 : record.length - done, wal)
      position = advance(atLsn, at)
    }
    if (done === 0) recordLsn = position
    const size = Math.min(record.length - done, XLOG_BLCKSZ - (position % XLOG_BLCKSZ))
    out.set(record.subarray(done, done + size), at)
    done += size
    at += size
  }
  const nextLsn = alignUp8(advance(atLsn, at))
  return { bytes: out.subarray(0, nextLsn - atLsn), recordLsn, nextLsn }
}
