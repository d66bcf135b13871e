/**
 * Layouts of PostgreSQL 16. Source: catalog/pg_control.h, catalog/catversion.h, access/transam/twophase.c.
 */
import { bytes, i32, i64, lsn64, struct, u32, u64, u8 } from '@understory/base'
import { CHECKPOINT_BYTES } from './version.ts'
import type { ClusterVersion } from './version.ts'

/** Main data of XLOG_CHECKPOINT_SHUTDOWN and _ONLINE, and the copy of the last one in pg_control. */
const CheckPoint = struct(CHECKPOINT_BYTES, {
  redo: lsn64,
  thisTimelineId: u32, // ThisTimeLineID
  prevTimelineId: u32, // PrevTimeLineID
  fullPageWrites: u8,
  pad7: bytes(7),
  nextXid: u64, // FullTransactionId: the epoch in the high half
  nextOid: u32,
  nextMulti: u32,
  nextMultiOffset: u32,
  oldestXid: u32,
  oldestXidDb: u32,
  oldestMulti: u32,
  oldestMultiDb: u32,
  pad4: u32,
  time: i64, // pg_time_t: seconds since 1970
  oldestCommitTsXid: u32,
  newestCommitTsXid: u32,
  oldestActiveXid: u32,
  pad4b: u32,
})

/** The first 296 bytes of global/pg_control; zeros up to 8192. The CRC covers what lies before it. */
export const ControlFile = struct(296, {
  systemId: u64, // system_identifier
  pgControlVersion: u32,
  catalogVersion: u32, // catalog_version_no
  state: u32, // DBState
  pad4: u32,
  time: i64,
  checkPoint: lsn64, // start of the last checkpoint's record
  checkPointCopy: bytes(CHECKPOINT_BYTES),
  unloggedLsn: lsn64,
  minRecoveryPoint: lsn64,
  minRecoveryPointTimelineId: u32,
  pad4b: u32,
  backupStartPoint: lsn64,
  backupEndPoint: lsn64,
  backupEndRequired: u8,
  pad3: bytes(3),
  walLevel: i32,
  walLogHints: u8,
  pad3b: bytes(3),
  maxConnections: i32,
  maxWorkerProcesses: i32,
  maxWalSenders: i32,
  maxPreparedXacts: i32,
  maxLocksPerXact: i32,
  trackCommitTimestamp: u8,
  pad3c: bytes(3),
  maxAlign: u32,
  floatFormat: bytes(8),
  blockBytes: u32, // blcksz
  relationSegmentBlocks: u32, // relseg_size
  walBlockBytes: u32, // xlog_blcksz
  walSegmentBytes: u32, // xlog_seg_size
  nameDataLen: u32,
  indexMaxKeys: u32,
  toastMaxChunkBytes: u32,
  largeObjectBlockBytes: u32, // loblksize
  float8ByVal: u8,
  pad3d: bytes(3),
  dataChecksumVersion: u32,
  mockAuthenticationNonce: bytes(32),
  crc: u32,
  pad4c: u32,
})

export const version16: ClusterVersion = {
  major: 16,
  controlVersion: 1300,
  catalogVersion: 202_307_071,
  CheckPoint,
  checkPointWalLevel: undefined,
  ControlFile,
}
