/** Source: commands/sequence.c, seq_redo (17.11, 18.6). */
import { fail } from '@understory/base'
import { getPageSpecial, pageInit, setPageLsn } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_SEQ_ID } from '../../wal/constants.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { ADD_TO_INDEX, addItem } from '../../page/page-items.ts'
import { checkMainData } from '../record-check.ts'
import type { Rmgr } from '../types.ts'
import { identifySeq } from './describe.ts'
import { xl_seq_rec } from './records.ts'

/** In the special space, 4 bytes rounded up to 8. */
const SEQ_MAGIC = 0x1717
const SEQUENCE_MAGIC_BYTES = 4
const FirstOffsetNumber = 1

function redoBlock(record: DecodedRecord, _blockIndex: number, page: Page): void {
  checkMainData(record, xl_seq_rec.SIZE)
  pageInit(page, SEQUENCE_MAGIC_BYTES)
  page.view.setUint32(getPageSpecial(page), SEQ_MAGIC, true)
  const tupleAt = record.mainDataOffset + xl_seq_rec.SIZE
  const length = record.mainDataLength - xl_seq_rec.SIZE
  if (addItem(page, record.bytes, tupleAt, length, FirstOffsetNumber, ADD_TO_INDEX) === 0) {
    throw fail('bad_wal', `a sequence tuple of ${length} bytes does not fit its page`)
  }
  setPageLsn(page, record.nextLsn)
}

export const seqRmgr: Rmgr = { id: RM_SEQ_ID, name: 'Sequence', identify: identifySeq, redoBlock }
