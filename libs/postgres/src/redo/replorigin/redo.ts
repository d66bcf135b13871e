/**
 * Progress of replication origins is kept in shared memory and in pg_logical/replorigin_checkpoint, which only a
 * checkpoint writes: no page of a data directory changes by these records.
 *
 * Source: replication/logical/origin.c, replorigin_redo (17.11, 18.6).
 */
import { RM_REPLORIGIN_ID } from '../../wal/constants.ts'
import type { Rmgr } from '../types.ts'
import { identifyReplorigin } from './describe.ts'

export const replOriginRmgr: Rmgr = {
  id: RM_REPLORIGIN_ID,
  name: 'ReplicationOrigin',
  identify: identifyReplorigin,
}
