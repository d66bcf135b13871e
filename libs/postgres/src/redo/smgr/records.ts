/**
 * RM_SMGR_ID: relation files appear and shrink. No record registers a block. Removal rides in transaction records.
 *
 * Source: catalog/storage_xlog.h (16, 17, 18 alike).
 */
import { i32, struct, u32 } from '@understory/base'

export const XLOG_SMGR_CREATE = 0x10
export const XLOG_SMGR_TRUNCATE = 0x20

export const xl_smgr_create = struct(16, {
  spcOid: u32, // rlocator
  dbOid: u32,
  relNumber: u32,
  forkNum: i32,
})

export const xl_smgr_truncate = struct(20, {
  blkno: u32,
  spcOid: u32, // rlocator
  dbOid: u32,
  relNumber: u32,
  flags: i32,
})

export const SMGR_TRUNCATE_HEAP = 0x0001
export const SMGR_TRUNCATE_VM = 0x0002
export const SMGR_TRUNCATE_FSM = 0x0004
