/**
 * The records of the SP-GiST resource manager (16). Tuples and offset numbers follow the main structs, unaligned; block
 * references are:
 *   ADD_LEAF     0 page of the leaf tuple   1 parent, if its link changes
 *   MOVE_LEAFS   0 source leaf page   1 destination leaf page   2 parent
 *   ADD_NODE     0 page of the inner tuple   1 where it goes, if elsewhere   2 parent, if on a third page
 *   SPLIT_TUPLE  0 page of the prefix tuple   1 page of the postfix tuple, if another
 *   PICKSPLIT    0 source leaf page, unless it is the root   1 destination leaf page, if used   2 page of the inner
 *                tuple   3 parent, if on another page
 *   VACUUM_LEAF, VACUUM_ROOT, VACUUM_REDIRECT   0 the page
 * A page is initialized where the main data says so (newPage, init…).
 *
 * Source: access/spgxlog.h (16, 17, 18 alike).
 */
import { bytes, i8, struct, u16, u32, u8 } from '@understory/base'

export const XLOG_SPGIST_ADD_LEAF = 0x10
export const XLOG_SPGIST_MOVE_LEAFS = 0x20
export const XLOG_SPGIST_ADD_NODE = 0x30
export const XLOG_SPGIST_SPLIT_TUPLE = 0x40
export const XLOG_SPGIST_PICKSPLIT = 0x50
export const XLOG_SPGIST_VACUUM_LEAF = 0x60
export const XLOG_SPGIST_VACUUM_ROOT = 0x70
export const XLOG_SPGIST_VACUUM_REDIRECT = 0x80

/** Then the leaf tuple. */
export const spgxlogAddLeaf = struct(10, {
  newPage: u8,
  storesNulls: u8,
  offnumLeaf: u16,
  offnumHeadLeaf: u16,
  offnumParent: u16,
  nodeI: u16,
})

/** Then u16 toDelete[nMoves], toInsert[n], n leaf tuples; n = nMoves + 1, or 1 with replaceDead. */
export const spgxlogMoveLeafs = struct(20, {
  nMoves: u16,
  newPage: u8,
  replaceDead: u8,
  storesNulls: u8,
  pad1: u8,
  offnumParent: u16,
  nodeI: u16,
  pad2: bytes(2),
  redirectXid: u32, // stateSrc
  isBuild: u8,
  pad3: bytes(3),
})

/** Then the inner tuple. */
export const spgxlogAddNode = struct(20, {
  offnum: u16,
  offnumNew: u16,
  newPage: u8,
  parentBlk: i8,
  offnumParent: u16,
  nodeI: u16,
  pad2: bytes(2),
  redirectXid: u32, // stateSrc
  isBuild: u8,
  pad3: bytes(3),
})

/** Then the prefix and the postfix tuple. */
export const spgxlogSplitTuple = struct(6, {
  offnumPrefix: u16,
  offnumPostfix: u16,
  newPage: u8,
  postfixBlkSame: u8,
})

/** Then u16 toDelete[nDelete], u16 toInsert[nInsert], u8 onDestination[nInsert], the inner tuple, leaf tuples. */
export const spgxlogPickSplit = struct(28, {
  isRootSplit: u8,
  pad1: u8,
  nDelete: u16,
  nInsert: u16,
  initSrc: u8,
  initDest: u8,
  offnumInner: u16,
  initInner: u8,
  storesNulls: u8,
  innerIsParent: u8,
  padA: u8,
  offnumParent: u16,
  nodeI: u16,
  pad2: bytes(2),
  redirectXid: u32, // stateSrc
  isBuild: u8,
  pad3: bytes(3),
})

/**
 * Then u16 toDead[nDead], toPlaceholder[nPlaceholder], moveSrc[nMove], moveDest[nMove], chainSrc[nChain], chainDest[].
 */
export const spgxlogVacuumLeaf = struct(16, {
  nDead: u16,
  nPlaceholder: u16,
  nMove: u16,
  nChain: u16,
  redirectXid: u32, // stateSrc
  isBuild: u8,
  pad3: bytes(3),
})

/** Then u16 toDelete[nDelete]. */
export const spgxlogVacuumRoot = struct(12, {
  nDelete: u16,
  pad2: bytes(2),
  redirectXid: u32, // stateSrc
  isBuild: u8,
  pad3: bytes(3),
})

/** Then u16 itemToPlaceholder[nToPlaceholder]. */
export const spgxlogVacuumRedirect = struct(10, {
  nToPlaceholder: u16,
  firstPlaceholder: u16,
  snapshotConflictHorizon: u32,
  isCatalogRel: u8,
  pad1: u8,
})
