// Goal: visibility-map bits are cleared exactly where stock redo clears them, for records of releases that register
// the map block and of those that do not. Method: records made by hand, because no one server writes both forms.
import { lsn } from '@understory/base'
import { describe, expect, test } from 'vitest'
import { makeRecord } from '../../../test/made-record.ts'
import type { MadeBlock } from '../../../test/made-record.ts'
import { getPageLsn, isPageNew, pageInit, pageOf, setPageLsn } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { HEAPBLOCKS_PER_VM_PAGE, vmBits } from '../../page/visibility-map.ts'
import { RM_HEAP2_ID, RM_HEAP_ID, RM_SMGR_ID } from '../../wal/constants.ts'
import { FORK_VM } from '../../wal/record.ts'
import type { DecodedRecord, RelFile } from '../../wal/record.ts'
import { redoRecordOnPage } from '../dispatch.ts'
import type { RedoSettings } from '../types.ts'
import {
  XLH_DELETE_ALL_VISIBLE_CLEARED,
  XLH_LOCK_ALL_FROZEN_CLEARED,
  XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED,
  XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED,
  XLOG_HEAP_DELETE,
  XLOG_HEAP_LOCK,
  XLOG_HEAP_UPDATE,
  xl_heap_delete,
  xl_heap_lock,
  xl_heap_update,
} from './records.ts'
import { redoVisibilityClear, visibilityClearEffects } from './visibility.ts'

const settings: RedoSettings = { major: 17, dataChecksums: false, walLogHints: false }
const AFTER = lsn(0x2000)
const BEFORE = lsn(0x1000)
const FAR = HEAPBLOCKS_PER_VM_PAGE + 3

function fullMap(at = BEFORE): Page {
  const page = pageOf(new Uint8Array(8192))
  pageInit(page, 0)
  page.bytes.fill(0xff, 24)
  setPageLsn(page, at)
  return page
}

/** Heap blocks of the map page's first 40 and last 40 that lack a bit. */
function cleared(page: Page, mapBlock = 0): [number, number][] {
  const found: [number, number][] = []
  for (let i = 0; i < HEAPBLOCKS_PER_VM_PAGE; i++) {
    const bits = vmBits(page.bytes, i)
    if (bits !== 3) found.push([mapBlock * HEAPBLOCKS_PER_VM_PAGE + i, bits])
  }
  return found
}

function effects(record: DecodedRecord): [number, number, number][] {
  const seen: [number, number, number][] = []
  visibilityClearEffects(record, {
    visibilityClear: (rel: RelFile, heapBlock, flags) => void seen.push([rel.relNumber, heapBlock, flags]),
  })
  return seen
}

const mapRef = (blockId: number, blockNumber: number): MadeBlock => ({ blockId, blockNumber, fork: FORK_VM })

function deletion(flags: number, ...blocks: MadeBlock[]): DecodedRecord {
  const main = new Uint8Array(xl_heap_delete.SIZE)
  main[xl_heap_delete.flags.offset] = flags
  return makeRecord({
    rmid: RM_HEAP_ID,
    info: XLOG_HEAP_DELETE,
    nextLsn: AFTER,
    main,
    blocks: [{ blockId: 0, blockNumber: 9 }, ...blocks],
  })
}

function update(flags: number, ...blocks: MadeBlock[]): DecodedRecord {
  const main = new Uint8Array(xl_heap_update.SIZE)
  main[xl_heap_update.flags.offset] = flags
  return makeRecord({ rmid: RM_HEAP_ID, info: XLOG_HEAP_UPDATE, nextLsn: AFTER, main, blocks })
}

const BOTH = XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED | XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED
const NEW_AND_FAR_OLD: readonly MadeBlock[] = [
  { blockId: 0, blockNumber: 9 },
  { blockId: 1, blockNumber: FAR },
]

