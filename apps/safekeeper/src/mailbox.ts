/** Runs jobs one after another: the single writer of a state. A job that fails rejects for its sender alone. */
export class Mailbox {
  #tail: Promise<unknown> = Promise.resolve()
  #waitingCount = 0

  /** Jobs that wait or run. */
  get size(): number {
    return this.#waitingCount
  }

  run<T>(job: () => Promise<T> | T): Promise<T> {
    this.#waitingCount++
    const result = this.#tail.then(job)
    this.#tail = result.then(
      () => this.#waitingCount--,
      () => this.#waitingCount--,
    )
    return result
  }
}
