/**
 * RM_MULTIXACT_ID: sets of transactions that hold a tuple together. No record registers a block. A zero-page record is
 * a page number: an int in 16, an int64 from 17 on.
 *
 * Source: access/multixact.h (16, 17, 18 alike but for the page number).
 */
import { i32, struct, u32 } from '@understory/base'

export const XLOG_MULTIXACT_ZERO_OFF_PAGE = 0x00
export const XLOG_MULTIXACT_ZERO_MEM_PAGE = 0x10
export const XLOG_MULTIXACT_CREATE_ID = 0x20
export const XLOG_MULTIXACT_TRUNCATE_ID = 0x30

/** MultiXactMember[nmembers] follow. */
export const xl_multixact_create = struct(12, {
  mid: u32,
  moff: u32,
  nmembers: i32,
})

export const MultiXactMember = struct(8, {
  xid: u32,
  status: u32,
})

export const xl_multixact_truncate = struct(20, {
  oldestMultiDB: u32,
  startTruncOff: u32,
  endTruncOff: u32,
  startTruncMemb: u32,
  endTruncMemb: u32,
})
