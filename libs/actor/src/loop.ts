/**
 * Rounds of work until it is stopped: with a pause between them, an early wake-up, and growing pauses after failures.
 */
import { backoffMs } from '@understory/env'
import type { BackoffOptions, Clock, Rng } from '@understory/env'
import type { ProblemReport } from './problem-report.ts'

export interface LoopOptions {
  readonly clock: Clock
  readonly rng: Rng
  /** One round; it may say how many milliseconds until the next, or that it was the last. */
  readonly round: (stop: AbortSignal) => Promise<number | 'end' | void>
  /** Milliseconds before the first round. */
  readonly firstAfterMs?: number
  /** Milliseconds after a round that does not say. */
  readonly pauseMs: number
  /** After failures in a row. */
  readonly backoff?: BackoffOptions
  /** Gets the failures, and the rounds without one. */
  readonly problems: ProblemReport
}

export class Loop {
  readonly #options: LoopOptions
  readonly #stop = new AbortController()
  #early = new AbortController()
  #running: Promise<void> | undefined

  constructor(options: LoopOptions) {
    this.#options = options
  }

  /** Fires when it is stopped. */
  get stopped(): AbortSignal {
    return this.#stop.signal
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** Resolves once its last round has ended. */
  get ended(): Promise<void> {
    return this.#running ?? Promise.resolve()
  }

  /** The next round starts at once; where one runs, another follows it. */
  wake(): void {
    this.#early.abort()
  }

  /** Resolves once the round that runs has ended. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { rng, round, pauseMs, firstAfterMs, backoff, problems } = this.#options
    const { signal } = this.#stop
    if (firstAfterMs !== undefined) await this.#pause(firstAfterMs)
    let failures = 0
    while (!signal.aborted) {
      this.#early = new AbortController()
      let untilNextMs = pauseMs
      try {
        const next = await round(signal)
        if (next === 'end') return
        untilNextMs = next ?? pauseMs
        failures = 0
        problems.clear()
      } catch (error) {
        if (signal.aborted) return
        problems.report(error)
        untilNextMs = backoffMs(rng, ++failures, backoff)
      }
      await this.#pause(untilNextMs)
    }
  }

  /** Until then, until it is woken, or until it is stopped. */
  #pause(durationMs: number): Promise<void> {
    const over = AbortSignal.any([this.#stop.signal, this.#early.signal])
    return this.#options.clock.sleep(durationMs, over).catch(() => undefined)
  }
}
