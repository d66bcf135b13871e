/**
 * Redo of hash index records, page by page. Primary bucket pages that a record registers only for their lock stay as
 * they are, LSN included.
 *
 * Source: access/hash/hash_xlog.c (17.11, 18.6).
 */
import { fail } from '@understory/base'
import { maxAlign, setPageLsn } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_HASH_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { PgMajor } from '../../wal/pages.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { indexTupleSizeWithin } from '../index-tuple.ts'
import { ADD_TO_INDEX, addItem, indexMultiDelete } from '../../page/page-items.ts'
import { blockNumberOf, checkBlockData, checkMainData } from '../record-check.ts'
import type { RedoSettings, Rmgr } from '../types.ts'
import { identifyHash } from './describe.ts'
import {
  HashPageOpaque,
  LH_BUCKET_NEEDS_SPLIT_CLEANUP,
  LH_OVERFLOW_PAGE,
  LH_PAGE_HAS_DEAD_TUPLES,
  LH_UNUSED_PAGE,
  META_FIRSTFREE,
  META_HIGHMASK,
  META_LOWMASK,
  META_MAXBUCKET,
  META_NTUPLES,
  META_OVFLPOINT,
  NONE,
  addBitmapPage,
  clearHashFlag,
  hashOpaqueAt,
  incrementSpare,
  initHashBitmap,
  initHashMeta,
  initHashPage,
  setHashBitmapBit,
  setSpare,
} from './page.ts'
import {
  XLH_SPLIT_META_UPDATE_MASKS,
  XLH_SPLIT_META_UPDATE_SPLITPOINT,
  XLOG_HASH_ADD_OVFL_PAGE,
  XLOG_HASH_DELETE,
  XLOG_HASH_INIT_BITMAP_PAGE,
  XLOG_HASH_INIT_META_PAGE,
  XLOG_HASH_INSERT,
  XLOG_HASH_MOVE_PAGE_CONTENTS,
  XLOG_HASH_SPLIT_ALLOCATE_PAGE,
  XLOG_HASH_SPLIT_CLEANUP,
  XLOG_HASH_SPLIT_COMPLETE,
  XLOG_HASH_SPLIT_PAGE,
  XLOG_HASH_SQUEEZE_PAGE,
  XLOG_HASH_UPDATE_META_PAGE,
  XLOG_HASH_VACUUM_ONE_PAGE,
  xl_hash_add_ovfl_page,
  xl_hash_delete,
  xl_hash_init_bitmap_page,
  xl_hash_init_meta_page,
  xl_hash_insert,
  xl_hash_move_page_contents,
  xl_hash_split_allocate_page,
  xl_hash_split_complete,
  xl_hash_squeeze_page,
  xl_hash_update_meta_page,
  xl_hash_vacuum_one_page,
} from './records.ts'

/** 16 moves the LSN of the page that squeezing writes to, also where it writes nothing. */
const SQUEEZE_MOVES_LSN_OF_UNCHANGED: Readonly<Record<PgMajor, boolean>> = { 16: true, 17: false, 18: false }

const offsetNumbers = new Uint16Array(4096)

/** PageIndexMultiDelete of `count` offset numbers that lie at `at` of the record. */
function deleteOffsets(record: DecodedRecord, at: number, count: number, page: Page): void {
  if (count > offsetNumbers.length) throw fail('bad_wal', `${count} items to delete from one page`)
  for (let i = 0; i < count; i++) offsetNumbers[i] = record.view.getUint16(at + i * 2, true)
  indexMultiDelete(page, offsetNumbers, count)
}

/** Block data that is one or more u32. */
function blockU32(record: DecodedRecord, ref: BlockRef, index = 0): number {
  checkBlockData(ref, index * 4 + 4)
  return record.view.getUint32(ref.dataOffset + index * 4, true)
}

function setLink(page: Page, isNext: boolean, block: number): void {
  const field = isNext ? HashPageOpaque.nextblkno : HashPageOpaque.prevblkno
  field.set(page.view, hashOpaqueAt(page), block)
}

/** The block data of a page that tuples are moved to: their places, then the tuples, each padded to 8 bytes. */
function addMovedTuples(record: DecodedRecord, ref: BlockRef, count: number, page: Page): void {
  checkBlockData(ref, count * 2)
  const end = ref.dataOffset + ref.dataLength
  let at = ref.dataOffset + count * 2
  for (let i = 0; at < end; i++) {
    if (i >= count) throw fail('bad_wal', `more than the ${count} tuples that were announced`)
    const size = maxAlign(indexTupleSizeWithin(record.view, at, end))
    const offnum = record.view.getUint16(ref.dataOffset + i * 2, true)
    if (addItem(page, record.bytes, at, size, offnum, ADD_TO_INDEX) === 0) {
      throw fail('bad_page', `no room for a tuple of ${size} bytes as item ${offnum}`)
    }
    at += size
  }
}

