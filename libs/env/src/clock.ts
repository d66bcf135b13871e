/**
 * Time as it is handed to code that decides: durations are measured on the monotonic clock, wall time is for people
 * and for leases that machines share.
 */
import { fail } from '@understory/base'

export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Monotonic milliseconds from an arbitrary origin. */
  nowMs(): number
  /** Milliseconds since 1970, as this machine believes. */
  wallMs(): number
  /** Resolves after the duration; rejects `cancelled` as soon as the signal fires. */
  sleep(durationMs: number, signal?: AbortSignal): Promise<void>
  /** Calls back once after the delay. A timer alone does not keep the process alive. */
  setTimer(delayMs: number, callback: () => void): Timer
}

export const realClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  sleep: (durationMs, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(cancelled(signal))
        return
      }
      const onAbort = (): void => {
        clearTimeout(timer)
        reject(cancelled(signal))
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      }, durationMs)
      signal?.addEventListener('abort', onAbort, { once: true })
    }),
  setTimer: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs).unref()
    return { cancel: () => clearTimeout(timer) }
  },
}

export function cancelled(signal?: AbortSignal): Error {
  return fail('cancelled', 'operation was cancelled', { cause: signal?.reason })
}

/** Throws `cancelled` if the signal has fired. */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw cancelled(signal)
}

/**
 * Runs `work` with a signal that fires when the time is over or the caller's signal does, and rejects then with
 * `timeout` or `cancelled` even if `work` does not listen. `what` completes "could not … within".
 */
export async function withDeadline<T>(
  clock: Clock,
  timeoutMs: number,
  what: string,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  throwIfCancelled(signal)
  const controller = new AbortController()
  const { promise: stopped, reject } = Promise.withResolvers<never>()
  const stop = (error: Error): void => {
    reject(error)
    controller.abort(error)
  }
  const onAbort = (): void => stop(cancelled(signal))
  const timer = clock.setTimer(timeoutMs, () =>
    stop(fail('timeout', `could not ${what} within ${timeoutMs} ms`)),
  )
  signal?.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([work(controller.signal), stopped])
  } finally {
    timer.cancel()
    signal?.removeEventListener('abort', onAbort)
  }
}
