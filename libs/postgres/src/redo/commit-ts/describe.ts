/** Source: access/rmgrdesc/committsdesc.c, commit_ts_identify (16, 17, 18 alike). */
import { COMMIT_TS_TRUNCATE, COMMIT_TS_ZEROPAGE } from './records.ts'

const NAMES: Readonly<Record<number, string>> = {
  [COMMIT_TS_ZEROPAGE]: 'ZEROPAGE',
  [COMMIT_TS_TRUNCATE]: 'TRUNCATE',
}

export const identifyCommitTs = (info: number): string | undefined => NAMES[info & 0xf0]
