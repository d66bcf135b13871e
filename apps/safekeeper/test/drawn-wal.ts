/** For tests: WAL of drawn records that concern blocks, all shards, or none, and what is true at each record end. */
import { LSN_ZERO, advance } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import {
  RM_HEAP_ID,
  RM_LOGICALMSG_ID,
  RM_XACT_ID,
  RM_XLOG_ID,
  XLOG_NOOP,
  XLOG_PARAMETER_CHANGE,
  crc32c,
  encodeRecord,
  placeRecord,
} from '@understory/postgres/wal'

/** Block of a relation that a heap insert changes, a note to all, or a message that no shard looks at. */
export type DrawnRecord =
  | { readonly kind: 'insert'; readonly rel: number; readonly block: number; readonly bytes: number }
  | { readonly kind: 'parameters'; readonly trackCommitTimestamp: boolean }
  | { readonly kind: 'noop' }
  /** The end of a transaction: which SLRU pages it changes depends on the parameters. */
  | { readonly kind: 'commit' }
  | { readonly kind: 'message'; readonly bytes: number }

const HEADER_BYTES = 24
const CRC_AT = 20
const BLOCK_HEADER_BYTES = 20
const BLOCK_HAS_DATA = 0x20
const MAIN_DATA_SHORT = 255

/** xl_heap_insert with one block of the main fork, whose data is `bytes` long. */
function encodeInsert(prevLsn: Lsn, xid: number, rel: number, block: number, bytes: number): Uint8Array {
  const out = new Uint8Array(HEADER_BYTES + BLOCK_HEADER_BYTES + 2 + bytes + 3)
  const view = new DataView(out.buffer)
  view.setUint32(0, out.length, true)
  view.setUint32(4, xid, true)
  view.setBigUint64(8, BigInt(prevLsn), true)
  view.setUint8(17, RM_HEAP_ID)
  view.setUint8(25, BLOCK_HAS_DATA)
  view.setUint16(26, bytes, true)
  view.setUint32(28, 1663, true)
  view.setUint32(32, 5, true)
  view.setUint32(36, rel, true)
  view.setUint32(40, block, true)
  view.setUint8(44, MAIN_DATA_SHORT)
  view.setUint8(45, 3)
  out.fill(rel + block, 46, 46 + bytes)
  view.setUint16(46 + bytes, 1, true)
  // Every other one clears the bits of its visibility-map page.
  view.setUint8(48 + bytes, block & 1)
  view.setUint32(CRC_AT, crc32c(out, 0, CRC_AT, crc32c(out, HEADER_BYTES)), true)
  return out
}

function encode(record: DrawnRecord, prevLsn: Lsn, xid: number): Uint8Array {
  if (record.kind === 'insert') return encodeInsert(prevLsn, xid, record.rel, record.block, record.bytes)
  if (record.kind === 'noop')
    return encodeRecord({ rmid: RM_XLOG_ID, info: XLOG_NOOP, prevLsn, mainData: new Uint8Array(8) })
  if (record.kind === 'commit')
    return encodeRecord({ rmid: RM_XACT_ID, info: 0, xid, prevLsn, mainData: new Uint8Array(8) })
  if (record.kind === 'message') {
    const mainData = new Uint8Array(record.bytes).fill(7)
    return encodeRecord({ rmid: RM_LOGICALMSG_ID, info: 0, xid, prevLsn, mainData })
  }
  const mainData = new Uint8Array(28)
  mainData[25] = record.trackCommitTimestamp ? 1 : 0
  return encodeRecord({ rmid: RM_XLOG_ID, info: XLOG_PARAMETER_CHANGE, prevLsn, mainData })
}

export interface DrawnWal {
  readonly startLsn: Lsn
  readonly bytes: Uint8Array
  /** Start, then the end of each record; with the setting as of there. */
  readonly ends: readonly { readonly lsn: Lsn; readonly trackCommitTimestamp: boolean }[]
}

export function drawnWal(
  records: readonly DrawnRecord[],
  identity: PostgresIdentity,
  startLsn: Lsn,
): DrawnWal {
  const { major, systemId, pgTimelineId: timelineId, walSegmentBytes: segmentBytes } = identity
  const parts: Uint8Array[] = []
  const ends = [{ lsn: startLsn, trackCommitTimestamp: false }]
  let [endLsn, prevLsn, trackCommitTimestamp] = [startLsn, LSN_ZERO, false]
  records.forEach((record, i) => {
    const encoded = encode(record, prevLsn, 1_000 + (i >> 2))
    const placed = placeRecord(endLsn, encoded, { major, systemId, timelineId, segmentBytes })
    if (record.kind === 'parameters') trackCommitTimestamp = record.trackCommitTimestamp
    parts.push(placed.bytes)
    prevLsn = placed.recordLsn
    endLsn = advance(endLsn, placed.bytes.length)
    ends.push({ lsn: endLsn, trackCommitTimestamp })
  })
  return { startLsn, bytes: Buffer.concat(parts), ends }
}
