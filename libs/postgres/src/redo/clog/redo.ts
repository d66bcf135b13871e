/** Source: access/transam/clog.c, clog_redo (17.11, 18.6). */
import { RM_CLOG_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import { SLRU_PAGE_NUMBER_BYTES, readSlruPageNumber } from '../slru-page.ts'
import { pagesBefore } from '../slru-truncation.ts'
import type { EffectSink, RedoSettings, Rmgr } from '../types.ts'
import { identifyClog } from './describe.ts'
import { CLOG_ZEROPAGE } from './records.ts'
import { CLOG_XACTS_PER_PAGE } from './status.ts'

function effects(record: DecodedRecord, sink: EffectSink, settings: RedoSettings): void {
  checkMainData(record, SLRU_PAGE_NUMBER_BYTES[settings.major])
  const page = readSlruPageNumber(record.view, record.mainDataOffset, settings.major)
  if ((record.info & XLR_RMGR_INFO_MASK) === CLOG_ZEROPAGE) sink.slruPage('pg_xact', page, true)
  else sink.slruTruncate('pg_xact', pagesBefore(page, CLOG_XACTS_PER_PAGE))
}

export const clogRmgr: Rmgr = {
  id: RM_CLOG_ID,
  name: 'CLOG',
  identify: identifyClog,
  effects,
  redoSlru: (_record, _kind, _slruPage, page) => {
    page.bytes.fill(0)
  },
}
