/** WAL pages and segment files: headers, versions, names. Source: access/xlog_internal.h (16, 17, 18). */
import { lsn64, fail, segmentStart, struct, u16, u32, u64 } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  WAL_SEGMENT_BYTES_MAX,
  WAL_SEGMENT_BYTES_MIN,
  XLOG_BLCKSZ,
  XLP_FIRST_IS_CONTRECORD,
  XLP_LONG_HEADER,
} from './constants.ts'

export type PgMajor = 16 | 17 | 18

/** First bytes of every WAL page. */
export const XLogPageHeader = struct(24, {
  magic: u16, // xlp_magic: names the version
  info: u16, // xlp_info: XLP_*
  timelineId: u32, // xlp_tli, of the first record on the page
  pageAddr: lsn64, // xlp_pageaddr: where this page begins
  remLen: u32, // xlp_rem_len: bytes still to come of the record that began on an earlier page
  pad4: u32,
})

/** First bytes of every segment: the page header, then what identifies the file. */
export const XLogLongPageHeader = struct(40, {
  magic: u16,
  info: u16,
  timelineId: u32,
  pageAddr: lsn64,
  remLen: u32,
  pad4: u32,
  systemId: u64, // xlp_sysid
  segmentBytes: u32, // xlp_seg_size
  blockBytes: u32, // xlp_xlog_blcksz
})

export const SHORT_PAGE_HEADER_BYTES = XLogPageHeader.SIZE
export const LONG_PAGE_HEADER_BYTES = XLogLongPageHeader.SIZE

/** XLOG_PAGE_MAGIC of each version. */
export const WAL_PAGE_MAGIC: Readonly<Record<PgMajor, number>> = { 16: 0xd113, 17: 0xd116, 18: 0xd118 }

const majorByMagic = new Map(([16, 17, 18] as const).map((major) => [WAL_PAGE_MAGIC[major], major]))

/** The version that writes pages with this magic, or undefined. */
export const majorOfMagic = (magic: number): PgMajor | undefined => majorByMagic.get(magic)

/** Size of the header of the page that begins at `pageLsn`. */
export const pageHeaderBytes = (pageLsn: Lsn, segmentBytes: number): number =>
  pageLsn % segmentBytes === 0 ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES

/** The facts that all pages of one WAL stream share. */
export interface WalIdentity {
  readonly major: PgMajor
  readonly systemId: bigint
  /** Postgres's timeline id, not ours. */
  readonly timelineId: number
  readonly segmentBytes: number
}

/**
 * Writes the header of the page that begins at `pageLsn` to `view[at…]` and gives its size. `remLen` 0: no
 * contrecord.
 */
export function writePageHeader(
  view: DataView,
  at: number,
  pageLsn: Lsn,
  remLen: number,
  wal: WalIdentity,
): number {
  const long = pageLsn % wal.segmentBytes === 0
  const info = (remLen > 0 ? XLP_FIRST_IS_CONTRECORD : 0) | (long ? XLP_LONG_HEADER : 0)
  XLogPageHeader.magic.set(view, at, WAL_PAGE_MAGIC[wal.major])
  XLogPageHeader.info.set(view, at, info)
  XLogPageHeader.timelineId.set(view, at, wal.timelineId)
  XLogPageHeader.pageAddr.set(view, at, pageLsn)
  XLogPageHeader.remLen.set(view, at, remLen)
  XLogPageHeader.pad4.set(view, at, 0)
  if (!long) return SHORT_PAGE_HEADER_BYTES
  XLogLongPageHeader.systemId.set(view, at, wal.systemId)
  XLogLongPageHeader.segmentBytes.set(view, at, wal.segmentBytes)
  XLogLongPageHeader.blockBytes.set(view, at, XLOG_BLCKSZ)
  return LONG_PAGE_HEADER_BYTES
}

/** IsValidWalSegSize */
export const isValidSegmentBytes = (bytes: number): boolean =>
  bytes >= WAL_SEGMENT_BYTES_MIN && bytes <= WAL_SEGMENT_BYTES_MAX && Number.isInteger(Math.log2(bytes))

const hex8 = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0')

/** XLogFileName: `000000010000000000000001`. */
export function walFileName(timelineId: number, segment: number, segmentBytes: number): string {
  const perLogId = 0x1_0000_0000 / segmentBytes
  return hex8(timelineId) + hex8(Math.floor(segment / perLogId)) + hex8(segment % perLogId)
}

/** XLogFromFileName. Undefined for a name that is not a complete segment's. */
export function parseWalFileName(
  name: string,
  segmentBytes: number,
): { timelineId: number; segment: number; startLsn: Lsn } | undefined {
  if (!/^[0-9A-F]{24}$/.test(name)) return undefined
  const perLogId = 0x1_0000_0000 / segmentBytes
  const low = Number.parseInt(name.slice(16), 16)
  if (low >= perLogId) return undefined
  const segment = Number.parseInt(name.slice(8, 16), 16) * perLogId + low
  if (segment * segmentBytes > Number.MAX_SAFE_INTEGER)
    throw fail('bad_lsn', `WAL file ${name} lies beyond 2^53`)
  return {
    timelineId: Number.parseInt(name.slice(0, 8), 16),
    segment,
    startLsn: segmentStart(segment, segmentBytes),
  }
}
