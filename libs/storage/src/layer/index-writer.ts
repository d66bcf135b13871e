/** Cuts the index of a layer into blocks, and lists them for the top index (layout: layer-format.ts). */
import { crc32c } from '@node-rs/crc32'
import { assert } from '@understory/base'
import { grown } from '../key/key-table.ts'
import { KEY_BYTES } from '../key/key.ts'
import {
  BLOCK_ENTRY_BYTES,
  CHAIN_COUNT_MAX,
  INDEX_BLOCK_BYTES,
  INDEX_BLOCK_COUNTS_BYTES,
  KEY_CONTINUES,
  KEY_ENTRY_BYTES,
  KEY_IS_WHOLE,
  TOP_ENTRY_BYTES,
  VALUE_ENTRY_BYTES,
} from './layer-format.ts'
import { endsChain } from './value.ts'

/** Chain of a key as of one of its values. */
interface Chain {
  count: number
  isWhole: boolean
}

export class IndexWriter {
  readonly #blocks: DataView
  readonly #keys: DataView
  readonly #keyCount: number
  readonly #values: DataView
  readonly #valueCount: number
  #entry = 0
  #value = 0
  readonly #chain: Chain = { count: 0, isWhole: false }
  /** Of the block that `next` gave last: its first entry and value. */
  #firstEntry = 0
  #firstValue = 0
  #top = new Uint8Array(64 * TOP_ENTRY_BYTES)
  #topUsed = 0

  /**
   * Columns of the whole layer, as in an index block: `values` name data blocks by their number in `blocks`; of `keys`
   * chain and flags are not set yet.
   */
  constructor(blocks: DataView, keys: DataView, keyCount: number, values: DataView, valueCount: number) {
    this.#blocks = blocks
    this.#keys = keys
    this.#keyCount = keyCount
    this.#values = values
    this.#valueCount = valueCount
  }

