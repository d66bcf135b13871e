/**
 * The contents of a transaction record, decoded once for all that need it: redo, relation sizes, the checkpoint
 * tracker, logical consumers.
 *
 * A `ParsedXact` holds numbers and offsets into the record's bytes, never copies, and is meant to be reused: nothing is
 * allocated per record. It is valid as long as the record is.
 *
 * Source: rmgrdesc/xactdesc.c ParseCommitRecord, ParseAbortRecord, ParsePrepareRecord (17.11, 18.6).
 */
import { fail } from '@understory/base'
import { maxAlign } from '../../page/bufpage.ts'
import { RM_MULTIXACT_ID, RM_XACT_ID } from '../../wal/constants.ts'
import type { PgMajor } from '../../wal/pages.ts'
import type { DecodedRecord, RelFile } from '../../wal/record.ts'
import { ParsedMultixact, parseMultixact } from '../multixact/redo.ts'
import {
  INVAL_MESSAGE_BYTES,
  REL_FILE_LOCATOR_BYTES,
  STATS_ITEM_BYTES,
  TWOPHASE_MAGIC,
  XACT_XINFO_HAS_DBINFO,
  XACT_XINFO_HAS_DROPPED_STATS,
  XACT_XINFO_HAS_GID,
  XACT_XINFO_HAS_INVALS,
  XACT_XINFO_HAS_ORIGIN,
  XACT_XINFO_HAS_RELFILELOCATORS,
  XACT_XINFO_HAS_SUBXACTS,
  XACT_XINFO_HAS_TWOPHASE,
  XLOG_XACT_ABORT,
  XLOG_XACT_ABORT_PREPARED,
  XLOG_XACT_ASSIGNMENT,
  XLOG_XACT_COMMIT,
  XLOG_XACT_COMMIT_PREPARED,
  XLOG_XACT_HAS_INFO,
  XLOG_XACT_INVALIDATIONS,
  XLOG_XACT_OPMASK,
  XLOG_XACT_PREPARE,
  xl_xact_prepare,
} from './records.ts'

/** Offsets count from the start of `record.bytes`; an absent part has count 0. */
export class ParsedXact {
  /** XLOG_XACT_* without XLOG_XACT_HAS_INFO. */
  opcode = 0
  /** The transaction whose fate this is: of a prepared one the original xid; of an ASSIGNMENT the top-level xid. */
  xid = 0
  /** int64 microseconds since 2000: time of commit, abort or prepare. 0 where the record has none. */
  xactTimeOffset = 0
  xinfo = 0
  dbId = 0
  tsId = 0
  subxactsCount = 0
  subxactsOffset = 0
  /** Relations to remove now, or of a PREPARE: when it commits. */
  relsCount = 0
  relsOffset = 0
  /** Of a PREPARE: relations to remove if it aborts. */
  abortRelsCount = 0
  abortRelsOffset = 0
  statsCount = 0
  statsOffset = 0
  abortStatsCount = 0
  abortStatsOffset = 0
  invalsCount = 0
  invalsOffset = 0
  /** 0 unless the transaction was or is being prepared. */
  twophaseXid = 0
  /** The global identifier without its final zero. */
  gidOffset = 0
  gidLength = 0
  hasOrigin = false
  originLsnOffset = 0
  originTimestampOffset = 0
  /** First byte behind what was parsed. */
  endOffset = 0

  clear(): void {
    this.opcode = 0
    this.xid = 0
    this.xactTimeOffset = 0
    this.xinfo = 0
    this.dbId = 0
    this.tsId = 0
    this.subxactsCount = 0
    this.relsCount = 0
    this.abortRelsCount = 0
    this.statsCount = 0
    this.abortStatsCount = 0
    this.invalsCount = 0
    this.twophaseXid = 0
    this.gidLength = 0
    this.hasOrigin = false
    this.originLsnOffset = 0
    this.originTimestampOffset = 0
  }
}

/**
 * Fills `parsed` from a record of RM_XACT_ID.
 * Errors: `bad_wal` if the record is shorter than what it announces, `unknown_wal` for an unknown opcode.
 */
