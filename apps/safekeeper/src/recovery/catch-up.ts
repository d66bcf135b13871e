/**
 * Brings one replica to what other safekeepers, or the object store, have: at most one recovery at a time. Its progress
 * stays readable after its end, for the caller that asks again and again.
 */
import type { Child, Semaphore } from '@understory/actor'
import { LSN_ZERO, describeError, formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import type { Replica } from '../timeline/replica.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { askSources, catchUp, controlFrom } from './recovery.ts'
import type { WalSource } from './recovery.ts'

/** A recovery that ended well is not begun again within so long: its caller sees that it ended. */
const FRESH_MS = 2_000
/** A replica that no source had is forgotten after so long. */
const FORGET_MS = 60_000

export interface CatchUpProgress {
  readonly flushLsn: Lsn
  /** 0/0 before a donor answered. */
  readonly goalLsn: Lsn
  readonly isRunning: boolean
  readonly problem: string
}

export interface CatchUpParts {
  readonly clock: Clock
  /** Of all timelines of the process. */
  readonly turns: Semaphore
  /** The replica was not made, and nothing came for long. */
  readonly forget: (replica: Replica) => void
}

export class CatchUp implements Child {
  readonly #replica: Replica
  readonly #parts: CatchUpParts
  readonly #stop = new AbortController()
  #goalLsn = LSN_ZERO
  /** Of the last recovery, or of the one that runs. */
  #problem = ''
  /** Of the one before, while a new one has not got anywhere. */
  #lastProblem = ''
  #endedMs = -Infinity
  #running: Promise<void> | undefined

  constructor(replica: Replica, parts: CatchUpParts) {
    this.#replica = replica
    this.#parts = parts
  }

  get progress(): CatchUpProgress {
    const isRunning = this.#running !== undefined
    return {
      flushLsn: this.#replica.timeline?.state.flushLsn ?? LSN_ZERO,
      goalLsn: this.#goalLsn,
      isRunning,
      problem: this.#problem === '' && isRunning ? this.#lastProblem : this.#problem,
    }
  }

  /** Resolves once no recovery runs. */
  get ended(): Promise<void> {
    return this.#running ?? Promise.resolve()
  }

  /** Begins one unless one runs, or ended well a moment ago. */
  begin(makeSources: () => readonly WalSource[]): void {
    const { clock } = this.#parts
    const isFresh = this.#problem === '' && clock.nowMs() - this.#endedMs < FRESH_MS
    if (!isFresh) this.beginNow(makeSources)
  }

  /** Begins one unless one runs. */
  beginNow(makeSources: () => readonly WalSource[]): void {
    if (this.#running !== undefined) return
    const sources = makeSources()
    this.#lastProblem = this.#problem
    this.#problem = ''
    this.#goalLsn = LSN_ZERO
    this.#running = this.#run(sources).finally(() => {
      this.#running = undefined
      this.#endedMs = this.#parts.clock.nowMs()
    })
  }

  /** Ends the one that runs. */
  async close(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #run(sources: readonly WalSource[]): Promise<void> {
    const { clock, turns } = this.#parts
    const { log } = this.#replica
    const { signal } = this.#stop
    const startedMs = clock.nowMs()
    try {
      const { timeline, bytes } = await turns.run(async () => {
        const opened = await this.#open(sources)
        const onGoal = (goalLsn: Lsn): void => {
          this.#goalLsn = goalLsn
        }
        return { timeline: opened, bytes: await catchUp(opened, { sources, signal, log, onGoal }) }
      }, signal)
      const end = formatLsn(timeline.state.flushLsn)
      log.info('caught_up', { bytes, end, tookMs: Math.round(clock.nowMs() - startedMs) })
    } catch (error) {
      this.#problem = describeError(error)
      if (!signal.aborted) log.warn('catch_up_failed', { problem: this.#problem })
      this.#forgetLater()
    } finally {
      for (const source of sources) source.close?.()
    }
  }

  /** As a donor describes the timeline, where it is not here. */
  async #open(sources: readonly WalSource[]): Promise<Timeline> {
    if (this.#replica.state.kind === 'absent') {
      const [first] = await askSources(sources, this.#stop.signal)
      if (first === undefined) throw fail('unavailable', 'no other safekeeper that answers has the timeline')
      await this.#replica.create(first.status.identity, controlFrom(first.status))
    }
    const { timeline, failure } = this.#replica
    if (timeline === undefined) throw failure
    return timeline
  }

  #forgetLater(): void {
    const { clock, forget } = this.#parts
    if (this.#replica.state.kind !== 'absent') return
    const timer = clock.setTimer(FORGET_MS, () => {
      if (this.#running === undefined && this.#replica.state.kind === 'absent') forget(this.#replica)
    })
    this.#stop.signal.addEventListener('abort', () => timer.cancel(), { once: true })
  }
}
