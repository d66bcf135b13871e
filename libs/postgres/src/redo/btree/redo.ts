/**
 * Redo of btree records, page by page. Each function leaves its page as the nbtxlog.c function that it names does, and
 * pd_lsn at the record's end. Pages that a record initializes come from the record alone, so each block of a split or
 * of a page deletion is rebuilt without looking at the others.
 *
 * Source: access/nbtree/nbtxlog.c and nbtdedup.c (17.11, 18.6). The one difference: from 18 on VACUUM clears the page's
 * vacuum cycle id.
 */
import { fail } from '@understory/base'
import {
  PAGE_SIZE,
  getItemId,
  itemIdLength,
  maxAlign,
  maxOffsetNumber,
  pageInit,
  pageOf,
  setPageLsn,
} from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import type { PgMajor } from '../../wal/pages.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import {
  ADD_TO_INDEX,
  addItem,
  copyBytes,
  indexMultiDelete,
  indexTupleDelete,
  indexTupleOverwrite,
} from '../../page/page-items.ts'
import { blockNumberOf, checkBlockData, checkMainData } from '../record-check.ts'
import type { RedoSettings, Rmgr } from '../types.ts'
import { identifyBtree } from './describe.ts'
import {
  BTPageOpaque,
  BTP_HAS_GARBAGE,
  BTP_INCOMPLETE_SPLIT,
  BTP_LEAF,
  BTP_ROOT,
  P_FIRSTKEY,
  P_HIKEY,
  P_NONE,
  appendItem,
  clearBtreeFlag,
  initBtreePage,
  initHalfDeadLeaf,
  opaqueAt,
  restoreBtreeMeta,
  restoreBtreePage,
  setBtreePageDeleted,
} from './page.ts'
import {
  BTDedupInterval,
  XLOG_BTREE_DEDUP,
  XLOG_BTREE_DELETE,
  XLOG_BTREE_INSERT_LEAF,
  XLOG_BTREE_INSERT_META,
  XLOG_BTREE_INSERT_POST,
  XLOG_BTREE_INSERT_UPPER,
  XLOG_BTREE_MARK_PAGE_HALFDEAD,
  XLOG_BTREE_META_CLEANUP,
  XLOG_BTREE_NEWROOT,
  XLOG_BTREE_SPLIT_L,
  XLOG_BTREE_SPLIT_R,
  XLOG_BTREE_UNLINK_PAGE,
  XLOG_BTREE_UNLINK_PAGE_META,
  XLOG_BTREE_VACUUM,
  xl_btree_dedup,
  xl_btree_delete,
  xl_btree_insert,
  xl_btree_mark_page_halfdead,
  xl_btree_newroot,
  xl_btree_split,
  xl_btree_unlink_page,
  xl_btree_vacuum,
} from './records.ts'
import {
  ItemPointerBytes,
  btreeTupleAt,
  checkedIndexTupleSize,
  indexTupleSize,
  isPosting,
  keySize,
  setTidBlock,
  setTupleHead,
  swapPosting,
  tidBlock,
  tidsCount,
  tidsOffset,
} from './tuple.ts'

// Work space of one record, one set per thread: redo is synchronous and never re-entered.
const temp = pageOf(new Uint8Array(PAGE_SIZE))
const tupleBytes = new Uint8Array(PAGE_SIZE)
const tupleView = new DataView(tupleBytes.buffer)
const offsetNumbers = new Uint16Array(PAGE_SIZE / 2)

const CLEARS_CYCLE_ID_ON_VACUUM: Readonly<Record<PgMajor, boolean>> = { 16: false, 17: false, 18: true }

/** PageGetTempPageCopySpecial into `temp`. */
function startTempPage(page: Page): void {
  const special = opaqueAt(page)
  pageInit(temp, PAGE_SIZE - special)
  copyBytes(temp.bytes, special, page.bytes, special, PAGE_SIZE - special)
}

/** _bt_clear_incomplete_split. */
function clearIncompleteSplit(record: DecodedRecord, page: Page): void {
  clearBtreeFlag(page, BTP_INCOMPLETE_SPLIT)
  setPageLsn(page, record.nextLsn)
}

