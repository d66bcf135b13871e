/**
 * Redo of BRIN records, page by page. An index has a metapage, revmap pages (arrays of tuple ids, one for each range of
 * heap blocks) and regular pages with the summary tuples.
 *
 * Source: access/brin/brin_xlog.c, brin_pageops.c, brin_revmap.c, access/brin_page.h (17.11, 18.6).
 */
import { fail } from '@understory/base'
import {
  PAGE_SIZE,
  SizeOfPageHeaderData,
  maxOffsetNumber,
  pageInit,
  setPageLower,
  setPageLsn,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_BRIN_ID } from '../../wal/constants.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { addItem, indexTupleDeleteNoCompact, indexTupleOverwrite } from '../../page/page-items.ts'
import type { AddItemOptions } from '../../page/page-items.ts'
import { blockNumberOf, checkMainData } from '../record-check.ts'
import type { Rmgr } from '../types.ts'
import { identifyBrin } from './describe.ts'
import {
  XLOG_BRIN_CREATE_INDEX,
  XLOG_BRIN_DESUMMARIZE,
  XLOG_BRIN_INIT_PAGE,
  XLOG_BRIN_INSERT,
  XLOG_BRIN_OPMASK,
  XLOG_BRIN_REVMAP_EXTEND,
  XLOG_BRIN_SAMEPAGE_UPDATE,
  XLOG_BRIN_UPDATE,
  xl_brin_createidx,
  xl_brin_desummarize,
  xl_brin_insert,
  xl_brin_revmap_extend,
  xl_brin_samepage_update,
  xl_brin_update,
} from './records.ts'

// The last two bytes of the page; the two before are flags.
const BRIN_PAGETYPE_META = 0xf091
const BRIN_PAGETYPE_REVMAP = 0xf092
const BRIN_PAGETYPE_REGULAR = 0xf093
const BRIN_SPECIAL_BYTES = 8
const BRIN_META_MAGIC = 0xa8109cfa

// BrinMetaPageData: u32 brinMagic, brinVersion, pagesPerRange, lastRevmapPage.
const META_AT = SizeOfPageHeaderData
const META_BYTES = 16

const ItemPointerBytes = 6
const REVMAP_PAGE_MAXITEMS = Math.floor(
  (PAGE_SIZE - SizeOfPageHeaderData - BRIN_SPECIAL_BYTES) / ItemPointerBytes,
)

/** A place that DeleteNoCompact left unused is taken again. */
const ADD_TO_BRIN: AddItemOptions = { overwrite: true, heap: false }

function initBrinPage(page: Page, type: number): void {
  pageInit(page, BRIN_SPECIAL_BYTES)
  page.view.setUint16(PAGE_SIZE - 2, type, true)
}

/** brinSetHeapBlockItemptr. Offset number 0 says that the range has no summary. */
function setRevmapTid(
  page: Page,
  pagesPerRange: number,
  heapBlk: number,
  block: number,
  offnum: number,
): void {
  if (pagesPerRange === 0) throw fail('bad_wal', 'BRIN ranges of no pages')
  const index = Math.floor(heapBlk / pagesPerRange) % REVMAP_PAGE_MAXITEMS
  const at = SizeOfPageHeaderData + index * ItemPointerBytes
  const target = offnum === 0 ? 0xffff_ffff : block
  page.view.setUint16(at, target >>> 16, true)
  page.view.setUint16(at + 2, target & 0xffff, true)
  page.view.setUint16(at + 4, offnum, true)
}

/** brin_xlog_insert_update: `insertAt` is where the xl_brin_insert lies. */
function redoInsert(record: DecodedRecord, ref: BlockRef, page: Page, insertAt: number): void {
  const { view } = record
  checkMainData(record, insertAt - record.mainDataOffset + xl_brin_insert.SIZE)
  const offnum = xl_brin_insert.offnum.get(view, insertAt)
  if (ref.blockId === 1) {
    const block = blockNumberOf(record, 0)
    setRevmapTid(
      page,
      xl_brin_insert.pagesPerRange.get(view, insertAt),
      xl_brin_insert.heapBlk.get(view, insertAt),
      block,
      offnum,
    )
    return
  }
  if ((record.info & XLOG_BRIN_INIT_PAGE) !== 0) initBrinPage(page, BRIN_PAGETYPE_REGULAR)
  if (maxOffsetNumber(page) + 1 < offnum) throw fail('bad_page', 'invalid max offset number')
  if (addItem(page, record.bytes, ref.dataOffset, ref.dataLength, offnum, ADD_TO_BRIN) === 0) {
    throw fail('bad_page', `failed to add a tuple of ${ref.dataLength} bytes as item ${offnum}`)
  }
}

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page): void {
  const ref = record.blocks[blockIndex] as BlockRef
  const { view, mainDataOffset: main } = record
  switch (record.info & XLOG_BRIN_OPMASK) {
    case XLOG_BRIN_CREATE_INDEX:
      checkMainData(record, xl_brin_createidx.SIZE)
      initBrinPage(page, BRIN_PAGETYPE_META)
      page.view.setUint32(META_AT, BRIN_META_MAGIC, true)
      page.view.setUint32(META_AT + 4, xl_brin_createidx.version.get(view, main), true)
      page.view.setUint32(META_AT + 8, xl_brin_createidx.pagesPerRange.get(view, main), true)
      setPageLower(page, META_AT + META_BYTES)
      break
    case XLOG_BRIN_INSERT:
      redoInsert(record, ref, page, main)
      break
    case XLOG_BRIN_UPDATE:
      if (ref.blockId === 2) indexTupleDeleteNoCompact(page, xl_brin_update.oldOffnum.get(view, main))
      else redoInsert(record, ref, page, main + xl_brin_update.SIZE)
      break
    case XLOG_BRIN_SAMEPAGE_UPDATE: {
      checkMainData(record, xl_brin_samepage_update.SIZE)
      const offnum = xl_brin_samepage_update.offnum.get(view, main)
      if (!indexTupleOverwrite(page, offnum, record.bytes, ref.dataOffset, ref.dataLength)) {
        throw fail('bad_page', `failed to replace item ${offnum}`)
      }
      break
    }
    case XLOG_BRIN_REVMAP_EXTEND:
      checkMainData(record, xl_brin_revmap_extend.SIZE)
      if (ref.blockId === 0) {
        page.view.setUint32(META_AT + 12, xl_brin_revmap_extend.targetBlk.get(view, main), true)
        setPageLower(page, META_AT + META_BYTES)
      } else {
        initBrinPage(page, BRIN_PAGETYPE_REVMAP)
      }
      break
    case XLOG_BRIN_DESUMMARIZE: {
      checkMainData(record, xl_brin_desummarize.SIZE)
      const { pagesPerRange, heapBlk, regOffset } = xl_brin_desummarize
      if (ref.blockId === 0) setRevmapTid(page, pagesPerRange.get(view, main), heapBlk.get(view, main), 0, 0)
      else indexTupleDeleteNoCompact(page, regOffset.get(view, main))
    }
  }
  setPageLsn(page, record.nextLsn)
}

export const brinRmgr: Rmgr = { id: RM_BRIN_ID, name: 'BRIN', identify: identifyBrin, redoBlock }
