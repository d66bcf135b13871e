/**
 * The page edits that redo functions of every resource manager share. Each leaves the page byte for byte as the
 * function of the same name does: what it moves, in which order tuples come to lie, and which freed bytes keep their
 * old content. Lengths and offsets are bytes within the page; offset numbers count from 1.
 *
 * A page whose header or line pointers contradict themselves is refused with `bad_page` before it is changed.
 *
 * Source: storage/page/bufpage.c (16, 17, 18 alike).
 */
import { fail } from '@understory/base'
import {
  itemIdAt,
  LP_NORMAL,
  LP_UNUSED,
  PAGE_SIZE,
  PD_HAS_FREE_LINES,
  SizeOfItemIdData,
  SizeOfPageHeaderData,
  clearPageFlag,
  getItemId,
  getPageFlags,
  getPageLower,
  getPageSpecial,
  getPageUpper,
  itemIdFlags,
  itemIdLength,
  itemIdOffset,
  makeItemId,
  maxAlign,
  maxOffsetNumber,
  setItemId,
  setPageFlag,
  setPageLower,
  setPageUpper,
  withItemIdOffset,
} from './bufpage.ts'
import type { Page } from './bufpage.ts'

/** Of 8 KiB pages: (8192 - 24) / (MAXALIGN(SizeofHeapTupleHeader) + 4). */
export const MaxHeapTuplesPerPage = 291
/** No line pointer array is longer than this, whatever the access method. */
const LINE_POINTERS_COUNT_MAX = (PAGE_SIZE - SizeOfPageHeaderData) / SizeOfItemIdData

/** Below this a byte loop beats `set` with its temporary view (and allocates nothing). */
const COPY_LOOP_BYTES_MAX = 96

/** memcpy between two buffers. */
export function copyBytes(
  to: Uint8Array,
  toAt: number,
  from: Uint8Array,
  fromAt: number,
  length: number,
): void {
  if (length > COPY_LOOP_BYTES_MAX) {
    to.set(from.subarray(fromAt, fromAt + length), toAt)
    return
  }
  for (let i = 0; i < length; i++) to[toAt + i] = from[fromAt + i] as number
}

function checkHeader(page: Page): void {
  const lower = getPageLower(page)
  const upper = getPageUpper(page)
  const special = getPageSpecial(page)
  if (
    lower < SizeOfPageHeaderData ||
    lower > upper ||
    upper > special ||
    special > PAGE_SIZE ||
    (special & 7) !== 0
  ) {
    throw fail(
      'bad_page',
      `corrupted page pointers: lower = ${lower}, upper = ${upper}, special = ${special}`,
    )
  }
}

function checkItem(page: Page, itemId: number): void {
  const offset = itemIdOffset(itemId)
  const length = itemIdLength(itemId)
  if (offset < getPageUpper(page) || offset + length > getPageSpecial(page) || (offset & 7) !== 0) {
    throw fail('bad_page', `corrupted line pointer: offset = ${offset}, size = ${length}`)
  }
}

export interface AddItemOptions {
  /** PAI_OVERWRITE: take the line pointer as it is (it must be unused); otherwise later ones move up by one. */
  readonly overwrite: boolean
  /** PAI_IS_HEAP: no more than `MaxHeapTuplesPerPage` line pointers. */
  readonly heap: boolean
}
export const ADD_TO_HEAP: AddItemOptions = { overwrite: true, heap: true }
export const ADD_TO_INDEX: AddItemOptions = { overwrite: false, heap: false }

/**
 * PageAddItemExtended. Copies `length` bytes from `offset` of `bytes` into the page as item `offsetNumber`, or as the
 * first free one if that is 0. Returns the offset number used, or 0 where there is no room or the number is not
 * allowed: then nothing has been changed.
 */
export function addItem(
  page: Page,
  bytes: Uint8Array,
  offset: number,
  length: number,
  offsetNumber: number,
  options: AddItemOptions,
): number {
  const upper = reserveItem(page, length, offsetNumber, options)
  if (upper === 0) return 0
  copyBytes(page.bytes, upper, bytes, offset, length)
  return addedOffsetNumber
}

