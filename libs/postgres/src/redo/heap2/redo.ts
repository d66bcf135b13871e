/**
 * Redo of heap2 records, page by page; pd_lsn is left at the record's end.
 *
 * Source: access/heap/heapam.c (16, 17) or heapam_xlog.c (18); access/heap/pruneheap.c.
 */
import { fail } from '@understory/base'
import {
  LP_DEAD,
  LP_REDIRECT,
  PD_ALL_VISIBLE,
  clearPageFlag,
  isPageNew,
  makeItemId,
  maxOffsetNumber,
  pageInit,
  setItemId,
  setPageFlag,
  setPageLsn,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_HEAP2_ID } from '../../wal/constants.ts'
import { VISIBILITYMAP_VALID_BITS } from '../../page/visibility-map.ts'
import type { PgMajor } from '../../wal/pages.ts'
import { FORK_VM } from '../../wal/record.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import {
  XLH_INSERT_ALL_FROZEN_SET,
  XLH_INSERT_ALL_VISIBLE_CLEARED,
  XLOG_HEAP_INIT_PAGE,
  XLOG_HEAP_OPMASK,
  xl_heap_lock,
} from '../heap/records.ts'
import { HeapTupleHeader, SizeofHeapTupleHeader, addTuple, setTupleXmaxBits, tupleAt } from '../heap/tuple.ts'
import {
  redoRegisteredVisibilityClear,
  setVisibilityBits,
  visibilityClearEffects,
} from '../heap/visibility.ts'
import { copyBytes, repairFragmentation, truncateLinePointerArray } from '../../page/page-items.ts'
import { checkBlockData, checkMainData } from '../record-check.ts'
import type { RedoSettings, Rmgr } from '../types.ts'
import { identifyHeap2 } from './describe.ts'
import {
  XLHP_CLEANUP_LOCK,
  XLHP_HAS_DEAD_ITEMS,
  XLHP_HAS_FREEZE_PLANS,
  XLHP_HAS_NOW_UNUSED_ITEMS,
  XLHP_HAS_REDIRECTIONS,
  XLH_FREEZE_XVAC,
  XLH_INVALID_XVAC,
  XLOG_HEAP2_FREEZE_PAGE,
  XLOG_HEAP2_LOCK_UPDATED,
  XLOG_HEAP2_MULTI_INSERT,
  XLOG_HEAP2_NEW_CID,
  XLOG_HEAP2_PRUNE,
  XLOG_HEAP2_PRUNE_ON_ACCESS,
  XLOG_HEAP2_PRUNE_VACUUM_CLEANUP,
  XLOG_HEAP2_PRUNE_VACUUM_SCAN,
  XLOG_HEAP2_REWRITE,
  XLOG_HEAP2_VACUUM,
  XLOG_HEAP2_VISIBLE,
  xl_heap_freeze_page_16,
  xl_heap_freeze_plan,
  xl_heap_multi_insert,
  xl_heap_prune,
  xl_heap_prune_16,
  xl_heap_vacuum_16,
  xl_heap_visible,
  xl_multi_insert_tuple,
} from './records.ts'

type RedoHeap2 = (record: DecodedRecord, ref: BlockRef, page: Page, settings: RedoSettings) => void

const FrozenTransactionId = 2

/** Puts one line pointer state in place of another, `bad_page` beyond the line pointer array. */
function replaceItemId(page: Page, lines: number, offsetNumber: number, itemId: number): void {
  if (offsetNumber < 1 || offsetNumber > lines)
    throw fail('bad_page', `no line pointer ${offsetNumber} of ${lines}`)
  setItemId(page, offsetNumber, itemId)
}

/** Refused `bad_wal` unless the block's data continue to `end` at least: offset numbers are read no further. */
function checkReaches(end: number, ref: BlockRef): void {
  if (end > ref.dataOffset + ref.dataLength)
    throw fail('bad_wal', `block data end after ${ref.dataLength} bytes`)
}

