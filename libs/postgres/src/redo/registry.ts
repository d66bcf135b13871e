/**
 * Every resource manager of PostgreSQL 16 to 18, by id. Source: access/rmgrlist.h. Those of extensions (128 and
 * above) are not known to us, and their records are refused.
 */
import { heapRmgr } from './heap/redo.ts'
import { heap2Rmgr } from './heap2/redo.ts'
import type { Rmgr } from './types.ts'
import { brinRmgr, ginRmgr, gistRmgr, hashRmgr, spgistRmgr } from './unsupported.ts'

export type RmgrId =
  | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15 | 16 | 17 | 18 | 19 | 20 | 21

export const rmgrs = {
  9: heap2Rmgr,
  10: heapRmgr,
  12: hashRmgr,
  13: ginRmgr,
  14: gistRmgr,
  16: spgistRmgr,
  17: brinRmgr,
} satisfies Partial<Record<RmgrId, Rmgr>>
