// Goal: page edits leave a page that bufpage.c would leave. Method: random sequences of edits, compared with a plain
// model of the page (a list of items) and with the rules of compaction; refusals leave the page as it was.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  LP_DEAD,
  LP_NORMAL,
  LP_REDIRECT,
  LP_UNUSED,
  PD_HAS_FREE_LINES,
  SizeOfPageHeaderData,
  exactFreeSpace,
  getItemId,
  getPageFlags,
  getPageLower,
  getPageUpper,
  itemIdFlags,
  itemIdLength,
  itemIdOffset,
  makeItemId,
  maxAlign,
  maxOffsetNumber,
  pageInit,
  pageOf,
  setItemId,
} from './bufpage.ts'
import type { Page } from './bufpage.ts'
import {
  ADD_TO_HEAP,
  ADD_TO_INDEX,
  addItem,
  indexMultiDelete,
  indexTupleDelete,
  indexTupleDeleteNoCompact,
  indexTupleOverwrite,
  repairFragmentation,
  truncateLinePointerArray,
} from './page-items.ts'

function emptyPage(specialSize = 16): Page {
  const page = pageOf(new Uint8Array(8192).fill(0xee))
  pageInit(page, specialSize)
  return page
}

const item = (seed: number, length: number): Uint8Array => new Uint8Array(length).map((_, i) => seed + i)

function itemAt(page: Page, offsetNumber: number): Uint8Array {
  const itemId = getItemId(page, offsetNumber)
  return page.bytes.slice(itemIdOffset(itemId), itemIdOffset(itemId) + itemIdLength(itemId))
}

const items = (page: Page): Uint8Array[] =>
  Array.from({ length: maxOffsetNumber(page) }, (_, i) => itemAt(page, i + 1))

/** Every byte between pd_upper and the special space belongs to exactly one aligned item. */
function expectCompact(page: Page, specialSize = 16): void {
  const spans = Array.from({ length: maxOffsetNumber(page) }, (_, i) => getItemId(page, i + 1))
    .filter((itemId) => itemIdLength(itemId) > 0)
    .map((itemId) => [itemIdOffset(itemId), itemIdOffset(itemId) + maxAlign(itemIdLength(itemId))] as const)
    .sort(([a], [b]) => a - b)
  let end = getPageUpper(page)
  for (const [from, to] of spans) {
    expect(from).toBe(end)
    end = to
  }
  expect(end).toBe(8192 - specialSize)
}

const length = fc.integer({ min: 1, max: 120 })
const edit = fc.oneof(
  fc.record({ kind: fc.constant('insert' as const), at: fc.nat(), length, seed: fc.nat(255) }),
  fc.record({ kind: fc.constant('delete' as const), at: fc.nat() }),
  fc.record({ kind: fc.constant('multi' as const), every: fc.integer({ min: 2, max: 6 }) }),
  fc.record({ kind: fc.constant('overwrite' as const), at: fc.nat(), length, seed: fc.nat(255) }),
)

describe('an index page', () => {
  test('holds the items of the model after any edits, without gaps', () => {
    fc.assert(
      fc.property(fc.array(edit, { maxLength: 60 }), (edits) => {
        const page = emptyPage()
        const model: Uint8Array[] = []
        for (const step of edits) {
          if (step.kind === 'insert') {
            const at = (step.at % (model.length + 1)) + 1
            const bytes = item(step.seed, step.length)
            expect(addItem(page, bytes, 0, bytes.length, at, ADD_TO_INDEX)).toBe(at)
            model.splice(at - 1, 0, bytes)
          } else if (model.length === 0) {
            continue
          } else if (step.kind === 'delete') {
            const at = (step.at % model.length) + 1
            indexTupleDelete(page, at)
            model.splice(at - 1, 1)
          } else if (step.kind === 'multi') {
            const gone = model.map((_, i) => i + 1).filter((n) => n % step.every === 0)
            indexMultiDelete(page, gone)
            for (const n of gone.toReversed()) model.splice(n - 1, 1)
          } else {
            const at = (step.at % model.length) + 1
            const bytes = item(step.seed, step.length)
            expect(indexTupleOverwrite(page, at, bytes, 0, bytes.length)).toBe(true)
            model[at - 1] = bytes
          }
          expect(items(page)).toEqual(model)
          expectCompact(page)
        }
      }),
      { numRuns: 200 },
    )
  })

  test('that loses three items or more is put back into line pointer order', () => {
    const page = emptyPage()
    for (let n = 1; n <= 6; n++) addItem(page, item(n, 8), 0, 8, 1, ADD_TO_INDEX) // each before the others
    indexMultiDelete(page, [2, 3, 5])
    expect(items(page)).toEqual([item(6, 8), item(3, 8), item(1, 8)])
    expect([1, 2, 3].map((n) => itemIdOffset(getItemId(page, n)))).toEqual([8168, 8160, 8152])
  })

  test('that loses two items keeps the order of the others', () => {
    const page = emptyPage()
    for (let n = 1; n <= 4; n++) addItem(page, item(n, 8), 0, 8, 1, ADD_TO_INDEX)
    indexMultiDelete(page, [2, 3])
    expect([1, 2].map((n) => itemIdOffset(getItemId(page, n)))).toEqual([8160, 8168])
  })

  test('keeps an unused line pointer where its number must not change', () => {
    const page = emptyPage()
    for (let n = 1; n <= 3; n++) addItem(page, item(n, 16), 0, 16, n, ADD_TO_INDEX)
    indexTupleDeleteNoCompact(page, 2)
    expect(itemIdFlags(getItemId(page, 2))).toBe(LP_UNUSED)
    expect(itemAt(page, 3)).toEqual(item(3, 16))
    indexTupleDeleteNoCompact(page, 3)
    expect(maxOffsetNumber(page)).toBe(2)
  })

  test('refuses what it has no room for, unchanged', () => {
    const page = emptyPage()
    const big = item(1, 4000)
    addItem(page, big, 0, 4000, 1, ADD_TO_INDEX)
    addItem(page, big, 0, 4000, 2, ADD_TO_INDEX)
    const before = page.bytes.slice()
    expect(addItem(page, big, 0, 200, 3, ADD_TO_INDEX)).toBe(0)
    expect(indexTupleOverwrite(page, 1, item(2, 4200), 0, 4200)).toBe(false)
    expect(() => indexTupleDelete(page, 3)).toThrow('invalid index offnum: 3')
    expect(() => indexMultiDelete(page, [1, 2, 3])).toThrow('incorrect index offsets')
    expect(page.bytes).toEqual(before)
    expect(exactFreeSpace(page)).toBe(144)
  })

  test('with pointers that contradict themselves is refused', () => {
    const page = emptyPage()
    addItem(page, item(1, 8), 0, 8, 1, ADD_TO_INDEX)
    setItemId(page, 1, makeItemId(100, LP_NORMAL, 8))
    expect(() => indexTupleDelete(page, 1)).toThrow('corrupted line pointer: offset = 100')
    page.view.setUint16(14, 20, true)
    expect(() => addItem(page, item(1, 8), 0, 8, 1, ADD_TO_INDEX)).toThrow('corrupted page pointers')
  })
})