/** The number that the last `reserveItem` gave: a second result that costs no object. */
let addedOffsetNumber = 0

/** The same without the copy: returns where the caller has to put the `length` bytes, or 0. */
export function reserveItem(
  page: Page,
  length: number,
  offsetNumber: number,
  options: AddItemOptions,
): number {
  checkHeader(page)
  const oldLower = getPageLower(page)
  const limit = maxOffsetNumber(page) + 1
  let at = offsetNumber
  let moves = false
  if (at !== 0) {
    if (options.overwrite) {
      if (at < limit) {
        const itemId = getItemId(page, at)
        if (itemIdFlags(itemId) !== LP_UNUSED || itemIdLength(itemId) !== 0) return 0
      }
    } else {
      moves = at < limit
    }
  } else if ((getPageFlags(page) & PD_HAS_FREE_LINES) !== 0) {
    for (at = 1; at < limit; at++) {
      const itemId = getItemId(page, at)
      if (itemIdFlags(itemId) === LP_UNUSED && itemIdLength(itemId) === 0) break
    }
    if (at >= limit) clearPageFlag(page, PD_HAS_FREE_LINES)
  } else {
    at = limit
  }
  if (at > limit || (options.heap && at > MaxHeapTuplesPerPage)) return 0
  const lower = at === limit || moves ? oldLower + SizeOfItemIdData : oldLower
  const upper = getPageUpper(page) - maxAlign(length)
  if (lower > upper) return 0
  if (moves) page.bytes.copyWithin(itemIdAt(at + 1), itemIdAt(at), itemIdAt(limit))
  setItemId(page, at, makeItemId(upper, LP_NORMAL, length))
  setPageLower(page, lower)
  setPageUpper(page, upper)
  addedOffsetNumber = at
  return upper
}

// Work space of compaction, one set per thread: redo is synchronous and never re-entered.
const compactLine = new Uint16Array(LINE_POINTERS_COUNT_MAX) // offset number of the kept item
const compactOffset = new Uint16Array(LINE_POINTERS_COUNT_MAX)
const compactLength = new Uint16Array(LINE_POINTERS_COUNT_MAX) // MAXALIGNed
const compactItemId = new Uint32Array(LINE_POINTERS_COUNT_MAX)
const scratch = new Uint8Array(PAGE_SIZE)

/**
 * compactify_tuples: moves the `count` kept items, listed in the work space in line pointer order, to the end of the
 * page, in reverse line pointer order, and sets their line pointers and pd_upper. Runs of neighbours move in one go.
 * If they are `presorted` (falling offsets) they move within the page, otherwise from a copy of it.
 */
export function compactifyTuples(page: Page, count: number, presorted: boolean): void {
  const { bytes } = page
  let upper = getPageSpecial(page)
  let i = 0
  // Those at the very end already lie where they belong.
  while (i < count && upper === (compactOffset[i] as number) + (compactLength[i] as number)) {
    upper -= compactLength[i] as number
    i++
  }
  if (i < count) {
    if (!presorted)
      copyBytes(
        scratch,
        getPageUpper(page),
        bytes,
        getPageUpper(page),
        getPageSpecial(page) - getPageUpper(page),
      )
    let tail = (compactOffset[i] as number) + (compactLength[i] as number)
    let head = tail
    for (; i < count; i++) {
      const offset = compactOffset[i] as number
      const length = compactLength[i] as number
      if (head !== offset + length) {
        if (presorted) bytes.copyWithin(upper, head, tail)
        else copyBytes(bytes, upper, scratch, head, tail - head)
        tail = offset + length
      }
      upper -= length
      head = offset
      const line = compactLine[i] as number
      setItemId(page, line, withItemIdOffset(getItemId(page, line), upper))
    }
    if (presorted) bytes.copyWithin(upper, head, tail)
    else copyBytes(bytes, upper, scratch, head, tail - head)
  }
  setPageUpper(page, upper)
}

