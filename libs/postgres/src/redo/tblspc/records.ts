/**
 * RM_TBLSPC_ID. Both records begin with `Oid ts_id`; CREATE continues with the path, ended by a zero.
 *
 * Source: commands/tablespace.h (16, 17, 18 alike).
 */
import { struct, u32 } from '@understory/base'

export const XLOG_TBLSPC_CREATE = 0x00
export const XLOG_TBLSPC_DROP = 0x10

export const xl_tblspc_rec = struct(4, { tsId: u32 })
