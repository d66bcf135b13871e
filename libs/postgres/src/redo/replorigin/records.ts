/**
 * RM_REPLORIGIN_ID: how far logical replication from elsewhere has come. No record registers a block.
 *
 * Source: replication/origin.h (16, 17, 18 alike).
 */
import { bytes, struct, u16, u64, u8 } from '@understory/base'

export const XLOG_REPLORIGIN_SET = 0x00
export const XLOG_REPLORIGIN_DROP = 0x10

export const xl_replorigin_set = struct(16, {
  remoteLsn: u64, // remote_lsn: of the other server, so any number
  nodeId: u16, // node_id
  force: u8,
  pad5: bytes(5),
})

export const xl_replorigin_drop = struct(2, { nodeId: u16 })
