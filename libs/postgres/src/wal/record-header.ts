/**
 * The fixed part of a WAL record and its checksum. Source: access/xlogrecord.h, xlogreader.c ValidXLogRecord
 * (16, 17, 18).
 */
import { lsn64, struct, u16, u32, u8 } from '@understory/base'
import { RECORD_CRC_OFFSET, RECORD_HEADER_BYTES } from './constants.ts'
import { crcUpdate } from './crc.ts'

/**
 * Followed by block headers, the main data's header, then images and data in the same order, no padding
 * between.
 */
export const XLogRecord = struct(RECORD_HEADER_BYTES, {
  totLen: u32, // xl_tot_len
  xid: u32, // xl_xid
  prevLsn: lsn64, // xl_prev
  info: u8, // xl_info
  rmid: u8, // xl_rmid
  pad2: u16,
  crc: u32, // xl_crc
})

/** xl_crc as it must be: everything behind the header first, then the header up to xl_crc. */
export function recordCrc(bytes: Uint8Array, start: number, totLen: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  return signedRecordCrc(bytes, view, start, totLen) >>> 0
}

/** The same as a signed number: see `crcUpdate`. */
export function signedRecordCrc(bytes: Uint8Array, view: DataView, start: number, totLen: number): number {
  const data = crcUpdate(bytes, view, start + RECORD_HEADER_BYTES, start + totLen, -1)
  return ~crcUpdate(bytes, view, start, start + RECORD_CRC_OFFSET, data)
}
