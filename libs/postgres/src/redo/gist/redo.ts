/**
 * Redo of GiST records, page by page.
 *
 * A page that was split keeps F_FOLLOW_RIGHT until its parent knows of the new sibling; the record that informs the
 * parent also ends this on the left child. The primary does so after writing that record, so a full page image of the
 * child lacks it, and redo adds it to the image.
 *
 * Source: access/gist/gistxlog.c, gistutil.c, access/gist.h (17.11, 18.6).
 */
import { pageLsn, fail, struct, u16, u32 } from '@understory/base'
import {
  PAGE_SIZE,
  SizeOfPageHeaderData,
  getPageSpecial,
  maxOffsetNumber,
  pageInit,
  setPageLower,
  setPageLsn,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_GIST_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { indexTupleSizeWithin } from '../index-tuple.ts'
import {
  ADD_TO_INDEX,
  addItem,
  copyBytes,
  indexMultiDelete,
  indexTupleDelete,
  indexTupleOverwrite,
} from '../../page/page-items.ts'
import { checkBlockData, checkMainData } from '../record-check.ts'
import type { Rmgr } from '../types.ts'
import { identifyGist } from './describe.ts'
import {
  XLOG_GIST_DELETE,
  XLOG_GIST_PAGE_DELETE,
  XLOG_GIST_PAGE_SPLIT,
  XLOG_GIST_PAGE_UPDATE,
  gistxlogDelete,
  gistxlogPageDelete,
  gistxlogPageSplit,
  gistxlogPageUpdate,
} from './records.ts'

const F_LEAF = 1 << 0
const F_DELETED = 1 << 1
const F_TUPLES_DELETED = 1 << 2
const F_FOLLOW_RIGHT = 1 << 3
const F_HAS_GARBAGE = 1 << 4

const GIST_ROOT_BLKNO = 0
const GIST_PAGE_ID = 0xff81
const InvalidBlockNumber = 0xffff_ffff

/** GISTPageOpaqueData, the last 16 bytes of the page. */
const GistPageOpaque = struct(16, {
  nsn: pageLsn,
  rightlink: u32,
  flags: u16,
  pageId: u16, // gist_page_id
})
const OPAQUE_AT = PAGE_SIZE - GistPageOpaque.SIZE

const offsetNumbers = new Uint16Array(4096)

function opaqueAt(page: Page): number {
  const special = getPageSpecial(page)
  if (special !== OPAQUE_AT) throw fail('bad_page', `special space starts at ${special}: not a GiST page`)
  return special
}

const hasFlag = (page: Page, flag: number): boolean =>
  (GistPageOpaque.flags.get(page.view, opaqueAt(page)) & flag) !== 0

/** Sets `set` and clears `clear`. */
function changeFlags(page: Page, set: number, clear: number): void {
  const at = opaqueAt(page)
  GistPageOpaque.flags.set(page.view, at, (GistPageOpaque.flags.get(page.view, at) & ~clear) | set)
}

function deleteOffsets(record: DecodedRecord, at: number, count: number, page: Page): void {
  if (count > offsetNumbers.length) throw fail('bad_wal', `${count} items to delete from one page`)
  for (let i = 0; i < count; i++) offsetNumbers[i] = record.view.getUint16(at + i * 2, true)
  indexMultiDelete(page, offsetNumbers, count)
}

/** Adds the tuples that lie between `from` and `end` behind the page's last item. Returns how many they were. */
function addTuples(record: DecodedRecord, from: number, end: number, page: Page): number {
  const first = maxOffsetNumber(page) + 1
  let offnum = first
  for (let at = from; at < end; offnum++) {
    const size = indexTupleSizeWithin(record.view, at, end)
    if (addItem(page, record.bytes, at, size, offnum, ADD_TO_INDEX) === 0) {
      throw fail('bad_page', `failed to add item to GiST index page, size ${size} bytes`)
    }
    at += size
  }
  return offnum - first
}

/** gistRedoClearFollowRight. */
function clearFollowRight(record: DecodedRecord, page: Page): void {
  GistPageOpaque.nsn.set(page.view, opaqueAt(page), record.nextLsn)
  changeFlags(page, 0, F_FOLLOW_RIGHT)
}

/** gistRedoPageUpdateRecord, block 0. */
function redoPageUpdate(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, gistxlogPageUpdate.SIZE)
  const deleteCount = gistxlogPageUpdate.ntodelete.get(view, main)
  const insertCount = gistxlogPageUpdate.ntoinsert.get(view, main)
  const end = ref.dataOffset + ref.dataLength
  checkBlockData(ref, deleteCount * 2)
  const tuplesAt = ref.dataOffset + deleteCount * 2
  if (deleteCount === 1 && insertCount === 1) {
    const size = indexTupleSizeWithin(view, tuplesAt, end)
    const offnum = view.getUint16(ref.dataOffset, true)
    if (!indexTupleOverwrite(page, offnum, record.bytes, tuplesAt, size)) {
      throw fail('bad_page', `failed to replace item ${offnum} of a GiST index page, size ${size} bytes`)
    }
    return
  }
  if (deleteCount > 0) {
    deleteOffsets(record, ref.dataOffset, deleteCount, page)
    if (hasFlag(page, F_LEAF)) changeFlags(page, F_TUPLES_DELETED, 0)
  }
  const added = addTuples(record, tuplesAt, end, page)
  if (added !== insertCount) throw fail('bad_wal', `${added} tuples to insert, not ${insertCount}`)
}

