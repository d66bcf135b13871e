/**
 * GIN pages: opaque data, posting tree pages, the metapage.
 *
 * Source: access/ginblock.h; access/gin/ginutil.c GinInitPage, GinInitMetabuffer; gindatapage.c
 * GinDataPageAddPostingItem, GinPageDeletePostingItem (16, 17, 18 alike).
 */
import { fail, struct, u16, u32 } from '@understory/base'
import {
  PAGE_SIZE,
  SizeOfPageHeaderData,
  getPageSpecial,
  pageInit,
  setPageLower,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { copyBytes } from '../../page/page-items.ts'
import { GIN_META_BYTES } from './records.ts'

export const GIN_DATA = 1 << 0
export const GIN_LEAF = 1 << 1
export const GIN_DELETED = 1 << 2
export const GIN_META = 1 << 3
export const GIN_LIST = 1 << 4
export const GIN_LIST_FULLROW = 1 << 5
export const GIN_INCOMPLETE_SPLIT = 1 << 6
export const GIN_COMPRESSED = 1 << 7

export const InvalidBlockNumber = 0xffff_ffff

export const GinPageOpaque = struct(8, {
  rightlink: u32,
  maxoff: u16,
  flags: u16,
})
export const OPAQUE_AT = PAGE_SIZE - GinPageOpaque.SIZE

/** GinDataPageGetData: behind the header and the right bound. */
export const DATA_AT = SizeOfPageHeaderData + 8
export const POSTING_ITEM_BYTES = 10

/** Refused `bad_page` unless this is a GIN page. */
export function checkGinPage(page: Page): void {
  const special = getPageSpecial(page)
  if (special !== OPAQUE_AT) throw fail('bad_page', `special space starts at ${special}: not a GIN page`)
}

/** GinInitPage. */
export function initGinPage(page: Page, flags: number): void {
  pageInit(page, GinPageOpaque.SIZE)
  GinPageOpaque.rightlink.set(page.view, OPAQUE_AT, InvalidBlockNumber)
  GinPageOpaque.flags.set(page.view, OPAQUE_AT, flags)
}

/** GinInitMetabuffer, with the metadata that the record brings. */
export function restoreGinMeta(page: Page, source: Uint8Array, from: number): void {
  initGinPage(page, GIN_META)
  copyBytes(page.bytes, SizeOfPageHeaderData, source, from, GIN_META_BYTES)
  setPageLower(page, SizeOfPageHeaderData + GIN_META_BYTES)
}

export const ginFlags = (page: Page): number => GinPageOpaque.flags.get(page.view, OPAQUE_AT)
export const setGinFlags = (page: Page, flags: number): void =>
  GinPageOpaque.flags.set(page.view, OPAQUE_AT, flags)
export const ginMaxoff = (page: Page): number => GinPageOpaque.maxoff.get(page.view, OPAQUE_AT)
export const setGinMaxoff = (page: Page, maxoff: number): void =>
  GinPageOpaque.maxoff.set(page.view, OPAQUE_AT, maxoff)

/** GinDataPageSetDataSize. */
export function setDataSize(page: Page, size: number): void {
  if (DATA_AT + size > OPAQUE_AT) throw fail('bad_page', `${size} bytes do not fit a posting tree page`)
  setPageLower(page, DATA_AT + size)
}

function postingItemAt(offset: number, last: number): number {
  if (offset < 1 || offset > last) throw fail('bad_page', `no posting item ${offset} of ${last}`)
  return DATA_AT + (offset - 1) * POSTING_ITEM_BYTES
}

/** PostingItemSetBlockNumber of item `offset`. */
export function setChildBlock(page: Page, offset: number, block: number): void {
  const at = postingItemAt(offset, ginMaxoff(page))
  page.view.setUint16(at, block >>> 16, true)
  page.view.setUint16(at + 2, block & 0xffff, true)
}

/** GinDataPageAddPostingItem: the item is the 10 bytes at `from` of `source`. */
export function addPostingItem(page: Page, offset: number, source: Uint8Array, from: number): void {
  const maxoff = ginMaxoff(page)
  const at = postingItemAt(offset, maxoff + 1)
  setDataSize(page, (maxoff + 1) * POSTING_ITEM_BYTES)
  page.bytes.copyWithin(at + POSTING_ITEM_BYTES, at, DATA_AT + maxoff * POSTING_ITEM_BYTES)
  copyBytes(page.bytes, at, source, from, POSTING_ITEM_BYTES)
  setGinMaxoff(page, maxoff + 1)
}

/** GinPageDeletePostingItem. */
export function deletePostingItem(page: Page, offset: number): void {
  const maxoff = ginMaxoff(page)
  const at = postingItemAt(offset, maxoff)
  page.bytes.copyWithin(at, at + POSTING_ITEM_BYTES, DATA_AT + maxoff * POSTING_ITEM_BYTES)
  setGinMaxoff(page, maxoff - 1)
  setDataSize(page, (maxoff - 1) * POSTING_ITEM_BYTES)
}
