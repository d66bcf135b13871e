/**
 * One shard's subscription to a timeline's committed WAL, carried by either RPC: batches as soon as there is WAL and
 * the subscriber has room, and the reason of its end.
 */
import { Signal } from '@understory/actor'
import { describeError, formatLsn, isErrorCode, lsnFromBigint, fail } from '@understory/base'
import type { Lsn, ShardIdentity } from '@understory/base'
import type { Clock } from '@understory/env'
import { readShardRef } from '@understory/protocol'
import type { ShardRef, TimelineRef } from '@understory/rpc'
import type { SubscriptionRefusal } from '../telemetry/metrics.ts'
import type { SubscriptionObserver } from '../telemetry/safekeeper-observer.ts'
import { onLeftOut } from '../timeline/membership-file.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { Timelines } from '../timeline/timelines.ts'
import { TimelineStalledError } from './committed-wal.ts'
import { WalFanOut } from './fan-out/wal-fan-out.ts'
import type { FanOutSubscription, ShardBatch } from './fan-out/wal-fan-out.ts'

const WINDOW_BYTES_DEFAULT = 16 * 1024 * 1024
/** At most so much may wait in memory for a subscriber, even if it asks for more. */
const WINDOW_BYTES_MAX = 64 * 1024 * 1024

/**
 * A batch without entries takes room of the window, too: a subscriber that keeps up with nothing gets no endless line
 * of them.
 */
const BATCH_OVERHEAD_BYTES = 256

export interface SubscriptionParts {
  readonly timelines: Timelines
  readonly fanOuts: FanOuts
  readonly nodeId: string
}

export interface SubscriptionRequest {
  readonly timeline: TimelineRef | undefined
  readonly shard: ShardRef | undefined
  readonly startLsn: bigint
  readonly windowBytes: bigint
  readonly trackCommitTimestamp: boolean
}

/** The fan-out of each timeline that has had subscribers; it is removed with the timeline. */
export class FanOuts {
  readonly #clock: Clock
  readonly #of = new WeakMap<Timeline, WalFanOut>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  of(timeline: Timeline): WalFanOut {
    const known = this.#of.get(timeline) ?? new WalFanOut(timeline, this.#clock)
    this.#of.set(timeline, known)
    return known
  }
}

/** Bytes that the subscriber has not reported as ingested yet. */
class Window {
  readonly #bytesMax: number
  readonly #batches: { readonly endLsn: Lsn; readonly bytes: number }[] = []
  #bytes = 0
  readonly #changes = new Signal()

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  add(endLsn: Lsn, bytes: number): void {
    this.#batches.push({ endLsn, bytes })
    this.#bytes += bytes
  }

  ingested(lsn: Lsn): void {
    for (let first = this.#batches[0]; first !== undefined && first.endLsn <= lsn; first = this.#batches[0]) {
      this.#batches.shift()
      this.#bytes -= first.bytes
    }
    this.#changes.notify()
  }

  /** Resolves when something may be sent, or when `stop` fires. */
  opens(stop: AbortSignal): Promise<void> {
    return this.#changes.until(() => this.#bytes < this.#bytesMax, stop)
  }
}

export class ShardSubscription {
  readonly #ref: TimelineRef | undefined
  readonly #shard: ShardIdentity
  readonly #timelines: Timelines
  readonly #timeline: Timeline
  readonly #window: Window
  readonly #source: FanOutSubscription
  readonly #observer: SubscriptionObserver | undefined
  readonly #gone = new AbortController()
  readonly #release: () => void
  #problem: Error | undefined

  /** Errors: `unknown_timeline`, `bad_argument`, `bad_lsn`; `out_of_range` where the timeline has no such WAL. */
  constructor({ timelines, fanOuts, nodeId }: SubscriptionParts, request: SubscriptionRequest) {
    const { timeline: ref, windowBytes, trackCommitTimestamp } = request
    const timeline = timelines.get(ref)
    const shard = readShardRef(request.shard)
    const startLsn = lsnFromBigint(request.startLsn)
    if (startLsn < timeline.timelineStartLsn) {
      throw fail(
        'out_of_range',
        `WAL before ${formatLsn(timeline.timelineStartLsn)} is not part of the timeline`,
      )
    }
    this.#ref = ref
    this.#shard = shard
    this.#timelines = timelines
    this.#timeline = timeline
    this.#window = new Window(windowBytes === 0n ? WINDOW_BYTES_DEFAULT : clampWindow(windowBytes))
    this.#source = fanOuts.of(timeline).subscribe(shard, startLsn, trackCommitTimestamp)
    this.#observer =
      ref === undefined ? undefined : timelines.observer?.subscribed(ref, shard.number, startLsn)
    const onEnded = (): void => this.stop(timeline.ended.reason as Error)
    timeline.ended.addEventListener('abort', onEnded, { once: true })
    // A subscriber of a safekeeper that was left out would wait for ever.
    const stopWatching = onLeftOut(timeline, nodeId, (error) => this.stop(error))
    this.#release = () => {
      timeline.ended.removeEventListener('abort', onEnded)
      stopWatching()
      this.#source.close()
      this.#observer?.ended()
    }
    // It may have ended while the call was on its way; nothing fires then.
    if (timeline.ended.aborted) onEnded()
  }

  /** Why it was stopped from here, or undefined. */
  get problem(): Error | undefined {
    return this.#problem
  }

  /** The subscriber says how far it is. */
  report(ingestedLsn: Lsn, remoteConsistentLsn: Lsn): void {
    this.#window.ingested(ingestedLsn)
    this.#timeline.noteRemoteConsistent(this.#shard.number, remoteConsistentLsn)
    this.#observer?.reported(ingestedLsn, remoteConsistentLsn)
  }

  /** No more batches come; `problem` is why, where the subscriber did not ask for it. */
  stop(problem?: Error): void {
    if (this.#gone.signal.aborted) return
    this.#problem = problem
    this.#gone.abort()
  }

  /** The batches until it is stopped. Errors: those of `FanOutSubscription.next`. */
  async *batches(): AsyncGenerator<ShardBatch, void, void> {
    const { signal } = this.#gone
    try {
      for (;;) {
        await this.#window.opens(signal)
        const batch = signal.aborted ? undefined : await this.#next(signal)
        if (batch === undefined) return
        this.#window.add(batch.endLsn, batch.entries.length + BATCH_OVERHEAD_BYTES)
        this.#observer?.sent(batch.entries.length)
        yield batch
      }
    } finally {
      this.#source.close()
    }
  }

  /** To be called once, after everything else. */
  close(): void {
    this.stop()
    this.#release()
  }

  async #next(signal: AbortSignal): Promise<ShardBatch | undefined> {
    try {
      return await this.#source.next(signal)
    } catch (error) {
      if (error instanceof TimelineStalledError) this.#refused(error.reason, error)
      if (isErrorCode(error, 'unknown_wal')) this.#refused('unknown_wal', error)
      if (isErrorCode(error, 'bad_wal') && this.#ref !== undefined) this.#timelines.onDamage(this.#ref)
      throw error
    }
  }

  #refused(reason: SubscriptionRefusal, error: Error): void {
    this.#timeline.log.warn('subscription_ended', {
      shard: this.#shard.number,
      reason,
      problem: describeError(error),
    })
    this.#observer?.refused(reason)
  }
}

const clampWindow = (bytes: bigint): number => Math.min(Number(bytes), WINDOW_BYTES_MAX)
