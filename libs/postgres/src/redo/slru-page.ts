/** Page numbers of SLRUs as WAL records carry them: an int in 16, an int64 from 17 on. */
import { fail } from '@understory/base'
import type { PgMajor } from '../wal/pages.ts'

/** sizeof the page number. */
export const SLRU_PAGE_NUMBER_BYTES: Readonly<Record<PgMajor, number>> = { 16: 4, 17: 8, 18: 8 }

/** Refused `bad_wal` beyond 2^31, which no SLRU with 32-bit ids reaches. */
export function readSlruPageNumber(view: DataView, at: number, major: PgMajor): number {
  const low = view.getInt32(at, true)
  if (low < 0 || (SLRU_PAGE_NUMBER_BYTES[major] === 8 && view.getInt32(at + 4, true) !== 0)) {
    throw fail('bad_wal', 'SLRU page number is out of range')
  }
  return low
}
