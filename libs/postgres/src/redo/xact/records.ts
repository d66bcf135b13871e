/**
 * RM_XACT_ID: the fate of transactions. No record of this manager registers a block.
 *
 * Source: access/xact.h, access/transam/twophase.c, rmgrdesc/xactdesc.c (17.11); 16 and 18 differ only in the size of a
 * dropped statistics entry, see `STATS_ITEM_BYTES`.
 */
import { bytes, i32, struct, u16, u32, u64, u8 } from '@understory/base'
import type { PgMajor } from '../../wal/pages.ts'

export const XLOG_XACT_COMMIT = 0x00
export const XLOG_XACT_PREPARE = 0x10
export const XLOG_XACT_ABORT = 0x20
export const XLOG_XACT_COMMIT_PREPARED = 0x30
export const XLOG_XACT_ABORT_PREPARED = 0x40
export const XLOG_XACT_ASSIGNMENT = 0x50
export const XLOG_XACT_INVALIDATIONS = 0x60
export const XLOG_XACT_OPMASK = 0x70
/** In xl_info: the commit or abort has an xinfo field. */
export const XLOG_XACT_HAS_INFO = 0x80

// xinfo: which parts follow, in this order.
export const XACT_XINFO_HAS_DBINFO = 1 << 0
export const XACT_XINFO_HAS_SUBXACTS = 1 << 1
export const XACT_XINFO_HAS_RELFILELOCATORS = 1 << 2
export const XACT_XINFO_HAS_INVALS = 1 << 3
export const XACT_XINFO_HAS_TWOPHASE = 1 << 4
export const XACT_XINFO_HAS_ORIGIN = 1 << 5
export const XACT_XINFO_HAS_GID = 1 << 7
export const XACT_XINFO_HAS_DROPPED_STATS = 1 << 8

/** sizeof(xl_xact_stats_item): 18 widened the object id to 64 bits. */
export const STATS_ITEM_BYTES: Readonly<Record<PgMajor, number>> = { 16: 12, 17: 12, 18: 16 }
export const REL_FILE_LOCATOR_BYTES = 12
/** sizeof(SharedInvalidationMessage). */
export const INVAL_MESSAGE_BYTES = 16
/** TWOPHASE_MAGIC of every version from 16 on. */
export const TWOPHASE_MAGIC = 0x57f94534

/** xl_xact_prepare, which is also the header of the state file. The gid and the arrays follow, each MAXALIGNed. */
export const xl_xact_prepare = struct(72, {
  magic: u32,
  totalLen: u32, // total_len: of the state file, its trailing CRC included
  xid: u32,
  database: u32,
  preparedAt: bytes(8), // prepared_at
  owner: u32,
  nsubxacts: i32,
  ncommitrels: i32,
  nabortrels: i32,
  ncommitstats: i32,
  nabortstats: i32,
  ninvalmsgs: i32,
  initfileinval: u8,
  pad1: u8,
  gidlen: u16,
  originLsn: u64, // origin_lsn: of the other server, so any number
  originTimestamp: bytes(8), // origin_timestamp
})
