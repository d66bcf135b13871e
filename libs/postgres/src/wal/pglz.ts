/**
 * Postgres's own LZ compression, the reading side. Source: common/pg_lzcompress.c pglz_decompress (16, 17,
 * 18).
 */

/**
 * Control bytes, lowest bit first: 0 = one literal byte; 1 = a match of two bytes (length - 3 in the low
 * nibble of the first, a 12-bit distance in the rest), and of a third that adds to the length if the nibble
 * is 15. True if `source[at, end)` filled `target` exactly.
 */
export function pglzDecompress(source: Uint8Array, at: number, end: number, target: Uint8Array): boolean {
  const size = target.length
  let from = at
  let to = 0
  while (from < end && to < size) {
    let control = source[from++] as number
    for (let bit = 0; bit < 8 && from < end && to < size; bit++, control >>= 1) {
      if ((control & 1) === 0) {
        target[to++] = source[from++] as number
        continue
      }
      if (from + 2 > end) return false
      const first = source[from] as number
      let length = (first & 0x0f) + 3
      const distance = ((first & 0xf0) << 4) | (source[from + 1] as number)
      from += 2
      if (length === 18) {
        if (from >= end) return false
        length += source[from++] as number
      }
      if (distance === 0 || distance > to) return false
      // A match may overlap what it makes, so byte by byte.
      for (const stop = Math.min(to + length, size); to < stop; to++)
        target[to] = target[to - distance] as number
    }
  }
  return from === end && to === size
}
