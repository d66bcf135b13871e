/** SubscribeWal: a stream for each shard, as pageservers of earlier releases ask for it. */
import { formatLsn, lsnFromBigint, lsnToBigint, fail } from '@understory/base'
import { SUBSCRIBE_VERSIONS, agreeOnVersion } from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse } from '@understory/rpc'
import type { ShardBatch } from './fan-out/wal-fan-out.ts'
import { fragmentsOf } from './fragments.ts'
import { ShardSubscription } from './shard-subscription.ts'
import type { SubscriptionParts } from './shard-subscription.ts'

/** From this version on a batch may go in several messages. */
const FRAGMENTS_VERSION = 2
/** Below the largest message (MESSAGE_BYTES_MAX). */
const UNFRAGMENTED_BYTES_MAX = 31 * 1024 * 1024

export async function* subscribeWal(
  parts: SubscriptionParts,
  requests: AsyncIterable<SubscribeWalRequest>,
  signal: AbortSignal,
): AsyncGenerator<SubscribeWalResponse, void, void> {
  const incoming = requests[Symbol.asyncIterator]()
  const first = await incoming.next()
  if (first.done === true) return
  const open = first.value.message
  if (open?.$case !== 'open') throw fail('bad_argument', 'a subscription begins with its opening message')
  const protocolVersion = agreeOnVersion('the shard stream', SUBSCRIBE_VERSIONS, open.value)
  const subscription = new ShardSubscription(parts, open.value)
  const stop = (): void => subscription.stop()
  signal.addEventListener('abort', stop, { once: true })
  const receiving = receive(subscription, incoming).finally(() => subscription.close())
  for await (const batch of subscription.batches()) yield* messagesOf(batch, protocolVersion)
  // The subscriber learns of a stop from here at once, even if it still has something to report.
  if (subscription.problem === undefined) await receiving
  if (subscription.problem !== undefined) throw subscription.problem
}

/** Until the subscriber ends its side. */
async function receive(
  subscription: ShardSubscription,
  incoming: AsyncIterator<SubscribeWalRequest>,
): Promise<void> {
  try {
    for (let next = await incoming.next(); next.done !== true; next = await incoming.next()) {
      const { message } = next.value
      if (message?.$case !== 'feedback') throw fail('bad_argument', 'a subscription is opened once')
      const { ingestedLsn, remoteConsistentLsn } = message.value
      subscription.report(lsnFromBigint(ingestedLsn), lsnFromBigint(remoteConsistentLsn))
    }
  } catch (error) {
    subscription.stop(error instanceof Error ? error : new Error(String(error), { cause: error }))
  }
}

/** One message mostly; of a batch with a large record as many as its entries need. Errors: `unsupported`. */
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
    throw fail(
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