/** hash_xlog_add_ovfl_page. */
function redoAddOvflPage(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_hash_add_ovfl_page.SIZE)
  const { view, mainDataOffset: main } = record
  switch (ref.blockId) {
    case 0:
      initHashPage(page, blockNumberOf(record, 1), blockU32(record, ref), LH_OVERFLOW_PAGE)
      break
    case 1:
      setLink(page, true, blockNumberOf(record, 0))
      break
    case 2:
      setHashBitmapBit(page, blockU32(record, ref), true)
      break
    case 3:
      initHashBitmap(page, xl_hash_add_ovfl_page.bmsize.get(view, main))
      break
    default: {
      page.view.setUint32(META_FIRSTFREE, blockU32(record, ref), true)
      if (xl_hash_add_ovfl_page.bmpageFound.get(view, main) !== 0) break
      const point = page.view.getUint32(META_OVFLPOINT, true)
      incrementSpare(page, point)
      const newBitmap = record.block(3)
      if (newBitmap !== undefined) {
        addBitmapPage(page, newBitmap.blockNumber)
        incrementSpare(page, point)
      }
    }
  }
}

/** hash_xlog_split_allocate_page. */
function redoSplitAllocatePage(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_hash_split_allocate_page.SIZE)
  const { view, mainDataOffset: main } = record
  const newBucket = xl_hash_split_allocate_page.newBucket.get(view, main)
  if (ref.blockId === 0) {
    const at = hashOpaqueAt(page)
    HashPageOpaque.flag.set(page.view, at, xl_hash_split_allocate_page.oldBucketFlag.get(view, main))
    HashPageOpaque.prevblkno.set(page.view, at, newBucket)
    return
  }
  if (ref.blockId === 1) {
    initHashPage(page, newBucket, newBucket, xl_hash_split_allocate_page.newBucketFlag.get(view, main))
    return
  }
  const flags = xl_hash_split_allocate_page.flags.get(view, main)
  let field = 0
  page.view.setUint32(META_MAXBUCKET, newBucket, true)
  if ((flags & XLH_SPLIT_META_UPDATE_MASKS) !== 0) {
    page.view.setUint32(META_LOWMASK, blockU32(record, ref, field++), true)
    page.view.setUint32(META_HIGHMASK, blockU32(record, ref, field++), true)
  }
  if ((flags & XLH_SPLIT_META_UPDATE_SPLITPOINT) !== 0) {
    const point = blockU32(record, ref, field++)
    setSpare(page, point, blockU32(record, ref, field))
    page.view.setUint32(META_OVFLPOINT, point, true)
  }
}

function redoSplitComplete(record: DecodedRecord, ref: BlockRef, page: Page): void {
  checkMainData(record, xl_hash_split_complete.SIZE)
  const flag = ref.blockId === 0 ? xl_hash_split_complete.oldBucketFlag : xl_hash_split_complete.newBucketFlag
  HashPageOpaque.flag.set(page.view, hashOpaqueAt(page), flag.get(record.view, record.mainDataOffset))
}

/** hash_xlog_squeeze_page. False if the page stays as it is. */
function redoSqueezePage(record: DecodedRecord, ref: BlockRef, page: Page, major: PgMajor): boolean {
  checkMainData(record, xl_hash_squeeze_page.SIZE)
  const { view, mainDataOffset: main } = record
  const nextblkno = xl_hash_squeeze_page.nextblkno.get(view, main)
  switch (ref.blockId) {
    case 0:
      return false
    case 1: {
      const count = xl_hash_squeeze_page.ntups.get(view, main)
      const isBefore = xl_hash_squeeze_page.isPrevBucketSameWrt.get(view, main) !== 0
      if (count > 0) addMovedTuples(record, ref, count, page)
      if (isBefore) setLink(page, true, nextblkno)
      return count > 0 || isBefore || SQUEEZE_MOVES_LSN_OF_UNCHANGED[major]
    }
    case 2:
      initHashPage(page, NONE, NONE, LH_UNUSED_PAGE)
      return true
    case 3:
      if (xl_hash_squeeze_page.isPrevBucketSameWrt.get(view, main) !== 0) return false
      setLink(page, true, nextblkno)
      return true
    case 4:
      setLink(page, false, xl_hash_squeeze_page.prevblkno.get(view, main))
      return true
    case 5:
      setHashBitmapBit(page, blockU32(record, ref), false)
      return true
    default:
      page.view.setUint32(META_FIRSTFREE, blockU32(record, ref), true)
      return true
  }
}

