/**
 * SP-GiST pages and their tuples.
 *
 *   leaf   u32 tupstate:2 size:30 | u16 t_info (next offset in 14 bits) | TID of the heap tuple | key
 *   inner  u32 tupstate:2 allTheSame:1 nNodes:13 prefixSize:16 | u16 size | pad 2 | prefix | nodes (index tuples)
 *   dead   u32 tupstate:2 size:30 | u16 t_info | TID that it redirects to | u32 xid: 16 bytes
 *
 * Source: access/spgist_private.h; access/spgist/spgutils.c SpGistInitPage, spgFormDeadTuple; spgdoinsert.c
 * spgPageIndexMultiDelete, spgUpdateNodeLink (16, 17, 18 alike).
 */
import { fail, struct, u16 } from '@understory/base'
import {
  PAGE_SIZE,
  getNormalItemId,
  getPageSpecial,
  itemIdLength,
  itemIdOffset,
  maxOffsetNumber,
  pageInit,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { indexTupleSizeWithin } from '../index-tuple.ts'
import { ADD_TO_INDEX, addItem, indexMultiDelete, indexTupleDelete } from '../../page/page-items.ts'

export const SPGIST_LEAF = 1 << 2
export const SPGIST_NULLS = 1 << 3
const SPGIST_PAGE_ID = 0xff82

export const SPGIST_REDIRECT = 1
export const SPGIST_DEAD = 2
export const SPGIST_PLACEHOLDER = 3

export const InvalidBlockNumber = 0xffff_ffff

export const SpGistPageOpaque = struct(8, {
  flags: u16,
  nRedirection: u16,
  nPlaceholder: u16,
  pageId: u16,
})
const OPAQUE_AT = PAGE_SIZE - SpGistPageOpaque.SIZE

/** SGDTSIZE. */
const DEAD_TUPLE_BYTES = 16
const deadBytes = new Uint8Array(DEAD_TUPLE_BYTES)
const deadView = new DataView(deadBytes.buffer)
const offsetNumbers = new Uint16Array(PAGE_SIZE / 4)

export function initSpgistPage(page: Page, flags: number): void {
  pageInit(page, SpGistPageOpaque.SIZE)
  SpGistPageOpaque.flags.set(page.view, OPAQUE_AT, flags)
  SpGistPageOpaque.pageId.set(page.view, OPAQUE_AT, SPGIST_PAGE_ID)
}

function opaqueAt(page: Page): number {
  const special = getPageSpecial(page)
  if (special !== OPAQUE_AT) throw fail('bad_page', `special space starts at ${special}: not an SP-GiST page`)
  return special
}

export function addRedirections(page: Page, count: number): void {
  const at = opaqueAt(page)
  SpGistPageOpaque.nRedirection.set(page.view, at, SpGistPageOpaque.nRedirection.get(page.view, at) + count)
}
export function addPlaceholders(page: Page, count: number): void {
  const at = opaqueAt(page)
  SpGistPageOpaque.nPlaceholder.set(page.view, at, SpGistPageOpaque.nPlaceholder.get(page.view, at) + count)
}

/** Size of a leaf or dead tuple that lies at `at` of a record. */
export function leafTupleSize(view: DataView, at: number, end: number): number {
  const size = at + 12 <= end ? view.getUint32(at, true) >>> 2 : 0
  if (size < 12 || at + size > end)
    throw fail('bad_wal', `a leaf tuple of ${size} bytes in the ${end - at} left`)
  return size
}

/** Size of an inner tuple that lies at `at` of a record. */
export function innerTupleSize(view: DataView, at: number, end: number): number {
  const size = at + 8 <= end ? view.getUint16(at + 4, true) : 0
  if (size < 8 || at + size > end)
    throw fail('bad_wal', `an inner tuple of ${size} bytes in the ${end - at} left`)
  return size
}

export const spgistTupleAt = (page: Page, offset: number): number =>
  itemIdOffset(getNormalItemId(page, offset))

/** PageAddItem that must use this very offset number. */
export function putTuple(page: Page, source: Uint8Array, from: number, size: number, offset: number): void {
  if (addItem(page, source, from, size, offset, ADD_TO_INDEX) !== offset) {
    throw fail('bad_page', `failed to add item ${offset} of size ${size} to SPGiST index page`)
  }
}

/** addOrReplaceTuple: a tuple that is there must be a placeholder. */
export function addOrReplaceTuple(
  page: Page,
  source: Uint8Array,
  from: number,
  size: number,
  offset: number,
): void {
  if (offset <= maxOffsetNumber(page)) {
    if ((page.view.getUint8(spgistTupleAt(page, offset)) & 3) !== SPGIST_PLACEHOLDER) {
      throw fail('bad_page', 'SPGiST tuple to be replaced is not a placeholder')
    }
    addPlaceholders(page, -1)
    indexTupleDelete(page, offset)
  }
  putTuple(page, source, from, size, offset)
}

/** spgFormDeadTuple, added as item `offset`. */
export function putDeadTuple(
  page: Page,
  offset: number,
  state: number,
  block: number,
  target: number,
  redirectXid: number,
): void {
  const isRedirect = state === SPGIST_REDIRECT
  const to = isRedirect ? block : InvalidBlockNumber
  deadView.setUint32(0, (DEAD_TUPLE_BYTES << 2) | state, true)
  deadView.setUint16(4, 0, true)
  deadView.setUint16(6, to >>> 16, true)
  deadView.setUint16(8, to & 0xffff, true)
  deadView.setUint16(10, isRedirect ? target : 0, true)
  deadView.setUint32(12, isRedirect ? redirectXid : 0, true)
  putTuple(page, deadBytes, 0, DEAD_TUPLE_BYTES, offset)
}

/** The states that replace deleted tuples: the first one listed gets `firstState`, the others `restState`. */
export interface Replacement {
  firstState: number
  restState: number
  /** Of a redirect: where to, and the xid until which it must stay. */
  block: number
  offset: number
  redirectXid: number
}

/** spgPageIndexMultiDelete of the `count` offset numbers that lie at `at` of the record, in any order. */
export function replaceByDead(view: DataView, at: number, count: number, page: Page, by: Replacement): void {
  if (count === 0) return
  if (count > offsetNumbers.length) throw fail('bad_wal', `${count} items to delete from one page`)
  for (let i = 0; i < count; i++) offsetNumbers[i] = view.getUint16(at + i * 2, true)
  const first = offsetNumbers[0]
  const sorted = offsetNumbers.subarray(0, count).sort()
  indexMultiDelete(page, sorted, count)
  for (let i = 0; i < count; i++) {
    const offset = sorted[i] as number
    const state = offset === first ? by.firstState : by.restState
    putDeadTuple(page, offset, state, by.block, by.offset, by.redirectXid)
    if (state === SPGIST_REDIRECT) addRedirections(page, 1)
    else if (state === SPGIST_PLACEHOLDER) addPlaceholders(page, 1)
  }
}

/** spgUpdateNodeLink of node `nodeI` of the inner tuple that is item `offset`. */
export function updateNodeLink(
  page: Page,
  offset: number,
  nodeI: number,
  block: number,
  target: number,
): void {
  const { view } = page
  const itemId = getNormalItemId(page, offset)
  const at = itemIdOffset(itemId)
  const end = at + itemIdLength(itemId)
  const head = view.getUint32(at, true)
  const nodeCount = (head >>> 3) & 0x1fff
  if (nodeI >= nodeCount)
    throw fail('bad_page', `failed to find requested node ${nodeI} in SPGiST inner tuple`)
  let node = at + 8 + (head >>> 16)
  for (let i = 0; i < nodeI; i++) node += indexTupleSizeWithin(view, node, end)
  indexTupleSizeWithin(view, node, end)
  view.setUint16(node, block >>> 16, true)
  view.setUint16(node + 2, block & 0xffff, true)
  view.setUint16(node + 4, target, true)
}

/** SGLT_SET_NEXTOFFSET of the leaf tuple that is item `offset`. */
export function setNextOffset(page: Page, offset: number, next: number): void {
  const at = spgistTupleAt(page, offset) + 4
  page.view.setUint16(at, (page.view.getUint16(at, true) & 0xc000) | (next & 0x3fff), true)
}
