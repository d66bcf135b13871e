/** Bounds of what a record carries, checked before fixed structs are read: `bad_wal`. */
import { fail } from '@understory/base'
import type { BlockRef, DecodedRecord } from '../wal/record.ts'

/** The main data is at least this long. */
export function checkMainData(record: DecodedRecord, lengthMin: number): void {
  if (record.mainDataLength < lengthMin) {
    throw fail('bad_wal', `main data is ${record.mainDataLength} bytes, not ${lengthMin}`)
  }
}

/** The block's data is at least this long. */
export function checkBlockData(ref: BlockRef, lengthMin: number): void {
  if (ref.dataLength < lengthMin) {
    throw fail('bad_wal', `data of block ${ref.blockId} is ${ref.dataLength} bytes, not ${lengthMin}`)
  }
}

/** The block number of the reference that this record cannot do without; `bad_wal` if it is not there. */
export function blockNumberOf(record: DecodedRecord, blockId: number): number {
  const ref = record.block(blockId)
  if (ref === undefined) throw fail('bad_wal', `record does not register block ${blockId}`)
  return ref.blockNumber
}
