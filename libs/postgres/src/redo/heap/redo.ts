/**
 * Redo of heap records, page by page. Each function edits the page as the function named above it does and leaves
 * pd_lsn at the record's end.
 *
 * Source: access/heap/heapam.c (16, 17) or heapam_xlog.c (18).
 */
import { fail } from '@understory/base'
import { PD_ALL_VISIBLE, clearPageFlag, pageInit, setPageLsn } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_HEAP_ID } from '../../wal/constants.ts'
import { FORK_VM } from '../../wal/record.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { copyBytes } from '../../page/page-items.ts'
import { blockNumberOf, checkBlockData, checkMainData } from '../record-check.ts'
import type { Rmgr } from '../types.ts'
import { identifyHeap } from './describe.ts'
import {
  XLH_DELETE_ALL_VISIBLE_CLEARED,
  XLH_DELETE_IS_PARTITION_MOVE,
  XLH_DELETE_IS_SUPER,
  XLH_INSERT_ALL_VISIBLE_CLEARED,
  XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED,
  XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED,
  XLH_UPDATE_PREFIX_FROM_OLD,
  XLH_UPDATE_SUFFIX_FROM_OLD,
  XLOG_HEAP_CONFIRM,
  XLOG_HEAP_DELETE,
  XLOG_HEAP_HOT_UPDATE,
  XLOG_HEAP_INIT_PAGE,
  XLOG_HEAP_INPLACE,
  XLOG_HEAP_INSERT,
  XLOG_HEAP_LOCK,
  XLOG_HEAP_OPMASK,
  XLOG_HEAP_TRUNCATE,
  XLOG_HEAP_UPDATE,
  xl_heap_confirm,
  xl_heap_delete,
  xl_heap_header,
  xl_heap_inplace,
  xl_heap_insert,
  xl_heap_lock,
  xl_heap_update,
} from './records.ts'
import {
  HeapTupleHeader,
  SizeofHeapTupleHeader,
  addTuple,
  clearTupleCmax,
  isXmaxLockedOnly,
  setPagePrunable,
  setTupleCtid,
  setTupleHotUpdated,
  setTupleMovedPartitions,
  setTupleXmaxBits,
  tupleAt,
  tupleLength,
} from './tuple.ts'
import { redoRegisteredVisibilityClear, visibilityClearEffects } from './visibility.ts'

/** heap_xlog_insert. */
function redoInsert(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_heap_insert.SIZE)
  checkBlockData(ref, xl_heap_header.SIZE)
  if ((record.info & XLOG_HEAP_INIT_PAGE) !== 0) pageInit(page, 0)
  const header = ref.dataOffset
  const dataLength = ref.dataLength - xl_heap_header.SIZE
  const at = addTuple(
    page,
    ref.blockNumber,
    xl_heap_insert.offnum.get(view, main),
    SizeofHeapTupleHeader + dataLength,
    record.xid,
    xl_heap_header.infomask2.get(view, header),
    xl_heap_header.infomask.get(view, header),
    xl_heap_header.hoff.get(view, header),
  )
  copyBytes(page.bytes, at + SizeofHeapTupleHeader, record.bytes, header + xl_heap_header.SIZE, dataLength)
  if ((xl_heap_insert.flags.get(view, main) & XLH_INSERT_ALL_VISIBLE_CLEARED) !== 0)
    clearPageFlag(page, PD_ALL_VISIBLE)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_delete. */
function redoDelete(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_heap_delete.SIZE)
  const offnum = xl_heap_delete.offnum.get(view, main)
  const flags = xl_heap_delete.flags.get(view, main)
  const at = tupleAt(page, offnum)
  setTupleXmaxBits(page, at, xl_heap_delete.infobitsSet.get(view, main))
  setTupleHotUpdated(page, at, false)
  if ((flags & XLH_DELETE_IS_SUPER) === 0)
    HeapTupleHeader.xmax.set(page.view, at, xl_heap_delete.xmax.get(view, main))
  else HeapTupleHeader.xmin.set(page.view, at, 0)
  clearTupleCmax(page, at)
  setPagePrunable(page, record.xid)
  if ((flags & XLH_DELETE_ALL_VISIBLE_CLEARED) !== 0) clearPageFlag(page, PD_ALL_VISIBLE)
  if ((flags & XLH_DELETE_IS_PARTITION_MOVE) !== 0) setTupleMovedPartitions(page, at)
  else setTupleCtid(page, at, ref.blockNumber, offnum)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_update, "deal with old tuple version". Returns where it starts on the page. */
