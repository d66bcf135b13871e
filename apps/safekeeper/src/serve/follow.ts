/**
 * FollowWal: committed WAL for any number of shards of any timelines on one stream. Each subscription has credit of its
 * own and takes turns with the others, so that a slow shard holds up none; one that ends says why, and ends alone.
 */
import { Semaphore, Signal } from '@understory/actor'
import { UnderstoryError, lsnFromBigint, lsnToBigint, fail } from '@understory/base'
import type { Log } from '@understory/env'
import { FOLLOW_VERSIONS, SafekeeperServiceService, agreeOnVersion, toPeerError } from '@understory/rpc'
import type { FollowWalRequest, FollowWalResponse, FollowWalSubscribe } from '@understory/rpc'
import type { ShardBatch } from './fan-out/wal-fan-out.ts'
import { fragmentsOf } from './fragments.ts'
import { ShardSubscription } from './shard-subscription.ts'
import type { SubscriptionParts } from './shard-subscription.ts'

const FOLLOW_PATH = SafekeeperServiceService.followWal.path

/** Of all subscriptions together: messages that wait for the stream. */
const MESSAGES_COUNT_MAX = 8
/** Of one stream; a pageserver has fewer shards. */
const SUBSCRIPTIONS_COUNT_MAX = 100_000

/** The messages that wait for the stream: a bounded number, first come, first served. */
class Outbox {
  readonly #turns = new Semaphore(MESSAGES_COUNT_MAX)
  readonly #waiting: { readonly message: FollowWalResponse; readonly left: () => void }[] = []
  readonly #changes = new Signal()
  #isClosed = false
  #failure: Error | undefined

