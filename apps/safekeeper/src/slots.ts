/** Lets no more than so many work at once; the others wait for their turn, in order. */
import { refuse } from '@understory/base'

export class Slots {
  readonly #waiting: (() => void)[] = []
  #freeCount: number

  constructor(count: number) {
    this.#freeCount = count
  }

  /** Error: refused `cancelled` where the signal fires before its turn. */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#take(signal)
    try {
      return await work()
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#freeCount++
      else next()
    }
  }

  async #take(signal: AbortSignal): Promise<void> {
    const cancelled = (): Error => refuse('cancelled', 'it was cancelled before its turn')
    if (signal.aborted) throw cancelled()
    if (this.#freeCount > 0) {
      this.#freeCount--
      return
    }
    const turn = Promise.withResolvers<void>()
    const onAbort = (): void => {
      const place = this.#waiting.indexOf(turn.resolve)
      // Its turn came first: it has the slot, and gives it back itself.
      if (place === -1) return
      this.#waiting.splice(place, 1)
      turn.reject(cancelled())
    }
    this.#waiting.push(turn.resolve)
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      await turn.promise
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }
}