/** btree_xlog_insert, block 0. */
function redoInsert(record: DecodedRecord, ref: BlockRef, page: Page, posting: boolean): void {
  checkMainData(record, xl_btree_insert.SIZE)
  const offnum = xl_btree_insert.offnum.get(record.view, record.mainDataOffset)
  let source = record.bytes
  let from = ref.dataOffset
  let length = ref.dataLength
  if (posting) {
    checkBlockData(ref, 2)
    const postingoff = record.view.getUint16(from, true)
    length -= 2
    const size = checkedIndexTupleSize(record.view, from + 2, from + 2 + length)
    copyBytes(tupleBytes, 0, record.bytes, from + 2, size)
    swapPosting(page, btreeTupleAt(page, offnum - 1), postingoff, tupleBytes)
    source = tupleBytes
    from = 0
  }
  if (addItem(page, source, from, length, offnum, ADD_TO_INDEX) === 0) {
    throw fail('bad_page', `no room for an index tuple of ${length} bytes as item ${offnum}`)
  }
  setPageLsn(page, record.nextLsn)
}

/** A line pointer of a damaged page may say more than the page has. */
function appendFrom(source: Uint8Array, from: number, length: number): void {
  if (from + length > source.length)
    throw fail('bad_page', `an item of ${length} bytes at ${from} ends beyond its page`)
  copyBytes(temp.bytes, appendItem(temp, length), source, from, length)
}

/** btree_xlog_split, block 0: what stays left of the split, in the order in which the page has it. */
function redoSplitLeft(record: DecodedRecord, ref: BlockRef, page: Page, newItemOnLeft: boolean): void {
  const { view, mainDataOffset: main } = record
  const firstright = xl_btree_split.firstrightoff.get(view, main)
  const newitemoff = xl_btree_split.newitemoff.get(view, main)
  const postingoff = xl_btree_split.postingoff.get(view, main)
  const end = ref.dataOffset + ref.dataLength
  let at = ref.dataOffset
  let newItem = record.bytes
  let newItemAt = at
  let newItemSize = 0
  if (newItemOnLeft || postingoff !== 0) {
    newItemSize = maxAlign(checkedIndexTupleSize(view, at, end))
    at += newItemSize
    if (postingoff !== 0) {
      copyBytes(tupleBytes, 0, record.bytes, newItemAt, newItemSize)
      // In place, since the page is replaced as a whole below.
      swapPosting(page, btreeTupleAt(page, newitemoff - 1), postingoff, tupleBytes)
      newItem = tupleBytes
      newItemAt = 0
    }
  }
  const highKeySize = maxAlign(checkedIndexTupleSize(view, at, end))
  if (at + highKeySize !== end)
    throw fail('bad_wal', `${end - at - highKeySize} bytes are left behind the high key`)

  const opaque = opaqueAt(page)
  const firstData = BTPageOpaque.next.get(page.view, opaque) === P_NONE ? P_HIKEY : P_FIRSTKEY
  startTempPage(page)
  appendFrom(record.bytes, at, highKeySize)
  let offset = firstData
  for (; offset < firstright; offset++) {
    if (newItemOnLeft && offset === newitemoff) appendFrom(newItem, newItemAt, newItemSize)
    appendFrom(page.bytes, btreeTupleAt(page, offset), itemIdLength(getItemId(page, offset)))
  }
  if (newItemOnLeft && offset === newitemoff) appendFrom(newItem, newItemAt, newItemSize)
  page.bytes.set(temp.bytes)

  const leaf = xl_btree_split.level.get(view, main) === 0 ? BTP_LEAF : 0
  BTPageOpaque.flags.set(page.view, opaque, BTP_INCOMPLETE_SPLIT | leaf)
  BTPageOpaque.next.set(page.view, opaque, blockNumberOf(record, 1))
  BTPageOpaque.cycleid.set(page.view, opaque, 0)
  setPageLsn(page, record.nextLsn)
}