  /** Resolves once the stream has taken it, or is closed. */
  send(message: FollowWalResponse): Promise<void> {
    return this.#turns.run(() => {
      if (this.#isClosed) return undefined
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#waiting.push({ message, left: resolve })
      this.#changes.notify()
      return promise
    })
  }

  /** `failure` ends the stream with it. */
  close(failure?: unknown): void {
    this.#isClosed = true
    if (failure !== undefined)
      this.#failure ??=
        failure instanceof Error ? failure : new Error('the stream failed', { cause: failure })
    for (const { left } of this.#waiting.splice(0)) left()
    this.#changes.notify()
  }

  async *messages(): AsyncGenerator<FollowWalResponse, void, void> {
    for (;;) {
      await this.#changes.until(() => this.#isClosed || this.#waiting.length > 0)
      const next = this.#waiting.shift()
      if (next === undefined) break
      yield next.message
      next.left()
    }
    if (this.#failure !== undefined) throw this.#failure
  }
}

export interface FollowParts extends SubscriptionParts {
  readonly log: Log
}

/** The subscriptions of one stream. */
class Followed {
  readonly #parts: FollowParts
  readonly #outbox: Outbox
  readonly #subscriptions = new Map<number, ShardSubscription>()
  #isClosed = false

  constructor(parts: FollowParts, outbox: Outbox) {
    this.#parts = parts
    this.#outbox = outbox
  }

  /** Until the pageserver ends its side, or it is closed. Errors: `bad_argument`, which ends the stream. */
  async receive(incoming: AsyncIterator<FollowWalRequest>): Promise<void> {
    for (let next = await incoming.next(); next.done !== true; next = await incoming.next()) {
      // A subscription that begins now would never be stopped.
      if (this.#isClosed) return
      const { message } = next.value
      switch (message?.$case) {
        case 'subscribe':
          await this.#subscribe(message.value)
          break
        case 'positions':
          // Of one that has ended here there may be news under way.
          for (const { subscriptionId, ingestedLsn, remoteConsistentLsn } of message.value.positions)
            this.#subscriptions
              .get(subscriptionId)
              ?.report(lsnFromBigint(ingestedLsn), lsnFromBigint(remoteConsistentLsn))
          break
        case 'unsubscribe':
          this.#subscriptions.get(message.value.subscriptionId)?.stop()
          break
        case 'hello':
        case undefined:
          throw fail('bad_argument', 'after its hello a stream of WAL has subscriptions and positions alone')
      }
    }
  }

  close(): void {
    this.#isClosed = true
    for (const subscription of this.#subscriptions.values()) subscription.stop()
  }

  async #subscribe(request: FollowWalSubscribe): Promise<void> {
    const { subscriptionId: id } = request
    if (this.#subscriptions.has(id)) throw fail('bad_argument', `subscription ${id} is there already`)
    if (this.#subscriptions.size >= SUBSCRIPTIONS_COUNT_MAX)
      throw fail('bad_argument', `a stream of WAL has at most ${SUBSCRIPTIONS_COUNT_MAX} subscriptions`)
    let subscription: ShardSubscription
    try {
      subscription = new ShardSubscription(this.#parts, request)
    } catch (error) {
      return this.#end(request, error)
    }
    this.#subscriptions.set(id, subscription)
    void this.#send(request, subscription)
  }

  async #send(request: FollowWalSubscribe, subscription: ShardSubscription): Promise<void> {
    const { subscriptionId: id } = request
    let problem: unknown
    try {
      for await (const batch of subscription.batches())
        for (const message of messagesOf(id, batch)) await this.#outbox.send(message)
      ;({ problem } = subscription)
    } catch (error) {
      problem = error
    } finally {
      subscription.close()
      this.#subscriptions.delete(id)
    }
    if (problem !== undefined) await this.#end(request, problem)
  }

  /** A bug of one timeline is none of the others, which may be other tenants'. */
  #end({ subscriptionId, timeline }: FollowWalSubscribe, problem: unknown): Promise<void> {
    const isRefusal = problem instanceof UnderstoryError
    if (!isRefusal) {
      const ref = { tenant: timeline?.tenantId, timeline: timeline?.timelineId }
      this.#parts.log.error('rpc_handler_bug', { method: FOLLOW_PATH, ...ref, error: problem })
    }
    const reason = isRefusal ? problem : fail('unavailable', 'this safekeeper has an internal error')
    return this.#outbox.send({ message: { $case: 'end', value: { subscriptionId, ...toPeerError(reason) } } })
  }
}

export async function* followWal(
  parts: FollowParts,
  requests: AsyncIterable<FollowWalRequest>,
  signal: AbortSignal,
): AsyncGenerator<FollowWalResponse, void, void> {
  const incoming = requests[Symbol.asyncIterator]()
  const first = await incoming.next()
  if (first.done === true) return
  const hello = first.value.message
  if (hello?.$case !== 'hello') throw fail('bad_argument', 'a stream of WAL begins with a hello')
  const protocolVersion = agreeOnVersion('the stream of WAL', FOLLOW_VERSIONS, hello.value)
  yield { message: { $case: 'accepted', value: { protocolVersion } } }
  const outbox = new Outbox()
  const followed = new Followed(parts, outbox)
  const close = (): void => outbox.close()
  signal.addEventListener('abort', close, { once: true })
  followed.receive(incoming).then(close, (error: unknown) => outbox.close(error))
  try {
    yield* outbox.messages()
  } finally {
    signal.removeEventListener('abort', close)
    outbox.close()
    followed.close()
  }
}

/** One message mostly; of a batch with a large record as many as its entries need. */
function* messagesOf(
  subscriptionId: number,
  { startLsn, endLsn, commitLsn, entries }: ShardBatch,
): Generator<FollowWalResponse, void, void> {
  const positions = {
    subscriptionId,
    startLsn: lsnToBigint(startLsn),
    endLsn: lsnToBigint(endLsn),
    commitLsn: lsnToBigint(commitLsn),
  }
  const fragments = [...fragmentsOf(entries)]
  for (const [i, { buffer, byteOffset, byteLength }] of fragments.entries()) {
    const value = {
      ...positions,
      moreFollows: i < fragments.length - 1,
      entries: Buffer.from(buffer, byteOffset, byteLength),
    }
    yield { message: { $case: 'batch', value } }
  }
}
