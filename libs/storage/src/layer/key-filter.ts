/**
 * Which keys a layer may have: a Bloom filter of ten bits a key, seven of which are set for each: about one key in a
 * hundred that is not there passes all the same. A layer over the whole key space is mostly asked for keys that it has
 * not.
 */
import type { Key } from '../key/key.ts'

const BITS_PER_KEY = 10
const PROBES = 7

/** Both halves of a key's hash. */
export interface KeyHash {
  readonly low: number
  readonly high: number
}

export function hashKey({ keyClass, spcOid, dbOid, rel, fork, block }: Key): KeyHash {
  const a =
    Math.imul(block, 0x9e3779b1) ^ Math.imul(rel, 0x85ebca6b) ^ Math.imul((keyClass << 8) | fork, 0xc2b2ae35)
  const b = Math.imul(dbOid, 0x27d4eb2f) ^ Math.imul(spcOid, 0x165667b1) ^ Math.imul(block, 0x2c1b3c6d)
  return { low: mix(a ^ b), high: mix(Math.imul(a, 0x297a2d39) ^ (b >>> 3) ^ rel) | 1 }
}

function mix(hash: number): number {
  let h = Math.imul(hash ^ (hash >>> 16), 0x7feb352d)
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b)
  return (h ^ (h >>> 16)) >>> 0
}

export class KeyFilter {
  readonly bytes: Uint8Array
  readonly #bits: number

  /** `bytes` as `keyFilterBytes` made them. */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.#bits = bytes.length * 8
  }
  get sizeBytes(): number {
    return this.bytes.length
  }

  /** Never false for a key of the layer. */
  mayHave({ low, high }: KeyHash): boolean {
    let probe = low
    for (let i = 0; i < PROBES; i++) {
      const bit = probe % this.#bits
      if (((this.bytes[bit >>> 3] as number) & (1 << (bit & 7))) === 0) return false
      probe = (probe + high) >>> 0
    }
    return true
  }
}

/** The filter of so many keys, given by `low, high` of their hashes one after the other. */
export function keyFilterBytes(hashes: Uint32Array): Uint8Array {
  const bytes = new Uint8Array(Math.max(8, Math.ceil(((hashes.length / 2) * BITS_PER_KEY) / 8)))
  const bits = bytes.length * 8
  for (let i = 0; i < hashes.length; i += 2) {
    let probe = hashes[i] as number
    const step = hashes[i + 1] as number
    for (let n = 0; n < PROBES; n++) {
      const bit = probe % bits
      bytes[bit >>> 3] = (bytes[bit >>> 3] as number) | (1 << (bit & 7))
      probe = (probe + step) >>> 0
    }
  }
  return bytes
}
