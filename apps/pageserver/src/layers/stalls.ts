/**
 * Trouble outside of a shard (a full disk, a write that failed, threads that are busy) does not end it: the work is
 * tried again, with growing pauses, until it succeeds. While any work waits so, the shard is stalled and says why. A
 * fault of the shard itself (WAL that is not known, a damaged value, a bug) is never tried again here.
 */
import { UnderstoryError, describeError, fail } from '@understory/base'
import type { ErrorCode } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Env } from '@understory/env'
import type { RetriedWork } from '../telemetry/metrics.ts'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'

const OUTSIDE: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'disk_full',
  'disk_failed',
  'precondition',
  'not_found',
  'already_exists',
  'unavailable',
  'denied',
  'elsewhere',
  'timeout',
])
const BASE_MS = 100
const PAUSE_MS_MAX = 10_000
/** The same trouble is logged again after this. */
const REPORT_EVERY_MS = 300_000

interface Stall {
  /** Pieces of work of this kind that wait. */
  count: number
  sinceMs: number
  loggedMs: number
  /** Since it began. */
  isLogged: boolean
  error: unknown
}

export class Stalls {
  readonly #env: Env
  readonly #observer: ShardObserver | undefined
  readonly #stop = new AbortController()
  readonly #stalls = new Map<RetriedWork, Stall>()
  #listeners: ((error: Error) => void)[] = []

  constructor(env: Env, observer?: ShardObserver) {
    this.#env = env
    this.#observer = observer
  }

  /** The work that waits and the reason, or undefined. */
  get reason(): string | undefined {
    const reasons = [...this.#stalls]
      .filter(([, { count }]) => count > 0)
      .map(([work, { error }]) => `${work}: ${describeError(error)}`)
    return reasons.length === 0 ? undefined : reasons.join('; ')
  }

  /**
   * The work's result, however often it has to be tried. Rejects with errors that are not trouble outside, and
   * `cancelled` after `stop`.
   */
  async retry<T>(work: RetriedWork, attempt: () => Promise<T>): Promise<T> {
    const { clock, rng } = this.#env
    let isWaiting = false
    try {
      for (let failures = 0; ;) {
        if (this.#stop.signal.aborted) throw fail('cancelled', 'the shard stops')
        try {
          return await attempt()
        } catch (error) {
          if (!(error instanceof UnderstoryError) || !OUTSIDE.has(error.code)) throw error
          this.#note(work, error, isWaiting)
          isWaiting = true
        }
        const pauseMs = backoffMs(rng, ++failures, { baseMs: BASE_MS, pauseMsMax: PAUSE_MS_MAX })
        await clock.sleep(pauseMs, this.#stop.signal)
      }
    } finally {
      if (isWaiting) this.#end(work)
    }
  }

  /** The promise's result; rejects `unavailable` where the shard is stalled, or is before it is settled. */
  orStalled<T>(promise: Promise<T>): Promise<T> {
    const stalled = Promise.withResolvers<never>()
    const { reason } = this
    if (reason !== undefined) stalled.reject(stalledError(reason))
    this.#listeners.push(stalled.reject)
    return Promise.race([promise, stalled.promise]).finally(() => {
      this.#listeners = this.#listeners.filter((listener) => listener !== stalled.reject)
    })
  }

  /** Work that waits ends with `cancelled`. */
  stop(): void {
    this.#stop.abort()
  }

  #note(work: RetriedWork, error: unknown, isWaiting: boolean): void {
    const { clock, log } = this.#env
    const nowMs = clock.nowMs()
    const stall = this.#stalls.get(work) ?? {
      count: 0,
      sinceMs: nowMs,
      loggedMs: -Infinity,
      isLogged: false,
      error,
    }
    this.#stalls.set(work, stall)
    if (stall.count === 0) stall.sinceMs = nowMs
    if (!isWaiting) stall.count++
    stall.error = error
    this.#observer?.retried(work)
    if (nowMs - stall.loggedMs >= REPORT_EVERY_MS) {
      stall.loggedMs = nowMs
      stall.isLogged = true
      log.warn('shard_stalled', { work, sinceMs: Math.round(nowMs - stall.sinceMs), error })
    }
    for (const reject of this.#listeners) reject(stalledError(this.reason ?? ''))
  }

  #end(work: RetriedWork): void {
    const stall = this.#stalls.get(work)
    if (stall === undefined || --stall.count > 0 || !stall.isLogged || this.#stop.signal.aborted) return
    stall.isLogged = false
    const { clock, log } = this.#env
    log.info('shard_resumed', { work, stalledMs: Math.round(clock.nowMs() - stall.sinceMs) })
  }
}

const stalledError = (reason: string): Error =>
  fail('unavailable', `the shard is stalled: ${reason}`, {
    hint: 'It continues by itself once that is over.',
  })
