/**
 * Committed WAL for one shard of a tenant: decoded, split, and sent in batches of up to a MiB as soon as there is any,
 * but small batches not more often than every some milliseconds. Bounded on both sides: a subscriber that reports nothing gets no more than its window.
 */
import { Signal } from '@understory/actor'
import { describeError, formatLsn, isErrorCode, lsnFromBigint, lsnToBigint, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import { readShardRef } from '@understory/protocol'
import { SUBSCRIBE_VERSIONS, agreeOnVersion } from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse } from '@understory/rpc'
import { TimelineStalledError, waitForCommit } from './committed-wal.ts'
import { onLeftOut } from '../timeline/membership-file.ts'
import type { SubscriptionRefusal } from '../telemetry/metrics.ts'
import { ShardBatches, fragmentsOf } from './shard-batches.ts'
import type { ShardBatch } from './shard-batches.ts'
import type { Timelines } from '../timeline/timelines.ts'

const WINDOW_BYTES_DEFAULT = 16 * 1024 * 1024
/** Whatever a subscriber asks for: so much may wait in memory for it. */
const WINDOW_BYTES_MAX = 64 * 1024 * 1024
/** From this version on a batch may go in several messages. */
const FRAGMENTS_VERSION = 2
/** Below the largest message (MESSAGE_BYTES_MAX). */
const UNFRAGMENTED_BYTES_MAX = 31 * 1024 * 1024
/** A commit a batch costs subscriber and safekeeper more than the WAL in it: after a small one some WAL gathers. */
const SMALL_BATCH_BYTES = 64 * 1024
const GATHER_MS = 10

/** What a subscriber has not reported as ingested yet. */
class Window {
  readonly #bytesMax: number
  readonly #batches: { readonly endLsn: Lsn; readonly bytes: number }[] = []
  #bytes = 0
  readonly #changes = new Signal()
  #isClosed = false

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

  close(): void {
    this.#isClosed = true
    this.#changes.notify()
  }

  /** Resolves when something may be sent; false when nothing will be any more. */
  async opens(): Promise<boolean> {
    await this.#changes.until(() => this.#bytes < this.#bytesMax || this.#isClosed)
    return !this.#isClosed
  }
}

export async function* subscribeWal(
  timelines: Timelines,
  nodeId: string,
  clock: Clock,
  requests: AsyncIterable<SubscribeWalRequest>,
  signal: AbortSignal,
): AsyncGenerator<SubscribeWalResponse, void, void> {
  const incoming = requests[Symbol.asyncIterator]()
  const first = await incoming.next()
  if (first.done === true) return
  const open = first.value.message
  if (open?.$case !== 'open') throw refuse('bad_argument', 'a subscription begins with its opening message')
  const {
    timeline: ref,
    shard: shardRef,
    startLsn: startWire,
    windowBytes,
    trackCommitTimestamp,
  } = open.value
  const protocolVersion = agreeOnVersion('the shard stream', SUBSCRIBE_VERSIONS, open.value)
  const timeline = timelines.get(ref)
  const shard = readShardRef(shardRef)
  const startLsn = lsnFromBigint(startWire)
  if (startLsn < timeline.timelineStartLsn) {
    throw refuse(
      'out_of_range',
      `WAL before ${formatLsn(timeline.timelineStartLsn)} is not part of the timeline`,
    )
  }
  const observer = ref === undefined ? undefined : timelines.observer?.subscribed(ref, shard.number, startLsn)
  const window = new Window(windowBytes === 0n ? WINDOW_BYTES_DEFAULT : clampWindow(windowBytes))
  const gone = new AbortController()
  const stop = (): void => {
    gone.abort()
    window.close()
  }
  let problem: Error | undefined
  const onEnded = (): void => {
    problem ??= timeline.ended.reason as Error
    stop()
  }
  signal.addEventListener('abort', stop, { once: true })
  timeline.ended.addEventListener('abort', onEnded, { once: true })
  // It may have ended while this call was on its way; nothing fires then.
  if (timeline.ended.aborted) onEnded()
  // Whoever follows a safekeeper that was left out would wait for ever.
  const stopWatching = onLeftOut(timeline, nodeId, (error) => {
    problem = error
    stop()
  })
  const receiving = (async () => {
    for (let next = await incoming.next(); next.done !== true; next = await incoming.next()) {
      const { message } = next.value
      if (message?.$case !== 'feedback') throw refuse('bad_argument', 'a subscription is opened once')
      const ingestedLsn = lsnFromBigint(message.value.ingestedLsn)
      const remoteConsistentLsn = lsnFromBigint(message.value.remoteConsistentLsn)
      window.ingested(ingestedLsn)
      timeline.noteRemoteConsistent(shard.number, remoteConsistentLsn)
      observer?.reported(ingestedLsn, remoteConsistentLsn)
    }
  })()
    .catch((error: unknown) => {
      problem = error instanceof Error ? error : new Error(String(error))
    })
    .finally(stop)
    .finally(() => {
      observer?.ended()
      stopWatching()
      timeline.ended.removeEventListener('abort', onEnded)
    })

  const onRefused = (reason: SubscriptionRefusal, error: Error): void => {
    timeline.log.warn('subscription_ended', { shard: shard.number, reason, problem: describeError(error) })
    observer?.refused(reason)
  }
  const batches = new ShardBatches(timeline, shard, startLsn, trackCommitTimestamp)
  while (await window.opens()) {
    await waitForCommit(timeline, batches.position, clock, gone.signal).catch((error: unknown) => {
      if (error instanceof TimelineStalledError) onRefused(error.reason, error)
      throw error
    })
    if (gone.signal.aborted) break
    const batch = await batches.next().catch((error: unknown) => {
      if (ref !== undefined && isErrorCode(error, 'bad_wal')) timelines.onDamage(ref)
      if (isErrorCode(error, 'unknown_wal')) onRefused('unknown_wal', error)
      throw error
    })
    window.add(batch.endLsn, batch.entries.length)
    observer?.sent(batch.entries.length)
    yield* messagesOf(batch, protocolVersion)
    if (batch.entries.length < SMALL_BATCH_BYTES) await clock.sleep(GATHER_MS, gone.signal).catch(stop)
  }
  // One that was left out says so at once, whatever the subscriber still wants to report.
  if (problem === undefined) await receiving
  if (problem !== undefined) throw problem
}

/** One message mostly; of a batch with a large record as many as its entries need. Error: refused `unsupported`. */
function* messagesOf(
  { startLsn, endLsn, commitLsn, entries }: ShardBatch,
  protocolVersion: number,
): Generator<SubscribeWalResponse, void, void> {
  const positions = {
    startLsn: lsnToBigint(startLsn),
    endLsn: lsnToBigint(endLsn),
    commitLsn: lsnToBigint(commitLsn),
    protocolVersion,
  }
  const fragments = protocolVersion < FRAGMENTS_VERSION ? [entries] : [...fragmentsOf(entries)]
  if (fragments.length === 1 && entries.length > UNFRAGMENTED_BYTES_MAX) {
    throw refuse(
      'unsupported',
      `a WAL record before ${formatLsn(endLsn)} has ${entries.length} bytes for a shard, more than version ${protocolVersion} of the shard stream can carry`,
      { hint: 'Upgrade the pageserver.' },
    )
  }
  for (const [i, { buffer, byteOffset, byteLength }] of fragments.entries()) {
    const moreFollows = i < fragments.length - 1
    yield { ...positions, entries: Buffer.from(buffer, byteOffset, byteLength), moreFollows }
  }
}

const clampWindow = (bytes: bigint): number => Math.min(Number(bytes), WINDOW_BYTES_MAX)
