/**
 * RM_CLOG_ID: pages of pg_xact appear and go. No record registers a block.
 *
 * Source: access/clog.h. The page number is 32-bit in 16, 64-bit from 17 on; both records begin with it.
 */
import { struct, u32 } from '@understory/base'

export const CLOG_ZEROPAGE = 0x00
export const CLOG_TRUNCATE = 0x10

/** xl_clog_truncate behind its page number. */
export const xl_clog_truncate_tail = struct(8, {
  oldestXact: u32,
  oldestXactDb: u32,
})
