/**
 * Redo of SP-GiST records, page by page.
 *
 * Source: access/spgist/spgxlog.c (17.11, 18.6).
 */
import { fail } from '@understory/base'
import { getItemId, maxOffsetNumber, setItemId, setPageLsn } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { RM_SPGIST_ID, XLR_RMGR_INFO_MASK } from '../../wal/constants.ts'
import type { BlockRef, DecodedRecord } from '../../wal/record.ts'
import { indexMultiDelete, indexTupleDelete } from '../../page/page-items.ts'
import { blockNumberOf, checkMainData } from '../record-check.ts'
import type { Rmgr } from '../types.ts'
import { identifySpgist } from './describe.ts'
import {
  InvalidBlockNumber,
  SPGIST_DEAD,
  SPGIST_LEAF,
  SPGIST_NULLS,
  SPGIST_PLACEHOLDER,
  SPGIST_REDIRECT,
  addOrReplaceTuple,
  addPlaceholders,
  addRedirections,
  initSpgistPage,
  innerTupleSize,
  leafTupleSize,
  putDeadTuple,
  putTuple,
  replaceByDead,
  setNextOffset,
  spgistTupleAt,
  updateNodeLink,
} from './page.ts'
import type { Replacement } from './page.ts'
import {
  XLOG_SPGIST_ADD_LEAF,
  XLOG_SPGIST_ADD_NODE,
  XLOG_SPGIST_MOVE_LEAFS,
  XLOG_SPGIST_PICKSPLIT,
  XLOG_SPGIST_SPLIT_TUPLE,
  XLOG_SPGIST_VACUUM_LEAF,
  XLOG_SPGIST_VACUUM_REDIRECT,
  XLOG_SPGIST_VACUUM_ROOT,
  spgxlogAddLeaf,
  spgxlogAddNode,
  spgxlogMoveLeafs,
  spgxlogPickSplit,
  spgxlogSplitTuple,
  spgxlogVacuumLeaf,
  spgxlogVacuumRedirect,
  spgxlogVacuumRoot,
} from './records.ts'

const mainEnd = (record: DecodedRecord): number => record.mainDataOffset + record.mainDataLength
const leafFlags = (storesNulls: number): number =>
  storesNulls !== 0 ? SPGIST_LEAF | SPGIST_NULLS : SPGIST_LEAF

const offsetNumbers = new Uint16Array(4096)
/** `count` offset numbers at `at` of the record, rising. */
function deleteOffsets(record: DecodedRecord, at: number, count: number, page: Page): void {
  if (count > offsetNumbers.length) throw fail('bad_wal', `${count} items to delete from one page`)
  for (let i = 0; i < count; i++) offsetNumbers[i] = record.view.getUint16(at + i * 2, true)
  indexMultiDelete(page, offsetNumbers, count)
}

// Work space, filled before each use.
const replacement: Replacement = { firstState: 0, restState: 0, block: 0, offset: 0, redirectXid: 0 }
function replaceBy(
  firstState: number,
  restState: number,
  block: number,
  offset: number,
  redirectXid: number,
): Replacement {
  replacement.firstState = firstState
  replacement.restState = restState
  replacement.block = block
  replacement.offset = offset
  replacement.redirectXid = redirectXid
  return replacement
}

/** spgRedoAddLeaf. */
function redoAddLeaf(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, spgxlogAddLeaf.SIZE)
  const offset = spgxlogAddLeaf.offnumLeaf.get(view, main)
  if (ref.blockId === 1) {
    const { offnumParent, nodeI } = spgxlogAddLeaf
    updateNodeLink(
      page,
      offnumParent.get(view, main),
      nodeI.get(view, main),
      blockNumberOf(record, 0),
      offset,
    )
    return
  }
  if (spgxlogAddLeaf.newPage.get(view, main) !== 0) {
    initSpgistPage(page, leafFlags(spgxlogAddLeaf.storesNulls.get(view, main)))
  }
  const tupleAt = main + spgxlogAddLeaf.SIZE
  const size = leafTupleSize(view, tupleAt, mainEnd(record))
  const head = spgxlogAddLeaf.offnumHeadLeaf.get(view, main)
  if (offset === head) {
    // in place of a dead one
    indexTupleDelete(page, offset)
    putTuple(page, record.bytes, tupleAt, size, offset)
    return
  }
  addOrReplaceTuple(page, record.bytes, tupleAt, size, offset)
  if (head !== 0) setNextOffset(page, head, offset)
}

