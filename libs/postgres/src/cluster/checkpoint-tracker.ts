/**
 * Follows in WAL everything that a shutdown checkpoint and pg_control hold, so that one can be made at any
 * record end. Moves as stock recovery does: counters never guess upwards. Pure; one object is changed in
 * place, record by record.
 *
 * Source: xlogrecovery.c ApplyWalRecord, xlog.c xlog_redo, varsup.c AdvanceNextFullTransactionIdPastXid,
 * multixact.c multixact_redo, clog.c clog_redo, commit_ts.c commit_ts_redo and CommitTsParameterChange (16,
 * 17, 18). Beyond stock redo in two points, where the primary's own memory says the same: CLOG_TRUNCATE moves
 * oldestXid, and a shutdown checkpoint is believed about commit timestamps.
 */
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { CLOG_TRUNCATE, xl_clog_truncate_tail } from '../redo/clog/records.ts'
import { COMMIT_TS_TRUNCATE } from '../redo/commit-ts/records.ts'
import { ParsedMultixact, parseMultixact } from '../redo/multixact/redo.ts'
import { checkMainData } from '../redo/record-check.ts'
import { SLRU_PAGE_NUMBER_BYTES } from '../redo/slru-page.ts'
import { ParsedXact, maxXidOf, parseXact, subxactAt, xidPrecedes } from '../redo/xact/parse.ts'
import {
  XLOG_XACT_COMMIT,
  XLOG_XACT_COMMIT_PREPARED,
  XLOG_XACT_HAS_INFO,
  XLOG_XACT_OPMASK,
} from '../redo/xact/records.ts'
import { xl_end_of_recovery } from '../redo/xlog/records.ts'
import { fullPageWritesOf, nextOidOf, parameterChangeOf } from '../redo/xlog/redo.ts'
import type { ParameterChange } from '../redo/xlog/redo.ts'
import {
  RM_CLOG_ID,
  RM_COMMIT_TS_ID,
  RM_MULTIXACT_ID,
  RM_XACT_ID,
  RM_XLOG_ID,
  XLOG_CHECKPOINT_ONLINE,
  XLOG_CHECKPOINT_SHUTDOWN,
  XLOG_END_OF_RECOVERY,
  XLOG_FPW_CHANGE,
  XLOG_NEXTOID,
  XLOG_PARAMETER_CHANGE,
  XLR_INFO_MASK,
} from '../wal/constants.ts'
import type { PgMajor } from '../wal/pages.ts'
import type { DecodedRecord } from '../wal/record.ts'
import { nextMultiXactOf, readCheckPoint } from './checkpoint.ts'
import type { ControlFileValues } from './control-file.ts'
import type { ClusterSettings } from './settings.ts'
import { CHECKPOINT_BYTES } from './version.ts'

export interface TrackerState extends ClusterSettings {
  /** Postgres's timeline id. */
  timelineId: number
  /** nextXid as epoch and xid: FullTransactionId. */
  nextXidEpoch: number
  nextXid: number
  nextOid: number
  nextMulti: number
  nextMultiOffset: number
  oldestXid: number
  oldestXidDb: number
  oldestMulti: number
  oldestMultiDb: number
  oldestCommitTsXid: number
  newestCommitTsXid: number
  /** The last of XLOG_FPW_CHANGE and a checkpoint's fullPageWrites. */
  fullPageWrites: boolean
  /** Where the record was that said so; 0/0 if pg_control did. */
  fullPageWritesLsn: Lsn
  /** The last checkpoint record: its start, its redo point, whether it was a shutdown's, and its time. */
  checkpointLsn: Lsn
  checkpointRedoLsn: Lsn
  checkpointIsShutdown: boolean
  checkpointTimeSeconds: number
}

/**
 * The state of a cluster that stands at its last checkpoint: recovery from here starts at
 * `checkpointRedoLsn`.
 */
export function trackerStateOf(control: ControlFileValues): TrackerState {
  const { checkpoint } = control
  return {
    timelineId: checkpoint.timelineId,
    nextXidEpoch: Number(checkpoint.nextXid >> 32n),
    nextXid: Number(checkpoint.nextXid & 0xffff_ffffn),
    nextOid: checkpoint.nextOid,
    nextMulti: nextMultiXactOf(checkpoint),
    nextMultiOffset: checkpoint.nextMultiOffset,
    oldestXid: checkpoint.oldestXid,
    oldestXidDb: checkpoint.oldestXidDb,
    oldestMulti: checkpoint.oldestMulti,
    oldestMultiDb: checkpoint.oldestMultiDb,
    oldestCommitTsXid: checkpoint.oldestCommitTsXid,
    newestCommitTsXid: checkpoint.newestCommitTsXid,
    fullPageWrites: checkpoint.fullPageWrites,
    fullPageWritesLsn: LSN_ZERO,
    checkpointLsn: control.checkpointLsn,
    checkpointRedoLsn: checkpoint.redoLsn,
    checkpointIsShutdown: checkpoint.redoLsn === control.checkpointLsn,
    checkpointTimeSeconds: checkpoint.timeSeconds,
    walLevel: control.walLevel,
    walLogHints: control.walLogHints,
    maxConnections: control.maxConnections,
    maxWorkerProcesses: control.maxWorkerProcesses,
    maxWalSenders: control.maxWalSenders,
    maxPreparedXacts: control.maxPreparedXacts,
    maxLocksPerXact: control.maxLocksPerXact,
    trackCommitTimestamp: control.trackCommitTimestamp,
  }
}

