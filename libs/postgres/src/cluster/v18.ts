/**
 * Layouts of PostgreSQL 18: pg_control also says whether `char` is signed. Source: catalog/pg_control.h,
 * catalog/catversion.h.
 */
import { bytes, i32, i64, lsn64, struct, u32, u64, u8 } from '@understory/base'
import { CheckPoint } from './v17.ts'
import { CHECKPOINT_BYTES } from './version.ts'
import type { ClusterVersion } from './version.ts'

const ControlFile = struct(296, {
  systemId: u64,
  pgControlVersion: u32,
  catalogVersion: u32,
  state: u32,
  pad4: u32,
  time: i64,
  checkPoint: lsn64,
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
  blockBytes: u32,
  relationSegmentBlocks: u32,
  walBlockBytes: u32,
  walSegmentBytes: u32,
  nameDataLen: u32,
  indexMaxKeys: u32,
  toastMaxChunkBytes: u32,
  largeObjectBlockBytes: u32,
  float8ByVal: u8,
  pad3d: bytes(3),
  dataChecksumVersion: u32,
  defaultCharSignedness: u8,
  mockAuthenticationNonce: bytes(32),
  pad3e: bytes(3),
  crc: u32,
})

export const version18: ClusterVersion = {
  major: 18,
  controlVersion: 1800,
  catalogVersion: 202_506_291,
  CheckPoint,
  checkPointWalLevel: CheckPoint.walLevel,
  ControlFile,
}
