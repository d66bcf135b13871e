/** Source: access/rmgrdesc/standbydesc.c, standby_identify (16, 17, 18 alike). */
import { XLOG_INVALIDATIONS, XLOG_RUNNING_XACTS, XLOG_STANDBY_LOCK } from './records.ts'

const NAMES: Readonly<Record<number, string>> = {
  [XLOG_STANDBY_LOCK]: 'LOCK',
  [XLOG_RUNNING_XACTS]: 'RUNNING_XACTS',
  [XLOG_INVALIDATIONS]: 'INVALIDATIONS',
}

export const identifyStandby = (info: number): string | undefined => NAMES[info & 0xf0]
