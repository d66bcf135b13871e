/** The same problem is logged when it begins, and again every few minutes while it lasts. */
import { UnderstoryError, describeError } from '@understory/base'
import type { Clock, Log, LogFields } from '@understory/env'

export interface ProblemReportOptions {
  readonly clock: Clock
  readonly log: Log
  /** Name of the log event. */
  readonly event: string
  /** Of trouble outside, `warn` by default; a bug is always an error. */
  readonly level?: 'warn' | 'error'
  readonly repeatMs?: number
}

const REPEAT_MS = 300_000

export class ProblemReport {
  readonly #options: ProblemReportOptions
  #current = ''
  #loggedMs = 0

  constructor(options: ProblemReportOptions) {
    this.#options = options
  }

  /** The present problem, as text; empty where there is none. */
  get current(): string {
    return this.#current
  }

  /** True where it was logged. */
  report(error: unknown, fields: LogFields = {}): boolean {
    const { clock, log, event, level = 'warn', repeatMs = REPEAT_MS } = this.#options
    const problem = typeof error === 'string' ? error : describeError(error)
    const nowMs = clock.nowMs()
    if (problem === this.#current && nowMs - this.#loggedMs < repeatMs) return false
    this.#current = problem
    this.#loggedMs = nowMs
    const isBug = error instanceof Error && !(error instanceof UnderstoryError)
    log[isBug ? 'error' : level](event, { problem, ...(isBug ? { error } : {}), ...fields })
    return true
  }

  /** Nothing is wrong any more. True where something was. */
  clear(): boolean {
    const was = this.#current !== ''
    this.#current = ''
    return was
  }
}
