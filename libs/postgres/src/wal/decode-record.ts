/**
 * Reads a record's block headers and finds its data. Source: xlogreader.c DecodeXLogRecord (16, 17, 18
 * alike).
 */
import { formatLsn, fail } from '@understory/base'
import type { Lsn, UnderstoryError } from '@understory/base'
import { PAGE_SIZE } from '../page/bufpage.ts'
import {
  BKPBLOCK_FORK_MASK,
  BKPBLOCK_HAS_DATA,
  BKPBLOCK_HAS_IMAGE,
  BKPBLOCK_SAME_REL,
  BKPBLOCK_WILL_INIT,
  BKPIMAGE_APPLY,
  BKPIMAGE_COMPRESS_LZ4,
  BKPIMAGE_COMPRESS_PGLZ,
  BKPIMAGE_COMPRESS_ZSTD,
  BKPIMAGE_HAS_HOLE,
  RECORD_HEADER_BYTES,
  XLR_BLOCK_ID_DATA_LONG,
  XLR_BLOCK_ID_DATA_SHORT,
  XLR_BLOCK_ID_ORIGIN,
  XLR_BLOCK_ID_TOPLEVEL_XID,
  XLR_MAX_BLOCK_ID,
} from './constants.ts'
import { FORK_INIT } from './record.ts'
import type { BlockRef, DecodedRecord } from './record.ts'
import { XLogRecord } from './record-header.ts'

/** The high half of every LSN is below it. */
const LSN_HIGH_END = 0x20_0000

export const BKPIMAGE_COMPRESSED = BKPIMAGE_COMPRESS_PGLZ | BKPIMAGE_COMPRESS_LZ4 | BKPIMAGE_COMPRESS_ZSTD

/**
 * Fills `into` with the record at `bytes[start]`, without allocating and without copying: `into` borrows from
 * `bytes`. The CRC is not looked at. Errors: `bad_wal` where lengths or flags contradict each other;
 * `into` is then undefined.
 */
export function decodeRecord(
  into: DecodedRecord,
  bytes: Uint8Array,
  start: number,
  recordLsn: Lsn,
  nextLsn: Lsn,
): void {
  readHeader(into, bytes, start, recordLsn, nextLsn)
  const { view, totLen } = into
  if (totLen < RECORD_HEADER_BYTES || start + totLen > bytes.length) {
    throw malformed(into, `says that it has ${totLen} bytes, but ${bytes.length - start} are there`)
  }

  const end = start + totLen
  let at = start + RECORD_HEADER_BYTES
  // Bytes of data announced so far: they fill the record's end, so headers continue while more is left than
  // that.
  let dataTotal = 0
  let previous: BlockRef | undefined
  while (end - at > dataTotal) {
    const blockId = view.getUint8(at)
    if (blockId <= XLR_MAX_BLOCK_ID) {
      const ref = into.blocks[into.blockCount] as BlockRef
      if (previous !== undefined && blockId <= previous.blockId)
        throw malformed(into, `has block id ${blockId} out of order`)
      at = readBlockHeader(into, ref, previous, at, end)
      ref.blockId = blockId
      dataTotal += ref.dataLength + ref.imageLength
      into.blockCount++
      previous = ref
    } else if (blockId === XLR_BLOCK_ID_DATA_SHORT) {
      if (at + 2 > end) throw short(into)
      into.mainDataLength = view.getUint8(at + 1)
      at += 2
      dataTotal += into.mainDataLength
      break // the main data is always the last fragment
    } else if (blockId === XLR_BLOCK_ID_DATA_LONG) {
      if (at + 5 > end) throw short(into)
      into.mainDataLength = view.getUint32(at + 1, true)
      at += 5
      dataTotal += into.mainDataLength
      break
    } else if (blockId === XLR_BLOCK_ID_ORIGIN) {
      if (at + 3 > end) throw short(into)
      into.originId = view.getUint16(at + 1, true)
      at += 3
    } else if (blockId === XLR_BLOCK_ID_TOPLEVEL_XID) {
      if (at + 5 > end) throw short(into)
      into.topXid = view.getUint32(at + 1, true)
      at += 5
    } else {
      throw malformed(into, `has an invalid block id ${blockId}`)
    }
  }
  if (end - at !== dataTotal) throw short(into)

  for (let i = 0; i < into.blockCount; i++) {
    const ref = into.blocks[i] as BlockRef
    ref.imageOffset = at
    at += ref.imageLength
    ref.dataOffset = at
    at += ref.dataLength
  }
  into.mainDataOffset = at
}

/** Fills `into` with the header of a record alone, as a decoder that did not keep the body gives it. */
export function decodeHeader(
  into: DecodedRecord,
  bytes: Uint8Array,
  start: number,
  recordLsn: Lsn,
  nextLsn: Lsn,
): void {
  readHeader(into, bytes, start, recordLsn, nextLsn)
  into.mainDataOffset = start + RECORD_HEADER_BYTES
}