export function parseXact(record: DecodedRecord, major: PgMajor, parsed: ParsedXact): void {
  parsed.clear()
  const opcode = record.info & XLOG_XACT_OPMASK
  parsed.opcode = opcode
  switch (opcode) {
    case XLOG_XACT_COMMIT:
    case XLOG_XACT_ABORT:
    case XLOG_XACT_COMMIT_PREPARED:
    case XLOG_XACT_ABORT_PREPARED:
      parseEnd(record, major, parsed)
      return
    case XLOG_XACT_PREPARE:
      parsePrepare(record, major, parsed)
      return
    case XLOG_XACT_ASSIGNMENT: {
      // xl_xact_assignment
      const at = advanceWithin(record, record.mainDataOffset, 8)
      parsed.xid = record.view.getUint32(at - 8, true)
      parsed.subxactsCount = record.view.getInt32(at - 4, true)
      parsed.subxactsOffset = at
      parsed.endOffset = skipArray(record, at, parsed.subxactsCount, 4)
      return
    }
    case XLOG_XACT_INVALIDATIONS: {
      // xl_xact_invals
      const at = advanceWithin(record, record.mainDataOffset, 4)
      parsed.xid = record.xid
      parsed.invalsCount = record.view.getInt32(at - 4, true)
      parsed.invalsOffset = at
      parsed.endOffset = skipArray(record, at, parsed.invalsCount, INVAL_MESSAGE_BYTES)
      return
    }
    default:
      throw fail('unknown_wal', `transaction record has the unknown operation code ${opcode}`)
  }
}

function parseEnd(record: DecodedRecord, major: PgMajor, parsed: ParsedXact): void {
  const { view } = record
  parsed.xid = record.xid
  let at = advanceWithin(record, record.mainDataOffset, 8)
  parsed.xactTimeOffset = at - 8
  if ((record.info & XLOG_XACT_HAS_INFO) !== 0) {
    at = advanceWithin(record, at, 4)
    parsed.xinfo = view.getUint32(at - 4, true)
  }
  const { xinfo } = parsed
  if ((xinfo & XACT_XINFO_HAS_DBINFO) !== 0) {
    at = advanceWithin(record, at, 8)
    parsed.dbId = view.getUint32(at - 8, true)
    parsed.tsId = view.getUint32(at - 4, true)
  }
  if ((xinfo & XACT_XINFO_HAS_SUBXACTS) !== 0) {
    at = advanceWithin(record, at, 4)
    parsed.subxactsCount = view.getInt32(at - 4, true)
    parsed.subxactsOffset = at
    at = skipArray(record, at, parsed.subxactsCount, 4)
  }
  if ((xinfo & XACT_XINFO_HAS_RELFILELOCATORS) !== 0) {
    at = advanceWithin(record, at, 4)
    parsed.relsCount = view.getInt32(at - 4, true)
    parsed.relsOffset = at
    at = skipArray(record, at, parsed.relsCount, REL_FILE_LOCATOR_BYTES)
  }
  if ((xinfo & XACT_XINFO_HAS_DROPPED_STATS) !== 0) {
    at = advanceWithin(record, at, 4)
    parsed.statsCount = view.getInt32(at - 4, true)
    parsed.statsOffset = at
    at = skipArray(record, at, parsed.statsCount, STATS_ITEM_BYTES[major])
  }
  if ((xinfo & XACT_XINFO_HAS_INVALS) !== 0) {
    at = advanceWithin(record, at, 4)
    parsed.invalsCount = view.getInt32(at - 4, true)
    parsed.invalsOffset = at
    at = skipArray(record, at, parsed.invalsCount, INVAL_MESSAGE_BYTES)
  }
  if ((xinfo & XACT_XINFO_HAS_TWOPHASE) !== 0) {
    at = advanceWithin(record, at, 4)
    parsed.twophaseXid = view.getUint32(at - 4, true)
    if ((xinfo & XACT_XINFO_HAS_GID) !== 0) {
      const end = record.bytes.indexOf(0, at)
      if (end < 0 || end >= mainDataEnd(record))
        throw fail('bad_wal', 'transaction record has an unterminated gid')
      parsed.gidOffset = at
      parsed.gidLength = end - at
      at = end + 1
    }
  }
  if ((xinfo & XACT_XINFO_HAS_ORIGIN) !== 0) {
    // unaligned
    at = advanceWithin(record, at, 16)
    parsed.hasOrigin = true
    parsed.originLsnOffset = at - 16
    parsed.originTimestampOffset = at - 8
  }
  if (parsed.opcode === XLOG_XACT_COMMIT_PREPARED || parsed.opcode === XLOG_XACT_ABORT_PREPARED) {
    if (parsed.twophaseXid === 0)
      throw fail('bad_wal', 'the end of a prepared transaction names no transaction')
    parsed.xid = parsed.twophaseXid
  }
  parsed.endOffset = at
}

