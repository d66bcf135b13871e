/**
 * The recoveries that run: at most one a timeline. One begins when the control plane asks a new member for it
 * (`pull`), and when an elected proposer comes to a log that is far behind (`beforeLeading`): answered before that, it
 * would have to read the WAL from another safekeeper and send it on.
 */
import { Semaphore } from '@understory/actor'
import { LSN_ZERO, describeError, formatLsn, parseTenantId, parseTimelineId, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import { everyMember } from '@understory/protocol'
import type { Member } from '@understory/protocol'
import type { ClientContext, TimelineRef } from '@understory/rpc'
import { PeerSource } from './peer-source.ts'
import { askSources, catchUp, controlFrom } from './recovery.ts'
import type { WalSource } from './recovery.ts'
import type { RemoteWal } from '../timeline/remote-wal.ts'
import { StoredSource } from './stored-wal.ts'
import type { StoredEnd } from './stored-wal.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { Timelines } from '../timeline/timelines.ts'

/** What a proposer sends from its own buffer, or nearly so. */
const BEHIND_BYTES_MAX = 16 * 1024 * 1024
/** A pull that ended well is not begun again within so long: whoever asks sees that it ended. */
const REST_MS = 2_000
const FORGET_MS = 60_000
/** That run at once: where a safekeeper was lost, all its timelines come to others in the same moment. */
const RUNNING_MAX = 4

export interface PullProgress {
  readonly flushLsn: Lsn
  /** 0/0 before a donor answered. */
  readonly goalLsn: Lsn
  readonly isRunning: boolean
  readonly problem: string
}

interface Pull {
  goalLsn: Lsn
  isRunning: boolean
  problem: string
  endedMs: number
  running: Promise<void>
  readonly cancel: AbortController
}

export interface PullsParts {
  readonly timelines: Timelines
  /** What peers are called with. */
  readonly rpc: ClientContext
  /** Of this safekeeper. */
  readonly nodeId: string
  readonly clock: Clock
  readonly log: Log
  /** A timeline's WAL in the object store, where there is one. */
  readonly remoteOf?: (ref: TimelineRef) => RemoteWal | undefined
}

export const noObjectStore = (): Error =>
  refuse('precondition', 'this safekeeper has no object store', { hint: 'Start it with --object-store.' })

export class Pulls {
  readonly #parts: PullsParts
  readonly #pulls = new Map<string, Pull>()
  readonly #running = new Semaphore(RUNNING_MAX)
  readonly #stop = new AbortController()

  constructor(parts: PullsParts) {
    this.#parts = parts
  }

  /**
   * Begins one, or tells how far the one is that runs. With `stored` it is from the object store. Error: refused
   * `precondition` where there is none.
   */
  pull(ref: TimelineRef, donors: readonly Member[], stored?: StoredEnd): PullProgress {
    const { timelines, clock } = this.#parts
    parseTenantId(ref.tenantId)
    parseTimelineId(ref.timelineId)
    this.#forgetOld()
    const last = this.#pulls.get(ref.timelineId)
    const isFresh =
      last !== undefined && !last.isRunning && last.problem === '' && clock.nowMs() - last.endedMs < REST_MS
    const pull =
      last !== undefined && (last.isRunning || isFresh)
        ? last
        : this.#begin(ref, stored === undefined ? this.#peers(ref, donors) : [this.#stored(ref, stored)])
    const flushLsn = timelines.find(ref)?.state.flushLsn ?? LSN_ZERO
    return {
      flushLsn,
      goalLsn: pull.goalLsn,
      isRunning: pull.isRunning,
      // Of the one before, while a new one has not got anywhere.
      problem: pull.problem === '' && pull.isRunning ? (last?.problem ?? '') : pull.problem,
    }
  }

  /** Resolves when the timeline is near `commitLsn`, or when peers cannot bring it there: then the proposer has to. */
  async beforeLeading(
    timeline: Timeline,
    ref: TimelineRef,
    commitLsn: Lsn,
    signal: AbortSignal,
  ): Promise<void> {
    const { membership } = timeline
    if (membership === undefined || commitLsn - timeline.state.flushLsn <= BEHIND_BYTES_MAX) return
    const last = this.#pulls.get(ref.timelineId)
    const { running } =
      last?.isRunning === true ? last : this.#begin(ref, this.#peers(ref, everyMember(membership)))
    const gone = Promise.withResolvers<void>()
    const onAbort = (): void => gone.resolve()
    signal.addEventListener('abort', onAbort, { once: true })
    await Promise.race([running, gone.promise])
    signal.removeEventListener('abort', onAbort)
  }

  #peers(ref: TimelineRef, donors: readonly Member[]): readonly WalSource[] {
    return donors
      .filter(({ nodeId }) => nodeId !== this.#parts.nodeId)
      .map((donor) => new PeerSource(this.#parts.rpc, donor, ref))
  }

  #stored(ref: TimelineRef, end: StoredEnd): WalSource {
    const remote = this.#parts.remoteOf?.(ref)
    if (remote !== undefined) return new StoredSource(remote, end)
    throw noObjectStore()
  }

  #begin(ref: TimelineRef, sources: readonly WalSource[]): Pull {
    const pull: Pull = {
      goalLsn: LSN_ZERO,
      isRunning: true,
      problem: '',
      endedMs: 0,
      running: Promise.resolve(),
      cancel: new AbortController(),
    }
    this.#pulls.set(ref.timelineId, pull)
    pull.running = this.#run(ref, sources, pull)
    return pull
  }

  async #run(ref: TimelineRef, sources: readonly WalSource[], pull: Pull): Promise<void> {
    const { clock } = this.#parts
    const log = this.#parts.log.child({ tenant: ref.tenantId, timeline: ref.timelineId })
    const startedMs = clock.nowMs()
    try {
      const signal = AbortSignal.any([this.#stop.signal, pull.cancel.signal])
      const { timeline, bytes } = await this.#running.run(async () => {
        const opened = await this.#open(ref, sources)
        const onGoal = (goalLsn: Lsn): void => {
          pull.goalLsn = goalLsn
        }
        return { timeline: opened, bytes: await catchUp(opened, { sources, signal, log, onGoal }) }
      }, signal)
      const end = formatLsn(timeline.state.flushLsn)
      log.info('pulled_from_peers', { bytes, end, tookMs: Math.round(clock.nowMs() - startedMs) })
    } catch (error) {
      pull.problem = describeError(error)
      if (!this.#stop.signal.aborted) log.warn('pull_failed', { problem: pull.problem })
    } finally {
      pull.isRunning = false
      pull.endedMs = clock.nowMs()
      for (const source of sources) source.close?.()
    }
  }

  /** As a donor says that the timeline is, where it is not here. */
  async #open(ref: TimelineRef, sources: readonly WalSource[]): Promise<Timeline> {
    const { timelines } = this.#parts
    if (!timelines.has(ref)) {
      const [first] = await askSources(sources, this.#stop.signal)
      if (first === undefined)
        throw refuse('unavailable', 'no other safekeeper that answers has the timeline')
      await timelines.createFrom(ref, first.status.identity, controlFrom(first.status))
    }
    return timelines.get(ref)
  }

  /** Timelines that nobody had, or that were asked for long ago. */
  #forgetOld(): void {
    const { clock } = this.#parts
    for (const [timelineId, { isRunning, endedMs }] of this.#pulls) {
      if (!isRunning && clock.nowMs() - endedMs > FORGET_MS) this.#pulls.delete(timelineId)
    }
  }

  /** Ends what runs for a timeline. */
  async forget({ timelineId }: TimelineRef): Promise<void> {
    const pull = this.#pulls.get(timelineId)
    pull?.cancel.abort()
    await pull?.running
    this.#pulls.delete(timelineId)
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.all([...this.#pulls.values()].map(({ running }) => running))
  }
}
