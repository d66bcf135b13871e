/**
 * The visibility map: two bits for every heap block, set by HEAP2_VISIBLE and cleared by the records that change a
 * heap block.
 *
 * Clearing comes in two forms. Minor releases up to 16.14, 17.10 and 18.4 clear through a flag in the heap record:
 * the map block is not registered, its LSN stays, and stock redo clears whatever the page's LSN. Newer ones register
 * the map block if a bit was really cleared, so that redo goes by the page's LSN and moves it; the flag without the
 * reference is then a clear of bits that were clear already. Both are redone here, distinguished by the record itself.
 *
 * Source: access/heap/visibilitymap.c; heapam.c (16, 17) or heapam_xlog.c (18), heap_xlog_vm_clear and
 * heap_xlog_update; checked against 15.18, 17.11 and 18.6.
 */
import { assert, struct, u32 } from '@understory/base'
import { isPageNew, pageInit, setPageLsn } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_HEAP2_ID, RM_HEAP_ID, RM_SMGR_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import {
  HEAPBLOCKS_PER_VM_PAGE,
  VISIBILITYMAP_ALL_FROZEN,
  VISIBILITYMAP_VALID_BITS,
  vmBits,
  vmBlockOf,
  vmByteOf,
  vmShiftOf,
} from '../../page/visibility-map.ts'
import { FORK_VM } from '../../wal/record.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import type { RedoSettings } from '../types.ts'
import { XLOG_HEAP2_LOCK_UPDATED, XLOG_HEAP2_MULTI_INSERT, xl_heap_multi_insert } from '../heap2/records.ts'
import {
  XLH_DELETE_ALL_VISIBLE_CLEARED,
  XLH_INSERT_ALL_VISIBLE_CLEARED,
  XLH_LOCK_ALL_FROZEN_CLEARED,
  XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED,
  XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED,
  XLOG_HEAP_DELETE,
  XLOG_HEAP_HOT_UPDATE,
  XLOG_HEAP_INSERT,
  XLOG_HEAP_LOCK,
  XLOG_HEAP_OPMASK,
  XLOG_HEAP_UPDATE,
  xl_heap_delete,
  xl_heap_insert,
  xl_heap_lock,
  xl_heap_update,
} from './records.ts'

/** visibilitymap_set, less the LSN: true if the bits were not exactly these before. */
export function setVisibilityBits(page: Page, heapBlock: number, flags: number): boolean {
  if (vmBits(page.bytes, heapBlock) === flags) return false
  const at = vmByteOf(heapBlock)
  page.bytes[at] = (page.bytes[at] as number) | (flags << vmShiftOf(heapBlock))
  return true
}

/** visibilitymap_clear_locked: true if a bit was set before. A page never used is made into an empty map page. */
export function clearVisibilityBits(page: Page, heapBlock: number, flags: number): boolean {
  if (isPageNew(page)) pageInit(page, 0)
  const at = vmByteOf(heapBlock)
  const old = page.bytes[at] as number
  page.bytes[at] = old & ~(flags << vmShiftOf(heapBlock))
  return page.bytes[at] !== old
}

/** The block under `blockId`, or -1. */
function blockNumberOf(record: DecodedRecord, blockId: number): number {
  const ref = record.block(blockId)
  return ref === undefined ? -1 : ref.blockNumber
}

// The clears of a record, as `findClears` leaves them: block -1 = nothing. Plain variables, because this is asked of
// every heap record.
let clearedOldBlock = -1
let clearedNewBlock = -1
let clearedFlags = 0
/** The record registers a map block: what it does not register, it does not clear. */
let mapIsRegistered = false

/** Which heap blocks lose bits by this record of heap or heap2. False if none does; `bad_wal` where it ends early. */
function findClears(record: DecodedRecord): boolean {
  const { view, mainDataOffset: at } = record
  clearedOldBlock = -1
  clearedNewBlock = -1
  clearedFlags = VISIBILITYMAP_VALID_BITS
  const op = record.info & XLOG_HEAP_OPMASK
  let flag = 0
  if (record.rmid === RM_HEAP_ID) {
    switch (op) {
      case XLOG_HEAP_INSERT:
        checkMainData(record, xl_heap_insert.SIZE)
        flag = xl_heap_insert.flags.get(view, at) & XLH_INSERT_ALL_VISIBLE_CLEARED
        break
      case XLOG_HEAP_DELETE:
        checkMainData(record, xl_heap_delete.SIZE)
        flag = xl_heap_delete.flags.get(view, at) & XLH_DELETE_ALL_VISIBLE_CLEARED
        break
      case XLOG_HEAP_LOCK:
        checkMainData(record, xl_heap_lock.SIZE)
        flag = xl_heap_lock.flags.get(view, at) & XLH_LOCK_ALL_FROZEN_CLEARED
        clearedFlags = VISIBILITYMAP_ALL_FROZEN
        break
      case XLOG_HEAP_UPDATE:
      case XLOG_HEAP_HOT_UPDATE: {
        checkMainData(record, xl_heap_update.SIZE)
        const flags = xl_heap_update.flags.get(view, at)
        if ((flags & (XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED | XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED)) === 0)
          return false
        const newBlock = blockNumberOf(record, 0)
        const oldBlock = blockNumberOf(record, 1)
        if ((flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED) !== 0)
          clearedOldBlock = oldBlock < 0 ? newBlock : oldBlock
        if ((flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED) !== 0) clearedNewBlock = newBlock
        mapIsRegistered = record.block(2) !== undefined || record.block(3) !== undefined
        return true
      }
    }
  } else if (record.rmid === RM_HEAP2_ID) {
    if (op === XLOG_HEAP2_MULTI_INSERT) {
      checkMainData(record, xl_heap_multi_insert.SIZE)
      flag = xl_heap_multi_insert.flags.get(view, at) & XLH_INSERT_ALL_VISIBLE_CLEARED
    } else if (op === XLOG_HEAP2_LOCK_UPDATED) {
      checkMainData(record, xl_heap_lock.SIZE)
      flag = xl_heap_lock.flags.get(view, at) & XLH_LOCK_ALL_FROZEN_CLEARED
      clearedFlags = VISIBILITYMAP_ALL_FROZEN
    }
  }
  if (flag === 0) return false
  clearedNewBlock = blockNumberOf(record, 0)
  mapIsRegistered = record.block(1) !== undefined
  return true
}