function redoUpdateOld(record: DecodedRecord, newBlock: number, page: Page, hot: boolean): number {
  const { view, mainDataOffset: main } = record
  const at = tupleAt(page, xl_heap_update.oldOffnum.get(view, main))
  setTupleXmaxBits(page, at, xl_heap_update.oldInfobitsSet.get(view, main))
  setTupleHotUpdated(page, at, hot)
  HeapTupleHeader.xmax.set(page.view, at, xl_heap_update.oldXmax.get(view, main))
  clearTupleCmax(page, at)
  setTupleCtid(page, at, newBlock, xl_heap_update.newOffnum.get(view, main))
  setPagePrunable(page, record.xid)
  if ((xl_heap_update.flags.get(view, main) & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED) !== 0) {
    clearPageFlag(page, PD_ALL_VISIBLE)
  }
  return at
}

/**
 * heap_xlog_update, "deal with new tuple". `oldAt`: where the old tuple starts on the same page, or 0 if it is on
 * another one; only then can the record leave out a common prefix or suffix.
 */
function redoUpdateNew(record: DecodedRecord, ref: BlockRef, page: Page, oldAt: number): void {
  const { view, mainDataOffset: main } = record
  const flags = xl_heap_update.flags.get(view, main)
  let header = ref.dataOffset
  let prefixLength = 0
  let suffixLength = 0
  checkBlockData(ref, xl_heap_header.SIZE)
  if ((flags & XLH_UPDATE_PREFIX_FROM_OLD) !== 0) {
    prefixLength = view.getUint16(header, true)
    header += 2
  }
  if ((flags & XLH_UPDATE_SUFFIX_FROM_OLD) !== 0) {
    suffixLength = view.getUint16(header, true)
    header += 2
  }
  const hoff = xl_heap_header.hoff.get(view, header)
  const from = header + xl_heap_header.SIZE
  const dataLength = ref.dataOffset + ref.dataLength - from
  // The null bitmap and padding, which come before a common prefix.
  const bitmapLength = hoff - SizeofHeapTupleHeader
  const oldLength = oldAt === 0 ? 0 : tupleLength(page, xl_heap_update.oldOffnum.get(view, main))
  const oldHoff = oldAt === 0 ? 0 : HeapTupleHeader.hoff.get(page.view, oldAt)
  if (
    dataLength < 0 ||
    bitmapLength < 0 ||
    prefixLength + oldHoff > oldLength ||
    suffixLength > oldLength ||
    (prefixLength > 0 && bitmapLength > dataLength)
  ) {
    throw fail(
      'bad_wal',
      `update with prefix ${prefixLength}, suffix ${suffixLength} of ${oldLength} old bytes`,
    )
  }
  const at = addTuple(
    page,
    ref.blockNumber,
    xl_heap_update.newOffnum.get(view, main),
    SizeofHeapTupleHeader + prefixLength + dataLength + suffixLength,
    record.xid,
    xl_heap_header.infomask2.get(view, header),
    xl_heap_header.infomask.get(view, header),
    hoff,
  )
  const { bytes } = page
  let to = at + SizeofHeapTupleHeader
  if (prefixLength > 0) {
    copyBytes(bytes, to, record.bytes, from, bitmapLength)
    to += bitmapLength
    bytes.copyWithin(to, oldAt + oldHoff, oldAt + oldHoff + prefixLength)
    to += prefixLength
    copyBytes(bytes, to, record.bytes, from + bitmapLength, dataLength - bitmapLength)
    to += dataLength - bitmapLength
  } else {
    copyBytes(bytes, to, record.bytes, from, dataLength)
    to += dataLength
  }
  if (suffixLength > 0) bytes.copyWithin(to, oldAt + oldLength - suffixLength, oldAt + oldLength)
  HeapTupleHeader.xmax.set(page.view, at, xl_heap_update.newXmax.get(view, main))
  if ((flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED) !== 0) clearPageFlag(page, PD_ALL_VISIBLE)
}

