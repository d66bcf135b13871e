/**
 * The records of the hash resource manager (12). Main data unless said otherwise; block references are:
 *   INIT_META_PAGE      0 metapage, initialized
 *   INIT_BITMAP_PAGE    0 bitmap page, initialized   1 metapage
 *   INSERT              0 the page, data = the tuple   1 metapage
 *   ADD_OVFL_PAGE       0 the overflow page, initialized, data = u32 bucket   1 the page before it
 *                       2 bitmap page, data = u32 bit   3 new bitmap page, initialized
 *                       4 metapage, data = u32 firstfree
 *   SPLIT_ALLOCATE_PAGE 0 old bucket   1 new bucket, initialized
 *                       2 metapage, data = [u32 lowmask, u32 highmask] [u32 ovflpoint, u32 ovflpages]
 *   SPLIT_PAGE          0 the page, always as an image
 *   SPLIT_COMPLETE      0 old bucket   1 new bucket
 *   MOVE_PAGE_CONTENTS  0 primary bucket page (only locked)   1 data = u16 offsets[ntups], tuples
 *                       2 data = u16 offsets to delete
 *   SQUEEZE_PAGE        0 and 1 as above   2 the freed page   3 page before it   4 page after it
 *                       5 bitmap page, data = u32 bit   6 metapage, data = u32 firstfree
 *   DELETE              0 primary bucket page (only locked)   1 the page, data = u16 offsets to delete
 *   SPLIT_CLEANUP       0 primary bucket page
 *   UPDATE_META_PAGE    0 metapage
 *   VACUUM_ONE_PAGE     0 the page   1 metapage
 *
 * Source: access/hash_xlog.h (16, 17, 18 alike).
 */
import { bytes, struct, u16, u32, u8 } from '@understory/base'

export const XLOG_HASH_INIT_META_PAGE = 0x00
export const XLOG_HASH_INIT_BITMAP_PAGE = 0x10
export const XLOG_HASH_INSERT = 0x20
export const XLOG_HASH_ADD_OVFL_PAGE = 0x30
export const XLOG_HASH_SPLIT_ALLOCATE_PAGE = 0x40
export const XLOG_HASH_SPLIT_PAGE = 0x50
export const XLOG_HASH_SPLIT_COMPLETE = 0x60
export const XLOG_HASH_MOVE_PAGE_CONTENTS = 0x70
export const XLOG_HASH_SQUEEZE_PAGE = 0x80
export const XLOG_HASH_DELETE = 0x90
export const XLOG_HASH_SPLIT_CLEANUP = 0xa0
export const XLOG_HASH_UPDATE_META_PAGE = 0xb0
export const XLOG_HASH_VACUUM_ONE_PAGE = 0xc0

export const XLH_SPLIT_META_UPDATE_MASKS = 1 << 0
export const XLH_SPLIT_META_UPDATE_SPLITPOINT = 1 << 1

export const xl_hash_insert = struct(2, {
  offnum: u16,
})

export const xl_hash_add_ovfl_page = struct(3, {
  bmsize: u16,
  bmpageFound: u8, // bmpage_found
})

export const xl_hash_split_allocate_page = struct(9, {
  newBucket: u32,
  oldBucketFlag: u16,
  newBucketFlag: u16,
  flags: u8,
})

export const xl_hash_split_complete = struct(4, {
  oldBucketFlag: u16,
  newBucketFlag: u16,
})

export const xl_hash_move_page_contents = struct(3, {
  ntups: u16,
  isPrimBucketSameWrt: u8,
})

export const xl_hash_squeeze_page = struct(12, {
  prevblkno: u32,
  nextblkno: u32,
  ntups: u16,
  isPrimBucketSameWrt: u8,
  isPrevBucketSameWrt: u8,
})

export const xl_hash_delete = struct(2, {
  clearDeadMarking: u8,
  isPrimaryBucketPage: u8,
})

export const xl_hash_update_meta_page = struct(8, {
  ntuples: bytes(8), // double
})

export const xl_hash_init_meta_page = struct(14, {
  numTuples: bytes(8), // double
  procid: u32,
  ffactor: u16,
})

export const xl_hash_init_bitmap_page = struct(2, {
  bmsize: u16,
})

/** u16 offsets[ntuples] follow. */
export const xl_hash_vacuum_one_page = struct(8, {
  snapshotConflictHorizon: u32,
  ntuples: u16,
  isCatalogRel: u8,
  pad1: u8,
})
