/**
 * Redo of multixact records on pages of pg_multixact.
 *
 * offsets: for every multixact the number of its first member, 4 bytes. A new one also writes where the next begins,
 *          so that its own length is known before the next exists. (Minor releases before 16.12, 17.8 and 18.2 did not,
 *          and could log the next page's zeroing after this: then the next multixact writes its own entry again.)
 * members: groups of 20 bytes: 4 status bytes, then the 4 xids they belong to; 409 groups a page, 12 bytes spare.
 *
 * Source: access/transam/multixact.c, RecordNewMultiXact and multixact_redo (17.11, 18.6).
 */
import { fail } from '@understory/base'
import { PAGE_SIZE } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_MULTIXACT_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import { SLRU_PAGE_NUMBER_BYTES, readSlruPageNumber } from '../slru-page.ts'
import { pagesBefore, pagesFromTo } from '../slru-truncation.ts'
import type { EffectSink, RedoSettings, Rmgr, SlruKind } from '../types.ts'
import { identifyMultixact } from './describe.ts'
import {
  MultiXactMember,
  XLOG_MULTIXACT_CREATE_ID,
  XLOG_MULTIXACT_TRUNCATE_ID,
  XLOG_MULTIXACT_ZERO_MEM_PAGE,
  XLOG_MULTIXACT_ZERO_OFF_PAGE,
  xl_multixact_create,
  xl_multixact_truncate,
} from './records.ts'

export const MULTIXACT_OFFSETS_PER_PAGE = PAGE_SIZE / 4
const MULTIXACT_MEMBERS_PER_MEMBERGROUP = 4
const MULTIXACT_MEMBERGROUP_SIZE = 20
const MULTIXACT_MEMBERGROUPS_PER_PAGE = Math.floor(PAGE_SIZE / MULTIXACT_MEMBERGROUP_SIZE)
export const MULTIXACT_MEMBERS_PER_PAGE = MULTIXACT_MEMBERGROUPS_PER_PAGE * MULTIXACT_MEMBERS_PER_MEMBERGROUP
const FirstMultiXactId = 1
const MaxMultiXactId = 0xffff_ffff

/** MultiXactIdToOffsetPage. */
export const offsetsPageOf = (multi: number): number => Math.floor(multi / MULTIXACT_OFFSETS_PER_PAGE)
/** MXOffsetToMemberPage. */
export const membersPageOf = (offset: number): number => Math.floor(offset / MULTIXACT_MEMBERS_PER_PAGE)

const nextMultiXactId = (multi: number): number => (multi === MaxMultiXactId ? FirstMultiXactId : multi + 1)
const previousMultiXactId = (multi: number): number =>
  multi === FirstMultiXactId ? MaxMultiXactId : multi - 1

/** The number of members, after it was seen that the record holds them all. */
function checkedMemberCount(record: DecodedRecord): number {
  checkMainData(record, xl_multixact_create.SIZE)
  const count = xl_multixact_create.nmembers.get(record.view, record.mainDataOffset)
  if (count < 0) throw fail('bad_wal', `multixact with ${count} members`)
  checkMainData(record, xl_multixact_create.SIZE + count * MultiXactMember.SIZE)
  return count
}

function effects(record: DecodedRecord, sink: EffectSink, settings: RedoSettings): void {
  const { view, mainDataOffset: main } = record
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_MULTIXACT_ZERO_OFF_PAGE:
    case XLOG_MULTIXACT_ZERO_MEM_PAGE: {
      checkMainData(record, SLRU_PAGE_NUMBER_BYTES[settings.major])
      const isOffsets = (record.info & XLR_RMGR_INFO_MASK) === XLOG_MULTIXACT_ZERO_OFF_PAGE
      const page = readSlruPageNumber(view, main, settings.major)
      sink.slruPage(isOffsets ? 'pg_multixact/offsets' : 'pg_multixact/members', page, true)
      return
    }
    case XLOG_MULTIXACT_CREATE_ID: {
      const memberCount = checkedMemberCount(record)
      const multi = xl_multixact_create.mid.get(view, main)
      const page = offsetsPageOf(multi)
      const nextPage = offsetsPageOf(nextMultiXactId(multi))
      sink.slruPage('pg_multixact/offsets', page, false)
      if (nextPage !== page) sink.slruPage('pg_multixact/offsets', nextPage, false)
      const first = xl_multixact_create.moff.get(view, main)
      let lastPage = -1
      for (let i = 0; i < memberCount; i++) {
        const memberPage = membersPageOf((first + i) >>> 0)
        if (memberPage !== lastPage) sink.slruPage('pg_multixact/members', memberPage, false)
        lastPage = memberPage
      }
      return
    }
    case XLOG_MULTIXACT_TRUNCATE_ID:
      checkMainData(record, xl_multixact_truncate.SIZE)
      // Both ends count: more than half of all member numbers may be in use.
      sink.slruTruncate(
        'pg_multixact/members',
        pagesFromTo(
          membersPageOf(xl_multixact_truncate.startTruncMemb.get(view, main)),
          membersPageOf(xl_multixact_truncate.endTruncMemb.get(view, main)),
        ),
      )
      // One before, since the page of a multixact that does not exist yet may not exist either.
      sink.slruTruncate(
        'pg_multixact/offsets',
        pagesBefore(
          offsetsPageOf(previousMultiXactId(xl_multixact_truncate.endTruncOff.get(view, main))),
          MULTIXACT_OFFSETS_PER_PAGE,
        ),
      )
  }
}