/** spgRedoMoveLeafs. */
function redoMoveLeafs(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, spgxlogMoveLeafs.SIZE)
  const moveCount = spgxlogMoveLeafs.nMoves.get(view, main)
  const insertCount = spgxlogMoveLeafs.replaceDead.get(view, main) !== 0 ? 1 : moveCount + 1
  const toDelete = main + spgxlogMoveLeafs.SIZE
  const toInsert = toDelete + moveCount * 2
  let tupleAt = toInsert + insertCount * 2
  checkMainData(record, tupleAt - main)
  const lastInserted = view.getUint16(tupleAt - 2, true)
  if (ref.blockId === 0) {
    const isBuild = spgxlogMoveLeafs.isBuild.get(view, main) !== 0
    replaceByDead(
      view,
      toDelete,
      moveCount,
      page,
      replaceBy(
        isBuild ? SPGIST_PLACEHOLDER : SPGIST_REDIRECT,
        SPGIST_PLACEHOLDER,
        blockNumberOf(record, 1),
        lastInserted,
        spgxlogMoveLeafs.redirectXid.get(view, main),
      ),
    )
  } else if (ref.blockId === 1) {
    if (spgxlogMoveLeafs.newPage.get(view, main) !== 0) {
      initSpgistPage(page, leafFlags(spgxlogMoveLeafs.storesNulls.get(view, main)))
    }
    for (let i = 0; i < insertCount; i++) {
      const size = leafTupleSize(view, tupleAt, mainEnd(record))
      addOrReplaceTuple(page, record.bytes, tupleAt, size, view.getUint16(toInsert + i * 2, true))
      tupleAt += size
    }
  } else {
    const { offnumParent, nodeI } = spgxlogMoveLeafs
    updateNodeLink(
      page,
      offnumParent.get(view, main),
      nodeI.get(view, main),
      blockNumberOf(record, 1),
      lastInserted,
    )
  }
}

/** spgRedoAddNode. */
function redoAddNode(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, spgxlogAddNode.SIZE)
  const tupleAt = main + spgxlogAddNode.SIZE
  const size = innerTupleSize(view, tupleAt, mainEnd(record))
  const offset = spgxlogAddNode.offnum.get(view, main)
  const newRef = record.block(1)
  if (newRef === undefined) {
    // in place
    indexTupleDelete(page, offset)
    putTuple(page, record.bytes, tupleAt, size, offset)
    return
  }
  const newOffset = spgxlogAddNode.offnumNew.get(view, main)
  if (ref.blockId === 1) {
    if (spgxlogAddNode.newPage.get(view, main) !== 0) initSpgistPage(page, 0)
    addOrReplaceTuple(page, record.bytes, tupleAt, size, newOffset)
  } else if (ref.blockId === 0) {
    const isBuild = spgxlogAddNode.isBuild.get(view, main) !== 0
    indexTupleDelete(page, offset)
    putDeadTuple(
      page,
      offset,
      isBuild ? SPGIST_PLACEHOLDER : SPGIST_REDIRECT,
      newRef.blockNumber,
      newOffset,
      spgxlogAddNode.redirectXid.get(view, main),
    )
    if (isBuild) addPlaceholders(page, 1)
    else addRedirections(page, 1)
  }
  // The parent lies on one of the three pages.
  if (spgxlogAddNode.parentBlk.get(view, main) === ref.blockId) {
    const { offnumParent, nodeI } = spgxlogAddNode
    updateNodeLink(page, offnumParent.get(view, main), nodeI.get(view, main), newRef.blockNumber, newOffset)
  }
}

