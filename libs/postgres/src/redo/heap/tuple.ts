/**
 * Heap tuples on a page: the header's fields and what redo of several record types does to them. `at` is where the
 * tuple starts within the page.
 *
 * Source: access/htup_details.h and access/heap/heapam.c, fix_infomask_from_infobits (16, 17, 18 alike).
 */
import { fail, struct, u8, u16, u32 } from '@understory/base'
import {
  getItemId,
  getNormalItemId,
  getPagePruneXid,
  itemIdLength,
  itemIdOffset,
  maxOffsetNumber,
  setPagePruneXid,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { ADD_TO_HEAP, reserveItem } from '../../page/page-items.ts'
import {
  XLHL_KEYS_UPDATED,
  XLHL_XMAX_EXCL_LOCK,
  XLHL_XMAX_IS_MULTI,
  XLHL_XMAX_KEYSHR_LOCK,
  XLHL_XMAX_LOCK_ONLY,
} from './records.ts'

/** HeapTupleHeaderData. The null bitmap and the data follow from byte 23 and `hoff`. */
export const HeapTupleHeader = struct(23, {
  xmin: u32, // t_xmin
  xmax: u32, // t_xmax
  cid: u32, // t_cid, or t_xvac
  ctidBlockHigh: u16, // t_ctid.ip_blkid.bi_hi
  ctidBlockLow: u16, // t_ctid.ip_blkid.bi_lo
  ctidOffset: u16, // t_ctid.ip_posid
  infomask2: u16, // t_infomask2
  infomask: u16, // t_infomask
  hoff: u8, // t_hoff
})
export const SizeofHeapTupleHeader = HeapTupleHeader.SIZE

// t_infomask
export const HEAP_XMAX_KEYSHR_LOCK = 0x0010
export const HEAP_COMBOCID = 0x0020
export const HEAP_XMAX_EXCL_LOCK = 0x0040
export const HEAP_XMAX_LOCK_ONLY = 0x0080
export const HEAP_XMAX_COMMITTED = 0x0400
export const HEAP_XMAX_INVALID = 0x0800
export const HEAP_XMAX_IS_MULTI = 0x1000
export const HEAP_MOVED = 0xc000
const HEAP_LOCK_MASK = HEAP_XMAX_EXCL_LOCK | HEAP_XMAX_KEYSHR_LOCK
export const HEAP_XMAX_BITS =
  HEAP_XMAX_COMMITTED | HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI | HEAP_LOCK_MASK | HEAP_XMAX_LOCK_ONLY
// t_infomask2
export const HEAP_KEYS_UPDATED = 0x2000
export const HEAP_HOT_UPDATED = 0x4000

/** ItemPointerSet on t_ctid. */
export function setTupleCtid(page: Page, at: number, block: number, offsetNumber: number): void {
  HeapTupleHeader.ctidBlockHigh.set(page.view, at, block >>> 16)
  HeapTupleHeader.ctidBlockLow.set(page.view, at, block & 0xffff)
  HeapTupleHeader.ctidOffset.set(page.view, at, offsetNumber)
}

/** HeapTupleHeaderSetMovedPartitions: block 2^32 - 1 and offset number 0xfffd, which no tuple has. */
export const setTupleMovedPartitions = (page: Page, at: number): void =>
  setTupleCtid(page, at, 0xffff_ffff, 0xfffd)

/** Where the tuple of this line pointer starts. Errors: `bad_page` where stock redo says "invalid lp". */
export const tupleAt = (page: Page, offsetNumber: number): number =>
  itemIdOffset(getNormalItemId(page, offsetNumber))
/** Only valid after `tupleAt` of the same number. */
export const tupleLength = (page: Page, offsetNumber: number): number =>
  itemIdLength(getItemId(page, offsetNumber))

/** Clears what t_infomask and t_infomask2 say of xmax and sets it to what the record says. cmax becomes 0. */
export function setTupleXmaxBits(page: Page, at: number, infobits: number): void {
  const { view } = page
  let infomask = HeapTupleHeader.infomask.get(view, at) & ~(HEAP_XMAX_BITS | HEAP_MOVED)
  let infomask2 = HeapTupleHeader.infomask2.get(view, at) & ~HEAP_KEYS_UPDATED
  if ((infobits & XLHL_XMAX_IS_MULTI) !== 0) infomask |= HEAP_XMAX_IS_MULTI
  if ((infobits & XLHL_XMAX_LOCK_ONLY) !== 0) infomask |= HEAP_XMAX_LOCK_ONLY
  if ((infobits & XLHL_XMAX_EXCL_LOCK) !== 0) infomask |= HEAP_XMAX_EXCL_LOCK
  if ((infobits & XLHL_XMAX_KEYSHR_LOCK) !== 0) infomask |= HEAP_XMAX_KEYSHR_LOCK
  if ((infobits & XLHL_KEYS_UPDATED) !== 0) infomask2 |= HEAP_KEYS_UPDATED
  HeapTupleHeader.infomask.set(view, at, infomask)
  HeapTupleHeader.infomask2.set(view, at, infomask2)
}

/** HeapTupleHeaderSetCmax(FirstCommandId, false). */
export function clearTupleCmax(page: Page, at: number): void {
  HeapTupleHeader.cid.set(page.view, at, 0)
  HeapTupleHeader.infomask.set(page.view, at, HeapTupleHeader.infomask.get(page.view, at) & ~HEAP_COMBOCID)
}

export function setTupleHotUpdated(page: Page, at: number, hot: boolean): void {
  const infomask2 = HeapTupleHeader.infomask2.get(page.view, at)
  HeapTupleHeader.infomask2.set(
    page.view,
    at,
    hot ? infomask2 | HEAP_HOT_UPDATED : infomask2 & ~HEAP_HOT_UPDATED,
  )
}

/** HEAP_XMAX_IS_LOCKED_ONLY. */
export const isXmaxLockedOnly = (infomask: number): boolean =>
  (infomask & HEAP_XMAX_LOCK_ONLY) !== 0 ||
  (infomask & (HEAP_XMAX_IS_MULTI | HEAP_LOCK_MASK)) === HEAP_XMAX_EXCL_LOCK

/**
 * Adds a tuple of `length` bytes (header included) as item `offsetNumber` and fills its header as for a new tuple of
 * transaction `xmin`: the caller sets the rest of the bytes, and xmax if there is one. Returns where the tuple starts.
 */
export function addTuple(
  page: Page,
  block: number,
  offsetNumber: number,
  length: number,
  xmin: number,
  infomask2: number,
  infomask: number,
  hoff: number,
): number {
  if (maxOffsetNumber(page) + 1 < offsetNumber)
    throw fail('bad_page', `invalid max offset number ${offsetNumber}`)
  const at = offsetNumber === 0 ? 0 : reserveItem(page, length, offsetNumber, ADD_TO_HEAP)
  if (at === 0) throw fail('bad_page', `failed to add tuple ${offsetNumber} of ${length} bytes`)
  const { view } = page
  HeapTupleHeader.xmin.set(view, at, xmin)
  HeapTupleHeader.xmax.set(view, at, 0)
  HeapTupleHeader.cid.set(view, at, 0)
  setTupleCtid(page, at, block, offsetNumber)
  HeapTupleHeader.infomask2.set(view, at, infomask2)
  HeapTupleHeader.infomask.set(view, at, infomask & ~HEAP_COMBOCID)
  HeapTupleHeader.hoff.set(view, at, hoff)
  return at
}

/** TransactionIdPrecedes: ids below 3 are permanent and precede all others, which wrap around. */
export const xidPrecedes = (a: number, b: number): boolean => (a < 3 || b < 3 ? a < b : ((a - b) | 0) < 0)

/** PageSetPrunable. */
export function setPagePrunable(page: Page, xid: number): void {
  const pruneXid = getPagePruneXid(page)
  if (pruneXid === 0 || xidPrecedes(xid, pruneXid)) setPagePruneXid(page, xid)
}
