/**
 * Changes of the segments of a posting tree leaf. Segments before the first change stay where they are; the rest of
 * the page is written again from a copy.
 *
 * Source: access/gin/ginxlog.c, ginRedoRecompress (17.11, 18.6).
 */
import { fail } from '@understory/base'
import { PAGE_SIZE, getPageLower, setPageLower } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import type { DecodedRecord } from '../../wal/record.ts'
import { copyBytes } from '../../page/page-items.ts'
import {
  DATA_AT,
  GIN_COMPRESSED,
  OPAQUE_AT,
  checkGinPage,
  ginFlags,
  ginMaxoff,
  setDataSize,
  setGinFlags,
  setGinMaxoff,
} from './page.ts'
import {
  ItemPointerBytes,
  TIDS_COUNT_MAX,
  decodeSegment,
  encodeSegment,
  mergeTids,
  readTid,
  segmentBytes,
} from './posting-list.ts'
import {
  GIN_SEGMENT_ADDITEMS,
  GIN_SEGMENT_DELETE,
  GIN_SEGMENT_INSERT,
  GIN_SEGMENT_REPLACE,
} from './records.ts'

// Work space of one record, one set per thread: redo is synchronous and never re-entered.
const oldBytes = new Uint8Array(PAGE_SIZE)
const oldView = new DataView(oldBytes.buffer)
/** Room for a segment of any number of TIDs that one segment and one record can hold. */
const newBytes = new Uint8Array(TIDS_COUNT_MAX * 16)
const newView = new DataView(newBytes.buffer)
const oldTids = new Float64Array(TIDS_COUNT_MAX)
const addedTids = new Float64Array(0x1_0000)
const mergedTids = new Float64Array(0x1_0000 + TIDS_COUNT_MAX)

/** Pages of 9.3 and older hold plain TIDs: GinPageIsCompressed is not set. */
function convertUncompressed(page: Page): void {
  const count = ginMaxoff(page)
  if (DATA_AT + count * ItemPointerBytes > OPAQUE_AT)
    throw fail('bad_page', `${count} TIDs on a posting tree page`)
  for (let i = 0; i < count; i++) oldTids[i] = readTid(page.view, DATA_AT + i * ItemPointerBytes)
  const size = count === 0 ? 0 : encodeSegment(oldTids, count, newBytes, newView)
  copyBytes(page.bytes, DATA_AT, newBytes, 0, size)
  setDataSize(page, size)
  setGinFlags(page, ginFlags(page) | GIN_COMPRESSED)
  setGinMaxoff(page, 0)
}

/** ADDITEMS: the old segment with more TIDs, left at the start of `newBytes`. Returns its size. */
function withAddedItems(record: DecodedRecord, itemsAt: number, count: number, oldAt: number): number {
  for (let i = 0; i < count; i++) addedTids[i] = readTid(record.view, itemsAt + i * ItemPointerBytes)
  const oldCount = decodeSegment(oldBytes, oldView, oldAt, oldTids)
  const newCount = mergeTids(addedTids, count, oldTids, oldCount, mergedTids)
  if (newCount !== oldCount + count) throw fail('bad_page', 'items to add are in the posting list already')
  return encodeSegment(mergedTids, newCount, newBytes, newView)
}

/** The ginxlogRecompressDataLeaf lies from `at` to `end` of the record. */
export function redoRecompress(record: DecodedRecord, at: number, end: number, page: Page): void {
  checkGinPage(page)
  if ((ginFlags(page) & GIN_COMPRESSED) === 0) convertUncompressed(page)
  const { view } = record
  const oldEnd = getPageLower(page)
  if (oldEnd < DATA_AT || oldEnd > OPAQUE_AT) throw fail('bad_page', `posting lists end at byte ${oldEnd}`)
  copyBytes(oldBytes, DATA_AT, page.bytes, DATA_AT, oldEnd - DATA_AT)
  let from = DATA_AT
  let to = DATA_AT
  let segno = 0

  const write = (source: Uint8Array, sourceAt: number, size: number): void => {
    if (to + size > OPAQUE_AT) throw fail('bad_page', 'posting lists outgrow their page')
    copyBytes(page.bytes, to, source, sourceAt, size)
    to += size
  }
  const actionCount = view.getUint16(at, true)
  let next = at + 2
  for (let i = 0; i < actionCount; i++) {
    if (next + 2 > end) throw fail('bad_wal', `only ${i} of ${actionCount} segment actions`)
    const actionSegno = view.getUint8(next)
    const action = view.getUint8(next + 1)
    next += 2
    for (; segno < actionSegno; segno++) {
      const size = segmentBytes(oldView, from, oldEnd)
      write(oldBytes, from, size)
      from += size
    }
    let source = record.bytes
    let sourceAt = next
    let size = 0
    if (action === GIN_SEGMENT_INSERT || action === GIN_SEGMENT_REPLACE) {
      size = segmentBytes(view, next, end)
      next += size
    } else if (action === GIN_SEGMENT_ADDITEMS) {
      const count = view.getUint16(next, true)
      next += 2 + count * ItemPointerBytes
      if (next > end) throw fail('bad_wal', `${count} items to add leave the record`)
      segmentBytes(oldView, from, oldEnd)
      source = newBytes
      size = withAddedItems(record, sourceAt + 2, count, from)
      sourceAt = 0
    } else if (action !== GIN_SEGMENT_DELETE) {
      throw fail('unknown_wal', `unexpected GIN leaf action ${action}`)
    }
    if (action !== GIN_SEGMENT_INSERT) {
      from += segmentBytes(oldView, from, oldEnd)
      segno++
    }
    write(source, sourceAt, size)
  }
  write(oldBytes, from, oldEnd - from)
  setPageLower(page, to)
}
