/** Joined signals, and pauses that one ends. */
import { fail } from '@understory/base'

export interface JoinedSignal extends Disposable {
  readonly signal: AbortSignal
}

/**
 * Fires when any of these does, until it is disposed. Other than with `AbortSignal.any` nothing of it is left on
 * signals that live long, as a client's own does: Node 22 grows with every call there.
 */
export function joinSignals(...sources: readonly (AbortSignal | undefined)[]): JoinedSignal {
  const controller = new AbortController()
  const given = sources.filter((source) => source !== undefined)
  const onAbort = (): void => controller.abort()
  if (given.some(({ aborted }) => aborted)) onAbort()
  for (const source of given) source.addEventListener('abort', onAbort, { once: true })
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const source of given) source.removeEventListener('abort', onAbort)
    },
  }
}

/** Longest time that a timer of Node takes. */
const TIMER_MS_MAX = 0x7fff_ffff

/** Fires after `ms`; never for more than a timer takes, which is 24 days. */
export const afterMs = (ms: number): AbortSignal | undefined =>
  ms > TIMER_MS_MAX ? undefined : AbortSignal.timeout(Math.ceil(ms))

/** Resolves after `ms`; rejects `cancelled` when `signal` fires. */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer)
      reject(fail('cancelled', 'the call was cancelled'))
    }
    if (signal?.aborted === true) return onAbort()
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    signal?.addEventListener('abort', onAbort, { once: true })
    return undefined
  })
}