/** spgRedoSplitTuple. */
function redoSplitTuple(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, spgxlogSplitTuple.SIZE)
  const prefixAt = main + spgxlogSplitTuple.SIZE
  const prefixSize = innerTupleSize(view, prefixAt, mainEnd(record))
  const postfixAt = prefixAt + prefixSize
  const postfixSize = innerTupleSize(view, postfixAt, mainEnd(record))
  const postfix = spgxlogSplitTuple.offnumPostfix.get(view, main)
  if (ref.blockId === 1) {
    if (spgxlogSplitTuple.newPage.get(view, main) !== 0) initSpgistPage(page, 0)
    addOrReplaceTuple(page, record.bytes, postfixAt, postfixSize, postfix)
    return
  }
  const prefix = spgxlogSplitTuple.offnumPrefix.get(view, main)
  indexTupleDelete(page, prefix)
  putTuple(page, record.bytes, prefixAt, prefixSize, prefix)
  if (spgxlogSplitTuple.postfixBlkSame.get(view, main) !== 0) {
    addOrReplaceTuple(page, record.bytes, postfixAt, postfixSize, postfix)
  }
}

/** spgRedoPickSplit. */
function redoPickSplit(record: DecodedRecord, ref: BlockRef, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, spgxlogPickSplit.SIZE)
  const deleteCount = spgxlogPickSplit.nDelete.get(view, main)
  const insertCount = spgxlogPickSplit.nInsert.get(view, main)
  const storesNulls = spgxlogPickSplit.storesNulls.get(view, main)
  const innerBlock = blockNumberOf(record, 2)
  const innerOffset = spgxlogPickSplit.offnumInner.get(view, main)
  const toDelete = main + spgxlogPickSplit.SIZE
  const toInsert = toDelete + deleteCount * 2
  const onDestination = toInsert + insertCount * 2
  const innerAt = onDestination + insertCount
  checkMainData(record, innerAt - main)
  const innerSize = innerTupleSize(view, innerAt, mainEnd(record))
  const linkParent = (): void => {
    const { offnumParent, nodeI } = spgxlogPickSplit
    updateNodeLink(page, offnumParent.get(view, main), nodeI.get(view, main), innerBlock, innerOffset)
  }
  if (ref.blockId === 3) {
    linkParent()
    return
  }
  if (ref.blockId === 2) {
    if (spgxlogPickSplit.initInner.get(view, main) !== 0)
      initSpgistPage(page, storesNulls !== 0 ? SPGIST_NULLS : 0)
    addOrReplaceTuple(page, record.bytes, innerAt, innerSize, innerOffset)
    if (spgxlogPickSplit.innerIsParent.get(view, main) !== 0) linkParent()
    return
  }
  const isInit = ref.blockId === 0 ? spgxlogPickSplit.initSrc : spgxlogPickSplit.initDest
  if (isInit.get(view, main) !== 0) {
    initSpgistPage(page, leafFlags(storesNulls))
  } else if (ref.blockId === 0) {
    const isBuild = spgxlogPickSplit.isBuild.get(view, main) !== 0
    replaceByDead(
      view,
      toDelete,
      deleteCount,
      page,
      replaceBy(
        isBuild ? SPGIST_PLACEHOLDER : SPGIST_REDIRECT,
        SPGIST_PLACEHOLDER,
        innerBlock,
        innerOffset,
        spgxlogPickSplit.redirectXid.get(view, main),
      ),
    )
  }
  let tupleAt = innerAt + innerSize
  for (let i = 0; i < insertCount; i++) {
    const size = leafTupleSize(view, tupleAt, mainEnd(record))
    const target = view.getUint8(onDestination + i) !== 0 ? 1 : 0
    if (target === ref.blockId)
      addOrReplaceTuple(page, record.bytes, tupleAt, size, view.getUint16(toInsert + i * 2, true))
    tupleAt += size
  }
}

