/**
 * The stream of this process to one safekeeper, which carries the WAL of all shards that follow it. Messages are read
 * at once and handed to the shard's queue, so that a slow shard holds up none; how much may be queued is the credit
 * that each subscription gives. It ends with its last subscription. When it breaks, each subscription ends with the
 * reason, and who followed decides whom to follow next: the next subscription makes a new stream.
 *
 *   opening --accepted--> open --broken, or without subscriptions--> over
 *       +-----------the safekeeper does not know FollowWal--> single: a stream for each shard that is here, as before it
 *
 * A single one takes no more subscriptions, so that the next one finds out whether the safekeeper was upgraded.
 */
import { Loop, ProblemReport, Signal } from '@understory/actor'
import { LSN_ZERO, assert, isErrorCode, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Env } from '@understory/env'
import {
  FOLLOW_VERSIONS,
  SafekeeperServiceClient,
  checkChosenVersion,
  createClient,
  fromPeerError,
  openBidi,
} from '@understory/rpc'
import type { BidiStream, ClientContext, FollowWalRequest, FollowWalResponse } from '@understory/rpc'
import { Fragments } from './fragments.ts'
import type { WalBatch } from './fragments.ts'
import { BatchQueue, WINDOW_BYTES } from './shard-source.ts'
import type { ShardRequest, ShardSource } from './shard-source.ts'
import { SingleStream } from './single-stream.ts'

const REPORT_PAUSE_MS = 1_000
/** Of one message; each has some 30 bytes. */
const POSITIONS_COUNT_MAX = 1_000

type Mode = 'many' | 'single'

interface Subscription {
  readonly id: number
  readonly request: ShardRequest
  readonly queue: BatchQueue
  readonly gathered: Fragments
  single: SingleStream | undefined
  /** The position that was last reported to the safekeeper. */
  reportedRemoteLsn: Lsn
}

export interface SafekeeperStreamParts {
  readonly env: Env
  readonly rpc: ClientContext
}

export class SafekeeperStream {
  readonly #env: Env
  readonly #peer: string
  readonly #client: SafekeeperServiceClient
  readonly #onOver: () => void
  readonly #over = new AbortController()
  readonly #mode = Promise.withResolvers<Mode>()
  readonly #subscriptions = new Map<number, Subscription>()
  /** Subscriptions that come and go, in order. */
  readonly #orders: FollowWalRequest[] = []
  /** Those with news of their positions. */
  readonly #reports = new Set<Subscription>()
  readonly #changes = new Signal()
  readonly #uploads: Loop
  #nextId = 1
  #isAccepted = false
  #isSingle = false

