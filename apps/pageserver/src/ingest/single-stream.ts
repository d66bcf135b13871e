/** SubscribeWal: a stream for one shard, of safekeepers of releases before FollowWal. */
import { formatLsn, fail } from '@understory/base'
import { SUBSCRIBE_VERSIONS, SafekeeperServiceClient, checkChosenVersion, openBidi } from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse } from '@understory/rpc'
import { Fragments } from './fragments.ts'
import type { WalBatch } from './fragments.ts'
import { WINDOW_BYTES } from './shard-source.ts'
import type { ShardRequest } from './shard-source.ts'

export class SingleStream {
  readonly #client: SafekeeperServiceClient
  readonly #peer: string
  readonly #request: ShardRequest
  #send: ((request: SubscribeWalRequest) => Promise<void>) | undefined

  constructor(client: SafekeeperServiceClient, peer: string, request: ShardRequest) {
    this.#client = client
    this.#peer = peer
    this.#request = request
  }

  /** A stream that has ended says why through `batches`. */
  report(): void {
    const { ingestedLsn, remoteConsistentLsn } = this.#request.positions()
    const value = { ingestedLsn: BigInt(ingestedLsn), remoteConsistentLsn: BigInt(remoteConsistentLsn) }
    this.#send?.({ message: { $case: 'feedback', value } }).catch(() => undefined)
  }

  async *batches(signal: AbortSignal): AsyncGenerator<WalBatch, void, void> {
    const { owner, positions, trackCommitTimestamp, onMessage } = this.#request
    const { tenantId, timelineId, shard } = owner
    const client = this.#client
    const stream = openBidi<SubscribeWalRequest, SubscribeWalResponse>(client.subscribeWal.bind(client), {
      signal,
      peer: this.#peer,
    })
    try {
      const value = {
        protocolVersion: SUBSCRIBE_VERSIONS.min,
        protocolVersionMax: SUBSCRIBE_VERSIONS.max,
        timeline: { tenantId, timelineId },
        shard,
        startLsn: BigInt(positions().ingestedLsn),
        windowBytes: WINDOW_BYTES,
        trackCommitTimestamp,
      }
      await stream.send({ message: { $case: 'open', value } })
      this.#send = (request) => stream.send(request)
      // The opening message has no remote position, and reports before it went nowhere.
      this.report()
      const gathered = new Fragments()
      for await (const message of stream.messages) {
        checkChosenVersion('the shard stream', SUBSCRIBE_VERSIONS, message.protocolVersion)
        onMessage()
        const batch = gathered.add(message)
        if (batch !== undefined) yield batch
      }
      throw fail(
        'unavailable',
        `${this.#peer} ended the subscription at ${formatLsn(positions().ingestedLsn)}`,
      )
    } finally {
      this.#send = undefined
      stream.cancel()
    }
  }
}
