/**
 * An 8 KiB page: its header and its line pointers. Lengths and offsets are bytes within the page; offset numbers count
 * from 1. Changes of the items of a page are in page-items.ts.
 *
 * Source: storage/bufpage.h, bufpage.c PageInit, PageIsVerified; storage/itemid.h (16, 17, 18 alike).
 */
import { lsnFromHalves, lsnHigh, lsnLow, pageLsn, fail, struct, u16, u32 } from '@understory/base'
import type { Lsn } from '@understory/base'

/** Bytes of a page (BLCKSZ). */
export const PAGE_SIZE = 8192

/** A page over 8,192 bytes of memory. `view` and `bytes` are of the same memory. */
export interface Page {
  readonly bytes: Uint8Array
  readonly view: DataView
}

/** A page over 8,192 bytes of memory that the caller owns. */
export function pageOf(bytes: Uint8Array): Page {
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, PAGE_SIZE) }
}

/**
 * Followed by line pointers (4 bytes each) up to `lower`; tuples from `upper`; the access method's own from
 * `special`.
 */
export const PageHeader = struct(24, {
  lsn: pageLsn, // pd_lsn: end of the last record that changed the page
  checksum: u16, // pd_checksum, 0 unless the cluster has data checksums
  flags: u16, // pd_flags: PD_*
  lower: u16, // pd_lower: start of free space
  upper: u16, // pd_upper: end of free space; 0 only in a page that was never initialized
  special: u16, // pd_special
  pageSizeVersion: u16, // pd_pagesize_version: 0x2000 | 4
  pruneXid: u32, // pd_prune_xid, a hint
})

export const SizeOfPageHeaderData = PageHeader.SIZE
export const SizeOfItemIdData = 4
export const PG_PAGE_LAYOUT_VERSION = 4
export const PD_HAS_FREE_LINES = 0x0001
export const PD_PAGE_FULL = 0x0002
export const PD_ALL_VISIBLE = 0x0004
export const PD_VALID_FLAG_BITS = 0x0007
export const LP_UNUSED = 0
export const LP_NORMAL = 1
export const LP_REDIRECT = 2
export const LP_DEAD = 3

/** The high half of every LSN is below it. */
const LSN_HIGH_END = 0x20_0000

export const maxAlign = (size: number): number => (size + 7) & ~7

// Header fields (PageHeaderData): pd_lsn 0, pd_checksum 8, pd_flags 10, pd_lower 12, pd_upper 14, pd_special 16,
// pd_pagesize_version 18, pd_prune_xid 20, pd_linp 24.

export function getPageLsn(page: Page): Lsn {
  const high = page.view.getUint32(0, true)
  if (high >= LSN_HIGH_END) throw fail('bad_page', 'pd_lsn is beyond 2^53')
  return lsnFromHalves(high, page.view.getUint32(4, true))
}
export function setPageLsn(page: Page, at: Lsn): void {
  page.view.setUint32(0, lsnHigh(at), true)
  page.view.setUint32(4, lsnLow(at), true)
}
export const getPageFlags = (page: Page): number => page.view.getUint16(10, true)
export const setPageFlag = (page: Page, flag: number): void =>
  page.view.setUint16(10, getPageFlags(page) | flag, true)
export const clearPageFlag = (page: Page, flag: number): void =>
  page.view.setUint16(10, getPageFlags(page) & ~flag, true)
export const getPageLower = (page: Page): number => page.view.getUint16(12, true)
export const setPageLower = (page: Page, at: number): void => page.view.setUint16(12, at, true)
export const getPageUpper = (page: Page): number => page.view.getUint16(14, true)
export const setPageUpper = (page: Page, at: number): void => page.view.setUint16(14, at, true)
export const getPageSpecial = (page: Page): number => page.view.getUint16(16, true)
export const getPagePruneXid = (page: Page): number => page.view.getUint32(20, true)
export const setPagePruneXid = (page: Page, xid: number): void => page.view.setUint32(20, xid, true)
/** PageIsNew: never initialized. */
export const isPageNew = (page: Page): boolean => getPageUpper(page) === 0

// A line pointer is one little-endian uint32: lp_off in bits 0-14, lp_flags in 15-16, lp_len in 17-31.

/** Where the line pointer is within the page. */
export const itemIdAt = (offsetNumber: number): number =>
  SizeOfPageHeaderData + (offsetNumber - 1) * SizeOfItemIdData
/** The whole line pointer: take it apart with `itemIdOffset`, `itemIdFlags`, `itemIdLength`. */
export const getItemId = (page: Page, offsetNumber: number): number =>
  page.view.getUint32(itemIdAt(offsetNumber), true)
export const setItemId = (page: Page, offsetNumber: number, itemId: number): void =>
  page.view.setUint32(itemIdAt(offsetNumber), itemId, true)
export const makeItemId = (offset: number, flags: number, length: number): number =>
  ((length << 17) | (flags << 15) | offset) >>> 0
export const itemIdOffset = (itemId: number): number => itemId & 0x7fff
export const itemIdFlags = (itemId: number): number => (itemId >>> 15) & 3
export const itemIdLength = (itemId: number): number => itemId >>> 17
export const withItemIdOffset = (itemId: number, offset: number): number =>
  ((itemId & ~0x7fff) | offset) >>> 0

/** PageGetMaxOffsetNumber: the number of line pointers, 0 on a page without a header. */
export function maxOffsetNumber(page: Page): number {
  const lower = getPageLower(page)
  return lower <= SizeOfPageHeaderData ? 0 : (lower - SizeOfPageHeaderData) >>> 2
}

/** The line pointer, `bad_page` if the page has none of this number or if it does not point to a tuple. */
export function getNormalItemId(page: Page, offsetNumber: number): number {
  const itemId =
    offsetNumber >= 1 && offsetNumber <= maxOffsetNumber(page) ? getItemId(page, offsetNumber) : 0
  if (itemIdFlags(itemId) !== LP_NORMAL)
    throw fail('bad_page', `line pointer ${offsetNumber} is not a normal one`)
  return itemId
}

/** PageGetExactFreeSpace. */
export function exactFreeSpace(page: Page): number {
  const space = getPageUpper(page) - getPageLower(page)
  return space < 0 ? 0 : space
}

/** PageInit. `specialSize` is rounded up to a multiple of 8. */
export function pageInit(page: Page, specialSize: number): void {
  page.bytes.fill(0)
  const special = PAGE_SIZE - maxAlign(specialSize)
  setPageLower(page, SizeOfPageHeaderData)
  setPageUpper(page, special)
  page.view.setUint16(16, special, true)
  page.view.setUint16(18, PAGE_SIZE | PG_PAGE_LAYOUT_VERSION, true)
}

const ZEROS = Buffer.alloc(PAGE_SIZE)
export const isZeroPage = (bytes: Uint8Array): boolean => ZEROS.equals(bytes)

/**
 * What PageIsVerified asks of a header, checksum apart: an initialized page that makes sense, or zeros
 * throughout.
 */
export function isPageHeaderSane(page: Page): boolean {
  if (isPageNew(page)) return isZeroPage(page.bytes)
  const lower = getPageLower(page)
  const upper = getPageUpper(page)
  const special = getPageSpecial(page)
  return (
    (getPageFlags(page) & ~PD_VALID_FLAG_BITS) === 0 &&
    lower <= upper &&
    upper <= special &&
    special <= PAGE_SIZE &&
    special % 8 === 0
  )
}
