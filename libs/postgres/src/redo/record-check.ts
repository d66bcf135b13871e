/** Bounds of what a record carries, checked before fixed structs are read: refused `bad_wal`. */
import { refuse } from '@understory/base'
import type { BlockRef, DecodedRecord } from '../wal/record.ts'

/** The main data is at least this long. */
export function checkMainData(record: DecodedRecord, lengthMin: number): void {
  if (record.mainDataLength < lengthMin) {
    throw refuse('bad_wal', `main data is ${record.mainDataLength} bytes, not ${lengthMin}`)
  }
}

/** The block's data is at least this long. */
export function checkBlockData(ref: BlockRef, lengthMin: number): void {
  if (ref.dataLength < lengthMin) {
    throw refuse('bad_wal', `data of block ${ref.blockId} is ${ref.dataLength} bytes, not ${lengthMin}`)
  }
}

/** The block number of the reference that this record cannot do without; refused `bad_wal` if it is not there. */
export function blockNumberOf(record: DecodedRecord, blockId: number): number {
  const ref = record.block(blockId)
  if (ref === undefined) throw refuse('bad_wal', `record does not register block ${blockId}`)
  return ref.blockNumber
}
