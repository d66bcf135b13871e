/** Source: commands/dbcommands.c, dbase_redo (17.11, 18.6). */
import { fail } from '@understory/base'
import { RM_DBASE_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import type { EffectSink, Rmgr } from '../types.ts'
import { identifyDbase } from './describe.ts'
import {
  XLOG_DBASE_CREATE_FILE_COPY,
  XLOG_DBASE_CREATE_WAL_LOG,
  XLOG_DBASE_DROP,
  xl_dbase_create_file_copy_rec,
  xl_dbase_create_wal_log_rec,
  xl_dbase_drop_rec,
} from './records.ts'

function effects(record: DecodedRecord, sink: EffectSink): void {
  const { view, mainDataOffset: at } = record
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_DBASE_CREATE_FILE_COPY: {
      checkMainData(record, xl_dbase_create_file_copy_rec.SIZE)
      const { dbId, tablespaceId, srcDbId, srcTablespaceId } = xl_dbase_create_file_copy_rec
      sink.databaseCopy(
        dbId.get(view, at),
        tablespaceId.get(view, at),
        srcDbId.get(view, at),
        srcTablespaceId.get(view, at),
      )
      return
    }
    case XLOG_DBASE_CREATE_WAL_LOG: {
      checkMainData(record, xl_dbase_create_wal_log_rec.SIZE)
      const { dbId, tablespaceId } = xl_dbase_create_wal_log_rec
      sink.databaseCreate(dbId.get(view, at), tablespaceId.get(view, at))
      return
    }
    case XLOG_DBASE_DROP: {
      checkMainData(record, xl_dbase_drop_rec.SIZE)
      const dbOid = xl_dbase_drop_rec.dbId.get(view, at)
      const count = xl_dbase_drop_rec.ntablespaces.get(view, at)
      if (count < 0) throw fail('bad_wal', `database in ${count} tablespaces`)
      const tablespacesAt = at + xl_dbase_drop_rec.SIZE
      checkMainData(record, xl_dbase_drop_rec.SIZE + count * 4)
      for (let i = 0; i < count; i++) sink.databaseDrop(dbOid, view.getUint32(tablespacesAt + i * 4, true))
    }
  }
}

export const dbaseRmgr: Rmgr = { id: RM_DBASE_ID, name: 'Database', identify: identifyDbase, effects }