  /** The next block, raw; undefined after the last. `placed` is to be called before the next. */
  next(): Uint8Array | undefined {
    if (this.#value === this.#valueCount) return undefined
    this.#firstEntry = this.#entry
    this.#firstValue = this.#value
    const isContinued = this.#value > this.#valueOf(this.#entry)
    const blocks = this.#take()
    return this.#raw(blocks, isContinued)
  }

  /** Says where the block that `next` gave is stored. */
  placed(offset: number, stored: Uint8Array, rawBytes: number): void {
    assert(offset + stored.length < 0xffff_ffff, () => 'layer file is beyond 4 GiB')
    if (this.#topUsed + TOP_ENTRY_BYTES > this.#top.length)
      this.#top = grown(this.#top, new Uint8Array(this.#top.length * 2))
    const view = new DataView(this.#top.buffer, this.#topUsed, TOP_ENTRY_BYTES)
    this.#top.set(bytesAt(this.#keys, this.#firstEntry * KEY_ENTRY_BYTES, KEY_BYTES), this.#topUsed)
    const value = this.#firstValue * VALUE_ENTRY_BYTES
    view.setUint32(KEY_BYTES, this.#values.getUint32(value, true), true)
    view.setUint32(KEY_BYTES + 4, this.#values.getUint32(value + 4, true), true)
    view.setUint32(KEY_BYTES + 8, offset, true)
    view.setUint32(KEY_BYTES + 12, stored.length, true)
    view.setUint32(KEY_BYTES + 16, rawBytes, true)
    view.setUint32(KEY_BYTES + 20, crc32c(stored), true)
    this.#topUsed += TOP_ENTRY_BYTES
  }

  /** The top index, raw. */
  top(): Uint8Array {
    return this.#top.subarray(0, this.#topUsed)
  }

  #valueOf(entry: number): number {
    return entry === this.#keyCount
      ? this.#valueCount
      : this.#keys.getUint32(entry * KEY_ENTRY_BYTES + KEY_BYTES, true)
  }

  /** Data block of the value in `#blocks`; -1 where it has no bytes. */
  #blockOf(value: number): number {
    const at = value * VALUE_ENTRY_BYTES
    return this.#values.getUint32(at + 16, true) === 0 ? -1 : this.#values.getUint32(at + 8, true)
  }

  /** Advances to the end of a block; returns its data blocks with their numbers within it. */
  #take(): Map<number, number> {
    const blocks = new Map<number, number>()
    let sizeBytes = INDEX_BLOCK_COUNTS_BYTES
    while (this.#value < this.#valueCount && sizeBytes < INDEX_BLOCK_BYTES) {
      if (this.#value === this.#valueOf(this.#entry) || this.#value === this.#firstValue)
        sizeBytes += KEY_ENTRY_BYTES
      const block = this.#blockOf(this.#value)
      if (block >= 0 && !blocks.has(block)) {
        blocks.set(block, blocks.size)
        sizeBytes += BLOCK_ENTRY_BYTES
      }
      sizeBytes += VALUE_ENTRY_BYTES
      this.#value++
      if (this.#value === this.#valueOf(this.#entry + 1)) this.#entry++
    }
    return blocks
  }

  #raw(blocks: ReadonlyMap<number, number>, isContinued: boolean): Uint8Array {
    const valueCount = this.#value - this.#firstValue
    // The entry of the value behind the block is in it too where its key continues.
    const endsWithin = this.#value > this.#valueOf(this.#entry)
    const keyCount = this.#entry - this.#firstEntry + (endsWithin ? 1 : 0)
    const keysAt = INDEX_BLOCK_COUNTS_BYTES + blocks.size * BLOCK_ENTRY_BYTES
    const valuesAt = keysAt + keyCount * KEY_ENTRY_BYTES
    const raw = new Uint8Array(valuesAt + valueCount * VALUE_ENTRY_BYTES)
    const view = new DataView(raw.buffer)
    view.setUint32(0, blocks.size, true)
    view.setUint32(4, keyCount, true)
    view.setUint32(8, valueCount, true)
    for (const [block, number] of blocks) {
      const at = INDEX_BLOCK_COUNTS_BYTES + number * BLOCK_ENTRY_BYTES
      raw.set(bytesAt(this.#blocks, block * BLOCK_ENTRY_BYTES, BLOCK_ENTRY_BYTES), at)
    }
    raw.set(
      bytesAt(this.#values, this.#firstValue * VALUE_ENTRY_BYTES, valueCount * VALUE_ENTRY_BYTES),
      valuesAt,
    )
    for (let i = 0; i < valueCount; i++) {
      const number = blocks.get(this.#blockOf(this.#firstValue + i)) ?? 0
      view.setUint32(valuesAt + i * VALUE_ENTRY_BYTES + 8, number, true)
    }
    for (let i = 0; i < keyCount; i++) {
      const entry = this.#firstEntry + i
      const at = keysAt + i * KEY_ENTRY_BYTES
      const first = Math.max(this.#firstValue, this.#valueOf(entry))
      raw.set(bytesAt(this.#keys, entry * KEY_ENTRY_BYTES, KEY_BYTES), at)
      view.setUint32(at + KEY_BYTES, first - this.#firstValue, true)
      const continues = i === 0 && isContinued
      this.#follow(continues, first, Math.min(this.#value, this.#valueOf(entry + 1)))
      view.setUint8(at + KEY_BYTES + 4, Math.min(this.#chain.count, CHAIN_COUNT_MAX))
      view.setUint8(
        at + KEY_BYTES + 5,
        (continues ? KEY_CONTINUES : 0) | (this.#chain.isWhole ? KEY_IS_WHOLE : 0),
      )
    }
    return raw
  }

  /** The chain over values [from, to) of a key, which begins with them unless `continues`. */
  #follow(continues: boolean, from: number, to: number): void {
    const chain = this.#chain
    if (!continues) {
      chain.count = 0
      chain.isWhole = false
    }
    for (let value = from; value < to; value++) {
      if (endsChain(this.#values.getUint8(value * VALUE_ENTRY_BYTES + 20))) {
        chain.count = 0
        chain.isWhole = true
      } else chain.count++
    }
  }
}

const bytesAt = (view: DataView, at: number, length: number): Uint8Array =>
  new Uint8Array(view.buffer, view.byteOffset + at, length)
