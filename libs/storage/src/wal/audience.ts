/**
 * The shards that get a record, as two tables: what a record does beyond its blocks, and what the checkpoint tracker of
 * shard 0 has to see. Blocks themselves go to their owners (`shardOfBlock`), and where they are beyond every block seen
 * before, a note of the relation's size goes to its home shard.
 */
import type { EffectSink, RmgrId } from '@understory/postgres/redo'
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
} from '@understory/postgres/wal'

/**
 * owner   the shard that owns the page which changes: the record comes with a key
 * all     every shard, each acting on its own keys
 * first   shard 0
 */
export type Audience = 'owner' | 'all' | 'first'

export const EFFECT_AUDIENCE = {
  visibilityClear: 'owner',
  slruPage: 'owner',
  slruTruncate: 'all',
  relationCreate: 'all',
  relationTruncate: 'all',
  relationDrop: 'all',
  databaseCopy: 'all',
  databaseCreate: 'all',
  databaseDrop: 'all',
  relationMap: 'first',
  twoPhasePrepare: 'first',
  twoPhaseRemove: 'first',
  tablespaceCreate: 'first',
  tablespaceDrop: 'first',
  originAdvance: 'first',
  originDrop: 'first',
} as const satisfies Record<keyof EffectSink, Audience>

/**
 * always      shard 0 gets every record of this resource manager
 * noImages    every record but those that only carry page images
 * commitTs    every record while commit timestamps are kept; otherwise a note of the xid is enough
 * xid         a note, where the record's xid is new
 */
export type TrackerNeed = 'always' | 'noImages' | 'commitTs' | 'xid'

export const TRACKER_NEEDS = {
  [RM_XLOG_ID]: 'noImages',
  [RM_XACT_ID]: 'commitTs',
  [RM_SMGR_ID]: 'xid',
  [RM_CLOG_ID]: 'always',
  [RM_DBASE_ID]: 'xid',
  [RM_TBLSPC_ID]: 'xid',
  [RM_MULTIXACT_ID]: 'always',
  [RM_RELMAP_ID]: 'xid',
  [RM_STANDBY_ID]: 'xid',
  [RM_HEAP2_ID]: 'xid',
  [RM_HEAP_ID]: 'xid',
  [RM_BTREE_ID]: 'xid',
  [RM_HASH_ID]: 'xid',
  [RM_GIN_ID]: 'xid',
  [RM_GIST_ID]: 'xid',
  [RM_SEQ_ID]: 'xid',
  [RM_SPGIST_ID]: 'xid',
  [RM_BRIN_ID]: 'xid',
  [RM_COMMIT_TS_ID]: 'always',
  [RM_REPLORIGIN_ID]: 'xid',
  [RM_GENERIC_ID]: 'xid',
  [RM_LOGICALMSG_ID]: 'xid',
} as const satisfies Record<RmgrId, TrackerNeed>
