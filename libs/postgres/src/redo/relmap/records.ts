/**
 * RM_RELMAP_ID: a new pg_filenode.map. No record registers a block.
 *
 * Source: utils/relmapper.h (16, 17, 18 alike).
 */
import { i32, struct, u32 } from '@understory/base'

export const XLOG_RELMAP_UPDATE = 0x00

/** The file's content, its CRC included, follows. */
export const xl_relmap_update = struct(12, {
  dbid: u32, // 0 = the shared map
  tsid: u32,
  nbytes: i32,
})
