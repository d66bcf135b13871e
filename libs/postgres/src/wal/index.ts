export * from './constants.ts'
export { crc32c } from './crc.ts'
export { BLOCK_REFS_MAX, BlockRef, DecodedRecord, FORK_FSM, FORK_INIT, FORK_MAIN, FORK_VM } from './record.ts'
export type { RelFile } from './record.ts'
export { XLogRecord, recordCrc } from './record-header.ts'
export {
  LONG_PAGE_HEADER_BYTES,
  SHORT_PAGE_HEADER_BYTES,
  WAL_PAGE_MAGIC,
  XLogLongPageHeader,
  XLogPageHeader,
  isValidSegmentBytes,
  majorOfMagic,
  pageHeaderBytes,
  parseWalFileName,
  walFileName,
  writePageHeader,
} from './pages.ts'
export type { PgMajor, WalIdentity } from './pages.ts'
export { WalStreamDecoder } from './stream-decoder.ts'
export type { WalStreamOptions } from './stream-decoder.ts'
export { BKPIMAGE_COMPRESSED, decodeHeader, decodeRecord } from './decode-record.ts'
export { restoreBlockImage } from './block-image.ts'
export { pglzDecompress } from './pglz.ts'
export { encodeRecord, placeRecord, recordStartAt } from './encode-record.ts'
export type { PlacedRecord, RecordToEncode } from './encode-record.ts'
export { readRecordsOfSegments } from './segment-files.ts'
export type { SegmentReadOptions } from './segment-files.ts'
