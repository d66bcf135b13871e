/** Those who wait for the next time that something happens. */
export class Waiters {
  readonly #waiting = new Set<() => void>()

  /** Resolves at the next `wake`, or when the signal fires. */
  next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        signal.removeEventListener('abort', wake)
        this.#waiting.delete(wake)
        resolve()
      }
      this.#waiting.add(wake)
      signal.addEventListener('abort', wake, { once: true })
    })
  }

  wake(): void {
    for (const wake of this.#waiting) wake()
  }
}
