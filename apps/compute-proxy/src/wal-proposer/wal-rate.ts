/**
 * How fast WAL may come while the shards of a timeline are behind with it: at any rate up to half of the limit, then
 * ever slower, and at WAL_RATE_FLOOR from the limit on. It never stops: writers that stand still have kept the work
 * from being done that they wait for.
 *
 *   rate      any |----.
 *                 |     `.
 *                 |       ``-..__
 *     64 KiB/s    |              ``````-------------
 *                 +----+---------+------------------> lag
 *                    half      limit
 *
 * The pause for each byte grows from nothing by the same factor over equal stretches of lag. So there is no step at
 * half of the limit, and the rate settles where the shards keep up with it, be that megabytes or kilobytes a second.
 */
const KIB = 1024

/** Bytes of WAL a second that writers always get. */
export const WAL_RATE_FLOOR = 64 * KIB

/** By so much, nearly, the pause for a byte grows from shortly above half of the limit to the limit. */
const GROWTH = 1024

/** Bytes a second; `Infinity` where nothing is to be slowed. `limitBytes` is positive. */
export function walRateMax(lagBytes: number, limitBytes: number): number {
  const half = limitBytes / 2
  if (lagBytes <= half) return Infinity
  const share = Math.min(1, (lagBytes - half) / half)
  return WAL_RATE_FLOOR * ((GROWTH - 1) / (GROWTH ** share - 1))
}
