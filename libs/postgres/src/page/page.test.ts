// Goal: each mask hides exactly what Postgres's hides. Method: pages built by hand, one difference at a time.
import { lsn } from '@understory/base'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { UnderstoryError } from '@understory/base'
import {
  LP_NORMAL,
  PAGE_SIZE,
  PD_ALL_VISIBLE,
  PageHeader,
  getPageLsn,
  isPageChecksumRight,
  isPageHeaderSane,
  isPageNew,
  isZeroPage,
  maskRelationPage,
  pageInit,
  pageOf,
  setPageLsn,
  stampPageChecksum,
  vmBlockOf,
  vmByteOf,
  vmShiftOf,
} from './index.ts'
import type { Page, PageKind } from './index.ts'

function pageWith(
  specialSize: number,
  edit: (view: DataView, bytes: Uint8Array) => void = () => undefined,
): Page {
  const page = pageOf(new Uint8Array(PAGE_SIZE))
  const { bytes, view } = page
  pageInit(page, specialSize)
  // One item of 30 bytes right before the special space.
  const at = PAGE_SIZE - specialSize - 32
  view.setUint32(24, at | (LP_NORMAL << 15) | (30 << 17), true)
  bytes.fill(7, at, at + 32)
  view.setUint16(at + 20, 0x0902, true)
  PageHeader.lower.set(view, 0, 28)
  PageHeader.upper.set(view, 0, at)
  edit(view, bytes)
  return page
}

function isHidden(
  kind: PageKind,
  specialSize: number,
  edit: (view: DataView, bytes: Uint8Array) => void,
  block = 9,
): boolean {
  const before = pageWith(specialSize)
  const after = pageWith(specialSize, edit)
  expect(after).not.toEqual(before)
  maskRelationPage(kind, before, block)
  maskRelationPage(kind, after, block)
  return Buffer.from(before.bytes).equals(after.bytes)
}

const tuple = PAGE_SIZE - 32
const setFlags =
  (at: number, bits: number) =>
  (view: DataView): void =>
    view.setUint16(at, view.getUint16(at, true) | bits, true)

test('heap: hints, command ids, padding and unused space are hidden, data are not', () => {
  expect(isHidden('heap', 0, (_, bytes) => setPageLsn(pageOf(bytes), lsn(99)))).toBe(true)
  expect(isHidden('heap', 0, setFlags(10, PD_ALL_VISIBLE))).toBe(true)
  expect(isHidden('heap', 0, (view) => view.setUint32(20, 5, true))).toBe(true) // pd_prune_xid
  expect(isHidden('heap', 0, (_, bytes) => bytes.fill(1, 28, tuple))).toBe(true)
  expect(isHidden('heap', 0, setFlags(tuple + 20, 0x0400))).toBe(true)
  expect(isHidden('heap', 0, (view) => view.setUint32(tuple + 8, 1, true))).toBe(true)
  expect(isHidden('heap', 0, (_, bytes) => bytes.fill(1, tuple + 30, tuple + 32))).toBe(true)
  expect(isHidden('heap', 0, (_, bytes) => bytes.fill(1, tuple + 29, tuple + 30))).toBe(false)
  expect(isHidden('heap', 0, setFlags(tuple + 20, 0x0001))).toBe(false)
  expect(isHidden('heap', 0, (view) => view.setUint32(tuple, 1, true))).toBe(false) // t_xmin
  expect(isHidden('heap', 0, (view) => view.setUint16(tuple + 16, 1, true))).toBe(false) // t_ctid
})

