/**
 * RM_DBASE_ID: database directories appear and go. No record registers a block.
 *
 * Source: commands/dbcommands_xlog.h (16, 17, 18 alike).
 */
import { i32, struct, u32 } from '@understory/base'

export const XLOG_DBASE_CREATE_FILE_COPY = 0x00
export const XLOG_DBASE_CREATE_WAL_LOG = 0x10
export const XLOG_DBASE_DROP = 0x20

export const xl_dbase_create_file_copy_rec = struct(16, {
  dbId: u32, // db_id
  tablespaceId: u32,
  srcDbId: u32,
  srcTablespaceId: u32,
})

export const xl_dbase_create_wal_log_rec = struct(8, {
  dbId: u32,
  tablespaceId: u32,
})

/** u32 tablespace_ids[ntablespaces] follow. */
export const xl_dbase_drop_rec = struct(8, {
  dbId: u32,
  ntablespaces: i32,
})
