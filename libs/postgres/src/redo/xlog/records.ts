/**
 * RM_XLOG_ID: checkpoints, counters, settings and full page images. Only FPI and FPI_FOR_HINT register blocks: any
 * number of them, each nothing but its image. The operation codes are in `wal/constants.ts`, the CheckPoint struct in
 * `cluster`.
 *
 * Source: catalog/pg_control.h, access/xlog_internal.h (17.11, 18.6).
 */
import { bytes, i32, struct, u32, u8 } from '@understory/base'

/** XLOG_NEXTOID: OIDs below this may have been handed out. */
export const xl_nextoid = struct(4, { nextOid: u32 })

/** XLOG_FPW_CHANGE: the new value of full_page_writes. */
export const xl_fpw_change = struct(1, { fullPageWrites: u8 })

export const xl_parameter_change = struct(28, {
  maxConnections: i32, // MaxConnections
  maxWorkerProcesses: i32,
  maxWalSenders: i32,
  maxPreparedXacts: i32,
  maxLocksPerXact: i32,
  walLevel: i32,
  walLogHints: u8,
  trackCommitTimestamp: u8,
  pad2: bytes(2),
})

/** 17 and 18 continue with `int wal_level`. */
export const xl_end_of_recovery = struct(16, {
  endTime: bytes(8), // end_time
  thisTimeLineID: u32, // ThisTimeLineID
  prevTimeLineID: u32, // PrevTimeLineID
})