  /** `onOver`: it takes no more subscriptions. */
  constructor({ env, rpc }: SafekeeperStreamParts, address: string, onOver: () => void) {
    this.#env = env
    this.#peer = `safekeeper ${address}`
    this.#client = createClient(rpc, SafekeeperServiceClient, address)
    this.#onOver = onOver
    this.#mode.promise.catch(() => undefined)
    const { clock, rng, log } = env
    this.#uploads = new Loop({
      clock,
      rng,
      firstAfterMs: REPORT_PAUSE_MS,
      pauseMs: REPORT_PAUSE_MS,
      problems: new ProblemReport({ clock, log, event: 'upload_report_failed' }),
      round: async () => this.#reportUploads(),
    })
    void this.#run()
  }

  /** Ends when `signal` fires, with refused `cancelled`. */
  subscribe(request: ShardRequest, signal: AbortSignal): ShardSource {
    assert(!this.#over.signal.aborted, () => `the stream to ${this.#peer} is over`)
    const subscription: Subscription = {
      id: this.#nextId++,
      request,
      queue: new BatchQueue(),
      gathered: new Fragments(),
      single: undefined,
      reportedRemoteLsn: LSN_ZERO,
    }
    this.#subscriptions.set(subscription.id, subscription)
    this.#order({ $case: 'subscribe', value: openingOf(subscription) })
    return {
      batches: this.#batches(subscription, signal),
      report: () => this.#report(subscription),
    }
  }

  async *#batches(subscription: Subscription, signal: AbortSignal): AsyncGenerator<WalBatch, void, void> {
    const { queue, request } = subscription
    const cancelled = Promise.withResolvers<never>()
    cancelled.promise.catch(() => undefined)
    const onAbort = (): void => {
      const error = fail('cancelled', `the subscription to ${this.#peer} was cancelled`)
      cancelled.reject(error)
      queue.cancel(error)
    }
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    try {
      if ((await Promise.race([this.#mode.promise, cancelled.promise])) === 'many')
        return yield* queue.batches()
      subscription.single = new SingleStream(this.#client, this.#peer, request)
      yield* subscription.single.batches(AbortSignal.any([this.#over.signal, signal]))
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.#remove(subscription)
    }
  }

  #remove({ id }: Subscription): void {
    if (this.#subscriptions.delete(id)) this.#order({ $case: 'unsubscribe', value: { subscriptionId: id } })
    if (this.#subscriptions.size === 0) this.#end(fail('cancelled', 'nothing is followed there any more'))
  }

  #report(subscription: Subscription): void {
    subscription.reportedRemoteLsn = subscription.request.positions().remoteConsistentLsn
    if (subscription.single !== undefined) return subscription.single.report()
    if (!this.#subscriptions.has(subscription.id)) return
    this.#reports.add(subscription)
    this.#changes.notify()
  }

  /** Layers reach the object store while no WAL comes, too; the safekeeper keeps WAL until it learns of it. */
  #reportUploads(): void {
    for (const subscription of this.#subscriptions.values())
      if (subscription.request.positions().remoteConsistentLsn !== subscription.reportedRemoteLsn)
        this.#report(subscription)
  }

  #order(message: NonNullable<FollowWalRequest['message']>): void {
    if (this.#isSingle) return
    this.#orders.push({ message })
    this.#changes.notify()
  }

  #end(error: Error): void {
    if (this.#over.signal.aborted) return
    this.#over.abort()
    this.#onOver()
    this.#mode.reject(error)
    for (const { queue } of this.#subscriptions.values()) queue.fail(error)
    this.#client.close()
    void this.#uploads.stop()
  }

  async #run(): Promise<void> {
    const { signal } = this.#over
    this.#uploads.start()
    const stream = openBidi<FollowWalRequest, FollowWalResponse>(this.#client.followWal.bind(this.#client), {
      signal,
      peer: this.#peer,
    })
    try {
      const value = { protocolVersion: FOLLOW_VERSIONS.min, protocolVersionMax: FOLLOW_VERSIONS.max }
      await stream.send({ message: { $case: 'hello', value } })
      for await (const { message } of stream.messages) {
        if (message?.$case === 'accepted') {
          checkChosenVersion('the stream of WAL', FOLLOW_VERSIONS, message.value.protocolVersion)
          this.#isAccepted = true
          this.#mode.resolve('many')
          // A stream that has ended says why through its messages.
          void this.#sendAll(stream, signal).catch(() => undefined)
        } else this.#take(message)
      }
      throw fail('unavailable', `${this.#peer} ended the stream of WAL`)
    } catch (error) {
      if (signal.aborted) return
      const problem = error instanceof Error ? error : new Error(String(error), { cause: error })
      if (isErrorCode(problem, 'unsupported') && !this.#isAccepted) this.#beSingle(problem)
      else this.#end(problem)
    }
  }

  /** The safekeeper is of an earlier release. */
  #beSingle(error: Error): void {
    this.#env.log.info('safekeeper_of_earlier_release', { safekeeper: this.#peer, problem: error.message })
    this.#isSingle = true
    this.#orders.length = 0
    this.#reports.clear()
    this.#onOver()
    this.#mode.resolve('single')
  }

  #take(message: FollowWalResponse['message']): void {
    if (message === undefined || message.$case === 'accepted') return
    const subscription = this.#subscriptions.get(message.value.subscriptionId)
    // The message was under way when the subscription was removed.
    if (subscription === undefined) return
    const { queue, gathered, request } = subscription
    request.onMessage()
    if (message.$case === 'end') {
      this.#subscriptions.delete(subscription.id)
      return queue.fail(fromPeerError(message.value))
    }
    try {
      const batch = gathered.add(message.value)
      if (batch !== undefined) queue.push(batch)
    } catch (error) {
      // Nothing more is gathered for it, however late its consumer comes.
      this.#subscriptions.delete(subscription.id)
      this.#order({ $case: 'unsubscribe', value: { subscriptionId: subscription.id } })
      queue.fail(error as Error)
    }
  }

  async #sendAll(
    stream: BidiStream<FollowWalRequest, FollowWalResponse>,
    signal: AbortSignal,
  ): Promise<void> {
    while (!signal.aborted) {
      await this.#changes.until(() => this.#orders.length > 0 || this.#reports.size > 0, signal)
      for (const order of this.#orders.splice(0)) await stream.send(order)
      const reports = [...this.#reports].slice(0, POSITIONS_COUNT_MAX)
      for (const subscription of reports) this.#reports.delete(subscription)
      if (reports.length === 0) continue
      const value = { positions: reports.map(positionOf) }
      await stream.send({ message: { $case: 'positions', value } })
    }
  }
}

function openingOf({ id, request }: Subscription) {
  const { owner, positions, trackCommitTimestamp } = request
  const { tenantId, timelineId, shard } = owner
  return {
    subscriptionId: id,
    timeline: { tenantId, timelineId },
    shard,
    startLsn: BigInt(positions().ingestedLsn),
    windowBytes: WINDOW_BYTES,
    trackCommitTimestamp,
  }
}

function positionOf({ id, request }: Subscription) {
  const { ingestedLsn, remoteConsistentLsn } = request.positions()
  return {
    subscriptionId: id,
    ingestedLsn: BigInt(ingestedLsn),
    remoteConsistentLsn: BigInt(remoteConsistentLsn),
  }
}

/** The streams of this process, one for each safekeeper that some shard follows. */
export class SafekeeperStreams {
  readonly #parts: SafekeeperStreamParts
  readonly #streams = new Map<string, SafekeeperStream>()

  constructor(parts: SafekeeperStreamParts) {
    this.#parts = parts
  }

  /** Begins where the shard is now; `signal` ends it. */
  subscribe(address: string, request: ShardRequest, signal: AbortSignal): ShardSource {
    const known = this.#streams.get(address)
    if (known !== undefined) return known.subscribe(request, signal)
    const made: SafekeeperStream = new SafekeeperStream(this.#parts, address, () => {
      if (this.#streams.get(address) === made) this.#streams.delete(address)
    })
    this.#streams.set(address, made)
    return made.subscribe(request, signal)
  }
}
