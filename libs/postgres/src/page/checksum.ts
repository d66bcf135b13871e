/** Data checksums. Source: storage/checksum_impl.h pg_checksum_page (16, 17, 18). */
import { PAGE_SIZE, PageHeader, isPageNew } from './bufpage.ts'
import type { Page } from './bufpage.ts'

const FNV_PRIME = 16_777_619
const SUMS_COUNT = 32
const WORDS_COUNT = PAGE_SIZE / 4
/** pd_checksum is the low half of this word, the third of column 0's pass. */
const CHECKSUM_WORD = PageHeader.checksum.offset / 4

/** checksumBaseOffsets */
const BASE_OFFSETS = Int32Array.of(
  0x5b1f36e9,
  0xb8525960,
  0x02ab50aa,
  0x1de66d2a,
  0x79ff467a,
  0x9bb9f8a3,
  0x217e7cd2,
  0x83e13d2c,
  0xf8d4474f,
  0xe39eb970,
  0x42c6ae16,
  0x993216fa,
  0x7b093b5d,
  0x98daff3c,
  0xf718902a,
  0x0b1c9cdb,
  0xe58f764b,
  0x187636bc,
  0x5d7b3bb1,
  0xe73de7de,
  0x92bec979,
  0xcca6c0b2,
  0x304a0979,
  0x85aa43d4,
  0x783125bb,
  0x6ca8eaa2,
  0xe407eac6,
  0x4b5cfc3e,
  0x9fbf8c76,
  0x15ca20be,
  0xf2ca9fd3,
  0x959bd756,
)

const aligned = new Uint8Array(PAGE_SIZE)
const alignedWords = new Int32Array(aligned.buffer)

/** The pd_checksum of a page at this place: never 0. The page must be initialized. */
export function pageChecksum({ bytes }: Page, blockNumber: number): number {
  let words: Int32Array = alignedWords
  if (bytes.byteOffset % 4 === 0) words = new Int32Array(bytes.buffer, bytes.byteOffset, WORDS_COUNT)
  else aligned.set(bytes)
  return (((blockSum(words) ^ blockNumber) >>> 0) % 65_535) + 1
}

/**
 * 32 interleaved FNV sums, folded. Four columns a pass: their multiplications do not depend on each other,
 * which about halves the time of a single column's.
 */
function blockSum(words: Int32Array): number {
  let result = 0
  for (let column = 0; column < SUMS_COUNT; column += 4) {
    let a = BASE_OFFSETS[column] as number
    let b = BASE_OFFSETS[column + 1] as number
    let c = BASE_OFFSETS[column + 2] as number
    // pd_checksum must count as zero: put in once more, it cancels out without the page being touched.
    if (column === 0) c ^= (words[CHECKSUM_WORD] as number) & 0xffff
    let d = BASE_OFFSETS[column + 3] as number
    for (let i = column; i < WORDS_COUNT; i += SUMS_COUNT) {
      a ^= words[i] as number
      b ^= words[i + 1] as number
      c ^= words[i + 2] as number
      d ^= words[i + 3] as number
      a = Math.imul(a, FNV_PRIME) ^ (a >>> 17)
      b = Math.imul(b, FNV_PRIME) ^ (b >>> 17)
      c = Math.imul(c, FNV_PRIME) ^ (c >>> 17)
      d = Math.imul(d, FNV_PRIME) ^ (d >>> 17)
    }
    result ^= mixZeros(a) ^ mixZeros(b) ^ mixZeros(c) ^ mixZeros(d)
  }
  return result
}

/** Two last rounds over zeros. */
function mixZeros(sum: number): number {
  const once = Math.imul(sum, FNV_PRIME) ^ (sum >>> 17)
  return Math.imul(once, FNV_PRIME) ^ (once >>> 17)
}

/** Writes pd_checksum; an uninitialized page has none (PageSetChecksumInplace). */
export function stampPageChecksum(page: Page, blockNumber: number): void {
  if (!isPageNew(page)) PageHeader.checksum.set(page.view, 0, pageChecksum(page, blockNumber))
}

/** True also for an uninitialized page, which has none. */
export const isPageChecksumRight = (page: Page, blockNumber: number): boolean =>
  isPageNew(page) || pageChecksum(page, blockNumber) === PageHeader.checksum.get(page.view, 0)
