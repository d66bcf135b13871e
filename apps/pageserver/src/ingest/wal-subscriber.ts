/**
 * Keeps a subscription to one of the timeline's safekeepers open and hands its batches over in order. When it breaks,
 * the next safekeeper is asked, from where ingest stands: without gap and without repeat, since a batch that does not
 * begin there is refused. One that lives but does not advance while another does is left too.
 */
import { LSN_ZERO, formatLsn, isErrorCode, lsnFromBigint, maxLsn, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Env } from '@understory/env'
import {
  SUBSCRIBE_VERSIONS,
  SafekeeperServiceClient,
  checkChosenVersion,
  createClient,
  openBidi,
} from '@understory/rpc'
import type { BidiStream, ClientContext, SubscribeWalRequest } from '@understory/rpc'
import { RECORD_BYTES_MAX } from '@understory/postgres/wal'
import type { LayerOwner } from '@understory/storage'
import type { CommitPositions, Positions } from './commit-positions.ts'
import { judgeSafekeeper } from './leave-safekeeper.ts'
import type { Followed, Lag } from './leave-safekeeper.ts'
import type { SubscriptionEnd } from '../telemetry/metrics.ts'

/** Batches that may be under way: two at full speed, and a bound on memory. */
const WINDOW_BYTES = 16n * 1024n * 1024n
/** Of entries: those of the largest record that Postgres makes (RECORD_BYTES_MAX), and the rest of a batch. */
const BATCH_BYTES_MAX = RECORD_BYTES_MAX + 64 * 1024 * 1024
const PAUSE_MS_MAX = 2_000
const REPORT_PAUSE_MS = 1_000

export interface WalBatch {
  readonly startLsn: Lsn
  readonly endLsn: Lsn
  readonly commitLsn: Lsn
  readonly entries: Uint8Array
}

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
  readonly rpc: ClientContext
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

/** Entries of a batch that comes in several messages: a record may be larger than one. */
class Fragments {
  #parts: Uint8Array[] = []
  #bytes = 0

