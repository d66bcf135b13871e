/**
 * A reader of the WAL that several subscriptions share, with the cuts that some of them have still to take. Driven by
 * those that have everything it gave: one that does not ask for more holds up no other, and the cuts for it are kept
 * up to a bound only.
 */
import { Signal } from '@understory/actor'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import type { Timeline } from '../../timeline/timeline.ts'
import { waitForCommit } from '../committed-wal.ts'
import { SplitReader } from './split-reader.ts'
import type { CutLimits, ReadTimeline, SplitReaderOptions, WalCut } from './split-reader.ts'

/** A commit a cut costs subscriber and safekeeper more than the WAL in it: after a small one some WAL gathers. */
const SMALL_ENTRIES_BYTES = 64 * 1024
const GATHER_MS = 10

export type FollowedTimeline = ReadTimeline &
  Pick<Timeline, 'commitLsn' | 'failure' | 'shortage' | 'nextChange'>

/** The questions of the reader to its owner before each cut. */
export interface CutPlan {
  /** Where it must end at the latest, which may not be committed yet; undefined: with what is committed. */
  readonly limitLsn: Lsn | undefined
  readonly shards: ReadonlySet<number>
}

export interface FanOutLimits extends CutLimits {
  /** Of entries that a reader keeps for those that are behind. */
  readonly keptBytesMax: number
  /** A reader gives and keeps for subscriptions that are behind it by no more WAL: they meet soon. */
  readonly nearBytes: number
}

export interface SharedReaderParts {
  readonly timeline: FollowedTimeline
  readonly clock: Clock
  readonly limits: FanOutLimits
  readonly plan: (reader: SharedReader) => CutPlan
}

export class SharedReader {
  readonly #parts: SharedReaderParts
  readonly #reader: SplitReader
  readonly #stop = new AbortController()
  /** It gave a cut, or failed. */
  readonly #changes = new Signal()
  /** In order, without gap, up to `position`. */
  #cuts: WalCut[] = []
  #keptBytes = 0
  #isAdvancing = false
  /** Of the cut that is being read; undefined while none is. */
  #shards: ReadonlySet<number> | undefined
  #failure: Error | undefined
  #gathersUntilMs = 0
  /** Subscriptions that take from it. */
  usersCount = 0

  constructor(parts: SharedReaderParts, from: Omit<SplitReaderOptions, 'limits'>) {
    this.#parts = parts
    this.#reader = new SplitReader(parts.timeline, { ...from, limits: parts.limits })
  }

  get position(): Lsn {
    return this.#reader.position
  }
  get trackCommitTimestamp(): boolean {
    return this.#reader.trackCommitTimestamp
  }
  /** Start of the first cut that is kept. */
  get keptFromLsn(): Lsn {
    return this.#cuts[0]?.startLsn ?? this.position
  }
  /** Of entries. */
  get keptBytes(): number {
    return this.#keptBytes
  }
  /** Why it gives no more. */
  get failure(): Error | undefined {
    return this.#failure
  }

  /** Whether what it gives next is for the shard too: always, unless it is being read already without it. */
  willGive(shard: number): boolean {
    return this.#failure === undefined && this.#shards?.has(shard) !== false
  }

  /** The kept cut that begins there. */
  cutAt(lsn: Lsn): WalCut | undefined {
    return this.#cuts.find(({ startLsn }) => startLsn === lsn)
  }

  /** The first position beyond `lsn` at which a cut begins, or the next one will. */
  boundaryAfter(lsn: Lsn): Lsn | undefined {
    const cut = this.#cuts.find(({ startLsn }) => startLsn > lsn)
    return cut?.startLsn ?? (this.position > lsn ? this.position : undefined)
  }

  /** Drops the cuts before `lsn`. */
  trim(lsn: Lsn): void {
    while (this.#cuts[0] !== undefined && this.#cuts[0].startLsn < lsn) this.#dropFirst()
  }

  /**
   * Resolves after the next cut, which may be empty within a large record, after its failure, or when `stop` fires.
   * Nothing is read without a waiter.
   */
  async advanced(stop: AbortSignal): Promise<void> {
    if (!this.#isAdvancing) void this.#advance()
    await this.#changes.next(stop)
  }

  close(): void {
    this.#stop.abort()
    this.#cuts = []
    this.#keptBytes = 0
  }

  async #advance(): Promise<void> {
    this.#isAdvancing = true
    try {
      await this.#cut()
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error), { cause: error })
    } finally {
      this.#isAdvancing = false
      this.#shards = undefined
      this.#changes.notify()
    }
  }

  async #cut(): Promise<void> {
    const { timeline, clock, limits, plan } = this.#parts
    const { signal } = this.#stop
    const gatherMs = this.#gathersUntilMs - clock.nowMs()
    if (gatherMs > 0) await clock.sleep(gatherMs, signal).catch(() => undefined)
    await waitForCommit(timeline, this.position, clock, signal)
    if (signal.aborted) return
    const { limitLsn, shards } = plan(this)
    const { commitLsn } = timeline
    // A subscription may stand beyond what is committed here: it got more from another safekeeper.
    const isForMeeting = limitLsn !== undefined && limitLsn <= commitLsn
    this.#shards = shards
    const cut = await this.#reader.next(isForMeeting ? limitLsn : commitLsn, shards)
    const isSmall = [...cut.entries.values()].every(({ length }) => length < SMALL_ENTRIES_BYTES)
    if (isSmall && !isForMeeting) this.#gathersUntilMs = clock.nowMs() + GATHER_MS
    if (cut.endLsn === cut.startLsn) return
    this.#cuts.push(cut)
    this.#keptBytes += cut.bytes
    while (this.#keptBytes > limits.keptBytesMax && this.#cuts.length > 1) this.#dropFirst()
  }

  #dropFirst(): void {
    this.#keptBytes -= this.#cuts.shift()?.bytes ?? 0
  }
}
