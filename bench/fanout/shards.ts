/** Shards of a pageserver as a safekeeper sees them: they take what comes, keep nothing, and say how far they are. */
import { lsnFromBigint, lsnToBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import { fromPeerError, openBidi } from '@understory/rpc'
import type {
  FollowWalRequest,
  FollowWalResponse,
  SafekeeperServiceClient,
  SubscribeWalRequest,
  SubscribeWalResponse,
  TimelineRef,
} from '@understory/rpc'
import { Signal } from '@understory/actor'

/** SubscribeWal: a stream for each shard; FollowWal: one for all. */
export type Rpc = 'subscribe' | 'follow'

export interface Shards {
  /** Smallest position that every shard has. */
  readonly ingestedLsn: Lsn
  readonly messages: number
  readonly bytes: number
  /** Resolves once every shard is there. Rejects where a subscription ends. */
  reached(lsn: Lsn): Promise<void>
  close(): void
}

export interface ShardsOptions {
  readonly client: SafekeeperServiceClient
  readonly timeline: TimelineRef
  readonly rpc: Rpc
  /** Where each begins; there are as many shards. */
  readonly startLsns: readonly Lsn[]
}

const STRIPE_BLOCKS = 256
const WINDOW_BYTES = 2n * 1024n * 1024n

class Progress implements Shards {
  readonly #lsns: Lsn[]
  readonly #changes = new Signal()
  readonly #stop = new AbortController()
  #failure: unknown
  messages = 0
  bytes = 0

  constructor(startLsns: readonly Lsn[]) {
    this.#lsns = [...startLsns]
  }

  get stopped(): AbortSignal {
    return this.#stop.signal
  }
  get ingestedLsn(): Lsn {
    return Math.min(...this.#lsns) as Lsn
  }
  took(shard: number, endLsn: Lsn, bytes: number): void {
    this.#lsns[shard] = endLsn
    this.messages++
    this.bytes += bytes
    this.#changes.notify()
  }
  failed(error: unknown): void {
    if (this.#stop.signal.aborted) return
    this.#failure ??= error
    this.#changes.notify()
  }
  async reached(lsn: Lsn): Promise<void> {
    const isThere = (): boolean => this.#lsns.every((own) => own >= lsn)
    await this.#changes.until(() => this.#failure !== undefined || isThere())
    if (this.#failure !== undefined) throw this.#failure as Error
  }
  close(): void {
    this.#stop.abort()
  }
}

async function subscribe(
  { client, timeline, startLsns }: ShardsOptions,
  number: number,
  progress: Progress,
): Promise<void> {
  const stream = openBidi<SubscribeWalRequest, SubscribeWalResponse>(client.subscribeWal.bind(client), {
    signal: progress.stopped,
  })
  const value = {
    protocolVersion: 2,
    protocolVersionMax: 2,
    timeline,
    shard: { number, count: startLsns.length, stripeBlocks: STRIPE_BLOCKS },
    startLsn: lsnToBigint(startLsns[number] as Lsn),
    windowBytes: WINDOW_BYTES,
    trackCommitTimestamp: false,
  }
  await stream.send({ message: { $case: 'open', value } })
  for await (const { endLsn, entries, moreFollows } of stream.messages) {
    if (moreFollows) continue
    progress.took(number, lsnFromBigint(endLsn), entries.length)
    await stream.send({
      message: { $case: 'feedback', value: { ingestedLsn: endLsn, remoteConsistentLsn: 0n } },
    })
  }
}

async function followAll({ client, timeline, startLsns }: ShardsOptions, progress: Progress): Promise<void> {
  const stream = openBidi<FollowWalRequest, FollowWalResponse>(client.followWal.bind(client), {
    signal: progress.stopped,
  })
  const send = (message: NonNullable<FollowWalRequest['message']>): Promise<void> => stream.send({ message })
  await send({ $case: 'hello', value: { protocolVersion: 1, protocolVersionMax: 1 } })
  for (const [number, startLsn] of startLsns.entries()) {
    const value = {
      subscriptionId: number,
      timeline,
      shard: { number, count: startLsns.length, stripeBlocks: STRIPE_BLOCKS },
      startLsn: lsnToBigint(startLsn),
      windowBytes: WINDOW_BYTES,
      trackCommitTimestamp: false,
    }
    await send({ $case: 'subscribe', value })
  }
  for await (const { message } of stream.messages) {
    if (message?.$case === 'end') throw fromPeerError(message.value)
    if (message?.$case !== 'batch' || message.value.moreFollows) continue
    const { subscriptionId, endLsn, entries } = message.value
    progress.took(subscriptionId, lsnFromBigint(endLsn), entries.length)
    const position = { subscriptionId, ingestedLsn: endLsn, remoteConsistentLsn: 0n }
    await send({ $case: 'positions', value: { positions: [position] } })
  }
}

/** Subscribes all. */
export function startShards(options: ShardsOptions): Shards {
  const progress = new Progress(options.startLsns)
  const failed = (error: unknown): void => progress.failed(error)
  if (options.rpc === 'follow') void followAll(options, progress).catch(failed)
  else for (const number of options.startLsns.keys()) void subscribe(options, number, progress).catch(failed)
  return progress
}
