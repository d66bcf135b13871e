/**
 * RM_SEQ_ID. Block 0 is the sequence's only page, initialized; the main data is `xl_seq_rec` and the tuple behind it.
 *
 * Source: commands/sequence.h (16, 17, 18 alike).
 */
import { struct, u32 } from '@understory/base'

export const XLOG_SEQ_LOG = 0x00

export const xl_seq_rec = struct(12, {
  spcOid: u32, // locator
  dbOid: u32,
  relNumber: u32,
})
