/**
 * The proposer's recent WAL: the bytes behind the positions of `ProposerState`. Chunks are kept as they came, so a
 * caught-up safekeeper is sent the very bytes that Postgres sent. Borrows every chunk until it is trimmed.
 */
import { advance, assert, bytesBetween } from '@understory/base'
import type { Lsn } from '@understory/base'

interface Chunk {
  readonly startLsn: Lsn
  readonly bytes: Uint8Array
  readonly recordEndLsn: Lsn
}

export interface WalRange {
  readonly bytes: Uint8Array
  /** Last known record end at or before the end of the range. */
  readonly recordEndLsn: Lsn
}

export class WalBuffer {
  #chunks: (Chunk | undefined)[] = []
  /** Chunks before it are gone; the array is compacted now and then. */
  #first = 0
  #endLsn: Lsn
  #baseRecordEndLsn: Lsn

  /** Empty, at a record end. */
  constructor(startLsn: Lsn) {
    this.#endLsn = startLsn
    this.#baseRecordEndLsn = startLsn
  }

  get startLsn(): Lsn {
    return this.#chunks[this.#first]?.startLsn ?? this.#endLsn
  }
  get endLsn(): Lsn {
    return this.#endLsn
  }

  push(startLsn: Lsn, bytes: Uint8Array, recordEndLsn: Lsn): void {
    assert(startLsn === this.#endLsn, () => `WAL continues at ${startLsn} where ${this.#endLsn} was expected`)
    if (bytes.length === 0) return
    this.#chunks.push({ startLsn, bytes, recordEndLsn })
    this.#endLsn = advance(startLsn, bytes.length)
  }

  /** Without a copy where the range is within one chunk. */
  read(startLsn: Lsn, endLsn: Lsn): WalRange {
    assert(
      startLsn >= this.startLsn && endLsn <= this.#endLsn && startLsn < endLsn,
      () => `WAL range ${startLsn} to ${endLsn} is not within ${this.startLsn} to ${this.#endLsn}`,
    )
    let index = this.#find(startLsn)
    const first = this.#chunks[index] as Chunk
    const from = bytesBetween(first.startLsn, startLsn)
    const length = bytesBetween(startLsn, endLsn)
    if (from + length <= first.bytes.length) {
      const whole = from + length === first.bytes.length
      return {
        bytes: first.bytes.subarray(from, from + length),
        recordEndLsn:
          whole || first.recordEndLsn <= endLsn ? first.recordEndLsn : this.#recordEndBefore(index),
      }
    }
    const bytes = new Uint8Array(length)
    let at = 0
    let recordEndLsn = this.#recordEndBefore(index)
    while (at < length) {
      const chunk = this.#chunks[index++] as Chunk
      const skip = at === 0 ? from : 0
      const size = Math.min(chunk.bytes.length - skip, length - at)
      bytes.set(chunk.bytes.subarray(skip, skip + size), at)
      at += size
      if (chunk.recordEndLsn <= endLsn) recordEndLsn = chunk.recordEndLsn
    }
    return { bytes, recordEndLsn }
  }

  /** Last known record end at or before `endLsn`, where a chunk ends; `before` where the buffer knows none. */
  recordEndAt(endLsn: Lsn, before: Lsn): Lsn {
    if (endLsn <= this.startLsn) return before
    return this.read(advance(endLsn, -1), endLsn).recordEndLsn
  }

  /** Drops whole chunks before `lsn`. */
  trim(lsn: Lsn): void {
    while (this.#first < this.#chunks.length) {
      const chunk = this.#chunks[this.#first] as Chunk
      if (advance(chunk.startLsn, chunk.bytes.length) > lsn) break
      this.#baseRecordEndLsn = chunk.recordEndLsn
      this.#chunks[this.#first++] = undefined
    }
    if (this.#first > 64 && this.#first * 2 > this.#chunks.length) {
      this.#chunks = this.#chunks.slice(this.#first)
      this.#first = 0
    }
  }

  #recordEndBefore(index: number): Lsn {
    return index > this.#first ? (this.#chunks[index - 1] as Chunk).recordEndLsn : this.#baseRecordEndLsn
  }

  #find(lsn: Lsn): number {
    let [low, high] = [this.#first, this.#chunks.length - 1]
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if ((this.#chunks[middle] as Chunk).startLsn <= lsn) low = middle
      else high = middle - 1
    }
    return low
  }
}
