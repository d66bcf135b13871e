/**
 * The records of the heap resource manager (10). Main data unless said otherwise; block references are:
 *   0 the heap block of the (new) tuple   1 UPDATE: the old tuple's block, if another   VM: see `visibility.ts`
 *
 * Source: access/heapam_xlog.h. 16, 17 and 18 alike but for xl_heap_inplace, which 18 extends by invalidation
 * messages after `offnum`; redo of pages needs only `offnum`.
 */
import { struct, u8, u16, u32 } from '@understory/base'

export const XLOG_HEAP_INSERT = 0x00
export const XLOG_HEAP_DELETE = 0x10
export const XLOG_HEAP_UPDATE = 0x20
export const XLOG_HEAP_TRUNCATE = 0x30
export const XLOG_HEAP_HOT_UPDATE = 0x40
export const XLOG_HEAP_CONFIRM = 0x50
export const XLOG_HEAP_LOCK = 0x60
export const XLOG_HEAP_INPLACE = 0x70
export const XLOG_HEAP_OPMASK = 0x70
/** The page holds nothing but what this record adds: it is initialized. */
export const XLOG_HEAP_INIT_PAGE = 0x80

export const XLH_INSERT_ALL_VISIBLE_CLEARED = 1 << 0
export const XLH_INSERT_ALL_FROZEN_SET = 1 << 5

export const XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED = 1 << 0
export const XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED = 1 << 1
export const XLH_UPDATE_PREFIX_FROM_OLD = 1 << 5
export const XLH_UPDATE_SUFFIX_FROM_OLD = 1 << 6

export const XLH_DELETE_ALL_VISIBLE_CLEARED = 1 << 0
export const XLH_DELETE_IS_SUPER = 1 << 3
export const XLH_DELETE_IS_PARTITION_MOVE = 1 << 4

export const XLH_LOCK_ALL_FROZEN_CLEARED = 1 << 0

// infobits_set
export const XLHL_XMAX_IS_MULTI = 0x01
export const XLHL_XMAX_LOCK_ONLY = 0x02
export const XLHL_XMAX_EXCL_LOCK = 0x04
export const XLHL_XMAX_KEYSHR_LOCK = 0x08
export const XLHL_KEYS_UPDATED = 0x10

/** The tuple's header and data follow in block 0: `xl_heap_header`, then everything after the fixed tuple header. */
export const xl_heap_insert = struct(3, {
  offnum: u16,
  flags: u8,
})

/** The fields of a tuple header that cannot be derived from the rest of the record. Unaligned in block data. */
export const xl_heap_header = struct(5, {
  infomask2: u16, // t_infomask2
  infomask: u16, // t_infomask
  hoff: u8, // t_hoff
})

export const xl_heap_delete = struct(8, {
  xmax: u32,
  offnum: u16,
  infobitsSet: u8, // infobits_set
  flags: u8,
})

/**
 * Block 0 data: uint16 prefix length if XLH_UPDATE_PREFIX_FROM_OLD, uint16 suffix length if
 * XLH_UPDATE_SUFFIX_FROM_OLD, `xl_heap_header`, null bitmap and padding, and the data between prefix and suffix.
 */
export const xl_heap_update = struct(14, {
  oldXmax: u32, // old_xmax
  oldOffnum: u16, // old_offnum
  oldInfobitsSet: u8, // old_infobits_set
  flags: u8,
  newXmax: u32, // new_xmax
  newOffnum: u16, // new_offnum
})

/** xl_heap_lock and, in heap2, xl_heap_lock_updated. `xmax` may be a multixact. */
export const xl_heap_lock = struct(8, {
  xmax: u32,
  offnum: u16,
  infobitsSet: u8, // infobits_set
  flags: u8,
})

export const xl_heap_confirm = struct(2, {
  offnum: u16,
})

/** Block 0 data: the tuple's new data, exactly as long as the old. */
export const xl_heap_inplace = struct(2, {
  offnum: u16,
})
