/** The index of a layer's index blocks: which of them has a key as of an LSN. */
import { KEY_BYTES } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import type { Lsn } from '@understory/base'
import { LayerHeader, TOP_ENTRY_BYTES } from './layer-format.ts'
import { compareWithKeyAt, damagedLayer, viewOf } from './index-block.ts'
import type { DataBlockPlace } from './index-block.ts'

export class TopIndex {
  readonly count: number
  readonly sizeBytes: number
  readonly #entries: DataView

  /** Made by `readTopIndex` alone, which checks it. */
  constructor(raw: Uint8Array) {
    this.count = raw.length / TOP_ENTRY_BYTES
    this.sizeBytes = raw.length
    this.#entries = viewOf(raw)
  }

  /** The last block that begins at or before the key as of `at`; -1 where all begin behind. */
  find(key: Key, at: Lsn): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      const order = compareWithKeyAt(key, this.#entries, middle * TOP_ENTRY_BYTES)
      if (order > 0 || (order === 0 && this.#lsnOf(middle) <= at)) low = middle + 1
      else high = middle
    }
    return low - 1
  }
  /** The first block that may have keys from `key` on. */
  firstFrom(key: Key): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (compareWithKeyAt(key, this.#entries, middle * TOP_ENTRY_BYTES) > 0) low = middle + 1
      else high = middle
    }
    return Math.max(0, low - 1)
  }
  #lsnOf(number: number): number {
    const at = number * TOP_ENTRY_BYTES + KEY_BYTES
    return this.#entries.getUint32(at + 4, true) * 0x1_0000_0000 + this.#entries.getUint32(at, true)
  }
  placeOf(number: number): DataBlockPlace {
    const at = number * TOP_ENTRY_BYTES + KEY_BYTES + 8
    return {
      offset: this.#entries.getUint32(at, true),
      storedBytes: this.#entries.getUint32(at + 4, true),
      rawBytes: this.#entries.getUint32(at + 8, true),
      crc: this.#entries.getUint32(at + 12, true),
    }
  }
}

/** Index blocks lie one behind the other from `indexAt` to `indexEnd`. Errors: `bad_file`. */
export function readTopIndex(raw: Uint8Array, name: string, indexAt: number, indexEnd: number): TopIndex {
  const top = new TopIndex(raw)
  if (raw.length === 0 || raw.length % TOP_ENTRY_BYTES !== 0)
    throw damagedLayer(name, `top index has ${raw.length} bytes`)
  let at = Math.max(indexAt, LayerHeader.SIZE)
  for (let number = 0; number < top.count; number++) {
    const { offset, storedBytes } = top.placeOf(number)
    if (offset !== at)
      throw damagedLayer(name, `top index puts index block ${number} at ${offset}, not at ${at}`)
    at += storedBytes
  }
  if (at !== indexEnd) throw damagedLayer(name, `top index has index blocks to ${at}, not to ${indexEnd}`)
  return top
}
