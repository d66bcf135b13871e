/** Runs pieces of work one after another, in the order asked for: what makes an actor the single writer of its state. */
export class Serial {
  #tail: Promise<unknown> = Promise.resolve()

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work)
    // A failure is its caller's; the next piece of work runs all the same.
    this.#tail = result.catch(() => undefined)
    return result
  }

  /** Resolves when everything asked for so far has ended. */
  idle(): Promise<unknown> {
    return this.#tail
  }
}

/** A `Serial` for each key: work of one key runs in order, work of different keys at the same time. */
export class KeyedSerial {
  readonly #tails = new Map<string, Promise<unknown>>()

  run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const result = (this.#tails.get(key) ?? Promise.resolve()).then(work)
    const tail = result
      .catch(() => undefined)
      .then(() => {
        if (this.#tails.get(key) === tail) this.#tails.delete(key)
      })
    this.#tails.set(key, tail)
    return result
  }

  /** Resolves when everything asked for so far has ended. */
  idle(): Promise<unknown> {
    return Promise.all(this.#tails.values())
  }
}
