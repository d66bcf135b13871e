/**
 * Index tuples on btree pages: 6 bytes t_tid (block number high and low half, offset number), 2 bytes t_info, key.
 *
 * A posting list tuple keeps in t_tid where its list of heap TIDs starts and how many they are:
 *   t_tid | t_info with INDEX_ALT_TID_MASK | key | TID x n | padding to 8 bytes
 *
 * Source: access/itup.h, access/nbtree.h, access/nbtree/nbtdedup.c (16, 17, 18 alike).
 */
import { fail } from '@understory/base'
import { PAGE_SIZE, getItemId, itemIdLength, itemIdOffset, maxOffsetNumber } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'

export const SizeOfIndexTupleData = 8
const INDEX_SIZE_MASK = 0x1fff
export const INDEX_ALT_TID_MASK = 0x2000
const BT_OFFSET_MASK = 0x0fff
const BT_IS_POSTING = 0x2000
export const ItemPointerBytes = 6

/** IndexTupleSize. */
export const indexTupleSize = (view: DataView, at: number): number =>
  view.getUint16(at + 6, true) & INDEX_SIZE_MASK

/** IndexTupleSize, `bad_wal` if the tuple does not fit between `at` and `end`. */
export function checkedIndexTupleSize(view: DataView, at: number, end: number): number {
  const size = at + SizeOfIndexTupleData <= end ? indexTupleSize(view, at) : 0
  if (size < SizeOfIndexTupleData || at + size > end) {
    throw fail('bad_wal', `an index tuple of ${size} bytes does not fit into the ${end - at} that are left`)
  }
  return size
}

/** The block number half of t_tid: heap block, downlink, top parent or where a posting list starts. */
export const tidBlock = (view: DataView, at: number): number =>
  ((view.getUint16(at, true) << 16) | view.getUint16(at + 2, true)) >>> 0
export function setTidBlock(view: DataView, at: number, block: number): void {
  view.setUint16(at, block >>> 16, true)
  view.setUint16(at + 2, block & 0xffff, true)
}

/** BTreeTupleIsPosting. */
export const isPosting = (view: DataView, at: number): boolean =>
  (view.getUint16(at + 6, true) & INDEX_ALT_TID_MASK) !== 0 &&
  (view.getUint16(at + 4, true) & BT_IS_POSTING) !== 0
/** BTreeTupleGetNPosting. */
const postingCount = (view: DataView, at: number): number => view.getUint16(at + 4, true) & BT_OFFSET_MASK

/**
 * Where the tuple of this offset number starts on the page; `bad_page` if there is none. A dead item (a hint
 * that came with a page image) still has its tuple.
 */
export function btreeTupleAt(page: Page, offsetNumber: number): number {
  const itemId =
    offsetNumber >= 1 && offsetNumber <= maxOffsetNumber(page) ? getItemId(page, offsetNumber) : 0
  const at = itemIdOffset(itemId)
  const size =
    itemIdLength(itemId) < SizeOfIndexTupleData || at + 8 > PAGE_SIZE ? 0 : indexTupleSize(page.view, at)
  if (size < SizeOfIndexTupleData || at + size > PAGE_SIZE) {
    throw fail('bad_page', `item ${offsetNumber} is not an index tuple`)
  }
  return at
}

/** First TID of a tuple that is or is not a posting list; `bad_page` if the list leaves the tuple. */
export function tidsOffset(view: DataView, at: number): number {
  if (!isPosting(view, at)) return at
  const offset = tidBlock(view, at)
  if (
    offset < SizeOfIndexTupleData ||
    offset + postingCount(view, at) * ItemPointerBytes > indexTupleSize(view, at)
  ) {
    throw fail('bad_page', `posting list of ${postingCount(view, at)} starts at byte ${offset} of its tuple`)
  }
  return at + offset
}
export const tidsCount = (view: DataView, at: number): number =>
  isPosting(view, at) ? postingCount(view, at) : 1
/** How long the tuple is without its posting list. */
export const keySize = (view: DataView, at: number): number =>
  isPosting(view, at) ? tidBlock(view, at) : indexTupleSize(view, at)

/**
 * Makes the head of a tuple that was copied to `at` say that it holds `count` TIDs behind `keyBytes` bytes of key and
 * is `size` bytes long. With one TID the caller then copies it to `at` (_bt_form_posting).
 */
export function setTupleHead(
  view: DataView,
  at: number,
  size: number,
  keyBytes: number,
  count: number,
): void {
  const info = view.getUint16(at + 6, true) & ~(INDEX_SIZE_MASK | INDEX_ALT_TID_MASK)
  if (count > 1) {
    view.setUint16(at + 6, info | size | INDEX_ALT_TID_MASK, true)
    view.setUint16(at + 4, count | BT_IS_POSTING, true)
    setTidBlock(view, at, keyBytes)
  } else {
    view.setUint16(at + 6, info | size, true)
  }
}

/**
 * _bt_swap_posting, in place: the TID of the new tuple enters the posting list at `postingoff`, whose last TID becomes
 * the new tuple's. `newTuple` is the caller's copy.
 */
export function swapPosting(page: Page, postingAt: number, postingoff: number, newTuple: Uint8Array): void {
  const { bytes, view } = page
  const count = isPosting(view, postingAt) ? postingCount(view, postingAt) : 0
  if (postingoff <= 0 || postingoff >= count) {
    throw fail('bad_page', `posting list tuple with ${count} items cannot be split at offset ${postingoff}`)
  }
  const tids = tidsOffset(view, postingAt)
  const at = tids + postingoff * ItemPointerBytes
  const last = tids + (count - 1) * ItemPointerBytes
  for (let i = 0; i < ItemPointerBytes; i++) lastTid[i] = bytes[last + i] as number
  bytes.copyWithin(at + ItemPointerBytes, at, last)
  for (let i = 0; i < ItemPointerBytes; i++) {
    bytes[at + i] = newTuple[i] as number
    newTuple[i] = lastTid[i] as number
  }
}
const lastTid = new Uint8Array(ItemPointerBytes)
