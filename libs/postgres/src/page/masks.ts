/**
 * Hides what WAL does not say about a page, so that a redone page can be compared with the primary's: what
 * Postgres itself hides under wal_consistency_checking. Two pages agree if they are equal byte for byte after
 * both were masked.
 *
 * Source: access/common/bufmask.c; heap_mask, btree_mask, hash_mask, gin_mask, gist_mask, spg_mask,
 * brin_mask, seq_mask, generic_mask (16, 17, 18 alike).
 */
import { fail } from '@understory/base'
import {
  LP_NORMAL,
  LP_UNUSED,
  PAGE_SIZE,
  PD_ALL_VISIBLE,
  PD_HAS_FREE_LINES,
  PD_PAGE_FULL,
  PageHeader,
  SizeOfItemIdData,
  SizeOfPageHeaderData,
  isPageNew,
} from './bufpage.ts'
import type { Page } from './bufpage.ts'
import type { PageKind } from './page-kind.ts'

const MASK_MARKER = 0

/**
 * Masks `page` in place, as the resource manager of this kind of page does. A page that was never initialized stays as
 * it is. Errors: `bad_page` if its header or line pointers contradict themselves.
 */
export function maskRelationPage(kind: PageKind, page: Page, blockNumber: number): void {
  if (isPageNew(page)) return
  masks[kind](page.bytes, page.view, blockNumber)
}

type Mask = (page: Uint8Array, view: DataView, blockNumber: number) => void

const masks: Readonly<Record<PageKind, Mask>> = {
  heap: maskHeap,
  btree: maskBtree,
  hash: maskHash,
  gin: maskGin,
  gist: maskGist,
  spgist: maskSpgist,
  brin: maskBrin,
  sequence: maskGeneric,
  generic: maskGeneric,
}

function maskLsnAndChecksum(view: DataView): void {
  view.setBigUint64(PageHeader.lsn.offset, BigInt(MASK_MARKER), true)
  PageHeader.checksum.set(view, 0, MASK_MARKER)
}

function maskHintBits(view: DataView): void {
  PageHeader.pruneXid.set(view, 0, MASK_MARKER)
  const flags = PageHeader.flags.get(view, 0)
  PageHeader.flags.set(view, 0, flags & ~(PD_PAGE_FULL | PD_HAS_FREE_LINES | PD_ALL_VISIBLE))
}

function maskUnusedSpace(page: Uint8Array, view: DataView): void {
  const lower = PageHeader.lower.get(view, 0)
  const upper = PageHeader.upper.get(view, 0)
  const special = PageHeader.special.get(view, 0)
  if (lower > upper || special < upper || lower < SizeOfPageHeaderData || special > PAGE_SIZE) {
    throw fail('bad_page', `invalid page pd_lower ${lower} pd_upper ${upper} pd_special ${special}`)
  }
  page.fill(MASK_MARKER, lower, upper)
}

const itemAt = (offsetNumber: number): number => SizeOfPageHeaderData + (offsetNumber - 1) * SizeOfItemIdData
/** PageGetMaxOffsetNumber; pd_lower is known to be at least the header. */
const itemsCount = (view: DataView): number => (PageHeader.lower.get(view, 0) - SizeOfPageHeaderData) >> 2
// ItemIdData: lp_off 15 bits, lp_flags 2, lp_len 15.
const itemFlags = (item: number): number => (item >>> 15) & 0x03

function maskItemFlags(view: DataView): void {
  for (let n = itemsCount(view); n > 0; n--) {
    const item = view.getUint32(itemAt(n), true)
    view.setUint32(itemAt(n), (item & ~(0x03 << 15)) | (LP_UNUSED << 15), true)
  }
}

function maskContent(page: Uint8Array, view: DataView): void {
  page.fill(MASK_MARKER, SizeOfPageHeaderData)
  PageHeader.lower.set(view, 0, MASK_MARKER)
  PageHeader.upper.set(view, 0, MASK_MARKER)
}

