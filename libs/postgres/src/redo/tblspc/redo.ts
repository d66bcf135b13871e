/** Source: commands/tablespace.c, tblspc_redo (17.11, 18.6). */
import { fail } from '@understory/base'
import { RM_TBLSPC_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import type { EffectSink, Rmgr } from '../types.ts'
import { identifyTblspc } from './describe.ts'
import { XLOG_TBLSPC_DROP, xl_tblspc_rec } from './records.ts'

const decoder = new TextDecoder()

function effects(record: DecodedRecord, sink: EffectSink): void {
  checkMainData(record, xl_tblspc_rec.SIZE)
  const spcOid = xl_tblspc_rec.tsId.get(record.view, record.mainDataOffset)
  if ((record.info & XLR_RMGR_INFO_MASK) === XLOG_TBLSPC_DROP) {
    sink.tablespaceDrop(spcOid)
    return
  }
  const pathAt = record.mainDataOffset + xl_tblspc_rec.SIZE
  const end = record.bytes.indexOf(0, pathAt)
  if (end < 0 || end >= record.mainDataOffset + record.mainDataLength) {
    throw fail('bad_wal', 'tablespace record has an unterminated path')
  }
  sink.tablespaceCreate(spcOid, decoder.decode(record.bytes.subarray(pathAt, end)))
}

export const tblspcRmgr: Rmgr = { id: RM_TBLSPC_ID, name: 'Tablespace', identify: identifyTblspc, effects }
