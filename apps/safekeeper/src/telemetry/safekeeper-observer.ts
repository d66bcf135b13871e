/** Measures the timelines of a safekeeper on the way of appends, and its subscriptions; collect.ts reports the rest. */
import type { Lsn } from '@understory/base'
import type { TimelineRef } from '@understory/rpc'
import { PendingDurations } from '@understory/telemetry'
import type { Cell, HistogramCell, Span, Telemetry, Traces } from '@understory/telemetry'
import type { METRICS, SubscriptionRefusal } from './metrics.ts'

export type SafekeeperTelemetry = Telemetry<typeof METRICS>

/** The reports of a timeline on the way of an append. Calls are cheap and never throw. */
export interface TimelineObserver {
  /** An append came; the WAL that is taken in next is its. */
  received(bytes: number, traceparent: string | undefined): void
  /** Its WAL waits for a flush. */
  waits(endLsn: Lsn): void
  flushing(endLsn: Lsn, bytes: number): void
  flushed(endLsn: Lsn, bytes: number): void
  /** The flush up to there was reported to the proposer. */
  answered(endLsn: Lsn): void
  /** Appends do not wait for a flush any more. */
  dropped(): void
  voted(): void
}

/** The reports of one subscription. */
export interface SubscriptionObserver {
  sent(bytes: number): void
  reported(ingestedLsn: Lsn, remoteConsistentLsn: Lsn): void
  /** It ends because nothing more can be sent. */
  refused(reason: SubscriptionRefusal): void
  ended(): void
}

export interface Subscription {
  readonly ref: TimelineRef
  readonly shard: number
  ingestedLsn: Lsn
  remoteConsistentLsn: Lsn
}

export const labelsOf = ({ tenantId, timelineId }: TimelineRef) => ({
  tenant: tenantId,
  timeline: timelineId,
})

export class SafekeeperObserver {
  readonly #telemetry: SafekeeperTelemetry
  readonly #subscriptions = new Set<Subscription>()

  constructor(telemetry: SafekeeperTelemetry) {
    this.#telemetry = telemetry
  }

  /** The subscriptions that exist now. */
  get subscriptions(): Iterable<Subscription> {
    return this.#subscriptions
  }

  ofTimeline(ref: TimelineRef): TimelineObserver {
    return new TimelineMeasures(this.#telemetry, ref)
  }

  /** Its series end. */
  forget(ref: TimelineRef): void {
    this.#telemetry.meter.forget(labelsOf(ref))
  }

  subscribed(ref: TimelineRef, shard: number, startLsn: Lsn): SubscriptionObserver {
    const sent = this.#telemetry.metrics.walSent.of({ ...labelsOf(ref), shard: String(shard) })
    const subscription: Subscription = { ref, shard, ingestedLsn: startLsn, remoteConsistentLsn: startLsn }
    this.#subscriptions.add(subscription)
    return {
      sent: (bytes) => sent.add(bytes),
      reported: (ingestedLsn, remoteConsistentLsn) => {
        subscription.ingestedLsn = ingestedLsn
        subscription.remoteConsistentLsn = remoteConsistentLsn
      },
      refused: (reason) => {
        const labels = { ...labelsOf(ref), shard: String(shard), reason }
        this.#telemetry.metrics.subscriptionsRefused.of(labels).add(1)
      },
      ended: () => this.#subscriptions.delete(subscription),
    }
  }

  segmentOffloaded(outcome: 'stored' | 'failed'): void {
    this.#telemetry.metrics.offloadSegments.of({ outcome }).add(1)
  }
}

/** An append that is traced. */
interface Followed {
  readonly append: Span
  fsync: Span | undefined
  endLsn: Lsn | undefined
}

class TimelineMeasures implements TimelineObserver {
  readonly #traces: Traces | undefined
  readonly #receivedBytes: Cell
  readonly #flushedBytes: Cell
  readonly #votes: Cell
  readonly #appendDuration: HistogramCell
  readonly #fsyncDuration: HistogramCell
  readonly #flushSize: HistogramCell
  readonly #pending = new PendingDurations()
  #receivedMs = 0
  #flushStartMs = 0
  #flushedMs = 0
  #followed: Followed | undefined

  constructor({ metrics, traces }: SafekeeperTelemetry, ref: TimelineRef) {
    const labels = labelsOf(ref)
    this.#traces = traces
    this.#receivedBytes = metrics.walReceived.of(labels)
    this.#flushedBytes = metrics.walFlushed.of(labels)
    this.#votes = metrics.votes.of(labels)
    this.#appendDuration = metrics.appendDuration.of({})
    this.#fsyncDuration = metrics.fsyncDuration.of({})
    this.#flushSize = metrics.flushSize.of({})
  }

  received(bytes: number, traceparent: string | undefined): void {
    this.#receivedMs = performance.now()
    this.#receivedBytes.add(bytes)
    if (traceparent === undefined) return
    const options = { kind: 'server', startMs: this.#receivedMs, attributes: { 'wal.bytes': bytes } } as const
    const append = this.#traces?.follow(traceparent, 'append', options)
    if (append !== undefined) this.#followed = { append, fsync: undefined, endLsn: undefined }
  }

  waits(endLsn: Lsn): void {
    this.#pending.begin(endLsn, this.#receivedMs)
    const followed = this.#followed
    if (followed !== undefined) followed.endLsn ??= endLsn
  }

  flushing(endLsn: Lsn, bytes: number): void {
    this.#flushStartMs = performance.now()
    this.#flushSize.record(bytes)
    const followed = this.#followed
    if (followed?.endLsn === undefined || followed.endLsn > endLsn) return
    const attributes = { 'wal.bytes': bytes }
    followed.fsync ??= followed.append.child('fsync', { startMs: this.#flushStartMs, attributes })
  }

  flushed(endLsn: Lsn, bytes: number): void {
    this.#flushedMs = performance.now()
    this.#fsyncDuration.recordMs(this.#flushedMs - this.#flushStartMs)
    this.#flushedBytes.add(bytes)
    if (this.#followed?.endLsn !== undefined && this.#followed.endLsn <= endLsn) this.#followed.fsync?.end()
  }

  answered(endLsn: Lsn): void {
    // It is reported in the same turn: one look at the clock is enough.
    this.#pending.settle(endLsn, this.#flushedMs, this.#appendDuration)
    if (this.#followed?.endLsn === undefined || this.#followed.endLsn > endLsn) return
    this.#followed.append.end()
    this.#followed = undefined
  }

  dropped(): void {
    this.#pending.clear()
    this.#followed?.append.end('dropped')
    this.#followed = undefined
  }

  voted(): void {
    this.#votes.add(1)
  }
}