interface VisibilityClearSink {
  visibilityClear(rel: BlockRef, heapBlock: number, flags: number): void
}

/** Reports the bits that the record clears in map blocks it does not register. */
export function visibilityClearEffects(record: DecodedRecord, sink: VisibilityClearSink): void {
  if (!findClears(record) || mapIsRegistered) return
  const rel = record.blocks[0] as BlockRef
  // The sink may look at the record again, so nothing is read from the shared variables after the first call.
  const newBlock = clearedNewBlock
  const flags = clearedFlags
  if (clearedOldBlock >= 0) sink.visibilityClear(rel, clearedOldBlock, flags)
  if (newBlock >= 0) sink.visibilityClear(rel, newBlock, flags)
}

/**
 * visibilitymap_prepare_truncate: a heap cut to `heapBlocks` blocks leaves no bits behind in the map page that holds
 * the first block gone. The map's own blocks after that page go with `relationTruncate`.
 */
export function clearVisibilityTail(page: Page, mapBlock: number, heapBlocks: number): void {
  if (heapBlocks % HEAPBLOCKS_PER_VM_PAGE === 0 || vmBlockOf(heapBlocks) !== mapBlock || isPageNew(page))
    return
  const at = vmByteOf(heapBlocks)
  page.bytes[at] = (page.bytes[at] as number) & ((1 << vmShiftOf(heapBlocks)) - 1)
  page.bytes.fill(0, at + 1)
}

/** The part of xl_smgr_truncate that is read here. */
const xl_smgr_truncate_blkno = struct(4, { blkno: u32 })
const XLOG_SMGR_TRUNCATE = 0x20

/**
 * Applies to a page of the visibility map every clear that the record implies without registering the page, whatever
 * the page's LSN, which stays (visibilitymap_clear). For what `visibilityClear` of the effect sink reported: records
 * of heap and heap2, and the truncation of a relation, which reports its first block gone.
 */
export function redoVisibilityClear(
  record: DecodedRecord,
  page: Page,
  mapBlock: number,
  _settings: RedoSettings,
): void {
  if (record.rmid === RM_SMGR_ID) {
    if ((record.info & XLR_RMGR_INFO_MASK) !== XLOG_SMGR_TRUNCATE) return
    clearVisibilityTail(page, mapBlock, xl_smgr_truncate_blkno.blkno.get(record.view, record.mainDataOffset))
    return
  }
  if (!findClears(record) || mapIsRegistered) return
  if (clearedOldBlock >= 0 && vmBlockOf(clearedOldBlock) === mapBlock) {
    clearVisibilityBits(page, clearedOldBlock, clearedFlags)
  }
  if (clearedNewBlock >= 0 && vmBlockOf(clearedNewBlock) === mapBlock) {
    clearVisibilityBits(page, clearedNewBlock, clearedFlags)
  }
}

/** HEAP_UPDATE_BLKREF_VM_OLD: covers the old tuple's block only, even where the new one's bits lie on it too. */
const HEAP_UPDATE_BLKREF_VM_OLD = 3

/** A map block that the record registers for clearing. Its LSN moves only if a bit was set. */
export function redoRegisteredVisibilityClear(record: DecodedRecord, ref: BlockRef, page: Page): void {
  assert(ref.fork === FORK_VM, () => `block ${ref.blockId} is of fork ${ref.fork}, not of the visibility map`)
  if (!findClears(record)) return
  let cleared = false
  if (clearedOldBlock >= 0 && vmBlockOf(clearedOldBlock) === ref.blockNumber) {
    cleared = clearVisibilityBits(page, clearedOldBlock, clearedFlags)
  }
  const coversNew = ref.blockId !== HEAP_UPDATE_BLKREF_VM_OLD
  if (coversNew && clearedNewBlock >= 0 && vmBlockOf(clearedNewBlock) === ref.blockNumber) {
    cleared = clearVisibilityBits(page, clearedNewBlock, clearedFlags) || cleared
  }
  if (cleared) setPageLsn(page, record.nextLsn)
}