const addToTupleCount = (page: Page, count: number): void =>
  page.view.setFloat64(META_NTUPLES, page.view.getFloat64(META_NTUPLES, true) + count, true)

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page, settings: RedoSettings): void {
  const ref = record.blocks[blockIndex] as BlockRef
  const { view, mainDataOffset: main } = record
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_HASH_INIT_META_PAGE: {
      checkMainData(record, xl_hash_init_meta_page.SIZE)
      const { procid, ffactor } = xl_hash_init_meta_page
      initHashMeta(page, view.getFloat64(main, true), procid.get(view, main), ffactor.get(view, main))
      break
    }
    case XLOG_HASH_INIT_BITMAP_PAGE:
      checkMainData(record, xl_hash_init_bitmap_page.SIZE)
      if (ref.blockId === 0) initHashBitmap(page, xl_hash_init_bitmap_page.bmsize.get(view, main))
      // The first bitmap page lies behind the buckets.
      else addBitmapPage(page, page.view.getUint32(META_MAXBUCKET, true) + 2)
      break
    case XLOG_HASH_INSERT: {
      checkMainData(record, xl_hash_insert.SIZE)
      if (ref.blockId === 1) {
        addToTupleCount(page, 1)
        break
      }
      const offnum = xl_hash_insert.offnum.get(view, main)
      if (addItem(page, record.bytes, ref.dataOffset, ref.dataLength, offnum, ADD_TO_INDEX) === 0) {
        throw fail('bad_page', `no room for a tuple of ${ref.dataLength} bytes as item ${offnum}`)
      }
      break
    }
    case XLOG_HASH_ADD_OVFL_PAGE:
      redoAddOvflPage(record, ref, page)
      break
    case XLOG_HASH_SPLIT_ALLOCATE_PAGE:
      redoSplitAllocatePage(record, ref, page)
      break
    case XLOG_HASH_SPLIT_PAGE:
      throw fail('bad_wal', 'hash split record did not contain a full-page image')
    case XLOG_HASH_SPLIT_COMPLETE:
      redoSplitComplete(record, ref, page)
      break
    case XLOG_HASH_MOVE_PAGE_CONTENTS:
      if (ref.blockId === 0) return
      checkMainData(record, xl_hash_move_page_contents.SIZE)
      if (ref.blockId === 1)
        addMovedTuples(record, ref, xl_hash_move_page_contents.ntups.get(view, main), page)
      else deleteOffsets(record, ref.dataOffset, ref.dataLength >>> 1, page)
      break
    case XLOG_HASH_SQUEEZE_PAGE:
      if (!redoSqueezePage(record, ref, page, settings.major)) return
      break
    case XLOG_HASH_DELETE:
      if (ref.blockId === 0) return
      checkMainData(record, xl_hash_delete.SIZE)
      deleteOffsets(record, ref.dataOffset, ref.dataLength >>> 1, page)
      if (xl_hash_delete.clearDeadMarking.get(view, main) !== 0) clearHashFlag(page, LH_PAGE_HAS_DEAD_TUPLES)
      break
    case XLOG_HASH_SPLIT_CLEANUP:
      clearHashFlag(page, LH_BUCKET_NEEDS_SPLIT_CLEANUP)
      break
    case XLOG_HASH_UPDATE_META_PAGE:
      checkMainData(record, xl_hash_update_meta_page.SIZE)
      page.view.setFloat64(META_NTUPLES, view.getFloat64(main, true), true)
      break
    case XLOG_HASH_VACUUM_ONE_PAGE: {
      checkMainData(record, xl_hash_vacuum_one_page.SIZE)
      const count = xl_hash_vacuum_one_page.ntuples.get(view, main)
      checkMainData(record, xl_hash_vacuum_one_page.SIZE + count * 2)
      if (ref.blockId === 0) {
        deleteOffsets(record, main + xl_hash_vacuum_one_page.SIZE, count, page)
        clearHashFlag(page, LH_PAGE_HAS_DEAD_TUPLES)
      } else {
        addToTupleCount(page, -count)
      }
    }
  }
  setPageLsn(page, record.nextLsn)
}

/** Bucket flags are set again after an image, as stock redo does. */
function redoRestored(record: DecodedRecord, blockIndex: number, page: Page): void {
  const ref = record.blocks[blockIndex] as BlockRef
  const info = record.info & XLR_RMGR_INFO_MASK
  if (info === XLOG_HASH_SPLIT_ALLOCATE_PAGE && ref.blockId === 0) redoSplitAllocatePage(record, ref, page)
  else if (info === XLOG_HASH_SPLIT_COMPLETE) redoSplitComplete(record, ref, page)
}

export const hashRmgr: Rmgr = {
  id: RM_HASH_ID,
  name: 'Hash',
  identify: identifyHash,
  redoBlock,
  redoRestored,
}