  /** The whole, once nothing more follows. Error: refused `bad_wal` where it is more than any record can be. */
  add(fragment: Uint8Array, moreFollows: boolean): Uint8Array | undefined {
    if (!moreFollows && this.#parts.length === 0) return fragment
    this.#parts.push(fragment)
    this.#bytes += fragment.length
    if (this.#bytes > BATCH_BYTES_MAX)
      throw refuse('bad_wal', `a batch of the shard stream has more than ${BATCH_BYTES_MAX} bytes`)
    if (moreFollows) return undefined
    const whole = Buffer.concat(this.#parts)
    this.#parts = []
    this.#bytes = 0
    return whole
  }
}

export class WalSubscriber {
  readonly #parts: WalSubscriberParts
  readonly #owner: LayerOwner
  readonly #consumer: WalConsumer
  readonly #stop = new AbortController()
  #safekeepers: readonly string[]
  #running: Promise<void> | undefined
  #source: Source | undefined
  /** Whom to follow next, where that is known. */
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
  }

  /** One that is followed and not among them is left: it may hear of no WAL any more. */
  set safekeepers(addresses: readonly string[]) {
    this.#safekeepers = addresses
    if (this.#source !== undefined && !addresses.includes(this.#source.address)) this.#source.leave()
  }

  start(): void {
    this.#running ??= this.#run()
  }
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { clock, rng, log } = this.#parts.env
    const { signal } = this.#stop
    let failures = 0
    for (let next = this.#owner.shard.number; !signal.aborted && !this.#consumer.hasFailed; next++) {
      const address = this.#furthest ?? this.#safekeepers[next % Math.max(1, this.#safekeepers.length)]
      this.#furthest = undefined
      try {
        if (address !== undefined) {
          await this.#follow(address, () => {
            failures = 0
          })
        }
      } catch (error) {
        if (signal.aborted || this.#consumer.hasFailed) return
        // Every safekeeper has the same WAL, and no try makes it known (I7).
        if (isErrorCode(error, 'unknown_wal')) return this.#consumer.stopFor(error)
        if (!isErrorCode(error, 'cancelled')) {
          log.warn('subscription_ended', { safekeeper: address, error })
          this.#parts.onEnd?.('failed')
        }
      }
      failures++
      const pauseMs = backoffMs(rng, failures, { baseMs: 100, pauseMsMax: PAUSE_MS_MAX })
      await clock.sleep(pauseMs, signal).catch(() => undefined)
    }
  }

  async #follow(address: string, onBatch: () => void): Promise<void> {
    const client = createClient(this.#parts.rpc, SafekeeperServiceClient, address)
    const { clock } = this.#parts.env
    const source = new Source(address, this.#consumer.ingestedLsn)
    this.#source = source
    const options = {
      signal: AbortSignal.any([this.#stop.signal, source.left]),
      peer: `safekeeper ${address}`,
    }
    const stopWatching = this.#watch(source)
    const stream = openBidi(client.subscribeWal.bind(client), options)
    const ended = new AbortController()
    try {
      const { tenantId, timelineId, shard } = this.#owner
      const open = {
        protocolVersion: SUBSCRIBE_VERSIONS.min,
        protocolVersionMax: SUBSCRIBE_VERSIONS.max,
        timeline: { tenantId, timelineId },
        shard,
        startLsn: BigInt(this.#consumer.ingestedLsn),
        windowBytes: WINDOW_BYTES,
        trackCommitTimestamp: this.#consumer.trackCommitTimestamp,
      }
      await stream.send({ message: { $case: 'open', value: open } })
      // A stream that has ended tells its reason through `messages`.
      this.#reportUploads(stream, ended.signal).catch(() => undefined)
      source.waitsSinceMs = clock.nowMs()
      const gathered = new Fragments()
      for await (const message of stream.messages) {
        const { startLsn, endLsn, commitLsn, protocolVersion } = message
        checkChosenVersion('the shard stream', SUBSCRIBE_VERSIONS, protocolVersion)
        onBatch()
        source.waitsSinceMs = clock.nowMs()
        const entries = gathered.add(message.entries, message.moreFollows)
        if (entries === undefined) continue
        source.waitsSinceMs = undefined
        const batch = {
          startLsn: lsnFromBigint(startLsn),
          endLsn: lsnFromBigint(endLsn),
          commitLsn: lsnFromBigint(commitLsn),
          entries,
        }
        source.commitLsn = maxLsn(source.commitLsn, batch.commitLsn)
        source.receivedLsn = batch.endLsn
        await this.#consumer.take(batch)
        await stream.send(feedback(this.#consumer))
        source.waitsSinceMs = clock.nowMs()
      }
      throw refuse(
        'unavailable',
        `safekeeper ${address} ended the subscription at ${formatLsn(this.#consumer.ingestedLsn)}`,
      )
    } finally {
      this.#source = undefined
      stopWatching()
      ended.abort()
      stream.cancel()
      client.close()
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

  /** Layers reach the object store while no WAL comes, too; the safekeeper keeps WAL until it hears of it. */
  async #reportUploads(stream: BidiStream<SubscribeWalRequest, unknown>, signal: AbortSignal): Promise<void> {
    let told = this.#consumer.remoteConsistentLsn
    for (;;) {
      await this.#parts.env.clock.sleep(REPORT_PAUSE_MS, signal)
      const { remoteConsistentLsn } = this.#consumer
      if (remoteConsistentLsn === told) continue
      told = remoteConsistentLsn
      await stream.send(feedback(this.#consumer))
    }
  }
}

const feedback = ({ ingestedLsn, remoteConsistentLsn }: WalConsumer): SubscribeWalRequest => ({
  message: {
    $case: 'feedback',
    value: { ingestedLsn: BigInt(ingestedLsn), remoteConsistentLsn: BigInt(remoteConsistentLsn) },
  },
})
