/** Source: access/rmgrdesc/xactdesc.c, xact_identify (16, 17, 18 alike). */
import {
  XLOG_XACT_ABORT,
  XLOG_XACT_ABORT_PREPARED,
  XLOG_XACT_ASSIGNMENT,
  XLOG_XACT_COMMIT,
  XLOG_XACT_COMMIT_PREPARED,
  XLOG_XACT_INVALIDATIONS,
  XLOG_XACT_OPMASK,
  XLOG_XACT_PREPARE,
} from './records.ts'

const NAMES: Readonly<Record<number, string>> = {
  [XLOG_XACT_COMMIT]: 'COMMIT',
  [XLOG_XACT_PREPARE]: 'PREPARE',
  [XLOG_XACT_ABORT]: 'ABORT',
  [XLOG_XACT_COMMIT_PREPARED]: 'COMMIT_PREPARED',
  [XLOG_XACT_ABORT_PREPARED]: 'ABORT_PREPARED',
  [XLOG_XACT_ASSIGNMENT]: 'ASSIGNMENT',
  [XLOG_XACT_INVALIDATIONS]: 'INVALIDATION',
}

export const identifyXact = (info: number): string | undefined => NAMES[info & XLOG_XACT_OPMASK]
