/** Source: access/rmgrdesc/smgrdesc.c, smgr_identify (16, 17, 18 alike). */
import { XLOG_SMGR_CREATE, XLOG_SMGR_TRUNCATE } from './records.ts'

const NAMES: Readonly<Record<number, string>> = {
  [XLOG_SMGR_CREATE]: 'CREATE',
  [XLOG_SMGR_TRUNCATE]: 'TRUNCATE',
}

export const identifySmgr = (info: number): string | undefined => NAMES[info & 0xf0]
