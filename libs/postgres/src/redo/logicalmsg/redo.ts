/** Source: replication/logical/message.c, logicalmsg_redo (17.11, 18.6): recovery does nothing. */
import { RM_LOGICALMSG_ID } from '../../wal/constants.ts'
import type { Rmgr } from '../types.ts'
import { identifyLogicalmsg } from './describe.ts'

export const logicalMsgRmgr: Rmgr = {
  id: RM_LOGICALMSG_ID,
  name: 'LogicalMessage',
  identify: identifyLogicalmsg,
}