/** A count among the block's data. */
function countAt(record: DecodedRecord, ref: BlockRef, at: number): number {
  checkReaches(at + 2, ref)
  return record.view.getUint16(at, true)
}

/** heap_page_prune_execute, first part. Each returns where the offset numbers end. */
function setRedirected(
  record: DecodedRecord,
  ref: BlockRef,
  from: number,
  count: number,
  page: Page,
  lines: number,
): number {
  checkReaches(from + count * 4, ref)
  for (let i = 0; i < count; i++) {
    const target = record.view.getUint16(from + i * 4 + 2, true)
    replaceItemId(page, lines, record.view.getUint16(from + i * 4, true), makeItemId(target, LP_REDIRECT, 0))
  }
  return from + count * 4
}

function setItems(
  record: DecodedRecord,
  ref: BlockRef,
  from: number,
  count: number,
  page: Page,
  lines: number,
  itemId: number,
): number {
  checkReaches(from + count * 2, ref)
  for (let i = 0; i < count; i++)
    replaceItemId(page, lines, record.view.getUint16(from + i * 2, true), itemId)
  return from + count * 2
}

const DEAD = makeItemId(0, LP_DEAD, 0)
const UNUSED = 0

/** heap_execute_freeze_tuple for every tuple of every plan. Returns where the offset numbers end. */
function freezeTuples(
  record: DecodedRecord,
  ref: BlockRef,
  plans: number,
  planCount: number,
  offsets: number,
  page: Page,
): number {
  const { view } = record
  let next = offsets
  for (let p = 0; p < planCount; p++) {
    const plan = plans + p * xl_heap_freeze_plan.SIZE
    const frzflags = xl_heap_freeze_plan.frzflags.get(view, plan)
    const xmax = xl_heap_freeze_plan.xmax.get(view, plan)
    const infomask = xl_heap_freeze_plan.infomask.get(view, plan)
    const infomask2 = xl_heap_freeze_plan.infomask2.get(view, plan)
    const tuples = xl_heap_freeze_plan.ntuples.get(view, plan)
    checkReaches(next + tuples * 2, ref)
    for (let i = 0; i < tuples; i++, next += 2) {
      const at = tupleAt(page, view.getUint16(next, true))
      HeapTupleHeader.xmax.set(page.view, at, xmax)
      if ((frzflags & XLH_FREEZE_XVAC) !== 0) HeapTupleHeader.cid.set(page.view, at, FrozenTransactionId)
      if ((frzflags & XLH_INVALID_XVAC) !== 0) HeapTupleHeader.cid.set(page.view, at, 0)
      HeapTupleHeader.infomask.set(page.view, at, infomask)
      HeapTupleHeader.infomask2.set(page.view, at, infomask2)
    }
  }
  return next
}

function checkEnd(end: number, ref: BlockRef): void {
  if (end !== ref.dataOffset + ref.dataLength) {
    throw fail('bad_wal', `block data of ${ref.dataLength} bytes ends at byte ${end - ref.dataOffset}`)
  }
}

/** heap_xlog_prune of 16. */
function redoPrune16(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_heap_prune_16.SIZE)
  const redirectedCount = xl_heap_prune_16.nredirected.get(view, main)
  const deadCount = xl_heap_prune_16.ndead.get(view, main)
  checkBlockData(ref, redirectedCount * 4 + deadCount * 2)
  const lines = maxOffsetNumber(page)
  let at = setRedirected(record, ref, ref.dataOffset, redirectedCount, page, lines)
  at = setItems(record, ref, at, deadCount, page, lines, DEAD)
  const unusedCount = (ref.dataOffset + ref.dataLength - at) >> 1
  setItems(record, ref, at, unusedCount, page, lines, UNUSED)
  repairFragmentation(page)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_vacuum of 16. */
