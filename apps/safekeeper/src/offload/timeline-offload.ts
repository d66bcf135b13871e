/**
 * Brings one timeline's committed WAL into the object store, and releases local segments that are there.
 *
 * Every safekeeper of a timeline could do it, and one does: they have an order, which differs from timeline to
 * timeline, and each gives those before it `takeOverMs` to store the WAL. No election is needed, and none is missed for
 * longer than that. Two at once store the same bytes.
 *
 * A segment is stored once all of it is committed; the last one, up to the commit position, once nothing was committed
 * for `quietMs`. WAL read back from the disk is decoded before it leaves: damage stays here, and is reported.
 */
import { Loop, ProblemReport } from '@understory/actor'
import type { Child, Semaphore } from '@understory/actor'
import {
  LSN_ZERO,
  advance,
  describeError,
  formatLsn,
  isErrorCode,
  maxLsn,
  minLsn,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import { historyUpTo, lastTermStart } from '@understory/consensus'
import type { Clock, Rng } from '@understory/env'
import type { TimelineRef } from '@understory/rpc'
import type { SafekeeperObserver } from '../telemetry/safekeeper-observer.ts'
import { decoderAt } from '../timeline/end-of-wal.ts'
import type { RemoteWal } from '../timeline/remote-wal.ts'
import { runRounds } from '../timeline/replica.ts'
import type { Replica } from '../timeline/replica.ts'
import type { Timeline } from '../timeline/timeline.ts'

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

export interface TimelineOffloadParts {
  /** Of the timeline. */
  readonly remote: RemoteWal
  /** Of this safekeeper. */
  readonly nodeId: string
  readonly clock: Clock
  readonly rng: Rng
  readonly settings: OffloadSettings
  readonly observer: SafekeeperObserver | undefined
  /** Whether the store is known to be fit: before that nothing is asked of it. */
  readonly isStoreReady: () => boolean
  /** Of all timelines: for a segment that is read, decoded and sent, and in memory as a whole. */
  readonly transfers: Semaphore
  /** Between two looks; 1,000 by default. */
  readonly roundMs: number | undefined
}

/** The known extent of the timeline's WAL in the store. */
interface Progress {
  readonly timeline: Timeline
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
}

export class TimelineOffload implements Child {
  readonly #replica: Replica
  readonly #parts: TimelineOffloadParts
  #progress: Progress | undefined
  readonly run: (stop: AbortSignal) => Promise<void>

  constructor(replica: Replica, parts: TimelineOffloadParts) {
    const { clock, rng, roundMs = ROUND_MS } = parts
    this.#replica = replica
    this.#parts = parts
    const problems = new ProblemReport({ clock, log: replica.log, event: 'offload_failed' })
    const round = (stop: AbortSignal): Promise<number | void> => this.#round(stop)
    this.run = runRounds(replica, new Loop({ clock, rng, pauseMs: roundMs, problems, round }))
  }

  /** How far the object store has the timeline; undefined before it was looked at. */
  get storedLsn(): Lsn | undefined {
    const progress = this.#progress
    return progress && maxLsn(progress.wholeUntil, progress.partialUntil)
  }

  async #round(stop: AbortSignal): Promise<number | void> {
    const { timeline, log } = this.#replica
    if (timeline === undefined || !this.#parts.isStoreReady()) return
    try {
      const known = this.#progress
      const progress = known?.timeline === timeline ? known : await this.#look(timeline, stop)
      this.#progress = progress
      await this.#offload(progress, stop)
      await this.#trim(progress)
    } catch (error) {
      if (stop.aborted) return
      this.#parts.observer?.segmentOffloaded('failed')
      log.warn('offload_failed', { problem: describeError(error) })
      return RETRY_MS
    }
  }

  /** Lists the WAL in the store, at the first sight of a timeline. */
  async #look(timeline: Timeline, stop: AbortSignal): Promise<Progress> {
    const { clock, remote } = this.#parts
    const { identity, timelineStartLsn, commitLsn } = timeline
    return {
      timeline,
      wholeUntil: await remote.wholeUntil(identity, timelineStartLsn, stop),
      partialUntil: timelineStartLsn,
      term: 0,
      commitLsn,
      committedAtMs: clock.nowMs(),
      marks: [],
    }
  }

  async #offload(progress: Progress, stop: AbortSignal): Promise<void> {
    const { clock, settings, nodeId } = this.#parts
    const { timeline } = progress
    const { walSegmentBytes: segmentBytes } = timeline.identity
    const patienceMs = rankOf(nodeId, this.#replica.ref, timeline) * settings.takeOverMs
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
      endLsn <= commitLsn && !stop.aborted;
      endLsn = advance(endLsn, segmentBytes)
    ) {
      // The segments of a backlog have all been complete for long: a successor does not wait for each.
      while (marks.length > 1 && (marks[0] as { lsn: Lsn }).lsn < endLsn) marks.shift()
      const isOurs = clock.nowMs() - (marks[0]?.sinceMs ?? clock.nowMs()) >= patienceMs
      if (!(await this.#storeSegment(progress, isOurs, stop))) return
      progress.wholeUntil = endLsn
    }
    const quietForMs = clock.nowMs() - progress.committedAtMs
    if (
      commitLsn > maxLsn(progress.wholeUntil, progress.partialUntil) &&
      quietForMs >= settings.quietMs + patienceMs
    )
      await this.#storePartial(progress, commitLsn, stop)
  }

  /** Whether the segment after `wholeUntil` is in the store now. */
  async #storeSegment(progress: Progress, isOurs: boolean, stop: AbortSignal): Promise<boolean> {
    const { remote, transfers, observer } = this.#parts
    const { timeline, wholeUntil } = progress
    const { identity } = timeline
    const segment = segmentOf(wholeUntil, identity.walSegmentBytes)
    if (await remote.hasSegment(identity, segment, { signal: stop })) return true
    if (!isOurs) return false
    const endLsn = advance(wholeUntil, identity.walSegmentBytes)
    await transfers.run(async () => {
      const bytes = await this.#readWhole(timeline, wholeUntil, endLsn)
      await remote.putSegment(identity, segment, bytes, stop)
    }, stop)
    await this.#storeHistory(progress, endLsn, stop)
    await remote.removePartials(identity, endLsn, stop)
    observer?.segmentOffloaded('stored')
    this.#replica.log.debug('segment_offloaded', { end: formatLsn(endLsn) })
    return true
  }

  async #storePartial(progress: Progress, commitLsn: Lsn, stop: AbortSignal): Promise<void> {
    const { remote, transfers } = this.#parts
    const { timeline, wholeUntil } = progress
    const there = await remote.readPartial(timeline.identity, wholeUntil, stop)
    if (there === undefined || there.endLsn < commitLsn) {
      await transfers.run(async () => {
        const bytes = await this.#readWhole(timeline, wholeUntil, commitLsn)
        await remote.putPartial(timeline.identity, commitLsn, bytes, stop)
      }, stop)
      await this.#storeHistory(progress, commitLsn, stop)
      this.#replica.log.debug('partial_segment_offloaded', { end: formatLsn(commitLsn) })
    }
    progress.partialUntil = commitLsn
  }

  /** Of the WAL that is stored: it comes after that, so that no history describes WAL that is not there. */
  async #storeHistory(progress: Progress, endLsn: Lsn, stop: AbortSignal): Promise<void> {
    const { timeline } = progress
    const history = historyUpTo(timeline.state.control.history, endLsn)
    const { term } = lastTermStart(history)
    if (term <= progress.term) return
    const { identity, timelineStartLsn } = timeline
    await this.#parts.remote.writeTimeline({ identity, timelineStartLsn, history }, stop)
    progress.term = term
  }

  /** Committed WAL from the beginning of a segment, decoded to see that it is whole. */
  async #readWhole(timeline: Timeline, startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
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
      if (isErrorCode(error, 'bad_wal')) this.#replica.reportDamage()
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
    // The others were never announced to it: some order, in which two may share a place.
    let mixed = seed
    for (const letter of nodeId) mixed = (Math.imul(mixed, 31) + letter.charCodeAt(0)) >>> 0
    return mixed % 3
  }
  const place = members.indexOf(nodeId)
  return place === -1 ? members.length : (place + seed) % members.length
}