/** PageRepairFragmentation: heap pages, after pruning. Drops unused line pointers from the end of the array. */
export function repairFragmentation(page: Page): void {
  checkHeader(page)
  const lower = getPageLower(page)
  const upper = getPageUpper(page)
  const special = getPageSpecial(page)
  const lines = maxOffsetNumber(page)
  let stored = 0
  let unused = 0
  let lastUsed = 0
  let totalLength = 0
  let lastOffset = special
  let presorted = true
  for (let line = 1; line <= lines; line++) {
    const itemId = getItemId(page, line)
    if (itemIdFlags(itemId) === LP_UNUSED) {
      setItemId(page, line, 0)
      unused++
      continue
    }
    lastUsed = line
    if (itemIdLength(itemId) === 0) continue
    const offset = itemIdOffset(itemId)
    // Beyond the special space as well, which Postgres leaves unchecked here: its memmove would go over the page's end.
    if (offset < upper || offset + itemIdLength(itemId) > special)
      throw fail('bad_page', `corrupted line pointer: ${offset}`)
    if (lastOffset > offset) lastOffset = offset
    else presorted = false
    const length = maxAlign(itemIdLength(itemId))
    compactLine[stored] = line
    compactOffset[stored] = offset
    compactLength[stored] = length
    totalLength += length
    stored++
  }
  if (totalLength > special - lower) {
    throw fail('bad_page', `corrupted item lengths: total ${totalLength}, available space ${special - lower}`)
  }
  if (stored === 0) setPageUpper(page, special)
  else compactifyTuples(page, stored, presorted)
  if (lastUsed !== lines) {
    unused -= lines - lastUsed
    setPageLower(page, lower - SizeOfItemIdData * (lines - lastUsed))
  }
  if (unused > 0) setPageFlag(page, PD_HAS_FREE_LINES)
  else clearPageFlag(page, PD_HAS_FREE_LINES)
}

/** PageTruncateLinePointerArray: drops unused line pointers from the end, but never the first one. */
export function truncateLinePointerArray(page: Page): void {
  const lines = maxOffsetNumber(page)
  let last = lines
  while (last > 1 && itemIdFlags(getItemId(page, last)) === LP_UNUSED) last--
  if (last < lines) setPageLower(page, getPageLower(page) - SizeOfItemIdData * (lines - last))
  let hasUnused = false
  for (let line = last; line >= 1 && !hasUnused; line--)
    hasUnused = itemIdFlags(getItemId(page, line)) === LP_UNUSED
  if (hasUnused) setPageFlag(page, PD_HAS_FREE_LINES)
  else clearPageFlag(page, PD_HAS_FREE_LINES)
}

/** Moves all tuples before `offset` by `shift` bytes (negative: towards the line pointers), with their pointers. */
function shiftTuples(page: Page, offset: number, shift: number): void {
  const upper = getPageUpper(page)
  page.bytes.copyWithin(upper + shift, upper, offset)
  setPageUpper(page, upper + shift)
}

function shiftLinePointers(page: Page, lines: number, offset: number, shift: number): void {
  for (let line = 1; line <= lines; line++) {
    const itemId = getItemId(page, line)
    if (itemIdLength(itemId) !== 0 && itemIdOffset(itemId) <= offset) {
      setItemId(page, line, withItemIdOffset(itemId, itemIdOffset(itemId) + shift))
    }
  }
}

function checkedIndexItem(page: Page, offsetNumber: number, lines: number): number {
  checkHeader(page)
  if (offsetNumber <= 0 || offsetNumber > lines)
    throw fail('bad_page', `invalid index offnum: ${offsetNumber}`)
  const itemId = getItemId(page, offsetNumber)
  checkItem(page, itemId)
  return itemId
}

