/**
 * The records of the btree resource manager (11). Main data unless said otherwise; block references are:
 *   INSERT_*    0 the page, data = the new tuple (INSERT_POST: posting offset u16 first)
 *               1 child whose split it finishes (not leaf)   2 metapage, data = xl_btree_metadata (INSERT_META)
 *   SPLIT_*     0 left half, data = [new tuple] + high key   1 right half, initialized, data = its tuples
 *               2 old right sibling, if any                  3 child whose split it finishes (not leaf)
 *   DEDUP       0 the page, data = BTDedupInterval[nintervals]
 *   VACUUM, DELETE   0 the page, data = u16 deleted[ndeleted], u16 updated[nupdated], xl_btree_update[nupdated]
 *   MARK_PAGE_HALFDEAD   0 the leaf, initialized   1 the parent
 *   UNLINK_PAGE*   0 the page, initialized   1 left sibling, if any   2 right sibling
 *               3 the leaf of the subtree, initialized, if another    4 metapage, data = xl_btree_metadata (_META)
 *   NEWROOT     0 the root, initialized, data = its tuples   1 left child, if a split made it   2 metapage as above
 *   META_CLEANUP   0 metapage as above
 *   REUSE_PAGE  none: it only matters to queries on a hot standby
 *
 * Source: access/nbtxlog.h and access/nbtree.h. 16, 17 and 18 write the same; see `redo.ts` for what redo differs in.
 */
import { bytes, struct, u16, u32, u8 } from '@understory/base'

export const XLOG_BTREE_INSERT_LEAF = 0x00
export const XLOG_BTREE_INSERT_UPPER = 0x10
export const XLOG_BTREE_INSERT_META = 0x20
export const XLOG_BTREE_SPLIT_L = 0x30
export const XLOG_BTREE_SPLIT_R = 0x40
export const XLOG_BTREE_INSERT_POST = 0x50
export const XLOG_BTREE_DEDUP = 0x60
export const XLOG_BTREE_DELETE = 0x70
export const XLOG_BTREE_UNLINK_PAGE = 0x80
export const XLOG_BTREE_UNLINK_PAGE_META = 0x90
export const XLOG_BTREE_NEWROOT = 0xa0
export const XLOG_BTREE_MARK_PAGE_HALFDEAD = 0xb0
export const XLOG_BTREE_VACUUM = 0xc0
export const XLOG_BTREE_REUSE_PAGE = 0xd0
export const XLOG_BTREE_META_CLEANUP = 0xe0

export const xl_btree_metadata = struct(28, {
  version: u32,
  root: u32,
  level: u32,
  fastroot: u32,
  fastlevel: u32,
  lastCleanupNumDelpages: u32, // last_cleanup_num_delpages
  allequalimage: u8,
  pad3: bytes(3),
})

export const xl_btree_insert = struct(2, {
  offnum: u16,
})

export const xl_btree_split = struct(10, {
  level: u32,
  /** First item of the old page that goes right, new item not counted. */
  firstrightoff: u16,
  newitemoff: u16,
  /** Not 0: the item before the new one is a posting list to be split at this place. */
  postingoff: u16,
})

export const xl_btree_dedup = struct(2, {
  nintervals: u16,
})

/** In block data of DEDUP. */
export const BTDedupInterval = struct(4, {
  baseoff: u16,
  nitems: u16,
})

export const xl_btree_vacuum = struct(4, {
  ndeleted: u16,
  nupdated: u16,
})

export const xl_btree_delete = struct(9, {
  snapshotConflictHorizon: u32,
  ndeleted: u16,
  nupdated: u16,
  isCatalogRel: u8,
})

export const xl_btree_mark_page_halfdead = struct(20, {
  poffset: u16,
  pad2: bytes(2),
  leafblk: u32,
  leftblk: u32,
  rightblk: u32,
  topparent: u32,
})

export const xl_btree_unlink_page = struct(36, {
  leftsib: u32,
  rightsib: u32,
  level: u32,
  pad4: bytes(4),
  safexidLow: u32, // safexid, a FullTransactionId
  safexidHigh: u32,
  leafleftsib: u32,
  leafrightsib: u32,
  leaftopparent: u32,
})

export const xl_btree_newroot = struct(8, {
  rootblk: u32,
  level: u32,
})
