/** Source: access/rmgrdesc/mxactdesc.c, multixact_identify (16, 17, 18 alike). */
import {
  XLOG_MULTIXACT_CREATE_ID,
  XLOG_MULTIXACT_TRUNCATE_ID,
  XLOG_MULTIXACT_ZERO_MEM_PAGE,
  XLOG_MULTIXACT_ZERO_OFF_PAGE,
} from './records.ts'

const NAMES: Readonly<Record<number, string>> = {
  [XLOG_MULTIXACT_ZERO_OFF_PAGE]: 'ZERO_OFF_PAGE',
  [XLOG_MULTIXACT_ZERO_MEM_PAGE]: 'ZERO_MEM_PAGE',
  [XLOG_MULTIXACT_CREATE_ID]: 'CREATE_ID',
  [XLOG_MULTIXACT_TRUNCATE_ID]: 'TRUNCATE_ID',
}

export const identifyMultixact = (info: number): string | undefined => NAMES[info & 0xf0]