function redoSlru(record: DecodedRecord, kind: SlruKind, slruPage: number, page: Page): void {
  if ((record.info & XLR_RMGR_INFO_MASK) !== XLOG_MULTIXACT_CREATE_ID) {
    page.bytes.fill(0)
    return
  }
  const { view, mainDataOffset: main } = record
  const memberCount = checkedMemberCount(record)
  const multi = xl_multixact_create.mid.get(view, main)
  const first = xl_multixact_create.moff.get(view, main)
  if (kind === 'pg_multixact/offsets') {
    const next = nextMultiXactId(multi)
    const end = (first + memberCount) >>> 0
    if (offsetsPageOf(multi) === slruPage)
      page.view.setUint32((multi % MULTIXACT_OFFSETS_PER_PAGE) * 4, first, true)
    // Member number 0 is never used: it would mean "not yet known".
    if (offsetsPageOf(next) === slruPage) {
      page.view.setUint32((next % MULTIXACT_OFFSETS_PER_PAGE) * 4, end === 0 ? 1 : end, true)
    }
    return
  }
  for (let i = 0; i < memberCount; i++) {
    const offset = (first + i) >>> 0
    if (membersPageOf(offset) !== slruPage) continue
    const inPage = offset % MULTIXACT_MEMBERS_PER_PAGE
    const place = inPage & 3
    const group = (inPage >>> 2) * MULTIXACT_MEMBERGROUP_SIZE
    const member = main + xl_multixact_create.SIZE + i * MultiXactMember.SIZE
    page.bytes[group + place] = MultiXactMember.status.get(view, member)
    page.view.setUint32(group + 4 + place * 4, MultiXactMember.xid.get(view, member), true)
  }
}

/** The contents of a multixact record for the tracker of the next checkpoint. */
export class ParsedMultixact {
  kind: 'create' | 'truncate' | 'other' = 'other'
  /** create: recovery's next multixact and next member are at least these. */
  nextMulti = 0
  nextOffset = 0
  /** create: the newest xid among the members and the record's own. */
  maxXid = 0
  /** truncate: the oldest multixact that is kept, and the database that keeps it. */
  oldestMulti = 0
  oldestMultiDb = 0
}

/** Source: multixact_redo, with MultiXactAdvanceNextMXact and SetMultiXactIdLimit. */
export function parseMultixact(record: DecodedRecord, parsed: ParsedMultixact): void {
  const { view, mainDataOffset: main } = record
  parsed.kind = 'other'
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_MULTIXACT_CREATE_ID: {
      const memberCount = checkedMemberCount(record)
      parsed.kind = 'create'
      parsed.nextMulti = nextMultiXactId(xl_multixact_create.mid.get(view, main))
      parsed.nextOffset = (xl_multixact_create.moff.get(view, main) + memberCount) >>> 0
      parsed.maxXid = record.xid
      for (let i = 0; i < memberCount; i++) {
        const xid = MultiXactMember.xid.get(view, main + xl_multixact_create.SIZE + i * MultiXactMember.SIZE)
        if (parsed.maxXid === 0 || ((parsed.maxXid - xid) | 0) < 0) parsed.maxXid = xid
      }
      return
    }
    case XLOG_MULTIXACT_TRUNCATE_ID:
      checkMainData(record, xl_multixact_truncate.SIZE)
      parsed.kind = 'truncate'
      parsed.oldestMulti = xl_multixact_truncate.endTruncOff.get(view, main)
      parsed.oldestMultiDb = xl_multixact_truncate.oldestMultiDB.get(view, main)
  }
}

export const multixactRmgr: Rmgr = {
  id: RM_MULTIXACT_ID,
  name: 'MultiXact',
  identify: identifyMultixact,
  effects,
  redoSlru,
}
