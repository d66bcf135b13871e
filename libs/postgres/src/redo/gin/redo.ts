/**
 * Redo of GIN records, page by page. Splits and vacuumed entry pages always come as images.
 *
 * Source: access/gin/ginxlog.c (17.11, 18.6).
 */
import { fail } from '@understory/base'
import {
  getNormalItemId,
  itemIdOffset,
  maxOffsetNumber,
  setPageLsn,
  setPagePruneXid,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_GIN_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { indexTupleSizeWithin } from '../index-tuple.ts'
import { ADD_TO_INDEX, addItem, copyBytes, indexTupleDelete } from '../../page/page-items.ts'
import { checkBlockData, checkMainData } from '../record-check.ts'
import type { Rmgr } from '../types.ts'
import { identifyGin } from './describe.ts'
import {
  DATA_AT,
  GIN_COMPRESSED,
  GIN_DATA,
  GIN_DELETED,
  GIN_INCOMPLETE_SPLIT,
  GIN_LEAF,
  GIN_LIST,
  GIN_LIST_FULLROW,
  GinPageOpaque,
  InvalidBlockNumber,
  OPAQUE_AT,
  addPostingItem,
  checkGinPage,
  deletePostingItem,
  ginFlags,
  ginMaxoff,
  initGinPage,
  restoreGinMeta,
  setChildBlock,
  setDataSize,
  setGinFlags,
  setGinMaxoff,
} from './page.ts'
import { redoRecompress } from './recompress.ts'
import {
  GIN_INSERT_ISDATA,
  GIN_INSERT_ISLEAF,
  XLOG_GIN_CREATE_PTREE,
  XLOG_GIN_DELETE_LISTPAGE,
  XLOG_GIN_DELETE_PAGE,
  XLOG_GIN_INSERT,
  XLOG_GIN_INSERT_LISTPAGE,
  XLOG_GIN_SPLIT,
  XLOG_GIN_UPDATE_META_PAGE,
  XLOG_GIN_VACUUM_DATA_LEAF_PAGE,
  XLOG_GIN_VACUUM_PAGE,
  ginxlogCreatePostingTree,
  ginxlogDeleteListPages,
  ginxlogDeletePage,
  ginxlogInsert,
  ginxlogInsertDataInternal,
  ginxlogInsertEntry,
  ginxlogInsertListPage,
  ginxlogUpdateMeta,
} from './records.ts'

function clearIncompleteSplit(page: Page): void {
  checkGinPage(page)
  setGinFlags(page, ginFlags(page) & ~GIN_INCOMPLETE_SPLIT)
}

/** Adds the tuples of the block data from item `first` on. */
function addTuples(record: DecodedRecord, ref: BlockRef, first: number, count: number, page: Page): void {
  const end = ref.dataOffset + ref.dataLength
  let at = ref.dataOffset
  for (let i = 0; i < count; i++) {
    const size = indexTupleSizeWithin(record.view, at, end)
    if (addItem(page, record.bytes, at, size, first + i, ADD_TO_INDEX) === 0) {
      throw fail('bad_page', `failed to add item ${first + i} of ${size} bytes to a GIN index page`)
    }
    at += size
  }
  if (at !== end) throw fail('bad_wal', `${end - at} bytes are left behind ${count} tuples`)
}

/** ginRedoCreatePTree. */
function redoCreatePostingTree(record: DecodedRecord, page: Page): void {
  checkMainData(record, ginxlogCreatePostingTree.SIZE)
  const size = ginxlogCreatePostingTree.size.get(record.view, record.mainDataOffset)
  checkMainData(record, ginxlogCreatePostingTree.SIZE + size)
  initGinPage(page, GIN_DATA | GIN_LEAF | GIN_COMPRESSED)
  setDataSize(page, size)
  copyBytes(page.bytes, DATA_AT, record.bytes, record.mainDataOffset + ginxlogCreatePostingTree.SIZE, size)
}

/** ginRedoInsert, block 0. */
function redoInsert(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, ginxlogInsert.SIZE)
  checkGinPage(page)
  const flags = ginxlogInsert.flags.get(view, main)
  const end = ref.dataOffset + ref.dataLength
  let rightChild = InvalidBlockNumber
  if ((flags & GIN_INSERT_ISLEAF) === 0) {
    checkMainData(record, ginxlogInsert.SIZE + 8)
    const at = main + ginxlogInsert.SIZE + 4 // behind the left child
    rightChild = ((view.getUint16(at, true) << 16) | view.getUint16(at + 2, true)) >>> 0
  }
  if ((flags & GIN_INSERT_ISDATA) === 0) {
    redoInsertEntry(record, ref, page, rightChild)
  } else if ((flags & GIN_INSERT_ISLEAF) !== 0) {
    redoRecompress(record, ref.dataOffset, end, page)
  } else {
    checkBlockData(ref, ginxlogInsertDataInternal.SIZE)
    const offset = ginxlogInsertDataInternal.offset.get(view, ref.dataOffset)
    setChildBlock(page, offset, rightChild)
    addPostingItem(page, offset, record.bytes, ref.dataOffset + ginxlogInsertDataInternal.newitem.offset)
  }
}