describe('a heap page', () => {
  function heapPage(count: number): Page {
    const page = emptyPage(0)
    for (let n = 1; n <= count; n++) addItem(page, item(n, 20), 0, 20, n, ADD_TO_HEAP)
    return page
  }

  test('takes an item only at an unused line pointer or right after the last', () => {
    const page = heapPage(3)
    expect(addItem(page, item(9, 20), 0, 20, 2, ADD_TO_HEAP)).toBe(0)
    expect(addItem(page, item(9, 20), 0, 20, 5, ADD_TO_HEAP)).toBe(0)
    setItemId(page, 2, 0)
    expect(addItem(page, item(9, 20), 0, 20, 2, ADD_TO_HEAP)).toBe(2)
    expect(itemAt(page, 2)).toEqual(item(9, 20))
    expect(maxOffsetNumber(page)).toBe(3)
  })

  test('finds a free line pointer only if its flag says that there is one', () => {
    const page = heapPage(3)
    setItemId(page, 2, 0)
    expect(addItem(page, item(9, 8), 0, 8, 0, ADD_TO_HEAP)).toBe(4)
    page.view.setUint16(10, PD_HAS_FREE_LINES, true)
    expect(addItem(page, item(9, 8), 0, 8, 0, ADD_TO_HEAP)).toBe(2)
    expect(addItem(page, item(9, 8), 0, 8, 0, ADD_TO_HEAP)).toBe(5)
    expect(getPageFlags(page)).toBe(0)
  })

  test('is repaired: dead and redirected pointers stay, unused ones at the end go', () => {
    const page = heapPage(6)
    setItemId(page, 1, makeItemId(4, LP_REDIRECT, 0))
    setItemId(page, 2, makeItemId(0, LP_DEAD, 0))
    for (const n of [3, 5, 6]) setItemId(page, n, 0)
    repairFragmentation(page)
    expect(getPageLower(page)).toBe(SizeOfPageHeaderData + 4 * 4)
    expect(getPageUpper(page)).toBe(8192 - 24)
    expect(itemAt(page, 4)).toEqual(item(4, 20))
    expect(getPageFlags(page) & PD_HAS_FREE_LINES).toBe(PD_HAS_FREE_LINES)
  })

  test('is repaired in line pointer order whatever order its tuples had', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 4, maxLength: 60 }), fc.nat(), (kept, seed) => {
        const page = heapPage(kept.length)
        // Tuples of reused line pointers lie out of order.
        for (let i = 0; i < 10; i++) {
          const n = ((seed + i * 7) % kept.length) + 1
          setItemId(page, n, 0)
          addItem(page, item(n, 20), 0, 20, n, ADD_TO_HEAP)
        }
        for (const [i, keep] of kept.entries()) if (!keep) setItemId(page, i + 1, 0)
        repairFragmentation(page)
        let end = 8192
        for (let n = 1; n <= maxOffsetNumber(page); n++) {
          if (!(kept[n - 1] as boolean)) continue
          end -= 24
          expect(itemIdOffset(getItemId(page, n))).toBe(end)
          expect(itemAt(page, n)).toEqual(item(n, 20))
        }
        expect(maxOffsetNumber(page)).toBe(kept.lastIndexOf(true) + 1)
      }),
    )
  })

  test('is refused where a tuple continues beyond the end of the page', () => {
    const page = heapPage(3)
    setItemId(page, 1, makeItemId(8184, LP_NORMAL, 24))
    expect(() => repairFragmentation(page)).toThrow(expect.objectContaining({ code: 'bad_page' }))
  })

  test('keeps its first line pointer when vacuum cuts the array', () => {
    const page = heapPage(3)
    for (const n of [1, 2, 3]) setItemId(page, n, 0)
    truncateLinePointerArray(page)
    expect(maxOffsetNumber(page)).toBe(1)
    expect(getPageFlags(page) & PD_HAS_FREE_LINES).toBe(PD_HAS_FREE_LINES)
  })
})
