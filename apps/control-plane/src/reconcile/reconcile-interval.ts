/**
 * How soon a timeline is looked at again. A look costs some 10 ms of processor time here and in those who are asked: so
 * it is often where something just began, seldom where it has been missing for long, and where all is well, all
 * timelines together have a share of looks that does not grow with their number.
 */

const BUSY_MS_MIN = 100
/** Of the time that something has been missing. */
const BUSY_SHARE = 1 / 20
const IDLE_MS = 1_000
/** Where all is well: so many timelines make no more than 20 looks a second together. */
const IDLE_MS_EACH = 50

export class ReconcileInterval {
  #missingSinceMs: number | undefined

  /** Milliseconds until the next look; `isSettled`: the last one left nothing to do. */
  pauseMs(isSettled: boolean, nowMs: number, timelinesCount: number): number {
    const idleMs = Math.max(IDLE_MS, IDLE_MS_EACH * timelinesCount)
    if (isSettled) {
      this.#missingSinceMs = undefined
      return idleMs
    }
    this.#missingSinceMs ??= nowMs
    return Math.min(idleMs, Math.max(BUSY_MS_MIN, (nowMs - this.#missingSinceMs) * BUSY_SHARE))
  }

  /** Something new was requested. */
  reset(): void {
    this.#missingSinceMs = undefined
  }
}