/** btree_xlog_split. */
function redoSplit(record: DecodedRecord, ref: BlockRef, page: Page, newItemOnLeft: boolean): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_btree_split.SIZE)
  switch (ref.blockId) {
    case 0:
      return redoSplitLeft(record, ref, page, newItemOnLeft)
    case 1: {
      const level = xl_btree_split.level.get(view, main)
      const next = record.block(2)?.blockNumber ?? P_NONE
      initBtreePage(page, blockNumberOf(record, 0), next, level, level === 0 ? BTP_LEAF : 0)
      restoreBtreePage(record, ref, page)
      break
    }
    case 2:
      BTPageOpaque.prev.set(page.view, opaqueAt(page), blockNumberOf(record, 1))
      break
    default:
      return clearIncompleteSplit(record, page)
  }
  setPageLsn(page, record.nextLsn)
}

/** btree_xlog_dedup: runs of equal keys, as the record lists them, become posting lists. */
function redoDedup(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_btree_dedup.SIZE)
  const intervalCount = xl_btree_dedup.nintervals.get(record.view, record.mainDataOffset)
  checkBlockData(ref, intervalCount * BTDedupInterval.SIZE)
  const lines = maxOffsetNumber(page)
  const opaque = opaqueAt(page)
  const firstData = BTPageOpaque.next.get(page.view, opaque) === P_NONE ? P_HIKEY : P_FIRSTKEY
  startTempPage(page)
  if (firstData === P_FIRSTKEY) {
    appendFrom(page.bytes, btreeTupleAt(page, P_HIKEY), itemIdLength(getItemId(page, P_HIKEY)))
  }
  let interval = 0
  for (let offset = firstData; offset <= lines;) {
    const intervalAt = ref.dataOffset + interval * BTDedupInterval.SIZE
    if (interval < intervalCount && BTDedupInterval.baseoff.get(record.view, intervalAt) === offset) {
      const itemCount = BTDedupInterval.nitems.get(record.view, intervalAt)
      if (itemCount < 1 || offset + itemCount - 1 > lines) {
        throw fail('bad_wal', `deduplication of ${itemCount} items from ${offset} on, of ${lines}`)
      }
      mergeItems(page, offset, itemCount)
      offset += itemCount
      interval++
    } else {
      const at = btreeTupleAt(page, offset)
      appendFrom(page.bytes, at, indexTupleSize(page.view, at))
      offset++
    }
  }
  if (interval !== intervalCount)
    throw fail('bad_wal', `only ${interval} of ${intervalCount} intervals were found`)
  clearBtreeFlag(temp, BTP_HAS_GARBAGE)
  page.bytes.set(temp.bytes)
  setPageLsn(page, record.nextLsn)
}

/** _bt_form_posting over items `from` and the `itemCount - 1` after it, appended to `temp`. */
function mergeItems(page: Page, from: number, itemCount: number): void {
  let tidCount = 0
  for (let i = 0; i < itemCount; i++) tidCount += tidsCount(page.view, btreeTupleAt(page, from + i))
  const base = btreeTupleAt(page, from)
  const keyBytes = keySize(page.view, base)
  const size = maxAlign(keyBytes + tidCount * ItemPointerBytes)
  const to = appendItem(temp, size)
  copyBytes(temp.bytes, to, page.bytes, base, keyBytes)
  setTupleHead(temp.view, to, size, keyBytes, tidCount)
  let tid = to + keyBytes
  for (let i = 0; i < itemCount; i++) {
    const at = btreeTupleAt(page, from + i)
    const length = tidsCount(page.view, at) * ItemPointerBytes
    copyBytes(temp.bytes, tid, page.bytes, tidsOffset(page.view, at), length)
    tid += length
  }
}

