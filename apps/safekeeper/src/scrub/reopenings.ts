/**
 * Opens timelines again that take no more WAL because a write failed, or that did not open for trouble with the disk: with
 * growing pauses, from what is on the disk, exactly as a start of the process would. What was found there is written and synced
 * again before anything is said of it (timeline.ts), since the kernel may have dropped what it could not write. Damage is
 * not opened again here (repairs.ts), nor is what a bug ended.
 */
import { Loop, ProblemReport } from '@understory/actor'
import { UnderstoryError, isErrorCode } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Clock, Log, Rng } from '@understory/env'
import type { TimelineRef } from '@understory/rpc'
import type { Timelines } from '../timeline/timelines.ts'
import { isDamage } from '../timeline/wal-check.ts'

const LOOK_MS = 1_000
const PAUSES = { baseMs: 5_000, pauseMsMax: 300_000 }

export interface ReopeningsParts {
  readonly timelines: Timelines
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

interface Tries {
  count: number
  nextMs: number
}

export class Reopenings {
  readonly #parts: ReopeningsParts
  readonly #tries = new Map<string, Tries>()
  readonly #loop: Loop

  constructor(parts: ReopeningsParts) {
    this.#parts = parts
    const { clock, rng, log } = parts
    this.#loop = new Loop({
      clock,
      rng,
      pauseMs: LOOK_MS,
      problems: new ProblemReport({ clock, log, event: 'reopenings_failed' }),
      round: async (stop) => {
        for (const ref of parts.timelines.list()) if (!stop.aborted) await this.#look(ref)
      },
    })
  }

  start(): void {
    this.#loop.start()
  }

  stop(): Promise<void> {
    return this.#loop.stop()
  }

  async #look(ref: TimelineRef): Promise<void> {
    const { timelines, clock, rng } = this.#parts
    const nowMs = clock.nowMs()
    const failure = timelines.failureOf(ref)
    const tries = this.#tries.get(ref.timelineId)
    if (failure === undefined) {
      // One that fails again soon has its longer pauses still.
      if (tries !== undefined && nowMs > tries.nextMs + PAUSES.pauseMsMax) this.#tries.delete(ref.timelineId)
      return
    }
    if (!(failure instanceof UnderstoryError) || isDamage(failure) || isErrorCode(failure, 'cancelled'))
      return
    if (tries === undefined) {
      this.#tries.set(ref.timelineId, { count: 1, nextMs: nowMs + backoffMs(rng, 1, PAUSES) })
      return
    }
    if (nowMs < tries.nextMs) return
    await this.#reopen(ref, failure, tries.count)
    tries.nextMs = clock.nowMs() + backoffMs(rng, ++tries.count, PAUSES)
  }

  async #reopen(ref: TimelineRef, failure: Error, attempt: number): Promise<void> {
    const { timelines } = this.#parts
    const log = this.#parts.log.child({ tenant: ref.tenantId, timeline: ref.timelineId })
    try {
      await timelines.shut(ref, failure)
      await timelines.reopen(ref)
      log.warn('timeline_reopened', { attempt, failure })
    } catch (error) {
      log.warn('timeline_not_reopened', { attempt, error })
    }
  }
}
