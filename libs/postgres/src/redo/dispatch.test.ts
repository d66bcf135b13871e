// Goal: images, pages that are new enough, pages never made and unknown records are dealt with as stock recovery does,
// or refused by name. Method: records made by hand.
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { makeRecord } from '../../test/made-record.ts'
import { getPageLsn, isPageNew, pageInit, pageOf, setPageLsn } from '../page/bufpage.ts'
import type { Page } from '../page/bufpage.ts'
import { RM_HEAP2_ID, RM_HEAP_ID, RM_STANDBY_ID } from '../wal/constants.ts'
import { recordEffects, recordTypeName, redoRecordOnPage } from './dispatch.ts'
import { rmgrs } from './registry.ts'
import type { EffectSink, RedoSettings } from './types.ts'

const settings: RedoSettings = { major: 17, dataChecksums: false, walLogHints: false }
const AFTER = lsn(0x2_0000_1000)
const noEffects = new Proxy({}, { get: () => () => {} }) as EffectSink

function pageAt(at: number): Page {
  const page = pageOf(new Uint8Array(8192))
  pageInit(page, 0)
  setPageLsn(page, lsn(at))
  return page
}

test('an image heals even a page that looks newer', () => {
  const image = pageAt(0x100).bytes
  image[8000] = 7
  const record = makeRecord({
    rmid: RM_HEAP_ID,
    info: 0,
    nextLsn: AFTER,
    blocks: [{ blockId: 0, blockNumber: 1, image }],
  })
  const page = pageAt(0x9_0000_0000)
  expect(redoRecordOnPage(record, 0, page, settings)).toBe('restored')
  expect(page.bytes[8000]).toBe(7)
  expect(getPageLsn(page)).toBe(AFTER)
})

test('an image of zeros stays zeros', () => {
  const record = makeRecord({
    rmid: RM_HEAP_ID,
    info: 0,
    nextLsn: AFTER,
    blocks: [{ blockId: 0, blockNumber: 1, image: new Uint8Array(8192) }],
  })
  const page = pageAt(0x100)
  expect(redoRecordOnPage(record, 0, page, settings)).toBe('restored')
  expect(page.bytes.every((byte) => byte === 0)).toBe(true)
})

test('a page that has the record already, or was never made, is left alone', () => {
  const record = makeRecord({
    rmid: RM_HEAP_ID,
    info: 0x50,
    nextLsn: AFTER,
    main: new Uint8Array([1, 0]),
    blocks: [{ blockId: 0, blockNumber: 1 }],
  })
  expect(redoRecordOnPage(record, 0, pageAt(AFTER), settings)).toBe('newer')
  const absent = pageOf(new Uint8Array(8192))
  expect(redoRecordOnPage(record, 0, absent, settings)).toBe('absent')
  expect(isPageNew(absent)).toBe(true)
})

test('an error names record, position and block', () => {
  const record = makeRecord({
    rmid: RM_HEAP_ID,
    info: 0x50,
    nextLsn: AFTER,
    main: new Uint8Array([1, 0]),
    blocks: [{ blockId: 0, blockNumber: 77 }],
  })
  record.recordLsn = lsn(0x2_0000_0f00)
  expect(() => redoRecordOnPage(record, 0, pageAt(1), settings)).toThrow(
    'could not redo WAL record Heap/HEAP_CONFIRM at 2/F00 on block 0 (relation 1663/5/16384, fork 0, block 77): ' +
      'line pointer 1 is not a normal one',
  )
})

test('a record cut short is refused', () => {
  const record = makeRecord({
    rmid: RM_HEAP_ID,
    info: 0x10,
    nextLsn: AFTER,
    blocks: [{ blockId: 0, blockNumber: 1 }],
  })
  expect(() => redoRecordOnPage(record, 0, pageAt(1), settings)).toThrow('main data is 0 bytes, not 8')
})

test('records that redo does not know are refused by name, but their images are taken', () => {
  const image = pageAt(0x100).bytes
  const blocks = [{ blockId: 0, blockNumber: 1 }]
  // No record of this manager changes a page.
  const standby = makeRecord({ rmid: RM_STANDBY_ID, info: 0x10, nextLsn: AFTER, blocks })
  expect(() => recordEffects(standby, noEffects, settings)).toThrow(
    'WAL record Standby/RUNNING_XACTS at 0/0 cannot be redone',
  )
  expect(() => redoRecordOnPage(standby, 0, pageAt(1), settings)).toThrow('Standby/RUNNING_XACTS')
  const whole = makeRecord({
    rmid: RM_STANDBY_ID,
    info: 0x10,
    nextLsn: AFTER,
    blocks: [{ blockId: 0, blockNumber: 1, image }],
  })
  recordEffects(whole, noEffects, settings)
  expect(redoRecordOnPage(whole, 0, pageAt(1), settings)).toBe('restored')
  const custom = makeRecord({ rmid: 130, info: 0x20, nextLsn: AFTER, blocks })
  expect(() => recordEffects(custom, noEffects, settings)).toThrow(
    'unknown WAL record custom130/UNKNOWN (20) at 0/0',
  )
  const unknownKind = makeRecord({ rmid: RM_STANDBY_ID, info: 0xf0, nextLsn: AFTER })
  expect(() => recordEffects(unknownKind, noEffects, settings)).toThrow('Standby/UNKNOWN (f0)')
})

test('a code means what its version says', () => {
  const name = (major: 16 | 17 | 18, info: number): string =>
    recordTypeName(makeRecord({ rmid: RM_HEAP2_ID, info, nextLsn: AFTER }), { ...settings, major })
  expect([0x10, 0x20, 0x30].map((info) => name(16, info))).toEqual([
    'Heap2/PRUNE',
    'Heap2/VACUUM',
    'Heap2/FREEZE_PAGE',
  ])
  expect([0x10, 0x20, 0x30].map((info) => name(18, info))).toEqual([
    'Heap2/PRUNE_ON_ACCESS',
    'Heap2/PRUNE_VACUUM_SCAN',
    'Heap2/PRUNE_VACUUM_CLEANUP',
  ])
  expect(name(17, 0xd0)).toBe('Heap2/MULTI_INSERT+INIT')
})

test('every resource manager stands under its own id', () => {
  for (const [id, rmgr] of Object.entries(rmgrs)) expect(rmgr.id).toBe(Number(id))
})

test('what a damaged page or record holds is refused as damaged, not as a wrong argument', () => {
  // Found by fuzz:redo: pd_lsn beyond 2^53; offset numbers that continue beyond the block's data.
  const lock = makeRecord({
    rmid: RM_HEAP_ID,
    info: 0x60,
    nextLsn: AFTER,
    main: new Uint8Array(8),
    blocks: [{ blockId: 0, blockNumber: 3 }],
  })
  const farPage = pageAt(0)
  farPage.view.setUint32(0, 0x8000_0000, true)
  expect(() => redoRecordOnPage(lock, 0, farPage, settings)).toThrow(
    expect.objectContaining({ code: 'bad_page' }),
  )

  const prune = makeRecord({
    rmid: RM_HEAP2_ID,
    info: 0x10,
    nextLsn: AFTER,
    // XLHP_HAS_NOW_UNUSED_ITEMS, then a count of 500 with no offset numbers.
    main: new Uint8Array([0, 1 << 7]),
    blocks: [{ blockId: 0, blockNumber: 3, data: new Uint8Array([0xf4, 1]) }],
  })
  expect(() => redoRecordOnPage(prune, 0, pageAt(0x100), settings)).toThrow(
    expect.objectContaining({ code: 'bad_wal', message: expect.stringContaining('block data end after 2') }),
  )
})