function redoVacuum16(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_heap_vacuum_16.SIZE)
  const count = xl_heap_vacuum_16.nunused.get(record.view, record.mainDataOffset)
  checkBlockData(ref, count * 2)
  setItems(record, ref, ref.dataOffset, count, page, maxOffsetNumber(page), UNUSED)
  truncateLinePointerArray(page)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_freeze_page of 16. */
function redoFreezePage16(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_heap_freeze_page_16.SIZE)
  const planCount = xl_heap_freeze_page_16.nplans.get(record.view, record.mainDataOffset)
  const offsets = ref.dataOffset + planCount * xl_heap_freeze_plan.SIZE
  checkBlockData(ref, planCount * xl_heap_freeze_plan.SIZE)
  freezeTuples(record, ref, ref.dataOffset, planCount, offsets, page)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_prune_freeze of 17 and 18. */
function redoPruneFreeze(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_heap_prune.SIZE)
  const flags = xl_heap_prune.flags.get(record.view, record.mainDataOffset)
  let at = ref.dataOffset
  let plans = 0
  let planCount = 0
  if ((flags & XLHP_HAS_FREEZE_PLANS) !== 0) {
    planCount = countAt(record, ref, at)
    plans = at + 4
    at = plans + planCount * xl_heap_freeze_plan.SIZE
    checkReaches(at, ref)
  }
  if ((flags & (XLHP_HAS_REDIRECTIONS | XLHP_HAS_DEAD_ITEMS | XLHP_HAS_NOW_UNUSED_ITEMS)) !== 0) {
    const lines = maxOffsetNumber(page)
    if ((flags & XLHP_HAS_REDIRECTIONS) !== 0) {
      at = setRedirected(record, ref, at + 2, countAt(record, ref, at), page, lines)
    }
    if ((flags & XLHP_HAS_DEAD_ITEMS) !== 0)
      at = setItems(record, ref, at + 2, countAt(record, ref, at), page, lines, DEAD)
    if ((flags & XLHP_HAS_NOW_UNUSED_ITEMS) !== 0) {
      at = setItems(record, ref, at + 2, countAt(record, ref, at), page, lines, UNUSED)
    }
    // Without the cleanup lock no tuple may move: vacuum's second pass, over items that are dead already.
    if ((flags & XLHP_CLEANUP_LOCK) !== 0) repairFragmentation(page)
    else truncateLinePointerArray(page)
  }
  checkEnd(freezeTuples(record, ref, plans, planCount, at, page), ref)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_visible: block 0 is the map block, block 1 the heap block. */
function redoVisible(record: DecodedRecord, ref: BlockRef, page: Page, settings: RedoSettings): void {
  checkMainData(record, xl_heap_visible.SIZE)
  if (ref.blockId === 1) {
    setPageFlag(page, PD_ALL_VISIBLE)
    // XLogHintBitIsNeeded
    if (settings.dataChecksums || settings.walLogHints) setPageLsn(page, record.nextLsn)
    return
  }
  if (isPageNew(page)) pageInit(page, 0)
  const flags = xl_heap_visible.flags.get(record.view, record.mainDataOffset) & VISIBILITYMAP_VALID_BITS
  const heap = record.block(1)
  if (heap === undefined) throw fail('bad_wal', 'no heap block is registered')
  if (setVisibilityBits(page, heap.blockNumber, flags)) setPageLsn(page, record.nextLsn)
}