/** btree_xlog_updates: takes TIDs out of posting lists. */
function redoUpdates(record: DecodedRecord, updatedAt: number, count: number, end: number, page: Page): void {
  const { view } = record
  let update = updatedAt + count * 2 // xl_btree_update: u16 ndeletedtids, then their places in the list
  for (let i = 0; i < count; i++) {
    const offset = view.getUint16(updatedAt + i * 2, true)
    const deletedCount = update + 2 <= end ? view.getUint16(update, true) : -1
    const deletedAt = update + 2
    update = deletedAt + deletedCount * 2
    if (deletedCount < 0 || update > end) throw fail('bad_wal', 'posting list updates leave the block data')
    const at = btreeTupleAt(page, offset)
    const oldCount = isPosting(page.view, at) ? tidsCount(page.view, at) : 0
    const newCount = oldCount - deletedCount
    if (newCount < 1)
      throw fail('bad_page', `cannot delete ${deletedCount} of ${oldCount} TIDs of item ${offset}`)
    const tids = tidsOffset(page.view, at)
    const keyBytes = keySize(page.view, at)
    const size = newCount > 1 ? maxAlign(keyBytes + newCount * ItemPointerBytes) : keyBytes
    copyBytes(tupleBytes, 0, page.bytes, at, keyBytes)
    tupleBytes.fill(0, keyBytes, size)
    setTupleHead(tupleView, 0, size, keyBytes, newCount)
    let to = newCount > 1 ? keyBytes : 0
    let deleted = 0
    for (let n = 0; n < oldCount; n++) {
      if (deleted < deletedCount && view.getUint16(deletedAt + deleted * 2, true) === n) {
        deleted++
        continue
      }
      if (n - deleted >= newCount) break
      copyBytes(tupleBytes, to, page.bytes, tids + n * ItemPointerBytes, ItemPointerBytes)
      to += ItemPointerBytes
    }
    if (deleted !== deletedCount)
      throw fail('bad_wal', `places in the posting list of item ${offset} do not rise`)
    if (!indexTupleOverwrite(page, offset, tupleBytes, 0, maxAlign(size))) {
      throw fail('bad_page', 'failed to update partially dead item')
    }
  }
}

/** The part that btree_xlog_vacuum and btree_xlog_delete share. */
function redoDelitems(
  record: DecodedRecord,
  ref: BlockRef,
  page: Page,
  deletedCount: number,
  updatedCount: number,
): void {
  checkBlockData(ref, (deletedCount + updatedCount) * 2)
  const updatedAt = ref.dataOffset + deletedCount * 2
  if (updatedCount > 0) redoUpdates(record, updatedAt, updatedCount, ref.dataOffset + ref.dataLength, page)
  if (deletedCount > 0) {
    for (let i = 0; i < deletedCount; i++)
      offsetNumbers[i] = record.view.getUint16(ref.dataOffset + i * 2, true)
    indexMultiDelete(page, offsetNumbers, deletedCount)
  }
  clearBtreeFlag(page, BTP_HAS_GARBAGE)
}

function redoVacuum(record: DecodedRecord, ref: BlockRef, page: Page, major: PgMajor): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_btree_vacuum.SIZE)
  redoDelitems(
    record,
    ref,
    page,
    xl_btree_vacuum.ndeleted.get(view, main),
    xl_btree_vacuum.nupdated.get(view, main),
  )
  if (CLEARS_CYCLE_ID_ON_VACUUM[major]) BTPageOpaque.cycleid.set(page.view, opaqueAt(page), 0)
  setPageLsn(page, record.nextLsn)
}

function redoDelete(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_btree_delete.SIZE)
  redoDelitems(
    record,
    ref,
    page,
    xl_btree_delete.ndeleted.get(view, main),
    xl_btree_delete.nupdated.get(view, main),
  )
  setPageLsn(page, record.nextLsn)
}

/** btree_xlog_mark_page_halfdead. */
function redoMarkPageHalfdead(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_btree_mark_page_halfdead.SIZE)
  if (ref.blockId === 0) {
    initHalfDeadLeaf(
      page,
      xl_btree_mark_page_halfdead.leftblk.get(view, main),
      xl_btree_mark_page_halfdead.rightblk.get(view, main),
      xl_btree_mark_page_halfdead.topparent.get(view, main),
    )
  } else {
    // The subtree's downlink takes over the child of the next one, which then goes with its key.
    const poffset = xl_btree_mark_page_halfdead.poffset.get(view, main)
    const rightChild = tidBlock(page.view, btreeTupleAt(page, poffset + 1))
    setTidBlock(page.view, btreeTupleAt(page, poffset), rightChild)
    indexTupleDelete(page, poffset + 1)
  }
  setPageLsn(page, record.nextLsn)
}

