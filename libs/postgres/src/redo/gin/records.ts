/**
 * The records of the GIN resource manager (13). Main data unless said otherwise; block references are:
 *   CREATE_PTREE   0 root of a posting tree, initialized; a compressed posting list follows the main struct
 *   INSERT         0 the page, data = ginxlogInsertEntry, ginxlogInsertDataInternal or ginxlogRecompressDataLeaf
 *                  1 left child whose split this ends; not leaf: the main data continues with two BlockIdData, the
 *                  left and the right child
 *   SPLIT          0 left, 1 right, 2 root page, always as images   3 left child whose split this ends
 *   VACUUM_PAGE    0 the page, always as an image
 *   VACUUM_DATA_LEAF_PAGE   0 the page, data = ginxlogRecompressDataLeaf
 *   DELETE_PAGE    0 the page   1 its parent   2 its left sibling
 *   UPDATE_META_PAGE   0 metapage, initialized   1 tail of the pending list, data = tuples if ntuples > 0
 *   INSERT_LISTPAGE    0 a page of the pending list, initialized, data = tuples
 *   DELETE_LISTPAGE    0 metapage, initialized   1 to ndeleted: the pages, initialized
 *
 * ginxlogRecompressDataLeaf: u16 nactions, then for each u8 segno, u8 type, and by type: INSERT and REPLACE a
 * GinPostingList padded to 2 bytes; ADDITEMS u16 count and that many ItemPointers; DELETE nothing.
 *
 * Source: access/ginxlog.h (16, 17, 18 alike).
 */
import { bytes, i32, struct, u16, u32, u8 } from '@understory/base'

export const XLOG_GIN_CREATE_PTREE = 0x10
export const XLOG_GIN_INSERT = 0x20
export const XLOG_GIN_SPLIT = 0x30
export const XLOG_GIN_VACUUM_PAGE = 0x40
export const XLOG_GIN_DELETE_PAGE = 0x50
export const XLOG_GIN_UPDATE_META_PAGE = 0x60
export const XLOG_GIN_INSERT_LISTPAGE = 0x70
export const XLOG_GIN_DELETE_LISTPAGE = 0x80
export const XLOG_GIN_VACUUM_DATA_LEAF_PAGE = 0x90

export const GIN_INSERT_ISDATA = 0x01
export const GIN_INSERT_ISLEAF = 0x02

export const GIN_SEGMENT_DELETE = 1
export const GIN_SEGMENT_INSERT = 2
export const GIN_SEGMENT_REPLACE = 3
export const GIN_SEGMENT_ADDITEMS = 4

export const ginxlogCreatePostingTree = struct(4, {
  size: u32,
})

export const ginxlogInsert = struct(2, {
  flags: u16,
})

/** In block data; the tuple follows. */
export const ginxlogInsertEntry = struct(4, {
  offset: u16,
  isDelete: u8,
  pad1: u8,
})

/** In block data. */
export const ginxlogInsertDataInternal = struct(12, {
  offset: u16,
  newitem: bytes(10), // PostingItem
})

export const ginxlogDeletePage = struct(12, {
  parentOffset: u16,
  pad2: bytes(2),
  rightLink: u32,
  deleteXid: u32,
})

/** sizeof(GinMetaPageData), which is copied as it is. */
export const GIN_META_BYTES = 56

export const ginxlogUpdateMeta = struct(88, {
  locator: bytes(12),
  pad4: bytes(4),
  metadata: bytes(GIN_META_BYTES),
  prevTail: u32,
  newRightlink: u32,
  ntuples: i32,
  padEnd4: bytes(4),
})

export const ginxlogInsertListPage = struct(8, {
  rightlink: u32,
  ntuples: i32,
})

export const ginxlogDeleteListPages = struct(64, {
  metadata: bytes(GIN_META_BYTES),
  ndeleted: i32,
  pad4: bytes(4),
})
