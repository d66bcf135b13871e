/**
 * Brings committed WAL into the object store, and lets go of local segments that are there.
 *
 * Every safekeeper of a timeline could do it, and one does: they have an order, which differs from timeline to timeline,
 * and each gives those before it `takeOverMs` to store what there is to store. Nobody has to be elected, and none is
 * missed for longer than that. Two at once store the same bytes.
 *
 * A segment is stored once all of it is committed; the last one, up to the commit position, once nothing was committed
 * for `quietMs`. What is read back from the disk is decoded before it leaves: damage stays here, and is reported.
 */
import { Loop, ProblemReport } from '@understory/actor'
import {
  LSN_ZERO,
  advance,
  describeError,
  formatLsn,
  isErrorCode,
  minLsn,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import { historyUpTo, lastTermStart } from '@understory/consensus'
import type { Clock, Log, Rng } from '@understory/env'
import { probeConditionalPut } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import type { TimelineRef } from '@understory/rpc'
import { decoderAt } from '../timeline/end-of-wal.ts'
import { ChunkCache, RemoteWal } from '../timeline/remote-wal.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { Timelines } from '../timeline/timelines.ts'

const ROUND_MS = 1_000
const RETRY_MS = 5_000
const PART_BYTES = 256 * 1024
/** Of commit positions that are remembered: without the oldest, a segment counts as complete since later. */
const MARKS_MAX = 1_000

export interface OffloadSettings {
  /** After so long without a commit the last segment is stored as far as it is committed. */
  readonly quietMs: number
  /** How long each safekeeper gives those before it. */
  readonly takeOverMs: number
  /** Committed WAL that stays here though it is stored, unless room is short. */
  readonly keepBytes: number
}

export interface OffloaderParts {
  readonly timelines: Timelines
  readonly store: ObjectStore
  /** A timeline's WAL in it. */
  readonly remoteOf: (ref: TimelineRef) => RemoteWal
  /** Of this safekeeper. */
  readonly nodeId: string
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  readonly settings: OffloadSettings
  /** Between two looks at every timeline; 1,000 by default. */
  readonly roundMs?: number
}

/** What is known of one timeline's WAL in the store. */
interface Progress {
  readonly timeline: Timeline
  readonly remote: RemoteWal
  /** Whole segments are there up to here. */
  wholeUntil: Lsn
  /** The partial one after them is there up to here. */
  partialUntil: Lsn
  /** Last term whose history is there. */
  term: number
  commitLsn: Lsn
  committedAtMs: number
  /** Since when which positions are known to be committed, rising. */
  readonly marks: { readonly lsn: Lsn; readonly sinceMs: number }[]
  notBeforeMs: number
}

export class Offloader {
  readonly #parts: OffloaderParts
  readonly #progress = new Map<string, Progress>()
  readonly #loop: Loop
  readonly #storeAway: ProblemReport
  readonly #storeUnfit: ProblemReport
  #isStoreFit = false
  #attending: { readonly timelineId: string; readonly done: Promise<void> } | undefined

  constructor(parts: OffloaderParts) {
    this.#parts = parts
    const { clock, rng, log, roundMs = ROUND_MS } = parts
    this.#storeAway = new ProblemReport({ clock, log, event: 'object_store_not_ready' })
    this.#storeUnfit = new ProblemReport({ clock, log, event: 'object_store_unfit', level: 'error' })
    this.#loop = new Loop({
      clock,
      rng,
      pauseMs: roundMs,
      problems: new ProblemReport({ clock, log, event: 'offload_failed' }),
      round: () => this.#round(),
    })
  }

  /** The store's WAL of a timeline, for one that has to see it as it is: nothing read before is remembered. */
  remoteOf(ref: TimelineRef): RemoteWal {
    return new RemoteWal(this.#parts.store, ref, new ChunkCache())
  }

  /** How far the object store has the timeline; undefined before it was looked at. */
  storedUntil({ timelineId }: TimelineRef): Lsn | undefined {
    const progress = this.#progress.get(timelineId)
    if (progress === undefined) return undefined
    return progress.partialUntil > progress.wholeUntil ? progress.partialUntil : progress.wholeUntil
  }

  /** Resolves when nothing of a timeline that is not here any more will be stored. */
  async forget({ timelineId }: TimelineRef): Promise<void> {
    if (this.#attending?.timelineId === timelineId) await this.#attending.done
    this.#progress.delete(timelineId)
  }

  start(): void {
    this.#loop.start()
  }

  async stop(): Promise<void> {
    await this.#loop.stop()
  }

  /** Nothing is stored, and so nothing trimmed, before the store is known to keep what two writers rely on. */
  async #round(): Promise<number | void> {
    const { timelines } = this.#parts
    this.#isStoreFit ||= await this.#probe()
    if (!this.#isStoreFit) return RETRY_MS
    for (const ref of timelines.list()) {
      const timeline = timelines.find(ref)
      if (timeline === undefined || this.#loop.stopped.aborted) continue
      const done = this.#attend(ref, timeline)
      this.#attending = { timelineId: ref.timelineId, done }
      await done
    }
  }

  async #probe(): Promise<boolean> {
    const { store, rng, log } = this.#parts
    const fields = { store: store.description }
    try {
      await probeConditionalPut(store, rng)
    } catch (error) {
      // A store that is not there yet, as in a new installation, comes by itself; an unfit one has to be replaced.
      const problems = isErrorCode(error, 'unsupported') ? this.#storeUnfit : this.#storeAway
      problems.report(error, fields)
      return false
    }
    const wasAway = this.#storeAway.clear()
    if (this.#storeUnfit.clear() || wasAway) log.info('object_store_ready', fields)
    return true
  }

  async #attend(ref: TimelineRef, timeline: Timeline): Promise<void> {
    const { clock, log } = this.#parts
    const known = this.#progress.get(ref.timelineId)
    try {
      const progress =
        known !== undefined && known.timeline === timeline ? known : await this.#look(ref, timeline)
      if (clock.nowMs() < progress.notBeforeMs) return
      await this.#offload(ref, progress)
      await this.#trim(progress)
    } catch (error) {
      if (this.#loop.stopped.aborted) return
      const { timelineId } = ref
      this.#parts.timelines.observer?.segmentOffloaded('failed')
      log.warn('offload_failed', { timeline: timelineId, problem: describeError(error) })
      const progress = this.#progress.get(timelineId)
      if (progress !== undefined) progress.notBeforeMs = clock.nowMs() + RETRY_MS
    }
  }

  /** What is in the store, at the first sight of a timeline. */
  async #look(ref: TimelineRef, timeline: Timeline): Promise<Progress> {
    const { clock } = this.#parts
    const signal = this.#loop.stopped
    const remote = this.#parts.remoteOf(ref)
    const { identity, timelineStartLsn, commitLsn } = timeline
    const progress: Progress = {
      timeline,
      remote,
      wholeUntil: await remote.wholeUntil(identity, timelineStartLsn, signal),
      partialUntil: timelineStartLsn,
      term: 0,
      commitLsn,
      committedAtMs: clock.nowMs(),
      marks: [],
      notBeforeMs: 0,
    }
    this.#progress.set(ref.timelineId, progress)
    return progress
  }

  async #offload(ref: TimelineRef, progress: Progress): Promise<void> {
    const { clock, settings } = this.#parts
    const { timeline } = progress
    const { walSegmentBytes: segmentBytes } = timeline.identity
    const patienceMs = rankOf(this.#parts.nodeId, ref, timeline) * settings.takeOverMs
    const { commitLsn } = timeline
    if (commitLsn > progress.commitLsn) {
      progress.commitLsn = commitLsn
      progress.committedAtMs = clock.nowMs()
    }
    const { marks } = progress
    if (commitLsn > (marks.at(-1)?.lsn ?? LSN_ZERO)) marks.push({ lsn: commitLsn, sinceMs: clock.nowMs() })
    if (marks.length > MARKS_MAX) marks.shift()
    for (
      let endLsn = advance(progress.wholeUntil, segmentBytes);
      endLsn <= commitLsn && !this.#loop.stopped.aborted;
      endLsn = advance(endLsn, segmentBytes)
    ) {
      // Those of a backlog have all been complete for long: whoever takes over does not wait for each.
      while (marks.length > 1 && (marks[0] as { lsn: Lsn }).lsn < endLsn) marks.shift()
      const isOurs = clock.nowMs() - (marks[0]?.sinceMs ?? clock.nowMs()) >= patienceMs
      if (!(await this.#storeSegment(ref, progress, isOurs))) return
      progress.wholeUntil = endLsn
    }
    const quietForMs = clock.nowMs() - progress.committedAtMs
    const storedUntil =
      progress.partialUntil > progress.wholeUntil ? progress.partialUntil : progress.wholeUntil
    if (commitLsn > storedUntil && quietForMs >= settings.quietMs + patienceMs) {
      await this.#storePartial(ref, progress, commitLsn)
    }
  }

  /** Whether the segment after `wholeUntil` is in the store now. */
  async #storeSegment(ref: TimelineRef, progress: Progress, isOurs: boolean): Promise<boolean> {
    const { timeline, remote, wholeUntil } = progress
    const { identity } = timeline
    const signal = this.#loop.stopped
    const segment = segmentOf(wholeUntil, identity.walSegmentBytes)
    if (await remote.hasSegment(identity, segment, { signal })) return true
    if (!isOurs) return false
    const endLsn = advance(wholeUntil, identity.walSegmentBytes)
    const bytes = await this.#readWhole(ref, timeline, wholeUntil, endLsn)
    await remote.putSegment(identity, segment, bytes, signal)
    await this.#storeHistory(progress, endLsn)
    await remote.removePartials(identity, endLsn, signal)
    this.#parts.timelines.observer?.segmentOffloaded('stored')
    this.#parts.log.debug('segment_offloaded', { timeline: ref.timelineId, end: formatLsn(endLsn) })
    return true
  }

  async #storePartial(ref: TimelineRef, progress: Progress, commitLsn: Lsn): Promise<void> {
    const { timeline, remote, wholeUntil } = progress
    const signal = this.#loop.stopped
    const there = await remote.readPartial(timeline.identity, wholeUntil, signal)
    if (there === undefined || there.endLsn < commitLsn) {
      const bytes = await this.#readWhole(ref, timeline, wholeUntil, commitLsn)
      await remote.putPartial(timeline.identity, commitLsn, bytes, signal)
      await this.#storeHistory(progress, commitLsn)
      this.#parts.log.debug('partial_segment_offloaded', {
        timeline: ref.timelineId,
        end: formatLsn(commitLsn),
      })
    }
    progress.partialUntil = commitLsn
  }

  /** Of the WAL that is stored: it comes after that, so that no history is told of WAL that is not there. */
  async #storeHistory(progress: Progress, endLsn: Lsn): Promise<void> {
    const { timeline, remote } = progress
    const history = historyUpTo(timeline.state.control.history, endLsn)
    const { term } = lastTermStart(history)
    if (term <= progress.term) return
    const { identity, timelineStartLsn } = timeline
    await remote.writeTimeline({ identity, timelineStartLsn, history }, this.#loop.stopped)
    progress.term = term
  }

  /** Committed WAL from the beginning of a segment, decoded to see that it is whole. */
  async #readWhole(ref: TimelineRef, timeline: Timeline, startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    try {
      const bytes = new Uint8Array(endLsn - startLsn)
      const decoder = decoderAt(timeline.identity, { startLsn, findFirst: true })
      // In parts: commits do not wait for the decoding of a whole segment.
      for (let at = startLsn; at < endLsn;) {
        const to = minLsn(endLsn, advance(at, PART_BYTES))
        const part = await timeline.read(at, to)
        bytes.set(part, at - startLsn)
        decoder.push(at, part)
        while (decoder.next());
        at = to
      }
      return bytes
    } catch (error) {
      if (isErrorCode(error, 'bad_wal')) this.#parts.timelines.onDamage(ref)
      throw error
    }
  }

  async #trim({ timeline, wholeUntil }: Progress): Promise<void> {
    const { walSegmentBytes: segmentBytes } = timeline.identity
    const keepBytes = timeline.isLow ? segmentBytes : this.#parts.settings.keepBytes
    const kept = advance(timeline.commitLsn, -Math.min(keepBytes, timeline.commitLsn))
    const until = minLsn(wholeUntil, kept)
    await timeline.trim(segmentStart(segmentOf(until, segmentBytes), segmentBytes))
  }
}

/** Which one this safekeeper is in the timeline's order of those that offload: 0 is the first. */
export function rankOf(
  nodeId: string,
  { timelineId }: TimelineRef,
  timeline: Pick<Timeline, 'membership'>,
): number {
  const seed = Number.parseInt(timelineId.slice(0, 8), 16)
  const members = timeline.membership?.members.map((member) => member.nodeId).toSorted()
  if (members === undefined) {
    // It was never told who the others are: some order, in which two may share a place.
    let mixed = seed
    for (const letter of nodeId) mixed = (Math.imul(mixed, 31) + letter.charCodeAt(0)) >>> 0
    return mixed % 3
  }
  const place = members.indexOf(nodeId)
  return place === -1 ? members.length : (place + seed) % members.length
}
