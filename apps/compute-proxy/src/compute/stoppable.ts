/** Waiting for what may be stopped, or fail, in between. */
import { fail } from '@understory/base'

/** The promise, whose failure another waiter may be the first to see. */
export function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined)
  return promise
}

/** The result of the promise; rejects `cancelled` as soon as the signal fires, and its failure is then dropped. */
export function orStopped<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  void handled(promise)
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(fail('cancelled', 'the compute is being stopped'))
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
