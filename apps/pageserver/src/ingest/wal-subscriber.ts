/**
 * Keeps a subscription to one of the timeline's safekeepers open and hands its batches over in order. When it ends, the
 * next safekeeper is asked, from where ingest is: without gap and without repeat, since a batch that does not begin
 * there is refused. A safekeeper that lives but does not advance while another does is left too.
 */
import { Loop, ProblemReport } from '@understory/actor'
import { LSN_ZERO, formatLsn, isErrorCode, maxLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Env } from '@understory/env'
import type { LayerOwner } from '@understory/storage'
import type { CommitPositions, Positions } from './commit-positions.ts'
import type { WalBatch } from './fragments.ts'
import { judgeSafekeeper } from './leave-safekeeper.ts'
import type { Followed, Lag } from './leave-safekeeper.ts'
import type { SafekeeperStreams } from './safekeeper-stream.ts'
import type { SubscriptionEnd } from '../telemetry/metrics.ts'

const BACKOFF = { baseMs: 100, pauseMsMax: 2_000 }

export interface WalConsumer {
  readonly ingestedLsn: Lsn
  readonly remoteConsistentLsn: Lsn
  /** As of `ingestedLsn`: which SLRU pages a commit changes depends on it. */
  readonly trackCommitTimestamp: boolean
  /** Rejects where the shard has stopped: nothing more is wanted then. */
  take(batch: WalBatch): Promise<void>
  readonly hasFailed: boolean
  /** There is no more WAL that it could take: it stops, and says why. */
  stopFor(error: Error): void
}

export interface WalSubscriberParts {
  readonly env: Env
  readonly streams: SafekeeperStreams
  readonly positions: CommitPositions
  /** Called when a subscription ended that was still wanted. */
  readonly onEnd?: ((reason: SubscriptionEnd) => void) | undefined
}

/** The safekeeper that is followed now. */
class Source {
  readonly address: string
  readonly #leave = new AbortController()
  commitLsn: Lsn = LSN_ZERO
  receivedLsn: Lsn
  waitsSinceMs: number | undefined
  lag: Lag | undefined

  constructor(address: string, receivedLsn: Lsn) {
    this.address = address
    this.receivedLsn = receivedLsn
  }

  get left(): AbortSignal {
    return this.#leave.signal
  }
  leave(): void {
    this.#leave.abort()
  }
}

export class WalSubscriber {
  readonly #parts: WalSubscriberParts
  readonly #owner: LayerOwner
  readonly #consumer: WalConsumer
  readonly #loop: Loop
  readonly #problems: ProblemReport
  #safekeepers: readonly string[]
  /** Whose turn it is, modulo their count. */
  #turn: number
  #source: Source | undefined
  /** The safekeeper to follow next, where that is known. */
  #furthest: string | undefined

  constructor(
    parts: WalSubscriberParts,
    owner: LayerOwner,
    safekeepers: readonly string[],
    consumer: WalConsumer,
  ) {
    this.#parts = parts
    this.#owner = owner
    this.#safekeepers = safekeepers
    this.#consumer = consumer
    this.#turn = owner.shard.number
    const { clock, rng, log } = parts.env
    this.#problems = new ProblemReport({ clock, log, event: 'subscription_ended' })
    this.#loop = new Loop({
      clock,
      rng,
      round: (stop) => this.#round(stop),
      pauseMs: BACKOFF.baseMs,
      backoff: BACKOFF,
      problems: this.#problems,
    })
  }

  /** A safekeeper that is followed and not among them is left: it may get no WAL any more. */
  set safekeepers(addresses: readonly string[]) {
    this.#safekeepers = addresses
    if (this.#source !== undefined && !addresses.includes(this.#source.address)) this.#source.leave()
  }

  start(): void {
    this.#loop.start()
  }
  stop(): Promise<void> {
    return this.#loop.stop()
  }

  /** Follows one safekeeper until the subscription ends. Throws where it gave nothing, so that pauses grow. */
  async #round(stop: AbortSignal): Promise<number | 'end'> {
    const address = this.#furthest ?? this.#safekeepers[this.#turn % Math.max(1, this.#safekeepers.length)]
    this.#furthest = undefined
    this.#turn++
    let hasGiven = false
    try {
      if (address !== undefined)
        await this.#follow(address, stop, () => {
          hasGiven = true
          this.#problems.clear()
        })
    } catch (error) {
      if (stop.aborted || this.#consumer.hasFailed) return 'end'
      // Every safekeeper has the same WAL, and no try makes it known (I7).
      if (isErrorCode(error, 'unknown_wal')) {
        this.#consumer.stopFor(error)
        return 'end'
      }
      if (!isErrorCode(error, 'cancelled')) {
        this.#parts.onEnd?.('failed')
        if (!hasGiven) throw error
        this.#problems.report(error, { safekeeper: address })
      }
    }
    return backoffMs(this.#parts.env.rng, 1, BACKOFF)
  }

  async #follow(address: string, stop: AbortSignal, onMessage: () => void): Promise<void> {
    const { clock } = this.#parts.env
    const consumer = this.#consumer
    const source = new Source(address, consumer.ingestedLsn)
    this.#source = source
    const stopWatching = this.#watch(source)
    try {
      const subscription = this.#parts.streams.subscribe(
        address,
        {
          owner: this.#owner,
          positions: () => consumer,
          trackCommitTimestamp: consumer.trackCommitTimestamp,
          onMessage: () => {
            onMessage()
            // While the shard is busy itself, nothing is waited for.
            if (source.waitsSinceMs !== undefined) source.waitsSinceMs = clock.nowMs()
          },
        },
        AbortSignal.any([stop, source.left]),
      )
      source.waitsSinceMs = clock.nowMs()
      for await (const batch of subscription.batches) {
        source.waitsSinceMs = undefined
        source.commitLsn = maxLsn(source.commitLsn, batch.commitLsn)
        source.receivedLsn = batch.endLsn
        await consumer.take(batch)
        subscription.report()
        source.waitsSinceMs = clock.nowMs()
      }
    } finally {
      this.#source = undefined
      stopWatching()
    }
  }

  /** Leaves the safekeeper once the others show that it does not advance; returns how to stop that. */
  #watch(source: Source): () => void {
    const { tenantId, timelineId } = this.#owner
    const addresses = (): readonly string[] => this.#safekeepers
    return this.#parts.positions.watch({
      timeline: { tenantId, timelineId },
      get safekeepers() {
        return addresses()
      },
      take: (positions) => this.#judge(source, positions),
    })
  }

  #judge(source: Source, positions: Positions): void {
    const { clock, log } = this.#parts.env
    source.commitLsn = maxLsn(source.commitLsn, positions.get(source.address) ?? LSN_ZERO)
    const others = [...positions].filter(([address]) => address !== source.address)
    const otherLsns = others.map(([, lsn]) => lsn)
    const judgement = judgeSafekeeper(source satisfies Followed, otherLsns, source.lag, clock.nowMs())
    if (judgement.kind === 'stay') {
      source.lag = judgement.lag
      return
    }
    const [furthest] = others.toSorted(([, a], [, b]) => b - a)
    log.warn('safekeeper_left', {
      safekeeper: source.address,
      reason: judgement.reason,
      commit: formatLsn(source.commitLsn),
      received: formatLsn(source.receivedLsn),
      next: furthest?.[0],
      nextCommit: furthest === undefined ? undefined : formatLsn(furthest[1]),
    })
    this.#parts.onEnd?.(judgement.reason)
    this.#furthest = furthest?.[0]
    source.leave()
  }
}