/** PageIndexTupleDelete: the line pointer goes too, later ones move down. */
export function indexTupleDelete(page: Page, offsetNumber: number): void {
  const lines = maxOffsetNumber(page)
  const itemId = checkedIndexItem(page, offsetNumber, lines)
  const offset = itemIdOffset(itemId)
  const size = maxAlign(itemIdLength(itemId))
  const lower = getPageLower(page)
  page.bytes.copyWithin(itemIdAt(offsetNumber), itemIdAt(offsetNumber + 1), lower)
  shiftTuples(page, offset, size)
  setPageLower(page, lower - SizeOfItemIdData)
  shiftLinePointers(page, lines - 1, offset, size)
}

/** PageIndexTupleDeleteNoCompact: the line pointer stays as unused, unless it is the last one. */
export function indexTupleDeleteNoCompact(page: Page, offsetNumber: number): void {
  const lines = maxOffsetNumber(page)
  const itemId = checkedIndexItem(page, offsetNumber, lines)
  const offset = itemIdOffset(itemId)
  const size = maxAlign(itemIdLength(itemId))
  let left = lines
  if (offsetNumber < lines) {
    setItemId(page, offsetNumber, 0)
  } else {
    setPageLower(page, getPageLower(page) - SizeOfItemIdData)
    left--
  }
  shiftTuples(page, offset, size)
  shiftLinePointers(page, left, offset, size)
}

/**
 * PageIndexMultiDelete. `offsetNumbers` holds `count` rising offset numbers. One or two go one by one, as Postgres
 * does it: the order of the tuples that stay depends on it.
 */
export function indexMultiDelete(
  page: Page,
  offsetNumbers: ArrayLike<number>,
  count = offsetNumbers.length,
): void {
  if (count <= 2) {
    for (let i = count - 1; i >= 0; i--) indexTupleDelete(page, offsetNumbers[i] as number)
    return
  }
  checkHeader(page)
  const lower = getPageLower(page)
  const special = getPageSpecial(page)
  const lines = maxOffsetNumber(page)
  let kept = 0
  let deleted = 0
  let totalLength = 0
  let lastOffset = special
  let presorted = true
  for (let line = 1; line <= lines; line++) {
    const itemId = getItemId(page, line)
    checkItem(page, itemId)
    if (deleted < count && line === offsetNumbers[deleted]) {
      deleted++
      continue
    }
    const offset = itemIdOffset(itemId)
    if (lastOffset > offset) lastOffset = offset
    else presorted = false
    const length = maxAlign(itemIdLength(itemId))
    compactLine[kept] = kept + 1
    compactOffset[kept] = offset
    compactLength[kept] = length
    compactItemId[kept] = itemId
    totalLength += length
    kept++
  }
  if (deleted !== count) throw fail('bad_page', 'incorrect index offsets supplied')
  if (totalLength > special - lower) {
    throw fail('bad_page', `corrupted item lengths: total ${totalLength}, available space ${special - lower}`)
  }
  for (let i = 0; i < kept; i++) setItemId(page, i + 1, compactItemId[i] as number)
  setPageLower(page, SizeOfPageHeaderData + kept * SizeOfItemIdData)
  if (kept > 0) compactifyTuples(page, kept, presorted)
  else setPageUpper(page, special)
}

/** PageIndexTupleOverwrite: the tuple is replaced in place, others make room. False, and nothing done, without room. */
export function indexTupleOverwrite(
  page: Page,
  offsetNumber: number,
  bytes: Uint8Array,
  offset: number,
  length: number,
): boolean {
  const lines = maxOffsetNumber(page)
  const itemId = checkedIndexItem(page, offsetNumber, lines)
  const oldOffset = itemIdOffset(itemId)
  const oldSize = maxAlign(itemIdLength(itemId))
  if (maxAlign(length) > oldSize + (getPageUpper(page) - getPageLower(page))) return false
  const shift = oldSize - maxAlign(length)
  if (shift !== 0) {
    shiftTuples(page, oldOffset, shift)
    shiftLinePointers(page, lines, oldOffset, shift)
  }
  setItemId(page, offsetNumber, makeItemId(oldOffset + shift, itemIdFlags(itemId), length))
  copyBytes(page.bytes, oldOffset + shift, bytes, offset, length)
  return true
}
