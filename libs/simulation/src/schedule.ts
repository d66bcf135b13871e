/**
 * Virtual time: a heap of events, taken one by one in the order of their times. The same seed gives the same order.
 *
 * Code under simulation that awaits says so with `stir`: then every promise settles before the next event.
 */
import type { Clock, Timer } from '@understory/env'
import { fail } from '@understory/base'

interface Event {
  readonly atMs: number
  readonly order: number
  readonly run: () => void
}

const isBefore = (a: Event, b: Event): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)

export class Schedule {
  nowMs = 0
  eventsCount = 0
  readonly #heap: Event[] = []
  #order = 0
  #isStirred = false
  #failure: { readonly error: unknown } | undefined

  at(delayMs: number, run: () => void): void {
    const event: Event = { atMs: this.nowMs + delayMs, order: this.#order++, run }
    const heap = this.#heap
    let index = heap.push(event) - 1
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (!isBefore(event, heap[parent] as Event)) break
      heap[index] = heap[parent] as Event
      index = parent
    }
    heap[index] = event
  }

  /** Promises are under way: they settle before the next event. */
  stir(): void {
    this.#isStirred = true
  }

  /** From code that no event waits for, such as a promise: the run ends with it. */
  fail(error: unknown): void {
    this.#failure ??= { error }
  }

  /** Until `isDone`, or until nothing is left before `endMs`. Returns whether it is done. */
  async run(endMs: number, isDone: () => boolean = () => false): Promise<boolean> {
    for (;;) {
      if (this.#isStirred) {
        this.#isStirred = false
        await new Promise((resolve) => setImmediate(resolve))
      }
      if (this.#failure !== undefined) throw this.#failure.error
      if (isDone()) return true
      const next = this.#heap[0]
      if (next === undefined || next.atMs > endMs) return false
      this.#pop()
      this.nowMs = next.atMs
      this.eventsCount++
      next.run()
    }
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop() as Event
    const size = heap.length
    if (size === 0) return
    let index = 0
    for (;;) {
      let child = 2 * index + 1
      if (child >= size) break
      if (child + 1 < size && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++
      if (!isBefore(heap[child] as Event, last)) break
      heap[index] = heap[child] as Event
      index = child
    }
    heap[index] = last
  }

  /** The virtual clock for code that is handed one. */
  readonly clock: Clock = {
    nowMs: () => this.nowMs,
    wallMs: () => 1_700_000_000_000 + this.nowMs,
    sleep: (durationMs, signal) =>
      new Promise((resolve, reject) => {
        const stop = (): void =>
          reject(fail('cancelled', 'operation was cancelled', { cause: signal?.reason }))
        if (signal?.aborted === true) return stop()
        signal?.addEventListener('abort', stop, { once: true })
        this.at(durationMs, () => {
          this.stir()
          signal?.removeEventListener('abort', stop)
          resolve()
        })
      }),
    setTimer: (delayMs, callback): Timer => {
      let isCancelled = false
      this.at(delayMs, () => {
        this.stir()
        if (!isCancelled) callback()
      })
      return { cancel: () => (isCancelled = true) }
    },
  }
}
