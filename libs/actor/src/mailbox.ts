/** Runs jobs one after another, in the order in which they were sent: the single writer of a state. */
import { fail } from '@understory/base'
import type { Clock } from '@understory/env'

export interface MailboxOptions {
  /** For errors and metrics, such as `timeline`. */
  readonly name: string
  /** Jobs that may wait. */
  readonly jobsMax?: number
  /** Called for each job, with times in milliseconds, once it has ended; needs `clock`. */
  readonly observe?: (waitedMs: number, ranMs: number) => void
  readonly clock?: Clock
}

interface Job {
  readonly run: () => Promise<unknown>
  readonly reject: (error: unknown) => void
  readonly sentMs: number
}

const JOBS_MAX = 10_000

export class Mailbox {
  readonly #options: MailboxOptions
  readonly #waiting: Job[] = []
  readonly #idle: (() => void)[] = []
  #isRunning = false
  #closed: Error | undefined

  constructor(options: MailboxOptions) {
    this.#options = options
  }

  /** Jobs that wait or run. */
  get size(): number {
    return this.#waiting.length + Number(this.#isRunning)
  }

  /**
   * Resolves to the job's result. It never starts within this call. Errors: the job's own; `unavailable` where too many
   * jobs wait; the reason of `close`.
   */
  run<T>(job: () => Promise<T> | T): Promise<T> {
    const { name, jobsMax = JOBS_MAX, clock } = this.#options
    if (this.#closed !== undefined) return Promise.reject(this.#closed)
    if (this.#waiting.length >= jobsMax) {
      return Promise.reject(fail('unavailable', `mailbox "${name}" is full: ${jobsMax} jobs wait`))
    }
    return new Promise<T>((resolve, reject) => {
      const run = async (): Promise<void> => {
        try {
          resolve(await job())
        } catch (error) {
          reject(error as Error)
        }
      }
      this.#waiting.push({ run, reject, sentMs: clock?.nowMs() ?? 0 })
      if (!this.#isRunning) void this.#runAll()
    })
  }

  /** Resolves once nothing waits or runs. */
  async idle(): Promise<void> {
    while (this.#isRunning) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** No job starts after this: those that wait, and later ones, are rejected with `reason`. */
  close(reason: Error): void {
    this.#closed ??= reason
    for (const { reject } of this.#waiting.splice(0)) reject(reason)
  }

  async #runAll(): Promise<void> {
    this.#isRunning = true
    // The sender continues first.
    await Promise.resolve()
    for (let job = this.#waiting.shift(); job !== undefined; job = this.#waiting.shift()) {
      const { clock, observe } = this.#options
      const startedMs = clock?.nowMs() ?? 0
      await job.run()
      if (clock !== undefined) observe?.(startedMs - job.sentMs, clock.nowMs() - startedMs)
    }
    this.#isRunning = false
    for (const wake of this.#idle.splice(0)) wake()
  }
}
