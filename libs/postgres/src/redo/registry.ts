/**
 * Every resource manager of PostgreSQL 16 to 18, by id. Source: access/rmgrlist.h. Those of extensions (128 and
 * above) are not known to us, and their records are refused.
 */
import {
  RM_BRIN_ID,
  RM_BTREE_ID,
  RM_CLOG_ID,
  RM_COMMIT_TS_ID,
  RM_DBASE_ID,
  RM_GENERIC_ID,
  RM_GIN_ID,
  RM_GIST_ID,
  RM_HASH_ID,
  RM_HEAP2_ID,
  RM_HEAP_ID,
  RM_LOGICALMSG_ID,
  RM_MULTIXACT_ID,
  RM_RELMAP_ID,
  RM_REPLORIGIN_ID,
  RM_SEQ_ID,
  RM_SMGR_ID,
  RM_SPGIST_ID,
  RM_STANDBY_ID,
  RM_TBLSPC_ID,
  RM_XACT_ID,
  RM_XLOG_ID,
} from '../wal/constants.ts'
import { brinRmgr } from './brin/redo.ts'
import { btreeRmgr } from './btree/redo.ts'
import { clogRmgr } from './clog/redo.ts'
import { commitTsRmgr } from './commit-ts/redo.ts'
import { dbaseRmgr } from './dbase/redo.ts'
import { genericRmgr } from './generic/redo.ts'
import { ginRmgr } from './gin/redo.ts'
import { gistRmgr } from './gist/redo.ts'
import { hashRmgr } from './hash/redo.ts'
import { heapRmgr } from './heap/redo.ts'
import { heap2Rmgr } from './heap2/redo.ts'
import { logicalMsgRmgr } from './logicalmsg/redo.ts'
import { multixactRmgr } from './multixact/redo.ts'
import { relmapRmgr } from './relmap/redo.ts'
import { replOriginRmgr } from './replorigin/redo.ts'
import { seqRmgr } from './seq/redo.ts'
import { smgrRmgr } from './smgr/redo.ts'
import { spgistRmgr } from './spgist/redo.ts'
import { standbyRmgr } from './standby/redo.ts'
import { tblspcRmgr } from './tblspc/redo.ts'
import type { Rmgr } from './types.ts'
import { xactRmgr } from './xact/redo.ts'
import { xlogRmgr } from './xlog/redo.ts'

export type RmgrId =
  | 0
  | 1
  | 2
  | 3
  | 4
  | 5
  | 6
  | 7
  | 8
  | 9
  | 10
  | 11
  | 12
  | 13
  | 14
  | 15
  | 16
  | 17
  | 18
  | 19
  | 20
  | 21

export const rmgrs = {
  [RM_XLOG_ID]: xlogRmgr,
  [RM_XACT_ID]: xactRmgr,
  [RM_SMGR_ID]: smgrRmgr,
  [RM_CLOG_ID]: clogRmgr,
  [RM_DBASE_ID]: dbaseRmgr,
  [RM_TBLSPC_ID]: tblspcRmgr,
  [RM_MULTIXACT_ID]: multixactRmgr,
  [RM_RELMAP_ID]: relmapRmgr,
  [RM_STANDBY_ID]: standbyRmgr,
  [RM_HEAP2_ID]: heap2Rmgr,
  [RM_HEAP_ID]: heapRmgr,
  [RM_BTREE_ID]: btreeRmgr,
  [RM_HASH_ID]: hashRmgr,
  [RM_GIN_ID]: ginRmgr,
  [RM_GIST_ID]: gistRmgr,
  [RM_SEQ_ID]: seqRmgr,
  [RM_SPGIST_ID]: spgistRmgr,
  [RM_BRIN_ID]: brinRmgr,
  [RM_COMMIT_TS_ID]: commitTsRmgr,
  [RM_REPLORIGIN_ID]: replOriginRmgr,
  [RM_GENERIC_ID]: genericRmgr,
  [RM_LOGICALMSG_ID]: logicalMsgRmgr,
} satisfies Record<RmgrId, Rmgr>
