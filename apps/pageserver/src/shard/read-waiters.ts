/** Reads that wait until a shard has ingested their LSN. */
import { Signal } from '@understory/actor'
import { formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'

/** The current facts that decide whether a shard can be read. */
export interface Readiness {
  readonly number: number
  readonly isImported: boolean
  /** Not all that its index lists is open yet. */
  readonly isLoading: boolean
  /** False where layers are missing: those that are there could answer wrongly. */
  readonly isReadable: boolean
  /** No read below. */
  readonly readableLsn: Lsn
  readonly ingestedLsn: Lsn
  /** Committed WAL as last reported. */
  readonly commitLsn: Lsn
  readonly stall: string | undefined
  readonly failure: string | undefined
  readonly isStopped: boolean
}

export class ReadWaiters {
  readonly #shard: Readiness
  readonly #clock: Clock
  /** Ingest got further, or ended. */
  readonly #progress = new Signal()

  constructor(shard: Readiness, clock: Clock) {
    this.#shard = shard
    this.#clock = clock
  }

  /** After each change of what `Readiness` says about progress and its end. */
  notify(): void {
    this.#progress.notify()
  }

  /** Errors: `precondition`. */
  mustBeImported(): void {
    const { number, isImported } = this.#shard
    if (isImported) return
    throw fail('precondition', `shard ${number} has no data yet`, {
      hint: 'Wait until its import is finished.',
    })
  }

  /** Errors: `unavailable`. */
  mustBeLoaded(): void {
    const { number, isLoading } = this.#shard
    if (isLoading) throw fail('unavailable', `shard ${number} is loading its layers`, { hint: 'Try again.' })
  }

  stoppedError(): Error {
    const { number, failure } = this.#shard
    return fail('precondition', `shard ${number} has stopped: ${failure}`, {
      hint: 'See its status; where its layers are whole, what it has ingested can still be read.',
    })
  }

  /**
   * Resolves when everything before `at` is ingested. Errors: `out_of_range`, `precondition`, `timeout`, `cancelled`,
   * `unavailable` while the shard is loading.
   */
  async waitFor(at: Lsn, deadlineMs: number, signal?: AbortSignal): Promise<void> {
    const shard = this.#shard
    this.mustBeImported()
    this.mustBeLoaded()
    if (!shard.isReadable) throw this.stoppedError()
    if (at < shard.readableLsn) {
      throw fail(
        'out_of_range',
        `lsn ${formatLsn(at)} is before ${formatLsn(shard.readableLsn)}, where the timeline can be read from`,
      )
    }
    if (at <= shard.ingestedLsn) return
    if (shard.failure !== undefined) throw this.stoppedError()
    const late = new AbortController()
    const timer = this.#clock.setTimer(deadlineMs, () => late.abort())
    const over = signal === undefined ? late.signal : AbortSignal.any([signal, late.signal])
    await this.#progress.until(
      () => at <= shard.ingestedLsn || shard.failure !== undefined || shard.isStopped,
      over,
    )
    timer.cancel()
    if (shard.isStopped) throw fail('cancelled', 'shard was detached')
    if (at <= shard.ingestedLsn) return
    if (shard.failure !== undefined) throw this.stoppedError()
    if (signal?.aborted === true) throw fail('cancelled', 'read was cancelled')
    const known = `committed WAL is known up to ${formatLsn(shard.commitLsn)}`
    throw fail(
      'timeout',
      `lsn ${formatLsn(at)} is not there after ${deadlineMs} ms: the shard is at ${formatLsn(shard.ingestedLsn)}`,
      { detail: shard.stall === undefined ? known : `${known}; stalled: ${shard.stall}` },
    )
  }
}
