/**
 * The effects of the end of a transaction: on pg_xact and pg_commit_ts, which relations go with it, the state files of
 * prepared transactions, and the progress of the replication origin that it came from.
 *
 * Subtransactions end as their parent does: the SUB_COMMITTED that Postgres writes first, when a transaction spans
 * several pages, is overwritten within the same redo.
 *
 * Source: access/transam/xact.c xact_redo, xact_redo_commit, xact_redo_abort; twophase.c RecreateTwoPhaseFile,
 * PrepareRedoAdd; commit_ts.c TransactionTreeSetCommitTsData (17.11, 18.6).
 */
import { assert, fail } from '@understory/base'
import type { Page } from '../../page/bufpage.ts'
import { RM_XACT_ID } from '../../wal/constants.ts'
import { crc32c } from '../../wal/crc.ts'
import type { DecodedRecord, RelFile } from '../../wal/record.ts'
import {
  TRANSACTION_STATUS_ABORTED,
  TRANSACTION_STATUS_COMMITTED,
  clogPageOf,
  setTransactionStatus,
} from '../clog/status.ts'
import { commitTsPageOf, setCommitTs } from '../commit-ts/entry.ts'
import { advanceOrigin } from '../replorigin/redo.ts'
import type { EffectSink, RedoSettings, Rmgr, SlruKind } from '../types.ts'
import { identifyXact } from './describe.ts'
import { ParsedXact, originLsnOf, parseXact, relFileAt, subxactAt } from './parse.ts'
import {
  XLOG_XACT_ABORT,
  XLOG_XACT_ABORT_PREPARED,
  XLOG_XACT_ASSIGNMENT,
  XLOG_XACT_COMMIT,
  XLOG_XACT_COMMIT_PREPARED,
  XLOG_XACT_INVALIDATIONS,
  XLOG_XACT_OPMASK,
  XLOG_XACT_PREPARE,
  xl_xact_prepare,
} from './records.ts'

// Work space of one record. A sink may redo at once, so effects and redoSlru keep theirs apart.
const parsedForEffects = new ParsedXact()
const parsedForRedo = new ParsedXact()
const droppedRel: RelFile = { spcOid: 0, dbOid: 0, relNumber: 0 }

/** Of the end of a transaction: whether it committed. */
export const isXactCommit = (parsed: ParsedXact): boolean =>
  parsed.opcode === XLOG_XACT_COMMIT || parsed.opcode === XLOG_XACT_COMMIT_PREPARED

/** Whether the record, of RM_XACT_ID, is the end of a transaction: it changes pg_xact. */
export function isXactEnd(record: DecodedRecord): boolean {
  const opcode = record.info & XLOG_XACT_OPMASK
  return (
    opcode === XLOG_XACT_COMMIT ||
    opcode === XLOG_XACT_ABORT ||
    opcode === XLOG_XACT_COMMIT_PREPARED ||
    opcode === XLOG_XACT_ABORT_PREPARED
  )
}

/** Reports each page of the transaction and its subtransactions, whose xids rise, once. */
function reportPages(
  record: DecodedRecord,
  parsed: ParsedXact,
  kind: SlruKind,
  pageOf: (xid: number) => number,
  sink: EffectSink,
): void {
  const first = pageOf(parsed.xid)
  let last = first
  sink.slruPage(kind, first, false)
  for (let i = 0; i < parsed.subxactsCount; i++) {
    const page = pageOf(subxactAt(record, parsed, i))
    if (page !== last && page !== first) sink.slruPage(kind, page, false)
    last = page
  }
}

/** The state file: the record's data and its CRC. */
function twoPhaseState(record: DecodedRecord): Uint8Array {
  const length = record.mainDataLength
  if (xl_xact_prepare.totalLen.get(record.view, record.mainDataOffset) !== length + 4) {
    throw fail('bad_wal', `two-phase state of ${length} bytes has another length in its header`)
  }
  const content = new Uint8Array(length + 4)
  content.set(record.bytes.subarray(record.mainDataOffset, record.mainDataOffset + length))
  new DataView(content.buffer).setUint32(length, crc32c(content, 0, length), true)
  return content
}

function effects(record: DecodedRecord, sink: EffectSink, settings: RedoSettings): void {
  const opcode = record.info & XLOG_XACT_OPMASK
  // These matter to a hot standby only.
  if (opcode === XLOG_XACT_ASSIGNMENT || opcode === XLOG_XACT_INVALIDATIONS) return
  const parsed = parsedForEffects
  parseXact(record, settings.major, parsed)
  // An abort is progress, too (xact_redo_abort).
  if (parsed.hasOrigin) advanceOrigin(sink, record.originId, originLsnOf(record, parsed), false)
  if (opcode === XLOG_XACT_PREPARE) {
    sink.twoPhasePrepare(parsed.xid, twoPhaseState(record))
    return
  }
  if (isXactCommit(parsed) && settings.trackCommitTimestamp === true) {
    reportPages(record, parsed, 'pg_commit_ts', commitTsPageOf, sink)
  }
  reportPages(record, parsed, 'pg_xact', clogPageOf, sink)
  for (let i = 0; i < parsed.relsCount; i++) {
    sink.relationDrop(relFileAt(record, parsed.relsOffset, i, droppedRel))
  }
  if (opcode === XLOG_XACT_COMMIT_PREPARED || opcode === XLOG_XACT_ABORT_PREPARED)
    sink.twoPhaseRemove(parsed.xid)
}

function redoSlru(
  record: DecodedRecord,
  kind: SlruKind,
  slruPage: number,
  page: Page,
  settings: RedoSettings,
): void {
  const parsed = parsedForRedo
  parseXact(record, settings.major, parsed)
  if (kind === 'pg_commit_ts') {
    const timestampAt = parsed.hasOrigin ? parsed.originTimestampOffset : parsed.xactTimeOffset
    for (let i = -1; i < parsed.subxactsCount; i++) {
      const xid = i < 0 ? parsed.xid : subxactAt(record, parsed, i)
      if (commitTsPageOf(xid) === slruPage) setCommitTs(page, xid, record.bytes, timestampAt, record.originId)
    }
    return
  }
  assert(kind === 'pg_xact', () => `a transaction record does not touch ${kind}`)
  const status = isXactCommit(parsed) ? TRANSACTION_STATUS_COMMITTED : TRANSACTION_STATUS_ABORTED
  for (let i = -1; i < parsed.subxactsCount; i++) {
    const xid = i < 0 ? parsed.xid : subxactAt(record, parsed, i)
    if (clogPageOf(xid) === slruPage) setTransactionStatus(page, xid, status)
  }
}

export const xactRmgr: Rmgr = {
  id: RM_XACT_ID,
  name: 'Transaction',
  identify: identifyXact,
  effects,
  redoSlru,
}
