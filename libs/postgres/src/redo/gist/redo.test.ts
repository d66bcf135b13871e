/**
 * A record that no server can be made to write at will: a split page whose image comes with the record that ends its
 * split.
 */
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { makeRecord } from '../../../test/made-record.ts'
import { PAGE_SIZE, getPageLsn, pageInit, pageOf } from '../../page/bufpage.ts'
import { RM_GIST_ID } from '../../wal/constants.ts'
import { redoRecordOnPage } from '../dispatch.ts'
import { XLOG_GIST_PAGE_UPDATE } from './records.ts'

const OPAQUE_AT = PAGE_SIZE - 16
const F_LEAF = 1 << 0
const F_FOLLOW_RIGHT = 1 << 3

test('the image of a left child loses its split mark and gets the NSN that the primary set after it', () => {
  const child = pageOf(new Uint8Array(PAGE_SIZE))
  pageInit(child, 16)
  child.view.setUint16(OPAQUE_AT + 12, F_LEAF | F_FOLLOW_RIGHT, true)
  const nextLsn = lsn(0x3_0000_1000)
  const record = makeRecord({
    rmid: RM_GIST_ID,
    info: XLOG_GIST_PAGE_UPDATE,
    nextLsn,
    main: new Uint8Array(4),
    blocks: [
      { blockId: 0, blockNumber: 0 },
      { blockId: 1, blockNumber: 7, image: child.bytes },
    ],
  })
  const page = pageOf(new Uint8Array(PAGE_SIZE))
  expect(redoRecordOnPage(record, 1, page, { major: 17, dataChecksums: false, walLogHints: false })).toBe(
    'restored',
  )
  expect(getPageLsn(page)).toBe(nextLsn)
  expect([page.view.getUint32(OPAQUE_AT, true), page.view.getUint32(OPAQUE_AT + 4, true)]).toEqual([
    3, 0x1000,
  ])
  expect(page.view.getUint16(OPAQUE_AT + 12, true)).toBe(F_LEAF)
})
