/**
 * Chain accounting: for each page, how many records a read has to apply on top of its last base, and a histogram of
 * the counts, kept up with every value. `max` is exact, however long a chain is.
 */
import { grown } from '../key/key-table.ts'

export interface ChainSummary {
  /** Pages that have a chain. */
  readonly pages: number
  /** Records: percentiles over the pages that have a chain. */
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export class ChainLedger {
  #counts = new Uint32Array(1024)
  /** Pages by count; index 0 is not used. */
  #histogram = new Uint32Array(128)
  #pages = 0
  #max = 0

  get max(): number {
    return this.#max
  }
  countOf(keyId: number): number {
    return keyId < this.#counts.length ? (this.#counts[keyId] as number) : 0
  }

  /** A record was put on top; gives the new count. */
  add(keyId: number): number {
    if (keyId >= this.#counts.length) this.#room(keyId)
    const count = (this.#counts[keyId] as number) + 1
    this.#move(count - 1, count)
    this.#counts[keyId] = count
    return count
  }

  /** A base was put: what a read applies on top of it is `count` records. */
  reset(keyId: number, count = 0): void {
    if (keyId >= this.#counts.length) this.#room(keyId)
    const before = this.#counts[keyId] as number
    if (before !== count) this.#move(before, count)
    this.#counts[keyId] = count
  }

  summary(): ChainSummary {
    return { pages: this.#pages, p50: this.#percentile(0.5), p99: this.#percentile(0.99), max: this.#max }
  }

  /** Pages by length: 1, 2-3, 4-7 and so on; the last band has all that are longer. */
  bands(count: number): number[] {
    const bands = Array.from({ length: count }, () => 0)
    for (let length = 1; length <= this.#max; length++) {
      const band = Math.min(count - 1, 31 - Math.clz32(length))
      bands[band] = (bands[band] as number) + (this.#histogram[length] as number)
    }
    return bands
  }

  #percentile(share: number): number {
    const wanted = Math.ceil(this.#pages * share)
    let seen = 0
    for (let count = 1; count <= this.#max; count++) {
      seen += this.#histogram[count] as number
      if (seen >= wanted && seen > 0) return count
    }
    return 0
  }

  #move(from: number, to: number): void {
    if (to >= this.#histogram.length) {
      this.#histogram = grown(this.#histogram, new Uint32Array(Math.max(to + 1, this.#histogram.length * 2)))
    }
    if (from > 0) this.#histogram[from] = (this.#histogram[from] as number) - 1
    else this.#pages++
    if (to > 0) this.#histogram[to] = (this.#histogram[to] as number) + 1
    else this.#pages--
    if (to > this.#max) this.#max = to
    else while (this.#max > 0 && this.#histogram[this.#max] === 0) this.#max--
  }

  #room(keyId: number): void {
    const capacity = Math.max(keyId + 1, this.#counts.length * 2)
    this.#counts = grown(this.#counts, new Uint32Array(capacity))
  }
}
