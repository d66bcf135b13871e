/** Waits that a signal ends. */

/**
 * The items of `source`. Rejects with `reason()` as soon as the signal fires: `source` is asked to return, which is not
 * waited for, because it may be waiting for its next item.
 */
export async function* untilAborted<T>(
  source: AsyncIterable<T>,
  signal: AbortSignal,
  reason: () => Error,
): AsyncGenerator<T, void, void> {
  const iterator = source[Symbol.asyncIterator]()
  try {
    for (;;) {
      const next = await orAborted(iterator.next(), signal, reason)
      if (next.done === true) return
      yield next.value
    }
  } finally {
    iterator.return?.().catch(() => undefined)
  }
}

/** The promise's result; rejects with `reason()` as soon as the signal fires. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal, reason: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(reason())
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
