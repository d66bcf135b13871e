/**
 * The records of the BRIN resource manager (17). Main data unless said otherwise; block references are:
 *   CREATE_INDEX     0 metapage, initialized
 *   INSERT, UPDATE   0 the page of the new tuple, initialized with XLOG_BRIN_INIT_PAGE, data = the tuple
 *                    1 revmap page   2 UPDATE: the page of the old tuple
 *   SAMEPAGE_UPDATE  0 the page, data = the new tuple
 *   REVMAP_EXTEND    0 metapage   1 the new revmap page, initialized
 *   DESUMMARIZE      0 revmap page   1 the page of the tuple
 *
 * Source: access/brin_xlog.h (16, 17, 18 alike).
 */
import { bytes, struct, u16, u32 } from '@understory/base'

export const XLOG_BRIN_CREATE_INDEX = 0x00
export const XLOG_BRIN_INSERT = 0x10
export const XLOG_BRIN_UPDATE = 0x20
export const XLOG_BRIN_SAMEPAGE_UPDATE = 0x30
export const XLOG_BRIN_REVMAP_EXTEND = 0x40
export const XLOG_BRIN_DESUMMARIZE = 0x50
export const XLOG_BRIN_OPMASK = 0x70
export const XLOG_BRIN_INIT_PAGE = 0x80

export const xl_brin_createidx = struct(6, {
  pagesPerRange: u32,
  version: u16,
})

export const xl_brin_insert = struct(10, {
  heapBlk: u32,
  pagesPerRange: u32,
  offnum: u16,
})

/** An `xl_brin_insert` follows. */
export const xl_brin_update = struct(4, {
  oldOffnum: u16,
  pad2: bytes(2),
})

export const xl_brin_samepage_update = struct(2, {
  offnum: u16,
})

export const xl_brin_revmap_extend = struct(4, {
  targetBlk: u32,
})

export const xl_brin_desummarize = struct(10, {
  pagesPerRange: u32,
  heapBlk: u32,
  regOffset: u16,
})
