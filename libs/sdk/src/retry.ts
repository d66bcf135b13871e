/** Calls that may be made again: reads, and changes that a second call does not make twice. */
import { ERROR_CODES, UnderstoryError, refuse } from '@understory/base'

const FIRST_DELAY_MS = 100
const DELAY_MS_MAX = 2_000

/** How often a call that met passing trouble is made again, unless the caller says otherwise. */
export const RETRIES_DEFAULT = 3

export const mayPass = (error: unknown): boolean =>
  error instanceof UnderstoryError && ERROR_CODES[error.code].retry === 'backoff' && error.code !== 'timeout'

/** Resolves after `ms`; rejects `cancelled` when `signal` fires. */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer)
      reject(refuse('cancelled', 'the call was cancelled'))
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

/** Makes the call, and again up to `retries` times where what went wrong may pass, each time after a longer pause. */
export async function retrying<T>(
  retries: number,
  signal: AbortSignal | undefined,
  call: () => Promise<T>,
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await call()
    } catch (error) {
      if (attempt >= retries || !mayPass(error)) throw error
      const longestMs = Math.min(DELAY_MS_MAX, FIRST_DELAY_MS * 2 ** attempt)
      await delay(longestMs * (0.5 + Math.random() / 2), signal)
    }
  }
}
