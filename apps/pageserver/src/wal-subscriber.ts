/**
 * Keeps a subscription to one of the timeline's safekeepers open and hands its batches over in order. When it breaks,
 * the next safekeeper is asked, from where ingest stands: without gap and without repeat, since a batch that does not
 * begin there is refused.
 */
import { formatLsn, isErrorCode, lsnFromBigint, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Env } from '@understory/env'
import { SafekeeperServiceClient, createClient, openBidi } from '@understory/rpc'
import type { BidiStream, SubscribeWalRequest } from '@understory/rpc'
import { SHARD_STREAM_VERSION } from '@understory/storage'
import type { LayerOwner } from '@understory/storage'

/** Batches that may be under way: two at full speed, and a bound on memory. */
const WINDOW_BYTES = 16n * 1024n * 1024n
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
}

export class WalSubscriber {
  readonly #env: Env
  readonly #owner: LayerOwner
  readonly #consumer: WalConsumer
  readonly #stop = new AbortController()
  #safekeepers: readonly string[]
  #running: Promise<void> | undefined
  #followed: { readonly address: string; readonly leave: AbortController } | undefined

  constructor(env: Env, owner: LayerOwner, safekeepers: readonly string[], consumer: WalConsumer) {
    this.#env = env
    this.#owner = owner
    this.#safekeepers = safekeepers
    this.#consumer = consumer
  }

  /** One that is followed and not among them is left: it may hear of no WAL any more. */
  set safekeepers(addresses: readonly string[]) {
    this.#safekeepers = addresses
    if (this.#followed !== undefined && !addresses.includes(this.#followed.address))
      this.#followed.leave.abort()
  }

  start(): void {
    this.#running ??= this.#run()
  }
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { clock, rng, log } = this.#env
    const { signal } = this.#stop
    let failures = 0
    for (let next = this.#owner.shard.number; !signal.aborted && !this.#consumer.hasFailed; next++) {
      const address = this.#safekeepers[next % Math.max(1, this.#safekeepers.length)]
      try {
        if (address !== undefined) {
          await this.#follow(address, () => {
            failures = 0
          })
        }
      } catch (error) {
        if (signal.aborted || this.#consumer.hasFailed) return
        if (!isErrorCode(error, 'cancelled')) log.warn('subscription_ended', { safekeeper: address, error })
      }
      failures++
      const pauseMs = backoffMs(rng, failures, { baseMs: 100, pauseMsMax: PAUSE_MS_MAX })
      await clock.sleep(pauseMs, signal).catch(() => undefined)
    }
  }

  async #follow(address: string, onBatch: () => void): Promise<void> {
    const client = createClient(SafekeeperServiceClient, address)
    const leave = new AbortController()
    this.#followed = { address, leave }
    const options = {
      signal: AbortSignal.any([this.#stop.signal, leave.signal]),
      peer: `safekeeper ${address}`,
    }
    const stream = openBidi(client.subscribeWal.bind(client), options)
    const ended = new AbortController()
    try {
      const { tenantId, timelineId, shard } = this.#owner
      const open = {
        protocolVersion: SHARD_STREAM_VERSION,
        timeline: { tenantId, timelineId },
        shard,
        startLsn: BigInt(this.#consumer.ingestedLsn),
        windowBytes: WINDOW_BYTES,
        trackCommitTimestamp: this.#consumer.trackCommitTimestamp,
      }
      await stream.send({ message: { $case: 'open', value: open } })
      // A stream that has ended tells its reason through `messages`.
      this.#reportUploads(stream, ended.signal).catch(() => undefined)
      for await (const { startLsn, endLsn, commitLsn, entries } of stream.messages) {
        onBatch()
        const batch = {
          startLsn: lsnFromBigint(startLsn),
          endLsn: lsnFromBigint(endLsn),
          commitLsn: lsnFromBigint(commitLsn),
          entries,
        }
        await this.#consumer.take(batch)
        await stream.send(feedback(this.#consumer))
      }
      throw refuse(
        'unavailable',
        `safekeeper ${address} ended the subscription at ${formatLsn(this.#consumer.ingestedLsn)}`,
      )
    } finally {
      this.#followed = undefined
      ended.abort()
      stream.cancel()
      client.close()
    }
  }

  /** Layers reach the object store while no WAL comes, too; the safekeeper keeps WAL until it hears of it. */
  async #reportUploads(stream: BidiStream<SubscribeWalRequest, unknown>, signal: AbortSignal): Promise<void> {
    let told = this.#consumer.remoteConsistentLsn
    for (;;) {
      await this.#env.clock.sleep(REPORT_PAUSE_MS, signal)
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
