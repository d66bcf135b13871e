/**
 * Pages change by images alone, which the caller applies. Checkpoints and counters are for the tracker of the
 * next checkpoint: the parsers below and `cluster`.
 *
 * Source: access/transam/xlog.c xlog_redo, commit_ts.c CommitTsParameterChange (17.11, 18.6).
 */
import { fail } from '@understory/base'
import type { Page } from '../../page/bufpage.ts'
import {
  RM_XLOG_ID,
  XLOG_FPI_FOR_HINT,
  XLOG_FPW_CHANGE,
  XLOG_NEXTOID,
  XLOG_PARAMETER_CHANGE,
  XLR_RMGR_INFO_MASK,
} from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import { allPages } from '../slru-truncation.ts'
import type { EffectSink, RedoSettings, Rmgr } from '../types.ts'
import { identifyXlog } from './describe.ts'
import { xl_fpw_change, xl_nextoid, xl_parameter_change } from './records.ts'

/** A block without an image that is to be applied. */
function redoBlock(record: DecodedRecord, blockIndex: number, _page: Page): void {
  // A hint bit that was set while full_page_writes was off: the page is as it was, its LSN too.
  if (
    (record.info & XLR_RMGR_INFO_MASK) === XLOG_FPI_FOR_HINT &&
    record.blocks[blockIndex]?.hasImage !== true
  )
    return
  throw fail('bad_wal', 'full page image record did not contain a full page image')
}

function effects(record: DecodedRecord, sink: EffectSink, settings: RedoSettings): void {
  if (settings.trackCommitTimestamp !== true) return
  // Earlier records are not looked at again, even if it is switched on later: the files go.
  if (parameterChangeOf(record)?.trackCommitTimestamp === false) sink.slruTruncate('pg_commit_ts', allPages)
}

/** Of a NEXTOID record: the next OID of the cluster, replacing what was known. Otherwise undefined. */
export function nextOidOf(record: DecodedRecord): number | undefined {
  if (record.rmid !== RM_XLOG_ID || (record.info & XLR_RMGR_INFO_MASK) !== XLOG_NEXTOID) return undefined
  checkMainData(record, xl_nextoid.SIZE)
  return xl_nextoid.nextOid.get(record.view, record.mainDataOffset)
}

/** Of an FPW_CHANGE record: the new value of full_page_writes. Otherwise undefined. */
export function fullPageWritesOf(record: DecodedRecord): boolean | undefined {
  if (record.rmid !== RM_XLOG_ID || (record.info & XLR_RMGR_INFO_MASK) !== XLOG_FPW_CHANGE) return undefined
  checkMainData(record, xl_fpw_change.SIZE)
  return xl_fpw_change.fullPageWrites.get(record.view, record.mainDataOffset) !== 0
}

/** Settings of the primary that recovery copies into pg_control. */
export interface ParameterChange {
  readonly maxConnections: number
  readonly maxWorkerProcesses: number
  readonly maxWalSenders: number
  readonly maxPreparedXacts: number
  readonly maxLocksPerXact: number
  /** WAL_LEVEL_MINIMAL 0, REPLICA 1, LOGICAL 2. */
  readonly walLevel: number
  readonly walLogHints: boolean
  readonly trackCommitTimestamp: boolean
}

/** Of a PARAMETER_CHANGE record; otherwise undefined. */
export function parameterChangeOf(record: DecodedRecord): ParameterChange | undefined {
  if (record.rmid !== RM_XLOG_ID || (record.info & XLR_RMGR_INFO_MASK) !== XLOG_PARAMETER_CHANGE)
    return undefined
  // Postgres logs and copies sizeof(xl_parameter_change), its padding included.
  checkMainData(record, xl_parameter_change.SIZE)
  const { view, mainDataOffset: at } = record
  return {
    maxConnections: xl_parameter_change.maxConnections.get(view, at),
    maxWorkerProcesses: xl_parameter_change.maxWorkerProcesses.get(view, at),
    maxWalSenders: xl_parameter_change.maxWalSenders.get(view, at),
    maxPreparedXacts: xl_parameter_change.maxPreparedXacts.get(view, at),
    maxLocksPerXact: xl_parameter_change.maxLocksPerXact.get(view, at),
    walLevel: xl_parameter_change.walLevel.get(view, at),
    walLogHints: xl_parameter_change.walLogHints.get(view, at) !== 0,
    trackCommitTimestamp: xl_parameter_change.trackCommitTimestamp.get(view, at) !== 0,
  }
}

export const xlogRmgr: Rmgr = {
  id: RM_XLOG_ID,
  name: 'XLOG',
  identify: (info, settings) => identifyXlog(info, settings.major),
  redoBlock,
  effects,
}
