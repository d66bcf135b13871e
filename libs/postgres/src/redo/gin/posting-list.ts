/**
 * Compressed posting lists: a segment is its first TID, a byte count and the differences between neighbours, each as
 * 7 bits a byte, low bits first. On a data leaf page segments lie one behind the other, padded to 2 bytes.
 *
 *   ItemPointer first (6) | u16 nbytes | varbytes ... | [0]
 *
 * A TID counts as block * 2^11 + offset number, so it and every difference is below 2^43.
 *
 * Source: access/gin/ginpostinglist.c, access/ginblock.h (16, 17, 18 alike).
 */
import { fail } from '@understory/base'
import { PAGE_SIZE } from '../../page/bufpage.ts'

export const POSTING_LIST_HEADER_BYTES = 8
export const ItemPointerBytes = 6
/** 2^MaxHeapTuplesPerPageBits */
const OFFSETS_PER_BLOCK = 2048

/** More TIDs than any page or segment holds, for work space. */
export const TIDS_COUNT_MAX = PAGE_SIZE

/** itemptr_to_uint64. */
export const readTid = (view: DataView, at: number): number =>
  (view.getUint16(at, true) * 0x1_0000 + view.getUint16(at + 2, true)) * OFFSETS_PER_BLOCK +
  view.getUint16(at + 4, true)

function writeTid(view: DataView, at: number, tid: number): void {
  const block = Math.floor(tid / OFFSETS_PER_BLOCK)
  view.setUint16(at, Math.floor(block / 0x1_0000), true)
  view.setUint16(at + 2, block % 0x1_0000, true)
  view.setUint16(at + 4, tid % OFFSETS_PER_BLOCK, true)
}

/** SizeOfGinPostingList; `bad_page` if the segment does not end by `end`. */
export function segmentBytes(view: DataView, at: number, end: number): number {
  const size =
    at + POSTING_LIST_HEADER_BYTES <= end
      ? POSTING_LIST_HEADER_BYTES + ((view.getUint16(at + 6, true) + 1) & ~1)
      : Infinity
  if (at + size > end) throw fail('bad_page', `a posting list at byte ${at} goes beyond byte ${end}`)
  return size
}

/** ginPostingListDecode of one segment. Returns how many TIDs there are. */
export function decodeSegment(bytes: Uint8Array, view: DataView, at: number, tids: Float64Array): number {
  let tid = readTid(view, at)
  let count = 0
  tids[count++] = tid
  const end = at + POSTING_LIST_HEADER_BYTES + view.getUint16(at + 6, true)
  for (let next = at + POSTING_LIST_HEADER_BYTES; next < end;) {
    let delta = 0
    let factor = 1
    for (;;) {
      if (next >= end) throw fail('bad_page', 'a posting list ends within a number')
      const byte = bytes[next++] as number
      delta += (byte & 0x7f) * factor
      if (byte < 0x80) break
      factor *= 128
    }
    tid += delta
    tids[count++] = tid
  }
  return count
}

/** ginMergeItemPointers of two rising lists. A TID that both have counts once. Returns how many there are. */
export function mergeTids(
  a: Float64Array,
  aCount: number,
  b: Float64Array,
  bCount: number,
  merged: Float64Array,
): number {
  let i = 0
  let j = 0
  let count = 0
  while (i < aCount && j < bCount) {
    const left = a[i] as number
    const right = b[j] as number
    merged[count++] = left < right ? left : right
    if (left <= right) i++
    if (right <= left) j++
  }
  while (i < aCount) merged[count++] = a[i++] as number
  while (j < bCount) merged[count++] = b[j++] as number
  return count
}

/** ginCompressPostingList of all `count` TIDs into one segment at the start of `bytes`. Returns its size. */
export function encodeSegment(tids: Float64Array, count: number, bytes: Uint8Array, view: DataView): number {
  writeTid(view, 0, tids[0] as number)
  let at = POSTING_LIST_HEADER_BYTES
  for (let i = 1; i < count; i++) {
    let delta = (tids[i] as number) - (tids[i - 1] as number)
    while (delta > 0x7f) {
      bytes[at++] = 0x80 | (delta % 128)
      delta = Math.floor(delta / 128)
    }
    bytes[at++] = delta
  }
  if (at > PAGE_SIZE) throw fail('bad_page', `${count} TIDs do not fit into one segment`)
  view.setUint16(6, at - POSTING_LIST_HEADER_BYTES, true)
  if ((at & 1) !== 0) bytes[at++] = 0
  return at
}
