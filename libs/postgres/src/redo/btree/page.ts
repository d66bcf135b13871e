/**
 * Btree pages: the opaque data at their end, the metapage, and how redo fills them.
 *
 * Source: access/nbtree.h, access/nbtree/nbtxlog.c _bt_restore_page, _bt_restore_meta; nbtpage.c _bt_pageinit.
 */
import { bytes, fail, struct, u16, u32, u8 } from '@understory/base'
import {
  LP_NORMAL,
  SizeOfItemIdData,
  SizeOfPageHeaderData,
  getPageLower,
  getPageSpecial,
  getPageUpper,
  makeItemId,
  maxAlign,
  pageInit,
  setItemId,
  setPageLower,
  setPageLsn,
  setPageUpper,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { copyBytes } from '../../page/page-items.ts'
import { checkBlockData } from '../record-check.ts'
import { xl_btree_metadata } from './records.ts'
import { INDEX_ALT_TID_MASK, SizeOfIndexTupleData, checkedIndexTupleSize, setTidBlock } from './tuple.ts'

export const BTP_LEAF = 1 << 0
export const BTP_ROOT = 1 << 1
export const BTP_DELETED = 1 << 2
export const BTP_META = 1 << 3
export const BTP_HALF_DEAD = 1 << 4
export const BTP_HAS_GARBAGE = 1 << 6
export const BTP_INCOMPLETE_SPLIT = 1 << 7
export const BTP_HAS_FULLXID = 1 << 8

export const P_NONE = 0
export const P_HIKEY = 1
export const P_FIRSTKEY = 2

const BTREE_MAGIC = 0x053162

/** BTPageOpaqueData, the last 16 bytes of the page. */
export const BTPageOpaque = struct(16, {
  prev: u32, // btpo_prev
  next: u32, // btpo_next
  level: u32, // btpo_level
  flags: u16, // btpo_flags
  cycleid: u16, // btpo_cycleid
})

/** BTMetaPageData, right behind the page header. */
const BTMetaPageData = struct(48, {
  magic: u32,
  version: u32,
  root: u32,
  level: u32,
  fastroot: u32,
  fastlevel: u32,
  lastCleanupNumDelpages: u32,
  pad4: bytes(4),
  lastCleanupNumHeapTuples: bytes(8), // float8
  allequalimage: u8,
  pad7: bytes(7),
})

const OPAQUE_AT = 8192 - BTPageOpaque.SIZE

/** Where the opaque data is; `bad_page` if the page has no room for it. */
export function opaqueAt(page: Page): number {
  const special = getPageSpecial(page)
  if (special !== OPAQUE_AT) throw fail('bad_page', `special space starts at ${special}: not a btree page`)
  return special
}

/** _bt_pageinit and the opaque fields that every caller sets. */
export function initBtreePage(page: Page, prev: number, next: number, level: number, flags: number): void {
  pageInit(page, BTPageOpaque.SIZE)
  BTPageOpaque.prev.set(page.view, OPAQUE_AT, prev)
  BTPageOpaque.next.set(page.view, OPAQUE_AT, next)
  BTPageOpaque.level.set(page.view, OPAQUE_AT, level)
  BTPageOpaque.flags.set(page.view, OPAQUE_AT, flags)
}

export function clearBtreeFlag(page: Page, flag: number): void {
  const at = opaqueAt(page)
  BTPageOpaque.flags.set(page.view, at, BTPageOpaque.flags.get(page.view, at) & ~flag)
}

/**
 * PageAddItem behind the last item, for pages that redo fills in order. Returns where the caller has to put the tuple.
 * Errors: `bad_page` where Postgres would fail for want of room.
 */
export function appendItem(page: Page, length: number): number {
  const lower = getPageLower(page)
  const upper = getPageUpper(page) - maxAlign(length)
  if (lower + SizeOfItemIdData > upper)
    throw fail('bad_page', `no room for an index tuple of ${length} bytes`)
  page.view.setUint32(lower, makeItemId(upper, LP_NORMAL, length), true)
  setPageLower(page, lower + SizeOfItemIdData)
  setPageUpper(page, upper)
  return upper
}

/** Work space: offsets of the tuples of one page within block data. */
const tupleOffsets = new Uint16Array(8192 / SizeOfIndexTupleData)

/**
 * _bt_restore_page: the block data is what the page's tuple space held, item of the highest number first. It is put
 * back in one piece, which is what adding the items one by one from the last comes to.
 */
export function restoreBtreePage(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { dataOffset: start, dataLength: length } = ref
  const special = getPageSpecial(page)
  const upper = special - length
  if (upper < SizeOfPageHeaderData || (length & 7) !== 0) {
    throw fail('bad_wal', `tuples of ${length} bytes do not fit a page`)
  }
  let count = 0
  for (let at = 0; at < length; count++) {
    tupleOffsets[count] = at
    at += maxAlign(checkedIndexTupleSize(record.view, start + at, start + length))
  }
  const lower = SizeOfPageHeaderData + count * SizeOfItemIdData
  if (lower > upper) throw fail('bad_wal', `${count} tuples of ${length} bytes do not fit a page`)
  copyBytes(page.bytes, upper, record.bytes, start, length)
  let end = length
  for (let i = count - 1; i >= 0; i--) {
    const at = tupleOffsets[i] as number
    setItemId(page, count - i, makeItemId(upper + at, LP_NORMAL, end - at))
    end = at
  }
  setPageLower(page, lower)
  setPageUpper(page, upper)
}

/** _bt_restore_meta. */
export function restoreBtreeMeta(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkBlockData(ref, xl_btree_metadata.SIZE)
  const from = ref.dataOffset
  const to = SizeOfPageHeaderData
  const source = record.view
  const { view } = page
  initBtreePage(page, 0, 0, 0, BTP_META)
  BTMetaPageData.magic.set(view, to, BTREE_MAGIC)
  BTMetaPageData.version.set(view, to, xl_btree_metadata.version.get(source, from))
  BTMetaPageData.root.set(view, to, xl_btree_metadata.root.get(source, from))
  BTMetaPageData.level.set(view, to, xl_btree_metadata.level.get(source, from))
  BTMetaPageData.fastroot.set(view, to, xl_btree_metadata.fastroot.get(source, from))
  BTMetaPageData.fastlevel.set(view, to, xl_btree_metadata.fastlevel.get(source, from))
  BTMetaPageData.lastCleanupNumDelpages.set(
    view,
    to,
    xl_btree_metadata.lastCleanupNumDelpages.get(source, from),
  )
  view.setFloat64(to + BTMetaPageData.lastCleanupNumHeapTuples.offset, -1, true)
  BTMetaPageData.allequalimage.set(view, to, xl_btree_metadata.allequalimage.get(source, from))
  setPageLower(page, to + BTMetaPageData.SIZE)
  setPageLsn(page, record.nextLsn)
}

/** A half-dead leaf: empty but for a high key that points to the top parent of the subtree that is being deleted. */
export function initHalfDeadLeaf(page: Page, prev: number, next: number, topParent: number): void {
  initBtreePage(page, prev, next, 0, BTP_HALF_DEAD | BTP_LEAF)
  const at = appendItem(page, SizeOfIndexTupleData)
  setTidBlock(page.view, at, topParent)
  page.view.setUint16(at + 6, SizeOfIndexTupleData | INDEX_ALT_TID_MASK, true)
}

/** BTPageSetDeleted: the page's only content is the xid after which it may be reused. */
export function setBtreePageDeleted(page: Page, safexidLow: number, safexidHigh: number): void {
  const { view } = page
  const at = opaqueAt(page)
  BTPageOpaque.flags.set(
    view,
    at,
    (BTPageOpaque.flags.get(view, at) & ~BTP_HALF_DEAD) | BTP_DELETED | BTP_HAS_FULLXID,
  )
  view.setUint32(SizeOfPageHeaderData, safexidLow, true)
  view.setUint32(SizeOfPageHeaderData + 4, safexidHigh, true)
  setPageLower(page, SizeOfPageHeaderData + 8)
  setPageUpper(page, getPageSpecial(page))
}
