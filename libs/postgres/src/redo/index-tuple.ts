/**
 * Lists of index tuples in block data, as hash, GiST and others write them. Source: access/itup.h (16, 17, 18 alike).
 */
import { fail } from '@understory/base'

export const SizeOfIndexTupleData = 8
const INDEX_SIZE_MASK = 0x1fff

/** IndexTupleSize; `bad_wal` if the tuple does not fit between `at` and `end`. */
export function indexTupleSizeWithin(view: DataView, at: number, end: number): number {
  const size = at + SizeOfIndexTupleData <= end ? view.getUint16(at + 6, true) & INDEX_SIZE_MASK : 0
  if (size < SizeOfIndexTupleData || at + size > end) {
    throw fail('bad_wal', `an index tuple of ${size} bytes does not fit into the ${end - at} that are left`)
  }
  return size
}
