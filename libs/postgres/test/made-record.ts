/** Decoded records made by hand, for tests of redo that need what no server at hand writes. */
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { DecodedRecord, FORK_MAIN } from '../src/wal/record.ts'
import type { BlockRef } from '../src/wal/record.ts'

export interface MadeBlock {
  readonly blockId: number
  readonly blockNumber: number
  readonly fork?: number
  readonly relNumber?: number
  readonly willInit?: boolean
  readonly data?: Uint8Array
  /** A whole page without a hole, to be applied. */
  readonly image?: Uint8Array
}

export interface MadeRecord {
  readonly rmid: number
  readonly info: number
  readonly xid?: number
  readonly nextLsn: Lsn
  readonly main?: Uint8Array
  readonly blocks?: readonly MadeBlock[]
}

export function makeRecord({
  rmid,
  info,
  xid = 0,
  nextLsn,
  main = new Uint8Array(0),
  blocks = [],
}: MadeRecord): DecodedRecord {
  const record = new DecodedRecord()
  const parts: Uint8Array[] = []
  let at = 0
  const append = (bytes: Uint8Array): number => {
    parts.push(bytes)
    at += bytes.length
    return at - bytes.length
  }
  for (const [i, block] of blocks.entries()) {
    const ref = record.blocks[i] as BlockRef
    const { data, image } = block
    Object.assign(ref, {
      blockId: block.blockId,
      spcOid: 1663,
      dbOid: 5,
      relNumber: block.relNumber ?? 16384,
      fork: block.fork ?? FORK_MAIN,
      blockNumber: block.blockNumber,
      willInit: block.willInit ?? false,
      hasImage: image !== undefined,
      applyImage: image !== undefined,
      hasData: data !== undefined,
    } satisfies Partial<BlockRef>)
    if (image !== undefined) {
      ref.imageOffset = append(image)
      ref.imageLength = image.length
    }
    if (data !== undefined) {
      ref.dataOffset = append(data)
      ref.dataLength = data.length
    }
  }
  record.mainDataOffset = append(main)
  record.mainDataLength = main.length
  record.bytes = new Uint8Array(Buffer.concat(parts))
  record.view = new DataView(record.bytes.buffer)
  Object.assign(record, {
    rmid,
    info,
    xid,
    nextLsn,
    recordLsn: LSN_ZERO,
    blockCount: blocks.length,
    totLen: at,
  })
  return record
}
