/** global/pg_control. Source: catalog/pg_control.h, common/controldata_utils.c (16, 17, 18). */
import { LSN_ZERO, assert, maxLsn, fail, lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { crc32c } from '../wal/crc.ts'
import type { PgMajor } from '../wal/pages.ts'
import { readCheckPoint } from './checkpoint.ts'
import type { CheckPointValues } from './checkpoint.ts'
import type { ClusterSettings } from './settings.ts'
import { CHECKPOINT_BYTES } from './version.ts'
import { clusterVersionOfControl, clusterVersions } from './versions.ts'

/** PG_CONTROL_FILE_SIZE */
export const CONTROL_FILE_BYTES = 8192
export const CONTROL_FILE_PATH = 'global/pg_control'
/** Both fields are at the same place in every version. */
const CONTROL_VERSION_OFFSET = 8

export const DB_SHUTDOWNED = 1
export const DB_SHUTDOWNED_IN_RECOVERY = 2

/** FirstNormalUnloggedLSN */
const FIRST_NORMAL_UNLOGGED_LSN = lsn(1000)

export interface ControlFileValues extends ClusterSettings {
  readonly major: PgMajor
  readonly systemId: bigint
  readonly catalogVersion: number
  /** DB_* */
  readonly state: number
  readonly timeSeconds: number
  readonly checkpointLsn: Lsn
  readonly checkpoint: CheckPointValues
  readonly unloggedLsn: Lsn
  readonly minRecoveryPoint: Lsn
  readonly minRecoveryPointTimelineId: number
  readonly backupStartPoint: Lsn
  readonly backupEndPoint: Lsn
  readonly backupEndRequired: boolean
  readonly segmentBytes: number
  readonly dataChecksums: boolean
}

/**
 * Errors: `bad_file` if it is cut, damaged, of an unknown version, or built with other block sizes.
 */
export function parseControlFile(bytes: Uint8Array): ControlFileValues {
  if (bytes.length !== CONTROL_FILE_BYTES)
    throw fail('bad_file', `pg_control has ${bytes.length} bytes, not ${CONTROL_FILE_BYTES}`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const controlVersion = view.getUint32(CONTROL_VERSION_OFFSET, true)
  const version = clusterVersionOfControl(controlVersion)
  if (version === undefined) {
    throw fail('bad_file', `pg_control is of the unknown version ${controlVersion}`, {
      hint: 'PostgreSQL 16, 17 and 18 are supported.',
    })
  }
  const { ControlFile: layout, major } = version
  if (layout.crc.get(view, 0) !== crc32c(bytes, 0, layout.crc.offset))
    throw fail('bad_file', 'pg_control has an incorrect checksum')
  const blocks = [layout.blockBytes, layout.walBlockBytes, layout.relationSegmentBlocks].map((field) =>
    field.get(view, 0),
  )
  if (blocks.join() !== '8192,8192,131072') {
    throw fail('unsupported', `cluster with block sizes ${blocks.join(', ')}`, {
      hint: 'Only the default sizes are supported: 8 KiB blocks, 8 KiB WAL blocks, 1 GiB relation segments.',
    })
  }
  return {
    major,
    systemId: layout.systemId.get(view, 0),
    catalogVersion: layout.catalogVersion.get(view, 0),
    state: layout.state.get(view, 0),
    timeSeconds: Number(layout.time.get(view, 0)),
    checkpointLsn: layout.checkPoint.get(view, 0),
    checkpoint: readCheckPoint(bytes, layout.checkPointCopy.offset, major),
    unloggedLsn: layout.unloggedLsn.get(view, 0),
    minRecoveryPoint: layout.minRecoveryPoint.get(view, 0),
    minRecoveryPointTimelineId: layout.minRecoveryPointTimelineId.get(view, 0),
    backupStartPoint: layout.backupStartPoint.get(view, 0),
    backupEndPoint: layout.backupEndPoint.get(view, 0),
    backupEndRequired: layout.backupEndRequired.get(view, 0) !== 0,
    walLevel: layout.walLevel.get(view, 0),
    walLogHints: layout.walLogHints.get(view, 0) !== 0,
    maxConnections: layout.maxConnections.get(view, 0),
    maxWorkerProcesses: layout.maxWorkerProcesses.get(view, 0),
    maxWalSenders: layout.maxWalSenders.get(view, 0),
    maxPreparedXacts: layout.maxPreparedXacts.get(view, 0),
    maxLocksPerXact: layout.maxLocksPerXact.get(view, 0),
    trackCommitTimestamp: layout.trackCommitTimestamp.get(view, 0) !== 0,
    segmentBytes: layout.walSegmentBytes.get(view, 0),
    dataChecksums: layout.dataChecksumVersion.get(view, 0) !== 0,
  }
}

export interface ControlFilePatch {
  /** DB_SHUTDOWNED for a start without recovery, DB_SHUTDOWNED_IN_RECOVERY for a follower. */
  readonly state: number
  /** Start of the checkpoint's record. */
  readonly checkpointLsn: Lsn
  /** The 88 bytes that the record holds. */
  readonly checkpoint: Uint8Array
  readonly settings: Readonly<ClusterSettings>
  readonly timeSeconds: number
  /** Up to where recovery must get, for a follower; 0/0 otherwise. */
  readonly minRecoveryPoint?: Lsn
  readonly minRecoveryPointTimelineId?: number
}

/**
 * A copy of `template` that stands at the given checkpoint. From the template come the system identifier, the
 * nonce, the checksum version and what else initdb settled; traces of an unfinished backup or recovery are
 * removed.
 */
export function patchControlFile(template: Uint8Array, patch: ControlFilePatch): Uint8Array {
  const { major } = parseControlFile(template)
  const { ControlFile: layout } = clusterVersions[major]
  assert(patch.checkpoint.length === CHECKPOINT_BYTES, () => `checkpoint of ${patch.checkpoint.length} bytes`)
  const out = Uint8Array.from(template)
  const view = new DataView(out.buffer)
  const { settings } = patch
  layout.state.set(view, 0, patch.state)
  layout.time.set(view, 0, BigInt(patch.timeSeconds))
  layout.checkPoint.set(view, 0, patch.checkpointLsn)
  layout.checkPointCopy.set(view, 0, patch.checkpoint)
  layout.unloggedLsn.set(view, 0, maxLsn(layout.unloggedLsn.get(view, 0), FIRST_NORMAL_UNLOGGED_LSN))
  layout.minRecoveryPoint.set(view, 0, patch.minRecoveryPoint ?? LSN_ZERO)
  layout.minRecoveryPointTimelineId.set(view, 0, patch.minRecoveryPointTimelineId ?? 0)
  layout.backupStartPoint.set(view, 0, LSN_ZERO)
  layout.backupEndPoint.set(view, 0, LSN_ZERO)
  layout.backupEndRequired.set(view, 0, 0)
  layout.walLevel.set(view, 0, settings.walLevel)
  layout.walLogHints.set(view, 0, settings.walLogHints ? 1 : 0)
  layout.maxConnections.set(view, 0, settings.maxConnections)
  layout.maxWorkerProcesses.set(view, 0, settings.maxWorkerProcesses)
  layout.maxWalSenders.set(view, 0, settings.maxWalSenders)
  layout.maxPreparedXacts.set(view, 0, settings.maxPreparedXacts)
  layout.maxLocksPerXact.set(view, 0, settings.maxLocksPerXact)
  layout.trackCommitTimestamp.set(view, 0, settings.trackCommitTimestamp ? 1 : 0)
  layout.crc.set(view, 0, crc32c(out, 0, layout.crc.offset))
  return out
}