/** gistRedoPageSplitRecord, one of the pages that the split makes. */
function redoSplitPage(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, gistxlogPageSplit.SIZE)
  checkBlockData(ref, 4)
  const pageCount = gistxlogPageSplit.npage.get(view, main)
  const isRoot = ref.blockNumber === GIST_ROOT_BLKNO
  const isLast = ref.blockId === pageCount
  const isRootSplit = record.block(1)?.blockNumber === GIST_ROOT_BLKNO
  const isLeaf = gistxlogPageSplit.origleaf.get(view, main) !== 0 && !isRoot
  const followsRight =
    !isRoot && !isLast && !isRootSplit && gistxlogPageSplit.markfollowright.get(view, main) !== 0
  let rightlink = InvalidBlockNumber
  if (!isRoot && isLast) rightlink = gistxlogPageSplit.origrlink.get(view, main)
  else if (!isRoot) rightlink = record.block(ref.blockId + 1)?.blockNumber ?? InvalidBlockNumber
  pageInit(page, GistPageOpaque.SIZE)
  GistPageOpaque.nsn.set(page.view, OPAQUE_AT, gistxlogPageSplit.orignsn.get(view, main))
  GistPageOpaque.rightlink.set(page.view, OPAQUE_AT, rightlink)
  GistPageOpaque.flags.set(page.view, OPAQUE_AT, (isLeaf ? F_LEAF : 0) | (followsRight ? F_FOLLOW_RIGHT : 0))
  GistPageOpaque.pageId.set(page.view, OPAQUE_AT, GIST_PAGE_ID)
  const added = addTuples(record, ref.dataOffset + 4, ref.dataOffset + ref.dataLength, page)
  const announced = view.getInt32(ref.dataOffset, true)
  if (added !== announced) throw fail('bad_wal', `${added} tuples on a split page, not ${announced}`)
}

/** The block of this id is the left child whose split ends; -1 if no block of the record is. */
function childBlockId(info: number): number {
  return info === XLOG_GIST_PAGE_UPDATE ? 1 : info === XLOG_GIST_PAGE_SPLIT ? 0 : -1
}

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page): void {
  const ref = record.blocks[blockIndex] as BlockRef
  const { view, mainDataOffset: main } = record
  const info = record.info & XLR_RMGR_INFO_MASK
  if (ref.blockId === childBlockId(info)) {
    clearFollowRight(record, page)
  } else if (info === XLOG_GIST_PAGE_UPDATE) {
    redoPageUpdate(record, ref, page)
  } else if (info === XLOG_GIST_PAGE_SPLIT) {
    redoSplitPage(record, ref, page)
  } else if (info === XLOG_GIST_DELETE) {
    checkMainData(record, gistxlogDelete.SIZE)
    const count = gistxlogDelete.ntodelete.get(view, main)
    checkMainData(record, gistxlogDelete.SIZE + count * 2)
    deleteOffsets(record, main + gistxlogDelete.SIZE, count, page)
    changeFlags(page, F_TUPLES_DELETED, F_HAS_GARBAGE)
  } else if (info === XLOG_GIST_PAGE_DELETE) {
    checkMainData(record, gistxlogPageDelete.SIZE)
    if (ref.blockId === 0) {
      // GistPageSetDeleted: the xid after which the page may be used again is its content.
      changeFlags(page, F_DELETED, 0)
      setPageLower(page, SizeOfPageHeaderData + 8)
      copyBytes(page.bytes, SizeOfPageHeaderData, record.bytes, main, 8)
    } else {
      indexTupleDelete(page, gistxlogPageDelete.downlinkOffset.get(view, main))
    }
  } else {
    throw fail('unknown_wal', `GiST record ${info.toString(16)} has no block to redo`)
  }
  setPageLsn(page, record.nextLsn)
}

function redoRestored(record: DecodedRecord, blockIndex: number, page: Page): void {
  const ref = record.blocks[blockIndex] as BlockRef
  if (ref.blockId === childBlockId(record.info & XLR_RMGR_INFO_MASK)) clearFollowRight(record, page)
}

export const gistRmgr: Rmgr = {
  id: RM_GIST_ID,
  name: 'Gist',
  identify: identifyGist,
  redoBlock,
  redoRestored,
}
