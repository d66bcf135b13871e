/** The request to stop a service: made once, by a signal, and noticed by every waiter. */
export class StopRequest {
  /** The signal that asked for it, such as `SIGTERM`. */
  readonly requested: Promise<string>
  readonly #requested = Promise.withResolvers<string>()
  readonly #abort = new AbortController()

  constructor() {
    this.requested = this.#requested.promise
  }

  get signal(): AbortSignal {
    return this.#abort.signal
  }

  /** Only the first request counts. */
  request(reason: string): void {
    this.#requested.resolve(reason)
    this.#abort.abort()
  }
}

/** The result of `work`, or 'stopped' as soon as a stop is requested: `work` is left alone then, even if it fails. */
export async function orStopped<T extends object>(
  stop: StopRequest,
  work: () => Promise<T>,
): Promise<T | 'stopped'> {
  if (stop.signal.aborted) return 'stopped'
  return Promise.race([work(), stop.requested.then(() => 'stopped' as const)])
}