/** Start of the special space, which must hold `size` bytes. */
function specialOf(view: DataView, size: number): number {
  const special = PageHeader.special.get(view, 0)
  if (special < SizeOfPageHeaderData || special + size > PAGE_SIZE)
    throw fail('bad_page', `invalid page pd_special ${special}`)
  return special
}

function clearBits16(view: DataView, at: number, bits: number): void {
  view.setUint16(at, view.getUint16(at, true) & ~bits, true)
}

// HeapTupleHeaderData: t_xmin 0, t_xmax 4, t_cid 8, t_ctid 12 (block high half, low half, offset number),
// t_infomask2 18, t_infomask 20, t_hoff 22.
const HEAP_TUPLE_HEADER_BYTES = 23
const HEAP_XMIN_FROZEN = 0x0300
const HEAP_XMAX_COMMITTED = 0x0400
const HEAP_XMAX_INVALID = 0x0800
const HEAP_XACT_MASK = 0xfff0
const SpecTokenOffsetNumber = 0xfffe

function maskHeap(page: Uint8Array, view: DataView, blockNumber: number): void {
  maskLsnAndChecksum(view)
  maskHintBits(view)
  maskUnusedSpace(page, view)
  const count = itemsCount(view)
  for (let n = 1; n <= count; n++) {
    const item = view.getUint32(itemAt(n), true)
    const at = item & 0x7fff
    const length = item >>> 17
    const paddedEnd = at + ((length + 7) & ~7)
    const isNormal = itemFlags(item) === LP_NORMAL
    if ((length > 0 && paddedEnd > PAGE_SIZE) || (isNormal && length < HEAP_TUPLE_HEADER_BYTES)) {
      throw fail('bad_page', `item ${n} at ${at}+${length} is not within its page`)
    }
    if (isNormal) maskHeapTuple(view, at, blockNumber, n)
    if (length > 0) page.fill(MASK_MARKER, at + length, paddedEnd)
  }
}

function maskHeapTuple(view: DataView, at: number, blockNumber: number, offsetNumber: number): void {
  const infomask = view.getUint16(at + 20, true)
  const isFrozen = (infomask & HEAP_XMIN_FROZEN) === HEAP_XMIN_FROZEN
  // Hint bits; of a frozen tuple only xmax's are.
  clearBits16(view, at + 20, isFrozen ? HEAP_XMAX_INVALID | HEAP_XMAX_COMMITTED : HEAP_XACT_MASK)
  view.setUint32(at + 8, MASK_MARKER, true) // redo sets the first command id
  if (view.getUint16(at + 16, true) === SpecTokenOffsetNumber) {
    // A speculative insertion's token is a per-backend number that redo never sees: it points the tuple to
    // itself.
    view.setUint16(at + 12, blockNumber >>> 16, true)
    view.setUint16(at + 14, blockNumber & 0xffff, true)
    view.setUint16(at + 16, offsetNumber, true)
  }
}

// BTPageOpaqueData: btpo_prev 0, btpo_next 4, btpo_level 8, btpo_flags 12, btpo_cycleid 14.
const BTP_LEAF = 1 << 0
const BTP_SPLIT_END = 1 << 5
const BTP_HAS_GARBAGE = 1 << 6

function maskBtree(page: Uint8Array, view: DataView): void {
  maskLsnAndChecksum(view)
  maskHintBits(view)
  maskUnusedSpace(page, view)
  const special = specialOf(view, 16)
  if ((view.getUint16(special + 12, true) & BTP_LEAF) !== 0) maskItemFlags(view)
  clearBits16(view, special + 12, BTP_HAS_GARBAGE | BTP_SPLIT_END)
  view.setUint16(special + 14, 0, true)
}

// HashPageOpaqueData: hasho_prevblkno 0, hasho_nextblkno 4, hasho_bucket 8, hasho_flag 12, hasho_page_id 14.
const LH_UNUSED_PAGE = 0
const LH_OVERFLOW_PAGE = 1 << 0
const LH_BUCKET_PAGE = 1 << 1
const LH_PAGE_TYPE = 0x0f
const LH_PAGE_HAS_DEAD_TUPLES = 1 << 7

