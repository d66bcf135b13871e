/** Source: access/rmgrdesc/clogdesc.c, clog_identify (16, 17, 18 alike). */
import { CLOG_TRUNCATE, CLOG_ZEROPAGE } from './records.ts'

const NAMES: Readonly<Record<number, string>> = { [CLOG_ZEROPAGE]: 'ZEROPAGE', [CLOG_TRUNCATE]: 'TRUNCATE' }

export const identifyClog = (info: number): string | undefined => NAMES[info & 0xf0]
