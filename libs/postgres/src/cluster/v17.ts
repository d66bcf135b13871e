/**
 * Layouts of PostgreSQL 17: as 16, but a checkpoint also says wal_level. Source: catalog/pg_control.h,
 * catalog/catversion.h.
 */
import { bytes, i32, i64, lsn64, struct, u32, u64, u8 } from '@understory/base'
import { ControlFile } from './v16.ts'
import { CHECKPOINT_BYTES } from './version.ts'
import type { ClusterVersion } from './version.ts'

export const CheckPoint = struct(CHECKPOINT_BYTES, {
  redo: lsn64,
  thisTimelineId: u32,
  prevTimelineId: u32,
  fullPageWrites: u8,
  pad3: bytes(3),
  walLevel: i32, // wal_level
  nextXid: u64,
  nextOid: u32,
  nextMulti: u32,
  nextMultiOffset: u32,
  oldestXid: u32,
  oldestXidDb: u32,
  oldestMulti: u32,
  oldestMultiDb: u32,
  pad4: u32,
  time: i64,
  oldestCommitTsXid: u32,
  newestCommitTsXid: u32,
  oldestActiveXid: u32,
  pad4b: u32,
})

export const version17: ClusterVersion = {
  major: 17,
  controlVersion: 1700,
  catalogVersion: 202_406_281,
  CheckPoint,
  checkPointWalLevel: CheckPoint.walLevel,
  ControlFile,
}
