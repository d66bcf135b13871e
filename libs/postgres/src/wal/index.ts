export * from './constants.ts'
export { crc32c } from './crc.ts'
export { BlockRef, DecodedRecord, FORK_FSM, FORK_INIT, FORK_MAIN, FORK_VM } from './record.ts'
export type { RelFile } from './record.ts'
export { XLogRecord, recordCrc } from './record-header.ts'
export {
  XLogLongPageHeader,
  XLogPageHeader,
  isValidSegmentBytes,
  pageHeaderBytes,
  parseWalFileName,
  walFileName,
} from './pages.ts'
export type { PgMajor, WalIdentity } from './pages.ts'
export { WalStreamDecoder } from './stream-decoder.ts'
export type { WalStreamOptions } from './stream-decoder.ts'
export { decodeHeader, decodeRecord } from './decode-record.ts'
export { restoreBlockImage } from './block-image.ts'
export { pglzDecompress } from './pglz.ts'
export { encodeRecord, placeRecord } from './encode-record.ts'
export type { RecordToEncode } from './encode-record.ts'
export { readRecordsOfSegments } from './segment-files.ts'
