/** Source: access/rmgrdesc/dbasedesc.c, dbase_identify (16, 17, 18 alike). */
import { XLOG_DBASE_CREATE_FILE_COPY, XLOG_DBASE_CREATE_WAL_LOG, XLOG_DBASE_DROP } from './records.ts'

const NAMES: Readonly<Record<number, string>> = {
  [XLOG_DBASE_CREATE_FILE_COPY]: 'CREATE_FILE_COPY',
  [XLOG_DBASE_CREATE_WAL_LOG]: 'CREATE_WAL_LOG',
  [XLOG_DBASE_DROP]: 'DROP',
}

export const identifyDbase = (info: number): string | undefined => NAMES[info & 0xf0]
