/** Source: access/rmgrdesc/tblspcdesc.c, tblspc_identify (16, 17, 18 alike). */
import { XLOG_TBLSPC_CREATE, XLOG_TBLSPC_DROP } from './records.ts'

const NAMES: Readonly<Record<number, string>> = { [XLOG_TBLSPC_CREATE]: 'CREATE', [XLOG_TBLSPC_DROP]: 'DROP' }

export const identifyTblspc = (info: number): string | undefined => NAMES[info & 0xf0]
