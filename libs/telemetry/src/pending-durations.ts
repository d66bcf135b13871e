/**
 * How long positions wait for something that comes in their order, such as WAL for its flush: the times of a bounded
 * number of positions in a ring. While it is full, the next ones are not measured.
 */
import type { HistogramCell } from './meter.ts'

/** A busy timeline has some hundred appends under way; most timelines are idle. */
const PENDING_COUNT_MIN = 32
const PENDING_COUNT_MAX = 4096

export class PendingDurations {
  #positions = new Float64Array(PENDING_COUNT_MIN)
  #startsMs = new Float64Array(PENDING_COUNT_MIN)
  #first = 0
  #count = 0

  /** `position` is past the one before. */
  begin(position: number, nowMs: number): void {
    if (this.#count === this.#positions.length && !this.#grow()) return
    const at = (this.#first + this.#count++) % this.#positions.length
    this.#positions[at] = position
    this.#startsMs[at] = nowMs
  }

  /** Everything up to `position` has come. */
  settle(position: number, nowMs: number, into: HistogramCell): void {
    while (this.#count > 0 && (this.#positions[this.#first] as number) <= position) {
      into.recordMs(nowMs - (this.#startsMs[this.#first] as number))
      this.#first = (this.#first + 1) % this.#positions.length
      this.#count--
    }
  }

  /** Nothing waits any more. */
  clear(): void {
    this.#count = 0
  }

  #grow(): boolean {
    const size = this.#positions.length
    if (size === PENDING_COUNT_MAX) return false
    const positions = new Float64Array(size * 2)
    const startsMs = new Float64Array(size * 2)
    for (let i = 0; i < this.#count; i++) {
      positions[i] = this.#positions[(this.#first + i) % size] as number
      startsMs[i] = this.#startsMs[(this.#first + i) % size] as number
    }
    this.#positions = positions
    this.#startsMs = startsMs
    this.#first = 0
    return true
  }
}
