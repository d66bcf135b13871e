/**
 * How far the wall clock is ahead of the monotonic one, by which spans are measured. A wall clock that is set, or
 * drifts, is followed from trace to trace, never within one: there a child would seem to begin before its parent, or to
 * outlast it.
 */

/** The wall clock has whole milliseconds only. */
const DRIFT_MS_MAX = 3
/** Of the traces of late. */
const TRACES_MAX = 1_000

export class WallOffsets {
  readonly #differenceMs: () => number
  readonly #offsetsMs = new Map<string, number>()
  #offsetMs = 0

  /** `differenceMs`: of the two clocks, now. */
  constructor(differenceMs = (): number => Date.now() - (performance.timeOrigin + performance.now())) {
    this.#differenceMs = differenceMs
  }

  of(traceId: string): number {
    const known = this.#offsetsMs.get(traceId)
    if (known !== undefined) return known
    const nowMs = this.#differenceMs()
    if (Math.abs(nowMs - this.#offsetMs) > DRIFT_MS_MAX) this.#offsetMs = nowMs
    this.#offsetsMs.set(traceId, this.#offsetMs)
    for (const oldest of this.#offsetsMs.keys()) {
      if (this.#offsetsMs.size <= TRACES_MAX) break
      this.#offsetsMs.delete(oldest)
    }
    return this.#offsetMs
  }
}
