/** Chance as it is handed to code that decides. Not for secrets, except `realRng`, which is the system's generator. */
import { randomFillSync } from 'node:crypto'
import { assert } from '@understory/base'

export interface Rng {
  /** 0 to 2^32 - 1. */
  u32(): number
  /** An integer from 0 up to, but not including, `limit` (at most 2^32). */
  below(limit: number): number
  /** From 0 up to, but not including, 1. */
  fraction(): number
  bytes(count: number): Uint8Array
}

const pool = new Uint32Array(256)
let poolUsedCount = pool.length

function systemU32(): number {
  if (poolUsedCount === pool.length) {
    randomFillSync(pool)
    poolUsedCount = 0
  }
  return pool[poolUsedCount++] as number
}

export const realRng: Rng = {
  u32: systemU32,
  below: (limit) => belowOf(systemU32, limit),
  fraction: () => systemU32() / 2 ** 32,
  bytes: (count) => randomFillSync(new Uint8Array(count)),
}

/** The same sequence for the same seed, on every machine: sfc32 (Doty-Humphrey), warmed up. */
export function seededRng(seed: number): Rng {
  let [a, b, c, counter] = [0x9e3779b9, seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, 1]
  const u32 = (): number => {
    const result = (a + b + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (((c << 21) | (c >>> 11)) + result) | 0
    return result >>> 0
  }
  for (let round = 0; round < 16; round++) u32()
  return {
    u32,
    below: (limit) => belowOf(u32, limit),
    fraction: () => u32() / 2 ** 32,
    bytes: (count) => Uint8Array.from({ length: count }, () => u32() & 0xff),
  }
}

/** Draws that would favour small results are thrown away. */
function belowOf(u32: () => number, limit: number): number {
  assert(
    Number.isInteger(limit) && limit >= 1 && limit <= 2 ** 32,
    () => `limit ${limit} is not within 1 to 2^32`,
  )
  const fair = 2 ** 32 - (2 ** 32 % limit)
  let draw = u32()
  while (draw >= fair) draw = u32()
  return draw % limit
}
