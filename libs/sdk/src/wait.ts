/** Waiting for what takes a while, over losses of the control plane, until it is there or the time is over. */
import { UnderstoryError, describeError, fail } from '@understory/base'
import type { WaitOptions } from './api.ts'
import { readDuration, readOptions, readSignal } from './arguments.ts'
import type { Calls } from './calls.ts'
import { mayPass } from './retry.ts'
import { afterMs, delay, joinSignals } from './signals.ts'

const TIMEOUT_DEFAULT_MS = 120_000
/** An answer takes milliseconds; a server that hangs is asked again. */
const ANSWER_MS_MAX = 10_000
const POLL_MS = 100

/** The known reasons why it is not there yet. */
export interface Waiting {
  readonly signal: AbortSignal
  /** For one question of many. */
  readonly deadlineMs: number
  /** Remembers a reason, for the error that ends the waiting. */
  readonly because: (reason: string) => void
}

/** Calls `body` until it gives something; trouble that may pass is met by another call. */
export async function waitFor<T>(
  calls: Calls,
  options: WaitOptions | undefined,
  what: string,
  body: (waiting: Waiting) => Promise<T | undefined>,
): Promise<T> {
  const { timeoutMs, signal } = readOptions('options', options)
  const limitMs = timeoutMs === undefined ? TIMEOUT_DEFAULT_MS : readDuration('timeoutMs', timeoutMs)
  const user = readSignal(signal)
  const over = afterMs(limitMs)
  using joined = joinSignals(user, over, calls.closing)
  let reason = ''
  let lastError: unknown
  const because = (why: string): void => void (reason = why)
  try {
    for (;;) {
      if (joined.signal.aborted) throw fail('cancelled', `waiting for ${what} was cancelled`)
      try {
        const found = await body({ signal: joined.signal, deadlineMs: ANSWER_MS_MAX, because })
        if (found !== undefined) return found
      } catch (error) {
        if (!mayPass(error) && !(error instanceof UnderstoryError && error.code === 'timeout')) throw error
        because(describeError(error))
        lastError = error
      }
      await delay(POLL_MS, joined.signal)
    }
  } catch (error) {
    if (!(error instanceof UnderstoryError) || error.code !== 'cancelled') throw error
    if (over?.aborted === true && user?.aborted !== true && !calls.closing.aborted) {
      throw fail('timeout', `waited ${limitMs} ms for ${what}`, {
        ...(reason === '' ? {} : { detail: reason }),
        hint: 'Wait again, or longer.',
        cause: lastError ?? error,
      })
    }
    throw fail('cancelled', `waiting for ${what} was cancelled`, { cause: error })
  }
}
