/**
 * Committed WAL for one shard of a tenant: decoded, split, and sent in batches of up to a MiB as soon as there is any,
 * but small batches not more often than every some milliseconds. Bounded on both sides: a subscriber that reports nothing gets no more than its window.
 */
import {
  advance,
  assert,
  describeError,
  formatLsn,
  isErrorCode,
  lsnFromBigint,
  lsnToBigint,
  minLsn,
  refuse,
} from '@understory/base'
import type { Lsn, ShardIdentity } from '@understory/base'
import { DecodedRecord, decodeRecord } from '@understory/postgres/wal'
import type { WalStreamDecoder } from '@understory/postgres/wal'
import type { Clock } from '@understory/env'
import { SUBSCRIBE_VERSIONS, agreeOnVersion } from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse, ShardRef } from '@understory/rpc'
import { ShardSplitter, ShardStreamWriter } from '@understory/storage'
import { TimelineStalledError, waitForCommit } from './committed-wal.ts'
import { decoderAt } from './end-of-wal.ts'
import { onLeftOut } from './membership-file.ts'
import type { Timeline } from './timeline.ts'
import type { Timelines } from './timelines.ts'

const WINDOW_BYTES_DEFAULT = 16 * 1024 * 1024
/** Whatever a subscriber asks for: so much may wait in memory for it. */
const WINDOW_BYTES_MAX = 64 * 1024 * 1024
const BATCH_BYTES_MAX = 1024 * 1024
/** WAL taken at a time; other timelines get a turn between. */
const READ_BYTES_MAX = 256 * 1024
/** A commit a batch costs subscriber and safekeeper more than the WAL in it: after a small one some WAL gathers. */
const SMALL_BATCH_BYTES = 64 * 1024
const GATHER_MS = 10

/** What a subscriber has not reported as ingested yet. */
class Window {
  readonly #bytesMax: number
  readonly #batches: { readonly endLsn: Lsn; readonly bytes: number }[] = []
  #bytes = 0
  #wake: (() => void) | undefined
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
    this.#wake?.()
  }

  close(): void {
    this.#isClosed = true
    this.#wake?.()
  }

  /** Resolves when something may be sent; false when nothing will be any more. */
  async opens(): Promise<boolean> {
    while (this.#bytes >= this.#bytesMax && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      this.#wake = undefined
    }
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
  const shard = readShard(shardRef)
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

  const batches = new ShardBatches(timeline, shard, startLsn, trackCommitTimestamp)
  while (await window.opens()) {
    await waitForCommit(timeline, batches.position, clock, gone.signal).catch((error: unknown) => {
      if (error instanceof TimelineStalledError) {
        const { reason } = error
        timeline.log.warn('subscription_ended', {
          shard: shard.number,
          reason,
          problem: describeError(error),
        })
        observer?.refused(reason)
      }
      throw error
    })
    if (gone.signal.aborted) break
    const batch = await batches.next().catch((error: unknown) => {
      if (ref !== undefined && isErrorCode(error, 'bad_wal')) timelines.onDamage(ref)
      throw error
    })
    window.add(batches.position, batch.entries.length)
    observer?.sent(batch.entries.length)
    yield { ...batch, protocolVersion }
    if (batch.entries.length < SMALL_BATCH_BYTES) await clock.sleep(GATHER_MS, gone.signal).catch(stop)
  }
  // One that was left out says so at once, whatever the subscriber still wants to report.
  if (problem === undefined) await receiving
  if (problem !== undefined) throw problem
}

class ShardBatches {
  readonly #timeline: Timeline
  readonly #decoder: WalStreamDecoder
  readonly #record = new DecodedRecord()
  readonly #writer = new ShardStreamWriter()
  readonly #splitter: ShardSplitter
  /** End of what was given out: a record end. */
  position: Lsn
  /** End of what the decoder took in. */
  #readLsn: Lsn

  constructor(timeline: Timeline, shard: ShardIdentity, startLsn: Lsn, trackCommitTimestamp: boolean) {
    this.#timeline = timeline
    this.position = startLsn
    this.#readLsn = startLsn
    this.#decoder = decoderAt(timeline.identity, {
      startLsn,
      findFirst: startLsn === timeline.timelineStartLsn,
    })
    const settings = {
      major: timeline.identity.major,
      dataChecksums: false,
      walLogHints: false,
      trackCommitTimestamp,
    }
    this.#splitter = new ShardSplitter(shard, settings, this.#writer)
  }

  /** What is committed beyond `position`, or as much of it as a batch holds. There must be some. */
  async next(): Promise<Omit<SubscribeWalResponse, 'protocolVersion'>> {
    const startLsn = this.position
    const { commitLsn } = this.#timeline
    const decoder = this.#decoder
    let endLsn = startLsn
    while (endLsn < commitLsn && this.#writer.length < BATCH_BYTES_MAX) {
      const to = minLsn(commitLsn, advance(this.#readLsn, READ_BYTES_MAX))
      assert(to > this.#readLsn, () => `committed WAL ends within a record at ${formatLsn(commitLsn)}`)
      decoder.push(this.#readLsn, await this.#timeline.read(this.#readLsn, to))
      this.#readLsn = to
      while (decoder.next()) {
        decodeRecord(this.#record, decoder.bytes, decoder.start, decoder.recordLsn, decoder.nextLsn)
        this.#splitter.split(this.#record)
      }
      endLsn = decoder.recordEndLsn
    }
    this.position = endLsn
    return {
      startLsn: lsnToBigint(startLsn),
      endLsn: lsnToBigint(endLsn),
      commitLsn: lsnToBigint(commitLsn),
      entries: Buffer.from(this.#writer.take().buffer),
    }
  }
}

const clampWindow = (bytes: bigint): number => Math.min(Number(bytes), WINDOW_BYTES_MAX)

function readShard(ref: ShardRef | undefined): ShardIdentity {
  if (ref === undefined) throw refuse('bad_argument', 'the shard is not named')
  const { number, count, stripeBlocks } = ref
  if (count < 1 || count > 256 || number >= count || stripeBlocks < 1 || stripeBlocks > 2 ** 20) {
    throw refuse(
      'bad_argument',
      `there is no shard ${number} of ${count} with stripes of ${stripeBlocks} blocks`,
    )
  }
  return { number, count, stripeBlocks }
}