describe('a map block that the record does not register', () => {
  test('loses both bits, whatever its LSN, which stays', () => {
    const record = deletion(XLH_DELETE_ALL_VISIBLE_CLEARED)
    expect(effects(record)).toEqual([[16384, 9, 3]])
    const page = fullMap(lsn(0x9000))
    redoVisibilityClear(record, page, 0, settings)
    expect(cleared(page)).toEqual([[9, 0]])
    expect(getPageLsn(page)).toBe(0x9000)
  })

  test('is left alone by a record without the flag', () => {
    const record = deletion(0)
    expect(effects(record)).toEqual([])
    const page = fullMap()
    redoVisibilityClear(record, page, 0, settings)
    expect(cleared(page)).toEqual([])
  })

  test('loses only all-frozen by a row lock', () => {
    const main = new Uint8Array(xl_heap_lock.SIZE)
    main[xl_heap_lock.flags.offset] = XLH_LOCK_ALL_FROZEN_CLEARED
    for (const [rmid, info] of [
      [RM_HEAP_ID, XLOG_HEAP_LOCK],
      [RM_HEAP2_ID, 0x60],
    ] as const) {
      const record = makeRecord({
        rmid,
        info,
        nextLsn: AFTER,
        main,
        blocks: [{ blockId: 0, blockNumber: 5 }],
      })
      expect(effects(record)).toEqual([[16384, 5, 2]])
      const page = fullMap()
      redoVisibilityClear(record, page, 0, settings)
      expect(cleared(page)).toEqual([[5, 1]])
    }
  })

  test('loses the bits of the tuple that lies on it, where an update spans two', () => {
    const record = update(BOTH, ...NEW_AND_FAR_OLD)
    expect(effects(record)).toEqual([
      [16384, FAR, 3],
      [16384, 9, 3],
    ])
    const first = fullMap()
    const second = fullMap()
    redoVisibilityClear(record, first, 0, settings)
    redoVisibilityClear(record, second, 1, settings)
    expect(cleared(first)).toEqual([[9, 0]])
    expect(cleared(second, 1)).toEqual([[FAR, 0]])
    expect(effects(update(BOTH, { blockId: 0, blockNumber: 9 }))).toEqual([
      [16384, 9, 3],
      [16384, 9, 3],
    ])
  })

  test('that never existed becomes an empty map page', () => {
    const page = pageOf(new Uint8Array(8192))
    redoVisibilityClear(deletion(XLH_DELETE_ALL_VISIBLE_CLEARED), page, 0, settings)
    expect(isPageNew(page)).toBe(false)
    expect(getPageLsn(page)).toBe(0)
  })
})

describe('a map block that the record registers', () => {
  test('is redone like any page: once, and its LSN moves', () => {
    const record = deletion(XLH_DELETE_ALL_VISIBLE_CLEARED, mapRef(1, 0))
    expect(effects(record)).toEqual([])
    const page = fullMap()
    expect(redoRecordOnPage(record, 1, page, settings)).toBe('redone')
    expect(cleared(page)).toEqual([[9, 0]])
    expect(getPageLsn(page)).toBe(AFTER)
    const newer = fullMap(AFTER)
    expect(redoRecordOnPage(record, 1, newer, settings)).toBe('newer')
    expect(cleared(newer)).toEqual([])
  })

  test('is refused, not cleared by bytes beyond the record, where the main data end early', () => {
    const record = deletion(XLH_DELETE_ALL_VISIBLE_CLEARED, mapRef(1, 0))
    record.mainDataLength--
    expect(() => redoRecordOnPage(record, 1, fullMap(), settings)).toThrow(/main data is 7 bytes, not 8/)
    expect(() => effects(record)).toThrow(/main data is 7 bytes, not 8/)
  })

  test('keeps its LSN if no bit was set', () => {
    const page = fullMap()
    page.bytes.fill(0, 24)
    redoRecordOnPage(deletion(XLH_DELETE_ALL_VISIBLE_CLEARED, mapRef(1, 0)), 1, page, settings)
    expect(getPageLsn(page)).toBe(BEFORE)
  })

  test('is not cleared a second time beside its reference', () => {
    const record = deletion(XLH_DELETE_ALL_VISIBLE_CLEARED, mapRef(1, 0))
    const page = fullMap()
    redoVisibilityClear(record, page, 0, settings)
    expect(cleared(page)).toEqual([])
  })

  test('of an update holds the bits of both tuples, if both lie on it', () => {
    const page = fullMap()
    const record = update(BOTH, { blockId: 0, blockNumber: 9 }, { blockId: 1, blockNumber: 12 }, mapRef(2, 0))
    redoRecordOnPage(record, 2, page, settings)
    expect(cleared(page)).toEqual([
      [9, 0],
      [12, 0],
    ])
  })

  test("of an update holds one tuple's bits, if the other lies on another", () => {
    const record = update(BOTH, ...NEW_AND_FAR_OLD, mapRef(2, 0), mapRef(3, 1))
    const first = fullMap()
    const second = fullMap()
    redoRecordOnPage(record, 2, first, settings)
    redoRecordOnPage(record, 3, second, settings)
    expect(cleared(first)).toEqual([[9, 0]])
    expect(cleared(second, 1)).toEqual([[FAR, 0]])
    expect(effects(update(BOTH, ...NEW_AND_FAR_OLD, mapRef(2, 0)))).toEqual([])
  })

  test("as the old tuple's keeps the new one's bits", () => {
    const page = fullMap()
    const record = update(BOTH, { blockId: 0, blockNumber: 9 }, { blockId: 1, blockNumber: 12 }, mapRef(3, 0))
    redoRecordOnPage(record, 2, page, settings)
    expect(cleared(page)).toEqual([[12, 0]])
  })
})

test('a truncated heap leaves no bits behind its end', () => {
  const main = new Uint8Array(20)
  new DataView(main.buffer).setUint32(0, 6, true)
  const record = makeRecord({ rmid: RM_SMGR_ID, info: 0x20, nextLsn: AFTER, main })
  const page = fullMap()
  redoVisibilityClear(record, page, 0, settings)
  expect(cleared(page)[0]).toEqual([6, 0])
  expect(cleared(page).length).toBe(HEAPBLOCKS_PER_VM_PAGE - 6)
  const other = fullMap()
  redoVisibilityClear(record, other, 1, settings)
  expect(cleared(other)).toEqual([])
})
