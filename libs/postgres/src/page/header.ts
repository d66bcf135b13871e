/**
 * The header and line pointers of an 8 KiB page. Source: storage/bufpage.h, bufpage.c PageInit,
 * PageIsVerified; itemid.h (16, 17, 18).
 */
import { lsnFromHalves, lsnHigh, lsnLow, pageLsn, struct, u16, u32 } from '@understory/base'
import type { Lsn } from '@understory/base'
import { PAGE_SIZE } from '../wal/record.ts'

/**
 * Followed by line pointers (4 bytes each) up to `lower`; tuples from `upper`; the access method's own from
 * `special`.
 */
export const PageHeader = struct(24, {
  lsn: pageLsn, // pd_lsn: end of the last record that changed the page
  checksum: u16, // pd_checksum, 0 unless the cluster has data checksums
  flags: u16, // pd_flags: PD_*
  lower: u16, // pd_lower: start of free space
  upper: u16, // pd_upper: end of free space; 0 only in a page that was never initialised
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

const u16At = (bytes: Uint8Array, at: number): number =>
  (bytes[at] as number) | ((bytes[at + 1] as number) << 8)
const u32At = (bytes: Uint8Array, at: number): number =>
  (u16At(bytes, at) | (u16At(bytes, at + 2) << 16)) >>> 0
function setU32At(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
  bytes[at + 2] = value >>> 16
  bytes[at + 3] = value >>> 24
}

// These take bare bytes, because whoever only moves pages has no DataView of each.

export const getPageLsn = (page: Uint8Array): Lsn => lsnFromHalves(u32At(page, 0), u32At(page, 4))
export function setPageLsn(page: Uint8Array, at: Lsn): void {
  setU32At(page, 0, lsnHigh(at))
  setU32At(page, 4, lsnLow(at))
}
/** PageIsNew: never initialised. */
export const isNewPage = (page: Uint8Array): boolean => u16At(page, PageHeader.upper.offset) === 0

const ZEROS = Buffer.alloc(PAGE_SIZE)
export const isZeroPage = (page: Uint8Array): boolean => ZEROS.equals(page)

/** PageInit: an empty page with `specialSize` bytes (rounded up to 8) for the access method. */
export function initPage(page: Uint8Array, specialSize: number): void {
  page.fill(0)
  const view = new DataView(page.buffer, page.byteOffset, PAGE_SIZE)
  const special = PAGE_SIZE - ((specialSize + 7) & ~7)
  PageHeader.lower.set(view, 0, SizeOfPageHeaderData)
  PageHeader.upper.set(view, 0, special)
  PageHeader.special.set(view, 0, special)
  PageHeader.pageSizeVersion.set(view, 0, PAGE_SIZE | PG_PAGE_LAYOUT_VERSION)
}

/**
 * What PageIsVerified asks of a header, checksum apart: an initialised page that makes sense, or zeros
 * throughout.
 */
export function isPageHeaderSane(page: Uint8Array): boolean {
  if (isNewPage(page)) return isZeroPage(page)
  const lower = u16At(page, PageHeader.lower.offset)
  const upper = u16At(page, PageHeader.upper.offset)
  const special = u16At(page, PageHeader.special.offset)
  return (
    (u16At(page, PageHeader.flags.offset) & ~PD_VALID_FLAG_BITS) === 0 &&
    lower <= upper &&
    upper <= special &&
    special <= PAGE_SIZE &&
    special % 8 === 0
  )
}
