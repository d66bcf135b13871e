/**
 * One shard's import stream: values go out in batches as they gather, with back-pressure; then the end, or a failure.
 */
import type { Lsn, ShardLayout } from '@understory/base'
import { BoundedQueue } from '@understory/base'
import { PageserverServiceClient, callClientStream, createClient } from '@understory/rpc'
import type { ClientContext, ImportShardRequest, TimelineRef } from '@understory/rpc'
import { KEY_BYTES, encodeImportBatch } from '@understory/storage'
import type { ImportValue, Key } from '@understory/storage'

const BATCH_BYTES = 1 << 20
/** Batches on their way to one shard. */
const QUEUE_BYTES_MAX = 4 << 20

export interface ShardStreamOptions {
  readonly rpc: ClientContext
  /** host:port */
  readonly pageserver: string
  readonly timeline: TimelineRef
  readonly layout: ShardLayout
  readonly number: number
  readonly startLsn: Lsn
  readonly signal: AbortSignal
}

export class ShardStream {
  readonly #queue = new BoundedQueue<Buffer>(QUEUE_BYTES_MAX)
  readonly #end = Promise.withResolvers<Lsn>()
  #values: ImportValue[] = []
  #bytes = 0
  #failure: unknown
  /** Values that the shard took in. Rejects as soon as the shard refuses the import or is lost. */
  readonly valuesCount: Promise<number>

  constructor(options: ShardStreamOptions) {
    this.#end.promise.catch(() => undefined)
    this.valuesCount = this.#run(options)
    // The next push, or the finish, meets it.
    this.valuesCount.catch((error: unknown) => this.fail(error))
  }

  async #run({
    rpc,
    pageserver,
    timeline,
    layout,
    number,
    signal,
    startLsn,
  }: ShardStreamOptions): Promise<number> {
    const client = createClient(rpc, PageserverServiceClient, pageserver)
    try {
      const open = { timeline, shard: { ...layout, number }, startLsn: BigInt(startLsn) }
      const peer = `pageserver ${pageserver}`
      const response = await callClientStream(client.importShard.bind(client), this.#requests(open), {
        signal,
        peer,
      })
      return Number(response.valuesCount)
    } finally {
      client.close()
    }
  }

  async *#requests(open: {
    timeline: TimelineRef
    shard: ShardLayout & { number: number }
    startLsn: bigint
  }): AsyncGenerator<ImportShardRequest, void, void> {
    yield { message: { $case: 'open', value: open } }
    for await (const value of this.#queue) yield { message: { $case: 'values', value } }
    yield { message: { $case: 'finish', value: { endLsn: BigInt(await this.#end.promise) } } }
  }

  put(key: Key, bytes: Uint8Array): void {
    this.#values.push({ key, bytes })
    this.#bytes += KEY_BYTES + 4 + bytes.length
  }

  /** Sends what has gathered, once it is a batch; waits while the shard is behind. Rejects as `valuesCount` does. */
  async send(minBytes: number = BATCH_BYTES): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure as Error
    if (this.#bytes < minBytes || this.#bytes === 0) return
    const batch = encodeImportBatch(this.#values)
    this.#values = []
    this.#bytes = 0
    try {
      await this.#queue.push(batch, batch.length)
    } catch (error) {
      await this.valuesCount
      throw error
    }
  }

  /** No more values. */
  async close(): Promise<void> {
    await this.send(0)
    this.#queue.close()
  }

  /** After `close`: nothing below `endLsn` may be read. */
  finish(endLsn: Lsn): Promise<number> {
    this.#end.resolve(endLsn)
    return this.valuesCount
  }

  fail(error: unknown): void {
    this.#failure ??= error
    this.#queue.close(error)
    this.#end.reject(error)
  }
}
