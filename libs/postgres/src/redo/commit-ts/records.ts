/**
 * RM_COMMIT_TS_ID: pages of pg_commit_ts appear and go; what they hold comes with transaction commits. No record
 * registers a block.
 *
 * Source: access/commit_ts.h. The page number is 32-bit in 16, 64-bit from 17 on; both records begin with it.
 */
export const COMMIT_TS_ZEROPAGE = 0x00
export const COMMIT_TS_TRUNCATE = 0x10