function parsePrepare(record: DecodedRecord, major: PgMajor, parsed: ParsedXact): void {
  const { view } = record
  const header = record.mainDataOffset
  let at = advanceWithin(record, header, maxAlign(xl_xact_prepare.SIZE))
  const magic = xl_xact_prepare.magic.get(view, header)
  if (magic !== TWOPHASE_MAGIC) throw fail('bad_wal', `two-phase state has magic number ${magic}`)
  parsed.xid = xl_xact_prepare.xid.get(view, header)
  parsed.twophaseXid = parsed.xid
  parsed.dbId = xl_xact_prepare.database.get(view, header)
  parsed.xactTimeOffset = header + xl_xact_prepare.preparedAt.offset
  parsed.hasOrigin = record.originId !== 0
  parsed.originLsnOffset = header + xl_xact_prepare.originLsn.offset
  parsed.originTimestampOffset = header + xl_xact_prepare.originTimestamp.offset
  const gidBytes = xl_xact_prepare.gidlen.get(view, header) // with its final zero
  parsed.gidOffset = at
  parsed.gidLength = gidBytes - 1
  at = advanceWithin(record, at, maxAlign(gidBytes))
  parsed.subxactsCount = xl_xact_prepare.nsubxacts.get(view, header)
  parsed.subxactsOffset = at
  at = skipAlignedArray(record, at, parsed.subxactsCount, 4)
  parsed.relsCount = xl_xact_prepare.ncommitrels.get(view, header)
  parsed.relsOffset = at
  at = skipAlignedArray(record, at, parsed.relsCount, REL_FILE_LOCATOR_BYTES)
  parsed.abortRelsCount = xl_xact_prepare.nabortrels.get(view, header)
  parsed.abortRelsOffset = at
  at = skipAlignedArray(record, at, parsed.abortRelsCount, REL_FILE_LOCATOR_BYTES)
  parsed.statsCount = xl_xact_prepare.ncommitstats.get(view, header)
  parsed.statsOffset = at
  at = skipAlignedArray(record, at, parsed.statsCount, STATS_ITEM_BYTES[major])
  parsed.abortStatsCount = xl_xact_prepare.nabortstats.get(view, header)
  parsed.abortStatsOffset = at
  at = skipAlignedArray(record, at, parsed.abortStatsCount, STATS_ITEM_BYTES[major])
  parsed.invalsCount = xl_xact_prepare.ninvalmsgs.get(view, header)
  parsed.invalsOffset = at
  parsed.endOffset = skipAlignedArray(record, at, parsed.invalsCount, INVAL_MESSAGE_BYTES)
}

const mainDataEnd = (record: DecodedRecord): number => record.mainDataOffset + record.mainDataLength

function advanceWithin(record: DecodedRecord, at: number, size: number): number {
  if (size < 0 || at + size > mainDataEnd(record)) throw fail('bad_wal', 'transaction record is too short')
  return at + size
}
function skipArray(record: DecodedRecord, at: number, count: number, itemBytes: number): number {
  if (count < 0) throw fail('bad_wal', `transaction record announces ${count} entries`)
  return advanceWithin(record, at, count * itemBytes)
}
function skipAlignedArray(record: DecodedRecord, at: number, count: number, itemBytes: number): number {
  if (count < 0) throw fail('bad_wal', `transaction record announces ${count} entries`)
  return advanceWithin(record, at, maxAlign(count * itemBytes))
}

