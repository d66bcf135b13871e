/** Source: access/rmgrdesc/seqdesc.c, seq_identify (16, 17, 18 alike). */
import { XLOG_SEQ_LOG } from './records.ts'

export const identifySeq = (info: number): string | undefined =>
  (info & 0xf0) === XLOG_SEQ_LOG ? 'LOG' : undefined
