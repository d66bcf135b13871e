/** Source: access/transam/generic_xlog.c, generic_redo and applyPageRedo (17.11, 18.6). */
import { fail } from '@understory/base'
import { PAGE_SIZE, getPageLower, getPageUpper, setPageLsn } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_GENERIC_ID } from '../../wal/constants.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { copyBytes } from '../../page/page-items.ts'
import type { Rmgr } from '../types.ts'
import { identifyGeneric } from './describe.ts'
import { FRAGMENT_HEADER_BYTES } from './records.ts'

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page): void {
  const ref = record.blocks[blockIndex] as BlockRef
  const end = ref.dataOffset + ref.dataLength
  for (let at = ref.dataOffset; at < end;) {
    if (at + FRAGMENT_HEADER_BYTES > end) throw fail('bad_wal', 'page delta ends within a fragment')
    const offset = record.view.getUint16(at, true)
    const length = record.view.getUint16(at + 2, true)
    at += FRAGMENT_HEADER_BYTES
    if (at + length > end || offset + length > PAGE_SIZE) {
      throw fail('bad_wal', `page delta of ${length} bytes at ${offset} leaves the page or the record`)
    }
    copyBytes(page.bytes, offset, record.bytes, at, length)
    at += length
  }
  const lower = getPageLower(page)
  const upper = getPageUpper(page)
  if (lower > upper || upper > PAGE_SIZE)
    throw fail('bad_page', `page delta left lower ${lower}, upper ${upper}`)
  // The delta says nothing about the hole, which is zero after the logged change.
  page.bytes.fill(0, lower, upper)
  setPageLsn(page, record.nextLsn)
}

export const genericRmgr: Rmgr = { id: RM_GENERIC_ID, name: 'Generic', identify: identifyGeneric, redoBlock }
