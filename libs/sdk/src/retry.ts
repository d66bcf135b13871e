/** Calls that may be made again: reads, and changes that a second call does not make twice. */
import { ERROR_CODES, UnderstoryError, isErrorCode } from '@understory/base'
import { delay } from './signals.ts'

const FIRST_DELAY_MS = 100
const DELAY_MS_MAX = 2_000

export const mayPass = (error: unknown): error is UnderstoryError =>
  error instanceof UnderstoryError && ERROR_CODES[error.code].retry === 'backoff' && error.code !== 'timeout'

export interface RetryOptions {
  /** How often, after the first time. */
  readonly retries: number
  /** Milliseconds for all tries and the pauses between them. */
  readonly deadlineMs: number
  readonly signal: AbortSignal
}

/**
 * Makes the call, and again up to `retries` times where the failure may pass, each time after a longer pause. The last
 * failure that says something is thrown once there is no time for another try; one for lack of time says nothing.
 */
export async function retrying<T>(
  { retries, deadlineMs, signal }: RetryOptions,
  call: (leftMs: number, attempt: number) => Promise<T>,
): Promise<T> {
  const endMs = performance.now() + deadlineMs
  let before: UnderstoryError | undefined
  for (let attempt = 0; ; attempt++) {
    const leftMs = endMs - performance.now()
    try {
      return await call(leftMs, attempt)
    } catch (error) {
      if (before !== undefined && isErrorCode(error, 'timeout') && leftMs < deadlineMs / 2) throw before
      const longestMs = Math.min(DELAY_MS_MAX, FIRST_DELAY_MS * 2 ** attempt)
      const pauseMs = longestMs * (0.5 + Math.random() / 2)
      if (attempt >= retries || !mayPass(error) || performance.now() + pauseMs >= endMs) throw error
      before = error
      await delay(pauseMs, signal)
    }
  }
}