function readHeader(
  into: DecodedRecord,
  bytes: Uint8Array,
  start: number,
  recordLsn: Lsn,
  nextLsn: Lsn,
): void {
  if (into.bytes !== bytes) {
    into.bytes = bytes
    into.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
  const view = into.view
  into.recordLsn = recordLsn
  into.nextLsn = nextLsn
  if (start < 0 || start + RECORD_HEADER_BYTES > bytes.length) throw malformed(into, 'ends within its header')
  into.start = start
  into.totLen = XLogRecord.totLen.get(view, start)
  into.xid = XLogRecord.xid.get(view, start)
  if (view.getUint32(start + XLogRecord.prevLsn.offset + 4, true) >= LSN_HIGH_END) {
    throw malformed(into, 'has a previous-record link beyond 2^53')
  }
  into.prevLsn = XLogRecord.prevLsn.get(view, start)
  into.info = XLogRecord.info.get(view, start)
  into.rmid = XLogRecord.rmid.get(view, start)
  into.blockCount = 0
  into.mainDataLength = 0
  into.originId = 0
  into.topXid = 0
}

/** Reads one XLogRecordBlockHeader and what follows it, returns the position after it. */
function readBlockHeader(
  record: DecodedRecord,
  ref: BlockRef,
  previous: BlockRef | undefined,
  from: number,
  end: number,
): number {
  const view = record.view
  let at = from
  if (at + 4 > end) throw short(record)
  const flags = view.getUint8(at + 1)
  ref.flags = flags
  ref.fork = flags & BKPBLOCK_FORK_MASK
  ref.hasImage = (flags & BKPBLOCK_HAS_IMAGE) !== 0
  ref.hasData = (flags & BKPBLOCK_HAS_DATA) !== 0
  ref.willInit = (flags & BKPBLOCK_WILL_INIT) !== 0
  ref.dataLength = view.getUint16(at + 2, true)
  if (ref.hasData !== ref.dataLength > 0)
    throw malformed(record, `has a block with ${ref.dataLength} bytes of data, flags ${flags}`)
  if (ref.fork > FORK_INIT) throw malformed(record, `has a block of fork ${ref.fork}`)
  at += 4
  if (ref.hasImage) {
    at = readImageHeader(record, ref, at, end)
  } else {
    ref.applyImage = false
    ref.bimgInfo = 0
    ref.imageLength = 0
    ref.holeOffset = 0
    ref.holeLength = 0
  }
  if ((flags & BKPBLOCK_SAME_REL) === 0) {
    if (at + 12 > end) throw short(record)
    ref.spcOid = view.getUint32(at, true)
    ref.dbOid = view.getUint32(at + 4, true)
    ref.relNumber = view.getUint32(at + 8, true)
    at += 12
  } else {
    if (previous === undefined) throw malformed(record, 'has BKPBLOCK_SAME_REL, but no relation before')
    ref.spcOid = previous.spcOid
    ref.dbOid = previous.dbOid
    ref.relNumber = previous.relNumber
  }
  if (at + 4 > end) throw short(record)
  ref.blockNumber = view.getUint32(at, true)
  return at + 4
}

/** XLogRecordBlockImageHeader and, of a compressed image with a hole, XLogRecordBlockCompressHeader. */
function readImageHeader(record: DecodedRecord, ref: BlockRef, from: number, end: number): number {
  const view = record.view
  let at = from
  if (at + 5 > end) throw short(record)
  ref.imageLength = view.getUint16(at, true)
  ref.holeOffset = view.getUint16(at + 2, true)
  const info = view.getUint8(at + 4)
  ref.bimgInfo = info
  ref.applyImage = (info & BKPIMAGE_APPLY) !== 0
  at += 5
  const hasHole = (info & BKPIMAGE_HAS_HOLE) !== 0
  const isCompressed = (info & BKPIMAGE_COMPRESSED) !== 0
  if (!isCompressed) {
    ref.holeLength = PAGE_SIZE - ref.imageLength
  } else if (hasHole) {
    if (at + 2 > end) throw short(record)
    ref.holeLength = view.getUint16(at, true)
    at += 2
  } else {
    ref.holeLength = 0
  }
  const isSane = hasHole
    ? ref.holeOffset > 0 &&
      ref.holeLength > 0 &&
      ref.imageLength < PAGE_SIZE &&
      ref.holeOffset + ref.holeLength <= PAGE_SIZE
    : ref.holeOffset === 0 && ref.holeLength === 0
  if (!isSane || (isCompressed && ref.imageLength >= PAGE_SIZE)) {
    throw malformed(
      record,
      `has an image of ${ref.imageLength} bytes, hole ${ref.holeOffset}+${ref.holeLength}, flags ${info}`,
    )
  }
  return at
}

function malformed(record: DecodedRecord, what: string): UnderstoryError {
  return fail('bad_wal', `WAL record at ${formatLsn(record.recordLsn)} ${what}`)
}

function short(record: DecodedRecord): UnderstoryError {
  return malformed(record, 'has an invalid length')
}