const FIRST_NORMAL_XID = 3

/** TransactionIdFollowsOrEquals: the special ids below 3 compare as plain numbers. */
const xidFollowsOrEquals = (a: number, b: number): boolean =>
  a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID ? a >= b : ((a - b) | 0) >= 0

/** TransactionIdPrecedes, special ids included. */
const precedes = (a: number, b: number): boolean =>
  a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID ? a < b : xidPrecedes(a, b)

/** MultiXactIdPrecedes, MultiXactOffsetPrecedes: plain circular comparison. */
const circlePrecedes = (a: number, b: number): boolean => ((a - b) | 0) < 0

/** `xid` (0: none) was seen in WAL: nextXid lies beyond it. True if it moved. */
export function xidNote(state: TrackerState, xid: number): boolean {
  if (!xidFollowsOrEquals(xid, state.nextXid)) return false
  let next = (xid + 1) >>> 0
  if (next < FIRST_NORMAL_XID) next = FIRST_NORMAL_XID
  if (next < state.nextXid) state.nextXidEpoch++
  state.nextXid = next
  return true
}

export interface TrackSettings {
  readonly major: PgMajor
}

const parsed = new ParsedXact()
const multixact = new ParsedMultixact()

/**
 * Takes in one record; true if anything changed. Errors: `bad_wal` where a record is too short for
 * its type.
 */
export function track(state: TrackerState, record: DecodedRecord, settings: TrackSettings): boolean {
  const moved = xidNote(state, maxXidOf(record, settings.major))
  switch (record.rmid) {
    case RM_XACT_ID:
      return (state.trackCommitTimestamp && trackCommit(state, record, settings.major)) || moved
    case RM_XLOG_ID:
      return trackXlog(state, record, settings.major) || moved
    case RM_MULTIXACT_ID:
      return trackMultixact(state, record) || moved
    case RM_CLOG_ID:
      return trackClogTruncate(state, record, settings.major) || moved
    case RM_COMMIT_TS_ID:
      return trackCommitTsTruncate(state, record, settings.major) || moved
    default:
      return moved
  }
}

function trackXlog(state: TrackerState, record: DecodedRecord, major: PgMajor): boolean {
  switch (record.info & ~XLR_INFO_MASK) {
    case XLOG_NEXTOID:
      state.nextOid = nextOidOf(record) as number
      return true
    case XLOG_CHECKPOINT_SHUTDOWN:
    case XLOG_CHECKPOINT_ONLINE:
      trackCheckpoint(state, record, major)
      return true
    case XLOG_FPW_CHANGE:
      state.fullPageWrites = fullPageWritesOf(record) as boolean
      state.fullPageWritesLsn = record.recordLsn
      return true
    case XLOG_PARAMETER_CHANGE:
      trackParameterChange(state, parameterChangeOf(record) as ParameterChange)
      return true
    case XLOG_END_OF_RECOVERY:
      checkMainData(record, xl_end_of_recovery.SIZE)
      state.timelineId = xl_end_of_recovery.thisTimeLineID.get(record.view, record.mainDataOffset)
      return true
    default:
      return false
  }
}

