/** WAL as the simulation makes and compares it: bytes from the timeline's start on, and where records end in them. */
import { advance } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Rng } from '@understory/env'

/** The format of a record: a toy for the state machines alone, Postgres's own for the safekeeper. */
export interface WalFormat {
  readonly startLsn: Lsn
  /** The bytes that bring a record of about `size` bytes into the stream that ends at `endLsn`. */
  make(
    endLsn: Lsn,
    lastRecordLsn: Lsn,
    size: number,
    rng: Rng,
  ): { readonly bytes: Uint8Array; readonly recordLsn: Lsn }
  /** Start and end of every whole record of `wal`, which begins at the record end `fromLsn`. */
  records(wal: Uint8Array, fromLsn: Lsn): { readonly recordLsn: Lsn; readonly endLsn: Lsn }[]
}

/** A length byte and that many bytes less one. */
export const toyFormat: WalFormat = {
  startLsn: 1024 as Lsn,
  make(endLsn, _lastRecordLsn, size, rng) {
    const bytes = new Uint8Array(Math.min(250, Math.max(2, size)))
    fill(bytes, rng.u32())
    bytes[0] = bytes.length
    return { bytes, recordLsn: endLsn }
  },
  records(wal, fromLsn) {
    const found = []
    for (let at = 0; at < wal.length;) {
      const size = wal[at] as number
      if (size < 2 || at + size > wal.length) break
      found.push({ recordLsn: advance(fromLsn, at), endLsn: advance(fromLsn, at + size) })
      at += size
    }
    return found
  },
}

/** Bytes that differ from record to record and are never long the same. */
export function fill(bytes: Uint8Array, seed: number): void {
  let state = seed | 1
  for (let i = 0; i < bytes.length; i++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff
    bytes[i] = state >>> 16
  }
}

/** A growing log. */
export class SimLog {
  readonly startLsn: Lsn
  #bytes = new Uint8Array(4096)
  #length = 0
  /** Ends of its records, rising, as far as they are known. */
  recordEnds: Lsn[] = []
  lastRecordLsn = 0 as Lsn

  constructor(startLsn: Lsn) {
    this.startLsn = startLsn
  }

  get endLsn(): Lsn {
    return advance(this.startLsn, this.#length)
  }
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  append(bytes: Uint8Array): void {
    if (this.#length + bytes.length > this.#bytes.length) {
      const larger = new Uint8Array(2 * (this.#length + bytes.length))
      larger.set(this.bytes)
      this.#bytes = larger
    }
    this.#bytes.set(bytes, this.#length)
    this.#length += bytes.length
  }

  slice(fromLsn: Lsn, toLsn: Lsn): Uint8Array {
    return this.#bytes.slice(fromLsn - this.startLsn, toLsn - this.startLsn)
  }

  cut(toLsn: Lsn): void {
    this.#length = toLsn - this.startLsn
    while ((this.recordEnds.at(-1) ?? 0) > toLsn) this.recordEnds.pop()
  }

  addRecord(format: WalFormat, size: number, rng: Rng): void {
    const { bytes, recordLsn } = format.make(this.endLsn, this.lastRecordLsn, size, rng)
    this.append(bytes)
    this.lastRecordLsn = recordLsn
    this.recordEnds.push(this.endLsn)
  }

  /** Takes note of the records that were appended as bytes. */
  findRecords(format: WalFormat): void {
    const fromLsn = this.recordEnds.at(-1) ?? this.startLsn
    for (const { recordLsn, endLsn } of format.records(
      this.bytes.subarray(fromLsn - this.startLsn),
      fromLsn,
    )) {
      this.recordEnds.push(endLsn)
      this.lastRecordLsn = recordLsn
    }
  }

  /** End of the last whole record at or before `lsn`. */
  recordEndAt(lsn: Lsn): Lsn {
    let [low, high] = [0, this.recordEnds.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.recordEnds[middle] as Lsn) <= lsn) low = middle + 1
      else high = middle
    }
    return this.recordEnds[low - 1] ?? this.startLsn
  }

  static from(format: WalFormat, bytes: Uint8Array): SimLog {
    const log = new SimLog(format.startLsn)
    log.append(bytes)
    log.findRecords(format)
    return log
  }

  clone(): SimLog {
    const copy = new SimLog(this.startLsn)
    copy.append(this.bytes)
    copy.recordEnds = [...this.recordEnds]
    copy.lastRecordLsn = this.lastRecordLsn
    return copy
  }

  /** Whether both hold the same bytes up to `lsn`. */
  isEqualUpTo(other: SimLog, lsn: Lsn): boolean {
    if (this.endLsn < lsn || other.endLsn < lsn) return false
    const length = lsn - this.startLsn
    return Buffer.compare(this.#bytes.subarray(0, length), other.#bytes.subarray(0, length)) === 0
  }

  /** Whether it holds `bytes` at `lsn`. */
  holds(lsn: Lsn, bytes: Uint8Array): boolean {
    if (lsn + bytes.length > this.endLsn) return false
    const from = lsn - this.startLsn
    return Buffer.compare(this.#bytes.subarray(from, from + bytes.length), bytes) === 0
  }
}