/** spgRedoVacuumLeaf. */
function redoVacuumLeaf(record: DecodedRecord, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, spgxlogVacuumLeaf.SIZE)
  const deadCount = spgxlogVacuumLeaf.nDead.get(view, main)
  const placeholderCount = spgxlogVacuumLeaf.nPlaceholder.get(view, main)
  const moveCount = spgxlogVacuumLeaf.nMove.get(view, main)
  const chainCount = spgxlogVacuumLeaf.nChain.get(view, main)
  const toDead = main + spgxlogVacuumLeaf.SIZE
  const toPlaceholder = toDead + deadCount * 2
  const moveSource = toPlaceholder + placeholderCount * 2
  const moveTarget = moveSource + moveCount * 2
  const chainSource = moveTarget + moveCount * 2
  const chainTarget = chainSource + chainCount * 2
  checkMainData(record, chainTarget + chainCount * 2 - main)
  const none = InvalidBlockNumber
  replaceByDead(view, toDead, deadCount, page, replaceBy(SPGIST_DEAD, SPGIST_DEAD, none, 0, 0))
  replaceByDead(
    view,
    toPlaceholder,
    placeholderCount,
    page,
    replaceBy(SPGIST_PLACEHOLDER, SPGIST_PLACEHOLDER, none, 0, 0),
  )
  for (let i = 0; i < moveCount; i++) {
    const source = view.getUint16(moveSource + i * 2, true)
    const target = view.getUint16(moveTarget + i * 2, true)
    spgistTupleAt(page, source)
    spgistTupleAt(page, target)
    const moved = getItemId(page, source)
    setItemId(page, source, getItemId(page, target))
    setItemId(page, target, moved)
  }
  replaceByDead(
    view,
    moveSource,
    moveCount,
    page,
    replaceBy(SPGIST_PLACEHOLDER, SPGIST_PLACEHOLDER, none, 0, 0),
  )
  for (let i = 0; i < chainCount; i++) {
    setNextOffset(page, view.getUint16(chainSource + i * 2, true), view.getUint16(chainTarget + i * 2, true))
  }
}

/** spgRedoVacuumRedirect. */
function redoVacuumRedirect(record: DecodedRecord, page: Page): void {
  const { view, mainDataOffset: main } = record
  checkMainData(record, spgxlogVacuumRedirect.SIZE)
  const count = spgxlogVacuumRedirect.nToPlaceholder.get(view, main)
  const items = main + spgxlogVacuumRedirect.SIZE
  checkMainData(record, spgxlogVacuumRedirect.SIZE + count * 2)
  for (let i = 0; i < count; i++) {
    const at = spgistTupleAt(page, view.getUint16(items + i * 2, true))
    page.view.setUint32(at, (page.view.getUint32(at, true) & ~3) | SPGIST_PLACEHOLDER, true)
    page.view.setUint32(at + 6, InvalidBlockNumber, true)
    page.view.setUint16(at + 10, 0, true)
  }
  addRedirections(page, -count)
  addPlaceholders(page, count)
  const first = spgxlogVacuumRedirect.firstPlaceholder.get(view, main)
  if (first === 0) return
  const removed = maxOffsetNumber(page) - first + 1
  for (let i = 0; i < removed; i++) offsetNumbers[i] = first + i
  addPlaceholders(page, -removed)
  indexMultiDelete(page, offsetNumbers, removed)
}

function redoBlock(record: DecodedRecord, blockIndex: number, page: Page): void {
  const ref = record.blocks[blockIndex] as BlockRef
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_SPGIST_ADD_LEAF:
      redoAddLeaf(record, ref, page)
      break
    case XLOG_SPGIST_MOVE_LEAFS:
      redoMoveLeafs(record, ref, page)
      break
    case XLOG_SPGIST_ADD_NODE:
      redoAddNode(record, ref, page)
      break
    case XLOG_SPGIST_SPLIT_TUPLE:
      redoSplitTuple(record, ref, page)
      break
    case XLOG_SPGIST_PICKSPLIT:
      redoPickSplit(record, ref, page)
      break
    case XLOG_SPGIST_VACUUM_LEAF:
      redoVacuumLeaf(record, page)
      break
    case XLOG_SPGIST_VACUUM_ROOT: {
      checkMainData(record, spgxlogVacuumRoot.SIZE)
      const count = spgxlogVacuumRoot.nDelete.get(record.view, record.mainDataOffset)
      checkMainData(record, spgxlogVacuumRoot.SIZE + count * 2)
      deleteOffsets(record, record.mainDataOffset + spgxlogVacuumRoot.SIZE, count, page)
      break
    }
    case XLOG_SPGIST_VACUUM_REDIRECT:
      redoVacuumRedirect(record, page)
  }
  setPageLsn(page, record.nextLsn)
}

export const spgistRmgr: Rmgr = { id: RM_SPGIST_ID, name: 'SPGist', identify: identifySpgist, redoBlock }
