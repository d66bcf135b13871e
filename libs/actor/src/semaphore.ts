/** Lets at most so many jobs run at once; the others wait for their turn, in order. */
import { cancelled } from '@understory/env'

export class Semaphore {
  readonly #waiting: (() => void)[] = []
  #freeCount: number

  constructor(count: number) {
    this.#freeCount = count
  }

  /** Errors: `cancelled` where `stop` fires before its turn; the job's own. */
  async run<T>(job: () => Promise<T> | T, stop?: AbortSignal): Promise<T> {
    await this.#acquire(stop)
    try {
      return await job()
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#freeCount++
      else next()
    }
  }

  async #acquire(stop: AbortSignal | undefined): Promise<void> {
    if (stop?.aborted === true) throw cancelled(stop)
    if (this.#freeCount > 0) {
      this.#freeCount--
      return
    }
    const turn = Promise.withResolvers<void>()
    const onAbort = (): void => {
      const place = this.#waiting.indexOf(turn.resolve)
      // Where its turn came first, the job has the permit, and releases it.
      if (place === -1) return
      this.#waiting.splice(place, 1)
      turn.reject(cancelled(stop))
    }
    this.#waiting.push(turn.resolve)
    stop?.addEventListener('abort', onAbort, { once: true })
    try {
      await turn.promise
    } finally {
      stop?.removeEventListener('abort', onAbort)
    }
  }
}
