/** Source: storage/ipc/standby.c, standby_redo (17.11, 18.6): outside hot standby it does nothing. */
import { RM_STANDBY_ID } from '../../wal/constants.ts'
import type { Rmgr } from '../types.ts'
import { identifyStandby } from './describe.ts'

export const standbyRmgr: Rmgr = { id: RM_STANDBY_ID, name: 'Standby', identify: identifyStandby }