function maskHash(page: Uint8Array, view: DataView): void {
  maskLsnAndChecksum(view)
  maskHintBits(view)
  maskUnusedSpace(page, view)
  const special = specialOf(view, 16)
  const type = view.getUint16(special + 12, true) & LH_PAGE_TYPE
  if (type === LH_UNUSED_PAGE) maskContent(page, view)
  else if (type === LH_BUCKET_PAGE || type === LH_OVERFLOW_PAGE) maskItemFlags(view)
  clearBits16(view, special + 12, LH_PAGE_HAS_DEAD_TUPLES)
}

// GinPageOpaqueData: rightlink 0, maxoff 4, flags 6.
const GIN_DELETED = 1 << 2

function maskGin(page: Uint8Array, view: DataView): void {
  maskLsnAndChecksum(view)
  maskHintBits(view)
  const special = specialOf(view, 8)
  if ((view.getUint16(special + 6, true) & GIN_DELETED) !== 0) maskContent(page, view)
  else if (PageHeader.lower.get(view, 0) > SizeOfPageHeaderData) maskUnusedSpace(page, view)
}

// GISTPageOpaqueData: nsn 0, rightlink 8, flags 12, gist_page_id 14.
const F_LEAF = 1 << 0
const F_TUPLES_DELETED = 1 << 2
const F_FOLLOW_RIGHT = 1 << 3
const F_HAS_GARBAGE = 1 << 4

function maskGist(page: Uint8Array, view: DataView): void {
  maskLsnAndChecksum(view)
  maskHintBits(view)
  maskUnusedSpace(page, view)
  const special = specialOf(view, 16)
  view.setBigUint64(special, BigInt(MASK_MARKER), true)
  const flags = view.getUint16(special + 12, true)
  if ((flags & F_LEAF) !== 0) maskItemFlags(view)
  // The primary sets F_FOLLOW_RIGHT after logging; redo never marks garbage. One more than gist_mask: redo of DELETE
  // sets F_TUPLES_DELETED, the primary (gistprunepage) does not, and nothing reads it (16, 17, 18).
  view.setUint16(special + 12, (flags | F_FOLLOW_RIGHT) & ~(F_HAS_GARBAGE | F_TUPLES_DELETED), true)
}

const SPGIST_META = 1 << 0
/** SpGistMetaPageData: u32 magicNumber, then the list of last used pages. */
const SPGIST_LAST_USED_AT = SizeOfPageHeaderData + 4
const SPGIST_META_END = SPGIST_LAST_USED_AT + 64

function maskSpgist(page: Uint8Array, view: DataView): void {
  maskLsnAndChecksum(view)
  maskHintBits(view)
  if (PageHeader.lower.get(view, 0) >= SizeOfPageHeaderData) maskUnusedSpace(page, view)
  // One more than spg_mask: where there was room last is a hint that SpGistUpdateMetaPage never logs (16, 17, 18).
  if ((view.getUint16(specialOf(view, 8), true) & SPGIST_META) !== 0) {
    page.fill(MASK_MARKER, SPGIST_LAST_USED_AT, SPGIST_META_END)
  }
}

// BrinSpecialSpace: four 16-bit words, of which the third is the flags and the last the page type.
const BRIN_PAGETYPE_META = 0xf091
const BRIN_PAGETYPE_REGULAR = 0xf093
const BRIN_EVACUATE_PAGE = 1 << 0

function maskBrin(page: Uint8Array, view: DataView): void {
  maskLsnAndChecksum(view)
  maskHintBits(view)
  const special = specialOf(view, 8)
  const type = view.getUint16(special + 6, true)
  const isMaskable =
    type === BRIN_PAGETYPE_REGULAR ||
    (type === BRIN_PAGETYPE_META && PageHeader.lower.get(view, 0) > SizeOfPageHeaderData)
  if (isMaskable) maskUnusedSpace(page, view)
  clearBits16(view, special + 4, BRIN_EVACUATE_PAGE)
}

function maskGeneric(page: Uint8Array, view: DataView): void {
  maskLsnAndChecksum(view)
  maskUnusedSpace(page, view)
}
