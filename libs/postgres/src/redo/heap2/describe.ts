/** Source: access/rmgrdesc/heapdesc.c, heap2_identify of 16, 17 and 18. */
import type { PgMajor } from '../../wal/pages.ts'
import { XLOG_HEAP_INIT_PAGE } from '../heap/records.ts'
import {
  XLOG_HEAP2_FREEZE_PAGE,
  XLOG_HEAP2_LOCK_UPDATED,
  XLOG_HEAP2_MULTI_INSERT,
  XLOG_HEAP2_NEW_CID,
  XLOG_HEAP2_PRUNE,
  XLOG_HEAP2_PRUNE_ON_ACCESS,
  XLOG_HEAP2_PRUNE_VACUUM_CLEANUP,
  XLOG_HEAP2_PRUNE_VACUUM_SCAN,
  XLOG_HEAP2_REWRITE,
  XLOG_HEAP2_VACUUM,
  XLOG_HEAP2_VISIBLE,
} from './records.ts'

type Names = Readonly<Record<number, string>>

const ALL_VERSIONS: Names = {
  [XLOG_HEAP2_REWRITE]: 'REWRITE',
  [XLOG_HEAP2_VISIBLE]: 'VISIBLE',
  [XLOG_HEAP2_MULTI_INSERT]: 'MULTI_INSERT',
  [XLOG_HEAP2_MULTI_INSERT | XLOG_HEAP_INIT_PAGE]: 'MULTI_INSERT+INIT',
  [XLOG_HEAP2_LOCK_UPDATED]: 'LOCK_UPDATED',
  [XLOG_HEAP2_NEW_CID]: 'NEW_CID',
}
const SINCE_17: Names = {
  ...ALL_VERSIONS,
  [XLOG_HEAP2_PRUNE_ON_ACCESS]: 'PRUNE_ON_ACCESS',
  [XLOG_HEAP2_PRUNE_VACUUM_SCAN]: 'PRUNE_VACUUM_SCAN',
  [XLOG_HEAP2_PRUNE_VACUUM_CLEANUP]: 'PRUNE_VACUUM_CLEANUP',
}
const NAMES: Readonly<Record<PgMajor, Names>> = {
  16: {
    ...ALL_VERSIONS,
    [XLOG_HEAP2_PRUNE]: 'PRUNE',
    [XLOG_HEAP2_VACUUM]: 'VACUUM',
    [XLOG_HEAP2_FREEZE_PAGE]: 'FREEZE_PAGE',
  },
  17: SINCE_17,
  18: SINCE_17,
}

export const identifyHeap2 = (info: number, major: PgMajor): string | undefined => NAMES[major][info & 0xf0]
