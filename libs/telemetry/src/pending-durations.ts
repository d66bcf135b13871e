/**
 * How long positions wait for something that comes in their order, such as WAL for its flush: the times of at most
 * `PENDING_COUNT_MAX` positions in fixed arrays. When they are full the next ones are not measured.
 */
import type { HistogramCell } from './meter.ts'

const PENDING_COUNT_MAX = 4096

export class PendingDurations {
  readonly #positions = new Float64Array(PENDING_COUNT_MAX)
  readonly #startsMs = new Float64Array(PENDING_COUNT_MAX)
  #first = 0
  #count = 0

  /** `position` is past the one before. */
  begin(position: number, nowMs: number): void {
    if (this.#count === PENDING_COUNT_MAX) return
    const at = (this.#first + this.#count++) % PENDING_COUNT_MAX
    this.#positions[at] = position
    this.#startsMs[at] = nowMs
  }

  /** Everything up to `position` has come. */
  settle(position: number, nowMs: number, into: HistogramCell): void {
    while (this.#count > 0 && (this.#positions[this.#first] as number) <= position) {
      into.recordMs(nowMs - (this.#startsMs[this.#first] as number))
      this.#first = (this.#first + 1) % PENDING_COUNT_MAX
      this.#count--
    }
  }

  /** Nothing waits any more. */
  clear(): void {
    this.#count = 0
  }
}
