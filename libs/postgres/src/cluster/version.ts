/** The differences between versions in the files around the relations, as one row a version. */
import type { Field, Lsn } from '@understory/base'
import type { PgMajor } from '../wal/pages.ts'

/** sizeof(CheckPoint), of every version. */
export const CHECKPOINT_BYTES = 88

/** The fields that all versions share, each at its own offset. */
export interface CheckPointLayout {
  readonly SIZE: number
  readonly redo: Field<Lsn>
  readonly thisTimelineId: Field<number>
  readonly prevTimelineId: Field<number>
  readonly fullPageWrites: Field<number>
  readonly nextXid: Field<bigint>
  readonly nextOid: Field<number>
  readonly nextMulti: Field<number>
  readonly nextMultiOffset: Field<number>
  readonly oldestXid: Field<number>
  readonly oldestXidDb: Field<number>
  readonly oldestMulti: Field<number>
  readonly oldestMultiDb: Field<number>
  readonly time: Field<bigint>
  readonly oldestCommitTsXid: Field<number>
  readonly newestCommitTsXid: Field<number>
  readonly oldestActiveXid: Field<number>
}

export interface ControlFileLayout {
  readonly SIZE: number
  readonly systemId: Field<bigint>
  readonly pgControlVersion: Field<number>
  readonly catalogVersion: Field<number>
  readonly state: Field<number>
  readonly time: Field<bigint>
  readonly checkPoint: Field<Lsn>
  readonly checkPointCopy: Field<Uint8Array>
  readonly unloggedLsn: Field<Lsn>
  readonly minRecoveryPoint: Field<Lsn>
  readonly minRecoveryPointTimelineId: Field<number>
  readonly backupStartPoint: Field<Lsn>
  readonly backupEndPoint: Field<Lsn>
  readonly backupEndRequired: Field<number>
  readonly walLevel: Field<number>
  readonly walLogHints: Field<number>
  readonly maxConnections: Field<number>
  readonly maxWorkerProcesses: Field<number>
  readonly maxWalSenders: Field<number>
  readonly maxPreparedXacts: Field<number>
  readonly maxLocksPerXact: Field<number>
  readonly trackCommitTimestamp: Field<number>
  readonly blockBytes: Field<number>
  readonly relationSegmentBlocks: Field<number>
  readonly walBlockBytes: Field<number>
  readonly walSegmentBytes: Field<number>
  readonly dataChecksumVersion: Field<number>
  readonly crc: Field<number>
}

export interface ClusterVersion {
  readonly major: PgMajor
  /** PG_CONTROL_VERSION */
  readonly controlVersion: number
  /** CATALOG_VERSION_NO of every release of this version: part of a tablespace's path. */
  readonly catalogVersion: number
  readonly CheckPoint: CheckPointLayout
  /** Absent before 17. */
  readonly checkPointWalLevel: Field<number> | undefined
  readonly ControlFile: ControlFileLayout
}
