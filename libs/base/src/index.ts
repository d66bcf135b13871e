export { BugError, assert, present, unreachable } from './assert.ts'
export { BoundedQueue } from './bounded-queue.ts'
export { Cursor } from './cursor.ts'
export { ERROR_CODES, UnderstoryError, describeError, fail, isErrorCode } from './errors.ts'
export type { ErrorCode } from './errors.ts'
export { DOCUMENT_READER, keepUnknown } from './keep-unknown.ts'
export { hexId, isAddress, parseNodeId, parseTenantId, parseTimelineId } from './ids.ts'
export type { ShardIdentity, ShardLayout, TenantId, TimelineId } from './ids.ts'
export {
  LSN_MAX,
  LSN_ZERO,
  advance,
  alignUp8,
  bytesBetween,
  formatLsn,
  lsn,
  lsnFromBigint,
  lsnFromHalves,
  lsnHigh,
  lsnLow,
  lsnToBigint,
  maxLsn,
  minLsn,
  offsetInSegment,
  parseLsn,
  segmentOf,
  segmentStart,
} from './lsn.ts'
export type { Lsn } from './lsn.ts'
export { bytes, i8, i32, i64, lsn64, pageLsn, struct, u8, u16, u32, u64 } from './struct.ts'
export type { Field } from './struct.ts'
