/**
 * Every resource manager of PostgreSQL 16 to 18, by id. Source: access/rmgrlist.h. Those of extensions (128 and
 * above) are not known to us, and their records are refused.
 */
import { btreeRmgr } from './btree/redo.ts'
import { clogRmgr } from './clog/redo.ts'
import { commitTsRmgr } from './commit-ts/redo.ts'
import { dbaseRmgr } from './dbase/redo.ts'
import { genericRmgr } from './generic/redo.ts'
import { heapRmgr } from './heap/redo.ts'
import { heap2Rmgr } from './heap2/redo.ts'
import { logicalMsgRmgr } from './logicalmsg/redo.ts'
import { multixactRmgr } from './multixact/redo.ts'
import { relmapRmgr } from './relmap/redo.ts'
import { replOriginRmgr } from './replorigin/redo.ts'
import { seqRmgr } from './seq/redo.ts'
import { smgrRmgr } from './smgr/redo.ts'
import { standbyRmgr } from './standby/redo.ts'
import { tblspcRmgr } from './tblspc/redo.ts'
import type { Rmgr } from './types.ts'
import { brinRmgr, ginRmgr, gistRmgr, hashRmgr, spgistRmgr } from './unsupported.ts'
import { xactRmgr } from './xact/redo.ts'
import { xlogRmgr } from './xlog/redo.ts'

export type RmgrId =
  | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15 | 16 | 17 | 18 | 19 | 20 | 21

export const rmgrs = {
  0: xlogRmgr,
  1: xactRmgr,
  2: smgrRmgr,
  3: clogRmgr,
  4: dbaseRmgr,
  5: tblspcRmgr,
  6: multixactRmgr,
  7: relmapRmgr,
  8: standbyRmgr,
  9: heap2Rmgr,
  10: heapRmgr,
  11: btreeRmgr,
  12: hashRmgr,
  13: ginRmgr,
  14: gistRmgr,
  15: seqRmgr,
  16: spgistRmgr,
  17: brinRmgr,
  18: commitTsRmgr,
  19: replOriginRmgr,
  20: genericRmgr,
  21: logicalMsgRmgr,
} satisfies Record<RmgrId, Rmgr>
