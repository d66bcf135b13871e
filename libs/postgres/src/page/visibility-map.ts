/**
 * Where a heap block's two bits are in the visibility map. Source: access/visibilitymapdefs.h,
 * heap/visibilitymap.c (16, 17, 18).
 */
import { PAGE_SIZE, SizeOfPageHeaderData } from './bufpage.ts'

export const VISIBILITYMAP_ALL_FROZEN = 0x02
export const VISIBILITYMAP_VALID_BITS = 0x03

const BITS_PER_HEAPBLOCK = 2
const HEAPBLOCKS_PER_BYTE = 4
/** Heap blocks that one map page covers: 32,672. */
export const HEAPBLOCKS_PER_VM_PAGE = (PAGE_SIZE - SizeOfPageHeaderData) * HEAPBLOCKS_PER_BYTE

/** The map's block: HEAPBLK_TO_MAPBLOCK. */
export const vmBlockOf = (heapBlock: number): number => Math.floor(heapBlock / HEAPBLOCKS_PER_VM_PAGE)
/** Offset of the byte within the map page, header included: HEAPBLK_TO_MAPBYTE + 24. */
export const vmByteOf = (heapBlock: number): number =>
  SizeOfPageHeaderData + Math.floor((heapBlock % HEAPBLOCKS_PER_VM_PAGE) / HEAPBLOCKS_PER_BYTE)
/** Shift within that byte: HEAPBLK_TO_OFFSET. */
export const vmShiftOf = (heapBlock: number): number => (heapBlock % HEAPBLOCKS_PER_BYTE) * BITS_PER_HEAPBLOCK
/** The VISIBILITYMAP_* bits of a heap block in its map page. */
export const vmBits = (mapPage: Uint8Array, heapBlock: number): number =>
  ((mapPage[vmByteOf(heapBlock)] as number) >>> vmShiftOf(heapBlock)) & VISIBILITYMAP_VALID_BITS