function trackCheckpoint(state: TrackerState, record: DecodedRecord, major: PgMajor): void {
  const isShutdown = (record.info & ~XLR_INFO_MASK) === XLOG_CHECKPOINT_SHUTDOWN
  checkMainData(record, CHECKPOINT_BYTES)
  const checkpoint = readCheckPoint(record.bytes, record.mainDataOffset, major)
  const epoch = Number(checkpoint.nextXid >> 32n)
  const xid = Number(checkpoint.nextXid & 0xffff_ffffn)
  // A shutdown's counters are exact. An online one's were read while others continued: they are minima, and
  // nextOid is left to NEXTOID records.
  if (isShutdown) {
    state.nextXidEpoch = epoch
    state.nextXid = xid
    state.nextOid = checkpoint.nextOid
    state.nextMulti = nextMultiXactOf(checkpoint)
    state.nextMultiOffset = checkpoint.nextMultiOffset
    state.oldestXid = checkpoint.oldestXid
    state.oldestXidDb = checkpoint.oldestXidDb
    state.oldestCommitTsXid = checkpoint.oldestCommitTsXid
    state.newestCommitTsXid = checkpoint.newestCommitTsXid
  } else {
    if (epoch > state.nextXidEpoch || (epoch === state.nextXidEpoch && xid > state.nextXid)) {
      state.nextXidEpoch = epoch
      state.nextXid = xid
    }
    advanceNextMulti(state, nextMultiXactOf(checkpoint), checkpoint.nextMultiOffset)
    if (precedes(state.oldestXid, checkpoint.oldestXid)) {
      state.oldestXid = checkpoint.oldestXid
      state.oldestXidDb = checkpoint.oldestXidDb
    }
  }
  if (circlePrecedes(state.oldestMulti, checkpoint.oldestMulti)) {
    state.oldestMulti = checkpoint.oldestMulti
    state.oldestMultiDb = checkpoint.oldestMultiDb
  }
  state.timelineId = checkpoint.timelineId
  state.fullPageWrites = checkpoint.fullPageWrites
  state.fullPageWritesLsn = record.recordLsn
  state.checkpointLsn = record.recordLsn
  state.checkpointRedoLsn = checkpoint.redoLsn
  state.checkpointIsShutdown = isShutdown
  state.checkpointTimeSeconds = checkpoint.timeSeconds
}

function trackParameterChange(state: TrackerState, change: ParameterChange): void {
  // ActivateCommitTs: what was committed before has no time stamp. DeactivateCommitTs: nothing has.
  if (!change.trackCommitTimestamp) {
    state.oldestCommitTsXid = 0
    state.newestCommitTsXid = 0
  } else if (!state.trackCommitTimestamp && state.oldestCommitTsXid === 0) {
    state.oldestCommitTsXid = state.nextXid
    state.newestCommitTsXid = state.nextXid
  }
  Object.assign(state, change)
}

/** TransactionTreeSetCommitTsData */
function trackCommit(state: TrackerState, record: DecodedRecord, major: PgMajor): boolean {
  const opcode = record.info & XLOG_XACT_OPMASK
  if (opcode !== XLOG_XACT_COMMIT && opcode !== XLOG_XACT_COMMIT_PREPARED) return false
  let newest = record.xid
  if ((record.info & XLOG_XACT_HAS_INFO) !== 0) {
    parseXact(record, major, parsed)
    newest = parsed.subxactsCount > 0 ? subxactAt(record, parsed, parsed.subxactsCount - 1) : parsed.xid
  }
  if (!precedes(state.newestCommitTsXid, newest)) return false
  state.newestCommitTsXid = newest
  return true
}

/** MultiXactAdvanceNextMXact */
function advanceNextMulti(state: TrackerState, nextMulti: number, nextOffset: number): boolean {
  let moved = false
  if (circlePrecedes(state.nextMulti, nextMulti)) {
    state.nextMulti = nextMulti
    moved = true
  }
  if (circlePrecedes(state.nextMultiOffset, nextOffset)) {
    state.nextMultiOffset = nextOffset
    moved = true
  }
  return moved
}

function trackMultixact(state: TrackerState, record: DecodedRecord): boolean {
  parseMultixact(record, multixact)
  if (multixact.kind === 'create') return advanceNextMulti(state, multixact.nextMulti, multixact.nextOffset)
  if (multixact.kind === 'other') return false
  state.oldestMulti = multixact.oldestMulti
  state.oldestMultiDb = multixact.oldestMultiDb
  return true
}

function trackClogTruncate(state: TrackerState, record: DecodedRecord, major: PgMajor): boolean {
  if ((record.info & ~XLR_INFO_MASK) !== CLOG_TRUNCATE) return false
  checkMainData(record, SLRU_PAGE_NUMBER_BYTES[major] + xl_clog_truncate_tail.SIZE)
  const at = record.mainDataOffset + SLRU_PAGE_NUMBER_BYTES[major]
  const oldestXid = xl_clog_truncate_tail.oldestXact.get(record.view, at)
  if (!precedes(state.oldestXid, oldestXid)) return false
  state.oldestXid = oldestXid
  state.oldestXidDb = xl_clog_truncate_tail.oldestXactDb.get(record.view, at)
  return true
}

/** xl_commit_ts_truncate { pageno, oldestXid }; AdvanceOldestCommitTsXid */
function trackCommitTsTruncate(state: TrackerState, record: DecodedRecord, major: PgMajor): boolean {
  if ((record.info & ~XLR_INFO_MASK) !== COMMIT_TS_TRUNCATE) return false
  checkMainData(record, SLRU_PAGE_NUMBER_BYTES[major] + 4)
  const oldestXid = record.view.getUint32(record.mainDataOffset + SLRU_PAGE_NUMBER_BYTES[major], true)
  if (state.oldestCommitTsXid === 0 || !precedes(state.oldestCommitTsXid, oldestXid)) return false
  state.oldestCommitTsXid = oldestXid
  return true
}
