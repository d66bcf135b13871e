/**
 * A shutdown checkpoint that no Postgres wrote: with it at the end of WAL, and a pg_control that points to
 * it, a stock server starts without recovery on files that stand at that position.
 *
 * Must hold, or the server would recover, refuse to start or lose transactions: redo is the record's own
 * position; pg_control's copy equals the record byte for byte; the WAL pages around it have valid headers and
 * are zero behind it.
 *
 * Source: xlog.c CreateCheckPoint, StartupXLOG (16, 17, 18).
 */
import { advance, assert, offsetInSegment, segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import { RM_XLOG_ID, XLOG_BLCKSZ, XLOG_CHECKPOINT_SHUTDOWN } from '../wal/constants.ts'
import { encodeRecord, placeRecord, recordStartAt } from '../wal/encode-record.ts'
import {
  LONG_PAGE_HEADER_BYTES,
  SHORT_PAGE_HEADER_BYTES,
  walFileName,
  writePageHeader,
} from '../wal/pages.ts'
import type { WalIdentity } from '../wal/pages.ts'
import { encodeCheckPoint } from './checkpoint.ts'
import type { TrackerState } from './checkpoint-tracker.ts'
import { DB_SHUTDOWNED, patchControlFile } from './control-file.ts'

export interface ForgeOptions {
  /** As of `atLsn`. */
  readonly state: Readonly<TrackerState>
  /** End of the last record: the checkpoint follows it. */
  readonly atLsn: Lsn
  /** Start of the last record. */
  readonly prevLsn: Lsn
  /** Of the WAL; its timeline id must be the state's. */
  readonly wal: WalIdentity
  readonly timeSeconds: number
  /** Xids of the prepared transactions there: Postgres would delete one that is not below nextXid. */
  readonly preparedXids?: readonly number[]
}

export interface ForgedCheckpoint {
  /** The bytes that are appended to WAL at `atLsn`, page headers and padding included. */
  readonly bytes: Uint8Array
  readonly recordLsn: Lsn
  readonly nextLsn: Lsn
  /** The 88 bytes of the CheckPoint, for pg_control. */
  readonly checkpoint: Uint8Array
}

export function forgeShutdownCheckpoint(options: ForgeOptions): ForgedCheckpoint {
  const { state, atLsn, prevLsn, wal } = options
  assert(
    wal.timelineId === state.timelineId,
    () => `WAL is of timeline ${wal.timelineId}, the state of ${state.timelineId}`,
  )
  assert(prevLsn < atLsn, () => `previous record at ${prevLsn} is not before ${atLsn}`)
  for (const xid of options.preparedXids ?? []) {
    assert(
      ((xid - state.nextXid) | 0) < 0,
      () => `prepared transaction ${xid} is not below nextXid ${state.nextXid}`,
    )
  }
  const checkpoint = encodeCheckPoint(
    {
      redoLsn: recordStartAt(atLsn, wal.segmentBytes),
      timelineId: state.timelineId,
      prevTimelineId: state.timelineId,
      fullPageWrites: state.fullPageWrites,
      walLevel: state.walLevel,
      nextXid: (BigInt(state.nextXidEpoch) << 32n) | BigInt(state.nextXid),
      nextOid: state.nextOid,
      nextMulti: state.nextMulti,
      nextMultiOffset: state.nextMultiOffset,
      oldestXid: state.oldestXid,
      oldestXidDb: state.oldestXidDb,
      oldestMulti: state.oldestMulti,
      oldestMultiDb: state.oldestMultiDb,
      timeSeconds: options.timeSeconds,
      oldestCommitTsXid: state.oldestCommitTsXid,
      newestCommitTsXid: state.newestCommitTsXid,
      oldestActiveXid: 0,
    },
    wal.major,
  )
  const record = encodeRecord({
    rmid: RM_XLOG_ID,
    info: XLOG_CHECKPOINT_SHUTDOWN,
    prevLsn,
    mainData: checkpoint,
  })
  return { ...placeRecord(atLsn, record, wal), checkpoint }
}

/** pg_control for a start at the forged checkpoint. `template`: any pg_control of this cluster. */
export function forgedControlFile(
  template: Uint8Array,
  forged: ForgedCheckpoint,
  state: Readonly<TrackerState>,
  timeSeconds: number,
): Uint8Array {
  return patchControlFile(template, {
    state: DB_SHUTDOWNED,
    checkpointLsn: forged.recordLsn,
    checkpoint: forged.checkpoint,
    settings: state,
    timeSeconds,
  })
}

export interface WalSegmentFile {
  /** Within pg_wal. */
  readonly name: string
  readonly startLsn: Lsn
  readonly bytes: Uint8Array
}

/**
 * The WAL that a start at the forged checkpoint needs when the bytes before it are not at hand: the segment that it
 * lies in (two where it crosses), with nothing but page headers and the checkpoint. The page that it shares with
 * older WAL says that a record ends right before it, so that a reader which starts on that page finds it.
 */
export function segmentsForStart(
  forged: ForgedCheckpoint,
  atLsn: Lsn,
  wal: WalIdentity,
): readonly WalSegmentFile[] {
  const { segmentBytes } = wal
  const first = segmentOf(atLsn, segmentBytes)
  const last = segmentOf(advance(forged.nextLsn, -1), segmentBytes)
  const all = new Uint8Array((last - first + 1) * segmentBytes)
  const view = new DataView(all.buffer)
  const startLsn = segmentStart(first, segmentBytes)
  const offset = offsetInSegment(atLsn, segmentBytes)
  const pageStart = offset - (offset % XLOG_BLCKSZ)
  // Where a page begins at `atLsn`, the forged bytes bring its header.
  if (offset > 0)
    writePageHeader(view, 0, startLsn, pageStart === 0 ? offset - LONG_PAGE_HEADER_BYTES : 0, wal)
  if (pageStart > 0 && offset > pageStart) {
    writePageHeader(
      view,
      pageStart,
      advance(startLsn, pageStart),
      offset - pageStart - SHORT_PAGE_HEADER_BYTES,
      wal,
    )
  }
  all.set(forged.bytes, offset)
  return Array.from({ length: last - first + 1 }, (_, i) => ({
    name: walFileName(wal.timelineId, first + i, segmentBytes),
    startLsn: advance(startLsn, i * segmentBytes),
    bytes: all.subarray(i * segmentBytes, (i + 1) * segmentBytes),
  }))
}