/** heap_xlog_update: block 0 is the new tuple's, block 1 the old tuple's if that is another one. */
function redoUpdate(record: DecodedRecord, ref: BlockRef, page: Page, hot: boolean): void {
  checkMainData(record, xl_heap_update.SIZE)
  if (ref.blockId === 1) {
    redoUpdateOld(record, blockNumberOf(record, 0), page, hot)
  } else if (record.block(1) === undefined) {
    redoUpdateNew(record, ref, page, redoUpdateOld(record, ref.blockNumber, page, hot))
  } else {
    if ((record.info & XLOG_HEAP_INIT_PAGE) !== 0) pageInit(page, 0)
    redoUpdateNew(record, ref, page, 0)
  }
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_confirm. */
function redoConfirm(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_heap_confirm.SIZE)
  const offnum = xl_heap_confirm.offnum.get(record.view, record.mainDataOffset)
  setTupleCtid(page, tupleAt(page, offnum), ref.blockNumber, offnum)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_lock. */
function redoLock(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_heap_lock.SIZE)
  const offnum = xl_heap_lock.offnum.get(view, main)
  const at = tupleAt(page, offnum)
  setTupleXmaxBits(page, at, xl_heap_lock.infobitsSet.get(view, main))
  // No update is left of this version: it is the last of its chain again.
  if (isXmaxLockedOnly(HeapTupleHeader.infomask.get(page.view, at))) {
    setTupleHotUpdated(page, at, false)
    setTupleCtid(page, at, ref.blockNumber, offnum)
  }
  HeapTupleHeader.xmax.set(page.view, at, xl_heap_lock.xmax.get(view, main))
  clearTupleCmax(page, at)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_inplace. */
function redoInplace(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_heap_inplace.SIZE)
  const offnum = xl_heap_inplace.offnum.get(record.view, record.mainDataOffset)
  const at = tupleAt(page, offnum)
  const hoff = HeapTupleHeader.hoff.get(page.view, at)
  if (tupleLength(page, offnum) - hoff !== ref.dataLength) throw fail('bad_wal', 'wrong tuple length')
  copyBytes(page.bytes, at + hoff, record.bytes, ref.dataOffset, ref.dataLength)
  setPageLsn(page, record.nextLsn)
}

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page): void {
  const ref = record.blocks[blockIndex] as BlockRef
  if (ref.fork === FORK_VM) {
    redoRegisteredVisibilityClear(record, ref, page)
    return
  }
  switch (record.info & XLOG_HEAP_OPMASK) {
    case XLOG_HEAP_INSERT:
      return redoInsert(record, ref, page)
    case XLOG_HEAP_DELETE:
      return redoDelete(record, ref, page)
    case XLOG_HEAP_UPDATE:
      return redoUpdate(record, ref, page, false)
    case XLOG_HEAP_HOT_UPDATE:
      return redoUpdate(record, ref, page, true)
    case XLOG_HEAP_TRUNCATE:
      return // For logical decoding only: no pages.
    case XLOG_HEAP_CONFIRM:
      return redoConfirm(record, ref, page)
    case XLOG_HEAP_LOCK:
      return redoLock(record, ref, page)
    case XLOG_HEAP_INPLACE:
      return redoInplace(record, ref, page)
  }
}

export const heapRmgr: Rmgr = {
  id: RM_HEAP_ID,
  name: 'Heap',
  identify: identifyHeap,
  redoBlock,
  effects: visibilityClearEffects,
}
