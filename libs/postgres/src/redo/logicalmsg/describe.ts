/** Source: access/rmgrdesc/logicalmsgdesc.c, logicalmsg_identify (16, 17, 18 alike). */
import { XLOG_LOGICAL_MESSAGE } from './records.ts'

export const identifyLogicalmsg = (info: number): string | undefined =>
  (info & 0xf0) === XLOG_LOGICAL_MESSAGE ? 'MESSAGE' : undefined