/** ginRedoInsertEntry. */
function redoInsertEntry(record: DecodedRecord, ref: BlockRef, page: Page, rightChild: number): void {
  const { view } = record
  checkBlockData(ref, ginxlogInsertEntry.SIZE)
  const offset = ginxlogInsertEntry.offset.get(view, ref.dataOffset)
  if (rightChild !== InvalidBlockNumber) {
    const at = itemIdOffset(getNormalItemId(page, offset))
    page.view.setUint16(at, rightChild >>> 16, true)
    page.view.setUint16(at + 2, rightChild & 0xffff, true)
    page.view.setUint16(at + 4, 0, true)
  }
  if (ginxlogInsertEntry.isDelete.get(view, ref.dataOffset) !== 0) indexTupleDelete(page, offset)
  const tupleAt = ref.dataOffset + ginxlogInsertEntry.SIZE
  const size = indexTupleSizeWithin(view, tupleAt, ref.dataOffset + ref.dataLength)
  if (addItem(page, record.bytes, tupleAt, size, offset, ADD_TO_INDEX) === 0) {
    throw fail('bad_page', `failed to add item ${offset} of ${size} bytes to a GIN index page`)
  }
}

/** ginRedoDeletePage. */
function redoDeletePage(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, ginxlogDeletePage.SIZE)
  checkGinPage(page)
  if (ref.blockId === 0) {
    setGinFlags(page, ginFlags(page) | GIN_DELETED)
    setPagePruneXid(page, ginxlogDeletePage.deleteXid.get(view, main))
  } else if (ref.blockId === 1) {
    deletePostingItem(page, ginxlogDeletePage.parentOffset.get(view, main))
  } else {
    GinPageOpaque.rightlink.set(page.view, OPAQUE_AT, ginxlogDeletePage.rightLink.get(view, main))
  }
}

/** ginRedoUpdateMetapage. */
function redoUpdateMeta(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, ginxlogUpdateMeta.SIZE)
  if (ref.blockId === 0) {
    restoreGinMeta(page, record.bytes, main + ginxlogUpdateMeta.metadata.offset)
    return
  }
  checkGinPage(page)
  const count = ginxlogUpdateMeta.ntuples.get(view, main)
  if (count > 0) {
    addTuples(record, ref, maxOffsetNumber(page) + 1, count, page)
    setGinMaxoff(page, ginMaxoff(page) + 1) // here: the number of heap tuples
  } else {
    GinPageOpaque.rightlink.set(page.view, OPAQUE_AT, ginxlogUpdateMeta.newRightlink.get(view, main))
  }
}

/** ginRedoInsertListPage. */
function redoInsertListPage(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, ginxlogInsertListPage.SIZE)
  const rightlink = ginxlogInsertListPage.rightlink.get(view, main)
  const isTail = rightlink === InvalidBlockNumber
  initGinPage(page, isTail ? GIN_LIST | GIN_LIST_FULLROW : GIN_LIST)
  GinPageOpaque.rightlink.set(page.view, OPAQUE_AT, rightlink)
  setGinMaxoff(page, isTail ? 1 : 0)
  addTuples(record, ref, 1, ginxlogInsertListPage.ntuples.get(view, main), page)
}

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page): void {
  const ref = record.blocks[blockIndex] as BlockRef
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_GIN_CREATE_PTREE:
      redoCreatePostingTree(record, page)
      break
    case XLOG_GIN_INSERT:
      if (ref.blockId === 1) clearIncompleteSplit(page)
      else redoInsert(record, ref, page)
      break
    case XLOG_GIN_SPLIT:
      if (ref.blockId !== 3) throw fail('bad_wal', 'GIN split record did not contain a full-page image')
      clearIncompleteSplit(page)
      break
    case XLOG_GIN_VACUUM_PAGE:
      throw fail('bad_wal', 'GIN entry page vacuum record did not contain a full-page image')
    case XLOG_GIN_VACUUM_DATA_LEAF_PAGE:
      redoRecompress(record, ref.dataOffset, ref.dataOffset + ref.dataLength, page)
      break
    case XLOG_GIN_DELETE_PAGE:
      redoDeletePage(record, ref, page)
      break
    case XLOG_GIN_UPDATE_META_PAGE:
      redoUpdateMeta(record, ref, page)
      break
    case XLOG_GIN_INSERT_LISTPAGE:
      redoInsertListPage(record, ref, page)
      break
    case XLOG_GIN_DELETE_LISTPAGE:
      checkMainData(record, ginxlogDeleteListPages.SIZE)
      if (ref.blockId === 0) restoreGinMeta(page, record.bytes, record.mainDataOffset)
      else initGinPage(page, GIN_DELETED)
  }
  setPageLsn(page, record.nextLsn)
}

export const ginRmgr: Rmgr = { id: RM_GIN_ID, name: 'Gin', identify: identifyGin, redoBlock }
