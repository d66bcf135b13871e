/**
 * The records of the heap2 resource manager (9). Block 0 is the heap block, but for VISIBLE, where block 0 is the map
 * block and block 1 the heap block; block 1 of MULTI_INSERT and LOCK_UPDATED: see `heap/visibility.ts`.
 *
 * Source: access/heapam_xlog.h of 16, 17 and 18. 17 merged the prune, vacuum and freeze records of 16 into one, which
 * has three operation codes for what caused it.
 */
import { struct, u8, u16, u32 } from '@understory/base'

export const XLOG_HEAP2_REWRITE = 0x00
export const XLOG_HEAP2_PRUNE_ON_ACCESS = 0x10 // 17, 18
export const XLOG_HEAP2_PRUNE_VACUUM_SCAN = 0x20 // 17, 18
export const XLOG_HEAP2_PRUNE_VACUUM_CLEANUP = 0x30 // 17, 18
export const XLOG_HEAP2_PRUNE = 0x10 // 16
export const XLOG_HEAP2_VACUUM = 0x20 // 16
export const XLOG_HEAP2_FREEZE_PAGE = 0x30 // 16
export const XLOG_HEAP2_VISIBLE = 0x40
export const XLOG_HEAP2_MULTI_INSERT = 0x50
export const XLOG_HEAP2_LOCK_UPDATED = 0x60
export const XLOG_HEAP2_NEW_CID = 0x70

/** 16's xl_heap_prune. Block 0 data: uint16 offset numbers, 2 * nredirected, then ndead, the rest now unused. */
export const xl_heap_prune_16 = struct(9, {
  snapshotConflictHorizon: u32,
  nredirected: u16,
  ndead: u16,
  isCatalogRel: u8,
})

/** 16's xl_heap_vacuum. Block 0 data: uint16 offset numbers of dead line pointers that become unused. */
export const xl_heap_vacuum_16 = struct(2, {
  nunused: u16,
})

/** 16's xl_heap_freeze_page. Block 0 data: nplans * `xl_heap_freeze_plan`, then the plans' uint16 offset numbers. */
export const xl_heap_freeze_page_16 = struct(7, {
  snapshotConflictHorizon: u32,
  nplans: u16,
  isCatalogRel: u8,
})

/** xl_heap_freeze_plan (16), xlhp_freeze_plan (17, 18): how to freeze `ntuples` tuples. */
export const xl_heap_freeze_plan = struct(12, {
  xmax: u32,
  infomask2: u16, // t_infomask2
  infomask: u16, // t_infomask
  frzflags: u8,
  pad: u8,
  ntuples: u16,
})
export const XLH_FREEZE_XVAC = 0x02
export const XLH_INVALID_XVAC = 0x04

/**
 * xl_heap_prune of 17 and 18; a transaction id, unaligned, follows if XLHP_HAS_CONFLICT_HORIZON. Block 0 data, each
 * part only if its flag is set: plans (uint16 nplans, 2 bytes of padding, nplans * `xl_heap_freeze_plan`),
 * redirections (uint16 n, 2n offset numbers), dead and now unused items (uint16 n, n offset numbers each), and last
 * the offset numbers that the plans freeze.
 */
export const xl_heap_prune = struct(2, {
  reason: u8,
  flags: u8,
})
export const XLHP_CLEANUP_LOCK = 1 << 2
export const XLHP_HAS_FREEZE_PLANS = 1 << 4
export const XLHP_HAS_REDIRECTIONS = 1 << 5
export const XLHP_HAS_DEAD_ITEMS = 1 << 6
export const XLHP_HAS_NOW_UNUSED_ITEMS = 1 << 7

/** `flags`: VISIBILITYMAP_ALL_VISIBLE and _ALL_FROZEN; bit 2 says that it is a catalog, for standbys. */
export const xl_heap_visible = struct(5, {
  snapshotConflictHorizon: u32,
  flags: u8,
})

/** `ntuples` uint16 offset numbers follow, unless the page is initialized: then they are 1, 2, 3, … */
export const xl_heap_multi_insert = struct(4, {
  flags: u8,
  pad: u8,
  ntuples: u16,
})

/** In block 0 data, at even offsets, each followed by `datalen` bytes: null bitmap, padding, data. */
export const xl_multi_insert_tuple = struct(7, {
  datalen: u16,
  infomask2: u16, // t_infomask2
  infomask: u16, // t_infomask
  hoff: u8, // t_hoff
})
