/**
 * Turns of the event loop for work that is long but not urgent: scans of keys, streams of files. A task that has worked
 * for some milliseconds waits here; one of the waiting tasks continues in each turn of the loop, so that reads,
 * keepalives and ingest never wait for more than one slice, however many scans there are.
 */
import { realClock } from '@understory/env'
import type { Clock } from '@understory/env'

const SLICE_MS = 5

export class LoopTurns {
  readonly #clock: Pick<Clock, 'nowMs'>
  readonly #nextTurn: (callback: () => void) => void
  /** First come, first served. */
  readonly #waiting: (() => void)[] = []
  #sliceFromMs: number

  /** `nextTurn` calls back once in the next turn of the event loop. */
  constructor(clock: Pick<Clock, 'nowMs'>, nextTurn: (callback: () => void) => void) {
    this.#clock = clock
    this.#nextTurn = nextTurn
    this.#sliceFromMs = clock.nowMs()
  }

  /** Whether what works now has had its slice: then `next` is to be awaited. */
  get isOver(): boolean {
    return this.#clock.nowMs() - this.#sliceFromMs >= SLICE_MS
  }

  /** Resolves when a slice begins. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve)
      if (this.#waiting.length === 1) this.#nextTurn(this.#begin)
    })
  }

  readonly #begin = (): void => {
    this.#sliceFromMs = this.#clock.nowMs()
    this.#waiting.shift()?.()
    if (this.#waiting.length > 0) this.#nextTurn(this.#begin)
  }
}

/** A process has one event loop. */
export const loopTurns = new LoopTurns(realClock, (callback) => void setImmediate(callback))
