/**
 * RM_STANDBY_ID: what queries on a hot standby must know. No record registers a block or changes a file.
 *
 * Source: storage/standbydefs.h (16, 17, 18 alike).
 */
import { bytes, i32, struct, u32, u8 } from '@understory/base'

export const XLOG_STANDBY_LOCK = 0x00
export const XLOG_RUNNING_XACTS = 0x10
export const XLOG_INVALIDATIONS = 0x20

/** u32 xids[xcnt + subxcnt] follow. */
export const xl_running_xacts = struct(24, {
  xcnt: i32,
  subxcnt: i32,
  subxidOverflow: u8, // subxid_overflow
  pad3: bytes(3),
  nextXid: u32,
  oldestRunningXid: u32,
  latestCompletedXid: u32,
})