/** heap_xlog_multi_insert. */
function redoMultiInsert(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_heap_multi_insert.SIZE)
  const init = (record.info & XLOG_HEAP_INIT_PAGE) !== 0
  const flags = xl_heap_multi_insert.flags.get(view, main)
  const tuples = xl_heap_multi_insert.ntuples.get(view, main)
  const offsets = main + xl_heap_multi_insert.SIZE
  if (init) pageInit(page, 0)
  else checkMainData(record, xl_heap_multi_insert.SIZE + tuples * 2)
  let from = ref.dataOffset
  for (let i = 0; i < tuples; i++) {
    from += (from - ref.dataOffset) & 1
    checkReaches(from + xl_multi_insert_tuple.SIZE, ref)
    const dataLength = xl_multi_insert_tuple.datalen.get(view, from)
    checkReaches(from + xl_multi_insert_tuple.SIZE + dataLength, ref)
    const at = addTuple(
      page,
      ref.blockNumber,
      init ? i + 1 : view.getUint16(offsets + i * 2, true),
      SizeofHeapTupleHeader + dataLength,
      record.xid,
      xl_multi_insert_tuple.infomask2.get(view, from),
      xl_multi_insert_tuple.infomask.get(view, from),
      xl_multi_insert_tuple.hoff.get(view, from),
    )
    from += xl_multi_insert_tuple.SIZE
    copyBytes(page.bytes, at + SizeofHeapTupleHeader, record.bytes, from, dataLength)
    from += dataLength
  }
  checkEnd(from, ref)
  if ((flags & XLH_INSERT_ALL_VISIBLE_CLEARED) !== 0) clearPageFlag(page, PD_ALL_VISIBLE)
  if ((flags & XLH_INSERT_ALL_FROZEN_SET) !== 0) setPageFlag(page, PD_ALL_VISIBLE)
  setPageLsn(page, record.nextLsn)
}

/** heap_xlog_lock_updated: unlike heap_xlog_lock, the version stays what it was in its chain. */
function redoLockUpdated(record: DecodedRecord, _ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_heap_lock.SIZE)
  const at = tupleAt(page, xl_heap_lock.offnum.get(view, main))
  setTupleXmaxBits(page, at, xl_heap_lock.infobitsSet.get(view, main))
  HeapTupleHeader.xmax.set(page.view, at, xl_heap_lock.xmax.get(view, main))
  setPageLsn(page, record.nextLsn)
}

/** REWRITE fills files of pg_logical/mappings and NEW_CID is for logical decoding: neither has pages. */
const redoNothing: RedoHeap2 = () => {}

/** By operation code. */
type Operations = Readonly<Record<number, RedoHeap2>>

const ALL_VERSIONS: Operations = {
  [XLOG_HEAP2_REWRITE]: redoNothing,
  [XLOG_HEAP2_VISIBLE]: redoVisible,
  [XLOG_HEAP2_MULTI_INSERT]: redoMultiInsert,
  [XLOG_HEAP2_LOCK_UPDATED]: redoLockUpdated,
  [XLOG_HEAP2_NEW_CID]: redoNothing,
}
const SINCE_17: Operations = {
  ...ALL_VERSIONS,
  [XLOG_HEAP2_PRUNE_ON_ACCESS]: redoPruneFreeze,
  [XLOG_HEAP2_PRUNE_VACUUM_SCAN]: redoPruneFreeze,
  [XLOG_HEAP2_PRUNE_VACUUM_CLEANUP]: redoPruneFreeze,
}
const OPERATIONS: Readonly<Record<PgMajor, Operations>> = {
  16: {
    ...ALL_VERSIONS,
    [XLOG_HEAP2_PRUNE]: redoPrune16,
    [XLOG_HEAP2_VACUUM]: redoVacuum16,
    [XLOG_HEAP2_FREEZE_PAGE]: redoFreezePage16,
  },
  17: SINCE_17,
  18: SINCE_17,
}

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page, settings: RedoSettings): void {
  const ref = record.blocks[blockIndex] as BlockRef
  const operation = record.info & XLOG_HEAP_OPMASK
  if (ref.fork === FORK_VM && operation !== XLOG_HEAP2_VISIBLE) {
    redoRegisteredVisibilityClear(record, ref, page)
    return
  }
  const redo = OPERATIONS[settings.major][operation] as RedoHeap2
  redo(record, ref, page, settings)
}

export const heap2Rmgr: Rmgr = {
  id: RM_HEAP2_ID,
  name: 'Heap2',
  identify: (info, settings) => identifyHeap2(info, settings.major),
  redoBlock,
  effects: visibilityClearEffects,
}
