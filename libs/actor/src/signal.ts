/** A condition that changes: who waits for it looks again at each notification. */
export class Signal {
  readonly #waiting = new Set<() => void>()

  /** Resolves at the next `notify`, or when `stop` fires. */
  next(stop?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (stop?.aborted === true) return resolve()
      const wake = (): void => {
        stop?.removeEventListener('abort', wake)
        this.#waiting.delete(wake)
        resolve()
      }
      this.#waiting.add(wake)
      stop?.addEventListener('abort', wake, { once: true })
    })
  }

  /** Resolves once `isTrue`, which is asked now and after each notification, or when `stop` fires. */
  async until(isTrue: () => boolean, stop?: AbortSignal): Promise<void> {
    while (stop?.aborted !== true && !isTrue()) await this.next(stop)
  }

  notify(): void {
    for (const wake of this.#waiting) wake()
  }
}