test('indexes: killed items and bits that redo does not know are hidden on the right pages only', () => {
  const at = PAGE_SIZE - 16
  const kill = (view: DataView): void => view.setUint32(24, view.getUint32(24, true) | (3 << 15), true)
  const leaf =
    (more: (view: DataView) => void) =>
    (view: DataView): void => {
      view.setUint16(at + 12, 1, true)
      more(view)
    }
  expect(isHidden('btree', 16, setFlags(at + 12, 1 << 6))).toBe(true)
  expect(isHidden('btree', 16, setFlags(at + 12, 1 << 5))).toBe(true)
  expect(isHidden('btree', 16, setFlags(at + 14, 77))).toBe(true)
  expect(isHidden('btree', 16, setFlags(at + 12, 1 << 7))).toBe(false)
  expect(isHidden('btree', 16, kill)).toBe(false)
  const masked = [leaf(() => undefined), leaf(kill)].map((edit) => {
    const page = pageWith(16, edit)
    maskRelationPage('btree', page, 1)
    return page
  })
  expect(masked[1]).toEqual(masked[0])
  expect(isHidden('gist', 16, (view) => view.setUint32(at, 5, true))).toBe(true) // nsn
  expect(isHidden('gist', 16, setFlags(at + 12, 1 << 3))).toBe(true)
  expect(isHidden('gist', 16, setFlags(at + 12, 1 << 4))).toBe(true)
  expect(isHidden('gist', 16, setFlags(at + 12, 1 << 1))).toBe(false)
  expect(isHidden('gin', 8, (view) => view.setUint32(PAGE_SIZE - 8, 5, true))).toBe(false) // rightlink
  expect(isHidden('brin', 8, setFlags(PAGE_SIZE - 4, 1))).toBe(true)
  expect(isHidden('brin', 8, setFlags(PAGE_SIZE - 4, 2))).toBe(false)
  expect(isHidden('hash', 16, (_, bytes) => bytes.fill(9, 24, 4000))).toBe(true) // an unused page
  expect(isHidden('sequence', 8, (view) => view.setUint32(20, 5, true))).toBe(false)
})

test('a page of random bytes is masked or refused', () => {
  const kinds: readonly PageKind[] = [
    'heap',
    'btree',
    'hash',
    'gin',
    'gist',
    'spgist',
    'brin',
    'sequence',
    'generic',
  ]
  fc.assert(
    fc.property(
      fc.constantFrom(...kinds),
      fc.uint8Array({ minLength: 200, maxLength: 200 }),
      fc.boolean(),
      (kind, noise, keepHeader) => {
        const page = pageWith(16)
        page.bytes.set(noise, keepHeader ? 24 : 0)
        page.bytes.set(noise.subarray(0, 16), PAGE_SIZE - 16)
        if (keepHeader) PageHeader.lower.set(page.view, 0, 224)
        try {
          maskRelationPage(kind, page, 0)
        } catch (error) {
          expect(error).toBeInstanceOf(UnderstoryError)
        }
      },
    ),
    { numRuns: 2000 },
  )
})

test('header, checksum and map arithmetic', () => {
  const page = pageWith(0)
  setPageLsn(page, lsn(0x1_2345_6789_abcd))
  expect(getPageLsn(page)).toBe(0x1_2345_6789_abcd)
  stampPageChecksum(page, 3)
  expect(isPageChecksumRight(page, 3)).toBe(true)
  expect(isPageChecksumRight(page, 4)).toBe(false)
  const shifted = new Uint8Array(PAGE_SIZE + 1)
  shifted.set(page.bytes, 1)
  expect(isPageChecksumRight(pageOf(shifted.subarray(1)), 3)).toBe(true)
  page.bytes[5000] = 1
  expect(isPageChecksumRight(page, 3)).toBe(false)
  const fresh = pageOf(new Uint8Array(PAGE_SIZE))
  expect([
    isPageNew(fresh),
    isZeroPage(fresh.bytes),
    isPageHeaderSane(fresh),
    isPageChecksumRight(fresh, 3),
  ]).toEqual([true, true, true, true])
  fresh.bytes[8000] = 1
  expect(isPageHeaderSane(fresh)).toBe(false)
  expect([vmBlockOf(32_671), vmBlockOf(32_672), vmByteOf(32_672 + 5), vmShiftOf(7)]).toEqual([0, 1, 25, 6])
})
