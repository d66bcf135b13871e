/**
 * RM_STANDBY_ID: what queries on a hot standby must know. No record registers a block or changes a file.
 *
 * Source: storage/standbydefs.h (16, 17, 18 alike).
 */

export const XLOG_STANDBY_LOCK = 0x00
export const XLOG_RUNNING_XACTS = 0x10
export const XLOG_INVALIDATIONS = 0x20
