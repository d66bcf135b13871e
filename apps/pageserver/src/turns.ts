/** At most so many pieces of work run at once; the others have their turn in the order in which they asked. */
export class Turns {
  #freeCount: number
  readonly #waiting: (() => void)[] = []

  constructor(atOnceCount: number) {
    this.#freeCount = atOnceCount
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#freeCount > 0) this.#freeCount--
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
    try {
      return await work()
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#freeCount++
      else next()
    }
  }
}
