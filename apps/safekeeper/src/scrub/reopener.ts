/**
 * Opens a timeline again that takes no more WAL because a write failed, or that did not open for trouble with the disk:
 * after growing pauses, from what is on the disk, exactly as a start of the process would. The WAL found there is
 * written and synced again before anything is reported of it (open-timeline.ts), since the kernel may have dropped what
 * it could not write. Damage is left to the scrubber, and what a bug ended is left closed.
 */
import { Loop, ProblemReport } from '@understory/actor'
import type { Child } from '@understory/actor'
import { UnderstoryError, isErrorCode } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Clock, Rng } from '@understory/env'
import { runRounds } from '../timeline/replica.ts'
import type { ChildFactory, Replica } from '../timeline/replica.ts'
import { isDamage } from '../timeline/wal-check.ts'

/** Between two looks where nothing has happened. */
const IDLE_MS = 3_600_000
const PAUSES = { baseMs: 5_000, pauseMsMax: 300_000 }

export interface ReopenerParts {
  readonly clock: Clock
  readonly rng: Rng
}

export class Reopener implements Child {
  readonly #replica: Replica
  readonly #parts: ReopenerParts
  #tries: { count: number; nextMs: number } | undefined
  readonly run: (stop: AbortSignal) => Promise<void>

  constructor(replica: Replica, parts: ReopenerParts) {
    const { clock, rng } = parts
    this.#replica = replica
    this.#parts = parts
    const problems = new ProblemReport({ clock, log: replica.log, event: 'reopening_failed' })
    const round = (): Promise<number> => this.#round()
    this.run = runRounds(replica, new Loop({ clock, rng, pauseMs: IDLE_MS, problems, round }))
  }

  static factory =
    (parts: ReopenerParts): ChildFactory =>
    (replica) => ({ name: 'reopen', child: new Reopener(replica, parts) })

  /** Returns how long until the next look. */
  async #round(): Promise<number> {
    const { clock, rng } = this.#parts
    const { failure } = this.#replica
    const nowMs = clock.nowMs()
    const tries = this.#tries
    if (failure === undefined) {
      // A timeline that fails again soon has its longer pauses still.
      if (tries !== undefined && nowMs > tries.nextMs + PAUSES.pauseMsMax) this.#tries = undefined
      return IDLE_MS
    }
    if (!(failure instanceof UnderstoryError) || isDamage(failure) || isErrorCode(failure, 'cancelled'))
      return IDLE_MS
    if (tries === undefined) {
      const pauseMs = backoffMs(rng, 1, PAUSES)
      this.#tries = { count: 1, nextMs: nowMs + pauseMs }
      return pauseMs
    }
    if (nowMs < tries.nextMs) return tries.nextMs - nowMs
    await this.#reopen(failure, tries.count)
    const pauseMs = backoffMs(rng, ++tries.count, PAUSES)
    tries.nextMs = clock.nowMs() + pauseMs
    return pauseMs
  }

  async #reopen(failure: Error, attempt: number): Promise<void> {
    const { log } = this.#replica
    try {
      await this.#replica.close(failure)
      await this.#replica.reopen()
      log.warn('timeline_reopened', { attempt, failure })
    } catch (error) {
      log.warn('timeline_not_reopened', { attempt, error })
    }
  }
}