export const subxactAt = (record: DecodedRecord, parsed: ParsedXact, index: number): number =>
  record.view.getUint32(parsed.subxactsOffset + index * 4, true)

/** The `index`-th RelFileLocator of an array that starts at `offset`, read into `into`. */
export function relFileAt(record: DecodedRecord, offset: number, index: number, into: RelFile): RelFile {
  const at = offset + index * REL_FILE_LOCATOR_BYTES
  into.spcOid = record.view.getUint32(at, true)
  into.dbOid = record.view.getUint32(at + 4, true)
  into.relNumber = record.view.getUint32(at + 8, true)
  return into
}

/** How far the transaction's origin has come, if it has one (`hasOrigin`); a position of another server. */
export const originLsnOf = (record: DecodedRecord, parsed: ParsedXact): bigint =>
  record.view.getBigUint64(parsed.originLsnOffset, true)

const decoder = new TextDecoder()
export const gidOf = (record: DecodedRecord, parsed: ParsedXact): string =>
  decoder.decode(record.bytes.subarray(parsed.gidOffset, parsed.gidOffset + parsed.gidLength))

/** TransactionIdPrecedes, where both are normal ids: xids live on a circle of 2^32. */
export const xidPrecedes = (a: number, b: number): boolean => ((a - b) | 0) < 0

const parsedForMax = new ParsedXact()
const multixactForMax = new ParsedMultixact()

/**
 * The newest xid that this record mentions in a way that moves recovery's nextXid: its own, and of the end of a
 * transaction or a PREPARE also every subtransaction, of a new multixact every member. 0 if it mentions none. For
 * records of every resource manager.
 *
 * Source: access/transam/xlogrecovery.c ApplyWalRecord, xact.c xact_redo_commit/_abort, twophase.c
 * ProcessTwoPhaseBuffer, multixact.c multixact_redo.
 */
export function maxXidOf(record: DecodedRecord, major: PgMajor): number {
  let max = record.xid
  if (record.rmid === RM_MULTIXACT_ID) {
    parseMultixact(record, multixactForMax)
    return multixactForMax.kind === 'create' ? multixactForMax.maxXid : max
  }
  if (record.rmid !== RM_XACT_ID) return max
  const opcode = record.info & XLOG_XACT_OPMASK
  if (opcode === XLOG_XACT_ASSIGNMENT || opcode === XLOG_XACT_INVALIDATIONS) return max
  // A plain commit without xinfo, the bulk of all, needs no parsing.
  if (opcode !== XLOG_XACT_PREPARE && (record.info & XLOG_XACT_HAS_INFO) === 0) return max
  parseXact(record, major, parsedForMax)
  if (max === 0 || xidPrecedes(max, parsedForMax.xid)) max = parsedForMax.xid
  for (let i = 0; i < parsedForMax.subxactsCount; i++) {
    const xid = subxactAt(record, parsedForMax, i)
    if (xidPrecedes(max, xid)) max = xid
  }
  return max
}

const parsedForCatalog = new ParsedXact()

/**
 * Whether the record of RM_XACT_ID commits a transaction that changed a catalog: such a commit carries invalidation
 * messages, and no other does (xact.c RecordTransactionCommit, xactGetCommittedInvalidationMessages).
 */
export function changesCatalog(record: DecodedRecord, major: PgMajor): boolean {
  const opcode = record.info & XLOG_XACT_OPMASK
  if (opcode !== XLOG_XACT_COMMIT && opcode !== XLOG_XACT_COMMIT_PREPARED) return false
  if ((record.info & XLOG_XACT_HAS_INFO) === 0) return false
  parseXact(record, major, parsedForCatalog)
  return parsedForCatalog.invalsCount > 0
}
