/**
 * Progress of replication origins. Postgres keeps it in shared memory and, at each checkpoint, in
 * pg_logical/replorigin_checkpoint; no page of a data directory has it. Most of it comes with the ends of transactions
 * (xact/redo.ts); these records are what SQL functions, table synchronization and DROP SUBSCRIPTION write.
 *
 * Source: replication/logical/origin.c, replorigin_redo and replorigin_advance (16.0, 17.11, 18.6).
 */
import { RM_REPLORIGIN_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import type { EffectSink, Rmgr } from '../types.ts'
import { identifyReplorigin } from './describe.ts'
import { XLOG_REPLORIGIN_SET, xl_replorigin_drop, xl_replorigin_set } from './records.ts'

/** DoNotReplicateId (origin.h): marks changes that are not to be replicated, and has no progress. */
const DO_NOT_REPLICATE_ID = 0xffff

/**
 * Takes progress of an origin in, which moves forwards only unless `force` is set (replorigin_advance). True if it
 * moved, or is the first of this origin.
 */
export function moveOrigin(
  origins: Map<number, bigint>,
  originId: number,
  remoteLsn: bigint,
  force: boolean,
): boolean {
  const known = origins.get(originId)
  if (known !== undefined && (force ? remoteLsn === known : remoteLsn <= known)) return false
  origins.set(originId, remoteLsn)
  return true
}

/** Reports progress of an origin, unless it is one that has none. */
export function advanceOrigin(sink: EffectSink, originId: number, remoteLsn: bigint, force: boolean): void {
  if (originId !== 0 && originId !== DO_NOT_REPLICATE_ID) sink.originAdvance(originId, remoteLsn, force)
}

function effects(record: DecodedRecord, sink: EffectSink): void {
  const { view, mainDataOffset: at } = record
  if ((record.info & XLR_RMGR_INFO_MASK) === XLOG_REPLORIGIN_SET) {
    checkMainData(record, xl_replorigin_set.SIZE)
    const { nodeId, remoteLsn, force } = xl_replorigin_set
    advanceOrigin(sink, nodeId.get(view, at), remoteLsn.get(view, at), force.get(view, at) !== 0)
  } else {
    checkMainData(record, xl_replorigin_drop.SIZE)
    sink.originDrop(xl_replorigin_drop.nodeId.get(view, at))
  }
}

export const replOriginRmgr: Rmgr = {
  id: RM_REPLORIGIN_ID,
  name: 'ReplicationOrigin',
  identify: identifyReplorigin,
  effects,
}
