/**
 * One decoded WAL record. Instances are reused: a decoder owns one and fills it again for the next record, so nothing
 * is allocated per record. Everything in it borrows from `bytes` until the next decode.
 *
 * Source: access/xlogrecord.h, access/xlogreader.c DecodeXLogRecord (16, 17, 18 alike).
 */
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'

/** XLR_MAX_BLOCK_ID is 32, so a record refers to at most 33 blocks. */
export const BLOCK_REFS_MAX = 33

export const FORK_MAIN = 0
export const FORK_FSM = 1
export const FORK_VM = 2
export const FORK_INIT = 3

/** A relation file: RelFileLocator. */
export interface RelFile {
  spcOid: number
  dbOid: number
  relNumber: number
}

/** DecodedBkpBlock. Offsets count from the start of the record's bytes. */
export class BlockRef implements RelFile {
  /** The id under which the record's redo function asks for it: 0 to 32. */
  blockId = 0
  spcOid = 0
  dbOid = 0
  relNumber = 0
  fork = 0
  blockNumber = 0
  /** fork_flags: fork number in the low 4 bits, BKPBLOCK_* above. */
  flags = 0
  hasImage = false
  /** BKPIMAGE_APPLY: the image is the page's new content, not merely a check of redo. */
  applyImage = false
  /** BKPBLOCK_WILL_INIT: redo initializes the page without reading it. */
  willInit = false
  bimgInfo = 0
  imageOffset = 0
  imageLength = 0
  holeOffset = 0
  holeLength = 0
  hasData = false
  dataOffset = 0
  dataLength = 0
}

export class DecodedRecord {
  /** The record without page headers: header, block headers, data. Exactly `totLen` bytes from `start`. */
  bytes: Uint8Array = new Uint8Array(0)
  view: DataView = new DataView(new ArrayBuffer(0))
  /** Where the record starts within `bytes`; every offset below counts from the beginning of `bytes`. */
  start = 0
  totLen = 0 // xl_tot_len
  xid = 0 // xl_xid
  prevLsn: Lsn = LSN_ZERO // xl_prev
  info = 0 // xl_info
  rmid = 0 // xl_rmid
  /** Start of the record. */
  recordLsn: Lsn = LSN_ZERO
  /** End of the record, MAXALIGNed: what Postgres puts into pd_lsn (EndRecPtr). */
  nextLsn: Lsn = LSN_ZERO
  /** Number of valid entries of `blocks`. */
  blockCount = 0
  readonly blocks: readonly BlockRef[] = Array.from({ length: BLOCK_REFS_MAX }, () => new BlockRef())
  mainDataOffset = 0
  mainDataLength = 0
  /** 0 where the record carries none. */
  originId = 0
  topXid = 0

  /** The reference registered as `blockId`, or undefined (XLogRecGetBlockTagExtended). */
  block(blockId: number): BlockRef | undefined {
    for (let i = 0; i < this.blockCount; i++) {
      const ref = this.blocks[i] as BlockRef
      if (ref.blockId === blockId) return ref
    }
    return undefined
  }
}
