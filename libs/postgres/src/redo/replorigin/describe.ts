/** Source: access/rmgrdesc/replorigindesc.c, replorigin_identify (16, 17, 18 alike). */
import { XLOG_REPLORIGIN_DROP, XLOG_REPLORIGIN_SET } from './records.ts'

const NAMES: Readonly<Record<number, string>> = {
  [XLOG_REPLORIGIN_SET]: 'SET',
  [XLOG_REPLORIGIN_DROP]: 'DROP',
}

export const identifyReplorigin = (info: number): string | undefined => NAMES[info & 0xf0]
