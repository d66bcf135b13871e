/** Source: access/transam/commit_ts.c, commit_ts_redo (17.11, 18.6). */
import { RM_COMMIT_TS_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { checkMainData } from '../record-check.ts'
import { SLRU_PAGE_NUMBER_BYTES, readSlruPageNumber } from '../slru-page.ts'
import { pagesBefore } from '../slru-truncation.ts'
import type { EffectSink, RedoSettings, Rmgr } from '../types.ts'
import { identifyCommitTs } from './describe.ts'
import { COMMIT_TS_XACTS_PER_PAGE } from './entry.ts'
import { COMMIT_TS_ZEROPAGE } from './records.ts'

function effects(record: DecodedRecord, sink: EffectSink, settings: RedoSettings): void {
  checkMainData(record, SLRU_PAGE_NUMBER_BYTES[settings.major])
  const page = readSlruPageNumber(record.view, record.mainDataOffset, settings.major)
  if ((record.info & XLR_RMGR_INFO_MASK) === COMMIT_TS_ZEROPAGE) sink.slruPage('pg_commit_ts', page, true)
  else sink.slruTruncate('pg_commit_ts', pagesBefore(page, COMMIT_TS_XACTS_PER_PAGE))
}

export const commitTsRmgr: Rmgr = {
  id: RM_COMMIT_TS_ID,
  name: 'CommitTs',
  identify: identifyCommitTs,
  effects,
  redoSlru: (_record, _kind, _slruPage, page) => {
    page.bytes.fill(0)
  },
}
