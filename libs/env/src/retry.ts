/** Trying again what the error table says may be tried again, with growing, jittered pauses and a bound. */
import { ERROR_CODES, UnderstoryError } from '@understory/base'
import { type Clock, throwIfCancelled } from './clock.ts'
import type { Rng } from './rng.ts'

export interface BackoffOptions {
  /** The first pause is up to this long, and each next one up to twice as long. */
  readonly baseMs?: number
  readonly pauseMsMax?: number
}

export interface RetryOptions extends BackoffOptions {
  /** How often it is tried in all. */
  readonly attemptsMax?: number
  readonly signal?: AbortSignal | undefined
  /** Whether an error may be tried again; by default those that the error table marks `backoff`. */
  readonly isRetryable?: (error: unknown) => boolean
  readonly onRetry?: (error: unknown, attempt: number, pauseMs: number) => void
}

/** The pause after the `attempt`-th failure (from 1): between half and all of the doubled base. */
export function backoffMs(
  rng: Rng,
  attempt: number,
  { baseMs = 50, pauseMsMax = 5_000 }: BackoffOptions = {},
): number {
  return Math.min(pauseMsMax, baseMs * 2 ** (attempt - 1)) * (0.5 + rng.fraction() / 2)
}

export function isRetryable(error: unknown): boolean {
  return error instanceof UnderstoryError && ERROR_CODES[error.code].retry === 'backoff'
}

/** The first success, or the last failure. */
export async function retry<T>(
  seams: { readonly clock: Clock; readonly rng: Rng },
  options: RetryOptions,
  work: (attempt: number) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    throwIfCancelled(options.signal)
    try {
      return await work(attempt)
    } catch (error) {
      const mayRetry = (options.isRetryable ?? isRetryable)(error)
      if (!mayRetry || attempt >= (options.attemptsMax ?? 5)) throw error
      const pauseMs = backoffMs(seams.rng, attempt, options)
      options.onRetry?.(error, attempt, pauseMs)
      await seams.clock.sleep(pauseMs, options.signal)
    }
  }
}