/** btree_xlog_unlink_page. */
function redoUnlinkPage(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, xl_btree_unlink_page.SIZE)
  const leftsib = xl_btree_unlink_page.leftsib.get(view, main)
  const rightsib = xl_btree_unlink_page.rightsib.get(view, main)
  switch (ref.blockId) {
    case 0: {
      const level = xl_btree_unlink_page.level.get(view, main)
      initBtreePage(page, leftsib, rightsib, level, level === 0 ? BTP_LEAF : 0)
      setBtreePageDeleted(
        page,
        xl_btree_unlink_page.safexidLow.get(view, main),
        xl_btree_unlink_page.safexidHigh.get(view, main),
      )
      break
    }
    case 1:
      BTPageOpaque.next.set(page.view, opaqueAt(page), rightsib)
      break
    case 2:
      BTPageOpaque.prev.set(page.view, opaqueAt(page), leftsib)
      break
    case 3:
      initHalfDeadLeaf(
        page,
        xl_btree_unlink_page.leafleftsib.get(view, main),
        xl_btree_unlink_page.leafrightsib.get(view, main),
        xl_btree_unlink_page.leaftopparent.get(view, main),
      )
      break
    default:
      return restoreBtreeMeta(record, ref, page)
  }
  setPageLsn(page, record.nextLsn)
}

/** btree_xlog_newroot. */
function redoNewroot(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_btree_newroot.SIZE)
  if (ref.blockId === 1) return clearIncompleteSplit(record, page)
  if (ref.blockId === 2) return restoreBtreeMeta(record, ref, page)
  const level = xl_btree_newroot.level.get(record.view, record.mainDataOffset)
  initBtreePage(page, P_NONE, P_NONE, level, level === 0 ? BTP_ROOT | BTP_LEAF : BTP_ROOT)
  if (level > 0) restoreBtreePage(record, ref, page)
  setPageLsn(page, record.nextLsn)
}

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page, settings: RedoSettings): void {
  const ref = record.blocks[blockIndex] as BlockRef
  const info = record.info & 0xf0
  switch (info) {
    case XLOG_BTREE_INSERT_LEAF:
    case XLOG_BTREE_INSERT_UPPER:
    case XLOG_BTREE_INSERT_META:
    case XLOG_BTREE_INSERT_POST:
      if (ref.blockId === 0) return redoInsert(record, ref, page, info === XLOG_BTREE_INSERT_POST)
      return ref.blockId === 1 ? clearIncompleteSplit(record, page) : restoreBtreeMeta(record, ref, page)
    case XLOG_BTREE_SPLIT_L:
      return redoSplit(record, ref, page, true)
    case XLOG_BTREE_SPLIT_R:
      return redoSplit(record, ref, page, false)
    case XLOG_BTREE_DEDUP:
      return redoDedup(record, ref, page)
    case XLOG_BTREE_VACUUM:
      return redoVacuum(record, ref, page, settings.major)
    case XLOG_BTREE_DELETE:
      return redoDelete(record, ref, page)
    case XLOG_BTREE_MARK_PAGE_HALFDEAD:
      return redoMarkPageHalfdead(record, ref, page)
    case XLOG_BTREE_UNLINK_PAGE:
    case XLOG_BTREE_UNLINK_PAGE_META:
      return redoUnlinkPage(record, ref, page)
    case XLOG_BTREE_NEWROOT:
      return redoNewroot(record, ref, page)
    case XLOG_BTREE_META_CLEANUP:
      return restoreBtreeMeta(record, ref, page)
    default:
      throw fail('unknown_wal', `btree record ${info.toString(16)} has no block to redo`)
  }
}

export const btreeRmgr: Rmgr = { id: 11, name: 'Btree', identify: identifyBtree, redoBlock }
