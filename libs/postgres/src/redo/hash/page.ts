/**
 * Pages of hash indexes: the opaque data at their end, the metapage, bitmaps of overflow pages.
 *
 * Source: access/hash.h; access/hash/hashpage.c _hash_init_metabuffer, _hash_initbuf; hashovfl.c
 * _hash_initbitmapbuffer; hashutil.c _hash_spareindex, _hash_get_totalbuckets (16, 17, 18 alike).
 */
import { fail, struct, u16, u32 } from '@understory/base'
import {
  PAGE_SIZE,
  SizeOfPageHeaderData,
  getPageSpecial,
  pageInit,
  setPageLower,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'

export const LH_UNUSED_PAGE = 0
export const LH_OVERFLOW_PAGE = 1 << 0
export const LH_BITMAP_PAGE = 1 << 2
export const LH_META_PAGE = 1 << 3
export const LH_BUCKET_NEEDS_SPLIT_CLEANUP = 1 << 6
export const LH_PAGE_HAS_DEAD_TUPLES = 1 << 7

/** InvalidBlockNumber, InvalidBucket. */
export const NONE = 0xffff_ffff
const HASHO_PAGE_ID = 0xff80
const HASH_MAGIC = 0x6440640
const HASH_VERSION = 4

export const HashPageOpaque = struct(16, {
  prevblkno: u32, // hasho_prevblkno
  nextblkno: u32,
  bucket: u32,
  flag: u16,
  pageId: u16,
})
const OPAQUE_AT = PAGE_SIZE - HashPageOpaque.SIZE

// HashMetaPageData. Offsets within the page.
export const META_AT = SizeOfPageHeaderData
export const META_NTUPLES = META_AT + 8 // double
const META_FFACTOR = META_AT + 16
const META_BSIZE = META_AT + 18
const META_BMSIZE = META_AT + 20
const META_BMSHIFT = META_AT + 22
export const META_MAXBUCKET = META_AT + 24
export const META_HIGHMASK = META_AT + 28
export const META_LOWMASK = META_AT + 32
export const META_OVFLPOINT = META_AT + 36
export const META_FIRSTFREE = META_AT + 40
export const META_NMAPS = META_AT + 44
const META_PROCID = META_AT + 48
const META_SPARES = META_AT + 52
const HASH_MAX_SPLITPOINTS = 98
const META_MAPP = META_SPARES + HASH_MAX_SPLITPOINTS * 4
const HASH_MAX_BITMAPS = 1024
const META_END = META_MAPP + HASH_MAX_BITMAPS * 4 + 4 // padded to 8

/** Where the opaque data is; `bad_page` if the page has no room for it. */
export function hashOpaqueAt(page: Page): number {
  const special = getPageSpecial(page)
  if (special !== OPAQUE_AT) throw fail('bad_page', `special space starts at ${special}: not a hash page`)
  return special
}

export function clearHashFlag(page: Page, flag: number): void {
  const at = hashOpaqueAt(page)
  HashPageOpaque.flag.set(page.view, at, HashPageOpaque.flag.get(page.view, at) & ~flag)
}

/** _hash_initbuf. */
export function initHashPage(page: Page, prev: number, bucket: number, flag: number): void {
  pageInit(page, HashPageOpaque.SIZE)
  HashPageOpaque.prevblkno.set(page.view, OPAQUE_AT, prev)
  HashPageOpaque.nextblkno.set(page.view, OPAQUE_AT, NONE)
  HashPageOpaque.bucket.set(page.view, OPAQUE_AT, bucket)
  HashPageOpaque.flag.set(page.view, OPAQUE_AT, flag)
  HashPageOpaque.pageId.set(page.view, OPAQUE_AT, HASHO_PAGE_ID)
}

/** _hash_initbitmapbuffer. */
export function initHashBitmap(page: Page, bmsize: number): void {
  if (bmsize > OPAQUE_AT - SizeOfPageHeaderData) throw fail('bad_wal', `bitmap of ${bmsize} bytes`)
  initHashPage(page, NONE, NONE, LH_BITMAP_PAGE)
  page.bytes.fill(0xff, SizeOfPageHeaderData, SizeOfPageHeaderData + bmsize)
  setPageLower(page, SizeOfPageHeaderData + bmsize)
}

/** SETBIT and CLRBIT of a bitmap page. */
export function setHashBitmapBit(page: Page, bit: number, isSet: boolean): void {
  const at = SizeOfPageHeaderData + (bit >>> 3)
  if (at >= OPAQUE_AT) throw fail('bad_wal', `bit ${bit} is beyond the bitmap page`)
  const mask = 1 << (bit & 7)
  page.bytes[at] = isSet ? (page.bytes[at] as number) | mask : (page.bytes[at] as number) & ~mask
}

const ceilLog2 = (n: number): number => (n <= 1 ? 0 : 32 - Math.clz32(n - 1))

const HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE = 10
const HASH_SPLITPOINT_PHASE_BITS = 2
const HASH_SPLITPOINT_PHASE_MASK = 3

/** _hash_spareindex. */
function spareIndex(buckets: number): number {
  const group = ceilLog2(buckets)
  if (group < HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE) return group
  return (
    HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE +
    ((group - HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE) << HASH_SPLITPOINT_PHASE_BITS) +
    (((buckets - 1) >>> (group - (HASH_SPLITPOINT_PHASE_BITS + 1))) & HASH_SPLITPOINT_PHASE_MASK)
  )
}

/** _hash_get_totalbuckets. */
function totalBuckets(phase: number): number {
  if (phase < HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE) return 2 ** phase
  const after = phase - HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE
  const half = 2 ** (HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE + (after >> HASH_SPLITPOINT_PHASE_BITS) - 1)
  return half + Math.floor(half / 4) * ((after & HASH_SPLITPOINT_PHASE_MASK) + 1)
}

/** _hash_init_metabuffer. */
export function initHashMeta(page: Page, tupleCount: number, procid: number, ffactor: number): void {
  const wanted = tupleCount / ffactor
  const buckets =
    wanted <= 2 ? 2 : wanted >= 0x4000_0000 ? 0x4000_0000 : totalBuckets(spareIndex(Math.floor(wanted)))
  const spare = spareIndex(buckets)
  initHashPage(page, NONE, NONE, LH_META_PAGE)
  const { view } = page
  view.setUint32(META_AT, HASH_MAGIC, true)
  view.setUint32(META_AT + 4, HASH_VERSION, true)
  view.setUint16(META_FFACTOR, ffactor, true)
  const bitmapBytesMax = OPAQUE_AT - SizeOfPageHeaderData
  const log2 = 31 - Math.clz32(bitmapBytesMax)
  view.setUint16(META_BSIZE, bitmapBytesMax, true)
  view.setUint16(META_BMSIZE, 1 << log2, true)
  view.setUint16(META_BMSHIFT, log2 + 3, true)
  view.setUint32(META_PROCID, procid, true)
  view.setUint32(META_MAXBUCKET, buckets - 1, true)
  const highmask = 2 ** ceilLog2(buckets + 1) - 1
  view.setUint32(META_HIGHMASK, highmask, true)
  view.setUint32(META_LOWMASK, highmask >>> 1, true)
  view.setUint32(META_SPARES + spare * 4, 1, true)
  view.setUint32(META_OVFLPOINT, spare, true)
  setPageLower(page, META_END)
}

function spareAt(point: number): number {
  if (point >= HASH_MAX_SPLITPOINTS) throw fail('bad_page', `splitpoint ${point} of a hash index`)
  return META_SPARES + point * 4
}
export const setSpare = (page: Page, point: number, pages: number): void =>
  page.view.setUint32(spareAt(point), pages, true)
export function incrementSpare(page: Page, point: number): void {
  page.view.setUint32(spareAt(point), page.view.getUint32(spareAt(point), true) + 1, true)
}

/** The metapage's list of bitmap pages grows by one. */
export function addBitmapPage(page: Page, block: number): void {
  const maps = page.view.getUint32(META_NMAPS, true)
  if (maps >= HASH_MAX_BITMAPS) throw fail('bad_page', `hash index with ${maps} bitmap pages`)
  page.view.setUint32(META_MAPP + maps * 4, block, true)
  page.view.setUint32(META_NMAPS, maps + 1, true)
}
