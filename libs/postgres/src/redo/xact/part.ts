/**
 * Parts of the end of a transaction as records of their own. The record of a transaction with ten million
 * subtransactions has 40 MB and changes hundreds of pages of pg_xact; the keeper of one page wants those that are on it
 * and no others. A part says of itself what the whole says, of fewer subtransactions and dropped relations: redo and
 * effects take it as any record. Invalidations, statistics and the global identifier are left out: no page depends on
 * them.
 *
 * Source: access/xact.h xl_xact_commit, xl_xact_abort; rmgrdesc/xactdesc.c ParseCommitRecord (16, 17, 18 alike).
 */
import { encodeRecord } from '../../wal/encode-record.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { clogPageOf } from '../clog/status.ts'
import { commitTsPageOf } from '../commit-ts/entry.ts'
import type { SlruKind } from '../types.ts'
import type { ParsedXact } from './parse.ts'
import { subxactAt } from './parse.ts'
import {
  REL_FILE_LOCATOR_BYTES,
  XACT_XINFO_HAS_DBINFO,
  XACT_XINFO_HAS_ORIGIN,
  XACT_XINFO_HAS_RELFILELOCATORS,
  XACT_XINFO_HAS_SUBXACTS,
  XACT_XINFO_HAS_TWOPHASE,
  XLOG_XACT_HAS_INFO,
} from './records.ts'

/** Half-open ranges of indexes into the record's subtransactions and dropped relations. */
export interface XactRange {
  readonly subxactsFrom: number
  readonly subxactsTo: number
  readonly relsFrom: number
  readonly relsTo: number
}

export const NOTHING_OF_XACT: XactRange = { subxactsFrom: 0, subxactsTo: 0, relsFrom: 0, relsTo: 0 }

/** `parsed` is of `record`: a commit or abort, of a prepared transaction or not. */
export function encodeXactPart(record: DecodedRecord, parsed: ParsedXact, range: XactRange): Uint8Array {
  const { bytes } = record
  const subxactsCount = range.subxactsTo - range.subxactsFrom
  const relsCount = range.relsTo - range.relsFrom
  const isTwoPhase = (parsed.xinfo & XACT_XINFO_HAS_TWOPHASE) !== 0
  const main = new Uint8Array(
    8 + 4 + 8 + 4 + subxactsCount * 4 + 4 + relsCount * REL_FILE_LOCATOR_BYTES + 4 + 16,
  )
  const view = new DataView(main.buffer)
  main.set(bytes.subarray(parsed.xactTimeOffset, parsed.xactTimeOffset + 8))
  let xinfo = 0
  let at = 12
  const putArray = (offset: number, from: number, count: number, itemBytes: number): void => {
    view.setInt32(at, count, true)
    const start = offset + from * itemBytes
    main.set(bytes.subarray(start, start + count * itemBytes), at + 4)
    at += 4 + count * itemBytes
  }
  if ((parsed.xinfo & XACT_XINFO_HAS_DBINFO) !== 0) {
    xinfo |= XACT_XINFO_HAS_DBINFO
    view.setUint32(at, parsed.dbId, true)
    view.setUint32(at + 4, parsed.tsId, true)
    at += 8
  }
  if (subxactsCount > 0) {
    xinfo |= XACT_XINFO_HAS_SUBXACTS
    putArray(parsed.subxactsOffset, range.subxactsFrom, subxactsCount, 4)
  }
  if (relsCount > 0) {
    xinfo |= XACT_XINFO_HAS_RELFILELOCATORS
    putArray(parsed.relsOffset, range.relsFrom, relsCount, REL_FILE_LOCATOR_BYTES)
  }
  if (isTwoPhase) {
    xinfo |= XACT_XINFO_HAS_TWOPHASE
    view.setUint32(at, parsed.twophaseXid, true)
    at += 4
  }
  if (parsed.hasOrigin) {
    xinfo |= XACT_XINFO_HAS_ORIGIN
    main.set(bytes.subarray(parsed.originLsnOffset, parsed.originLsnOffset + 16), at)
    at += 16
  }
  view.setUint32(8, xinfo, true)
  const { rmid, info, xid, prevLsn, originId } = record
  return encodeRecord({
    rmid,
    info: info | XLOG_XACT_HAS_INFO,
    xid,
    prevLsn,
    originId,
    mainData: main.subarray(0, at),
  })
}

/**
 * Calls back for each page of pg_xact or pg_commit_ts that the transaction changes, with the range of its
 * subtransactions there, whose xids rise. The page of the transaction itself comes first; it may have none of them.
 */
export function eachXactPage(
  record: DecodedRecord,
  parsed: ParsedXact,
  kind: Extract<SlruKind, 'pg_xact' | 'pg_commit_ts'>,
  found: (page: number, range: XactRange) => void,
): void {
  const pageOf = kind === 'pg_xact' ? clogPageOf : commitTsPageOf
  let page = pageOf(parsed.xid)
  let from = 0
  for (let i = 0; i < parsed.subxactsCount; i++) {
    const next = pageOf(subxactAt(record, parsed, i))
    if (next === page) continue
    found(page, { ...NOTHING_OF_XACT, subxactsFrom: from, subxactsTo: i })
    page = next
    from = i
  }
  found(page, { ...NOTHING_OF_XACT, subxactsFrom: from, subxactsTo: parsed.subxactsCount })
}
