/**
 * Imports a base backup into the shards of a new timeline. The files stream from the wire to the pageservers; nothing
 * is kept but what is under way. The import ends in two steps, because a shard may only begin to ingest once the WAL up
 * to the backup's end is committed: `importBaseBackup`, then `finish`.
 */
import { BoundedQueue, lsnToBigint, refuse } from '@understory/base'
import type { Lsn, ShardLayout } from '@understory/base'
import type { BackupEvent } from '@understory/postgres/wire'
import { PageserverServiceClient, callClientStream, createClient } from '@understory/rpc'
import type { ImportShardRequest, TimelineRef } from '@understory/rpc'
import { encodeImportBatch } from '@understory/storage'
import type { ImportValue } from '@understory/storage'
import { BackupFiles } from './values.ts'
import type { PlacedValue } from './values.ts'

const BATCH_BYTES = 1024 * 1024
/** Batches that may wait for a slow shard. */
const QUEUE_BYTES_MAX = 8 * 1024 * 1024

export interface ImportOptions {
  readonly backup: AsyncIterable<BackupEvent>
  readonly major: 16 | 17 | 18
  readonly layout: ShardLayout
  /** By shard number, host:port. */
  readonly pageservers: readonly string[]
  readonly timeline: TimelineRef
  readonly signal: AbortSignal
}

export interface ImportedBackup {
  /** Redo position: shards ingest from here. */
  readonly startLsn: Lsn
  /** Nothing below can be read. */
  readonly endLsn: Lsn
  /** Files that nobody knows what to do with: nothing of Postgres's own. */
  readonly unknownPaths: readonly string[]
  /** Tells the shards that they may begin; resolves when everything is durable. */
  finish(): Promise<void>
}

/** Sends one shard its part: values collect to batches, batches wait in a bounded queue. */
class ShardSink {
  readonly done: Promise<unknown>
  readonly #queue = new BoundedQueue<ImportShardRequest>(QUEUE_BYTES_MAX)
  readonly #client: PageserverServiceClient
  #values: ImportValue[] = []
  #bytes = 0

  constructor(address: string, number: number, startLsn: Lsn, options: ImportOptions) {
    const { timeline, layout, signal } = options
    this.#client = createClient(PageserverServiceClient, address)
    const shard = { number, count: layout.count, stripeBlocks: layout.stripeBlocks }
    void this.#queue.push({ message: { $case: 'open', value: { timeline, shard, startLsn: lsnToBigint(startLsn) } } })
    this.done = callClientStream(this.#client.importShard.bind(this.#client), this.#queue, { signal, peer: `pageserver ${address}` })
    // Nobody may wait for room in the queue of a shard that failed.
    this.done.catch((error: unknown) => this.#queue.close(error))
  }

  async add(value: ImportValue): Promise<void> {
    // Page bytes are borrowed until the batch is encoded, which is before more is read from the wire.
    this.#values.push({ key: value.key, bytes: Buffer.from(value.bytes) })
    this.#bytes += value.bytes.length
    if (this.#bytes >= BATCH_BYTES) await this.flush()
  }

  async flush(): Promise<void> {
    if (this.#values.length === 0) return
    const batch = encodeImportBatch(this.#values)
    this.#values = []
    this.#bytes = 0
    await this.#queue.push({ message: { $case: 'values', value: batch } }, batch.length)
  }

  async finish(endLsn: Lsn): Promise<void> {
    await this.#queue.push({ message: { $case: 'finish', value: { endLsn: lsnToBigint(endLsn) } } })
    this.#queue.close()
    await this.done
    this.#client.close()
  }
}

export async function importBaseBackup(options: ImportOptions): Promise<ImportedBackup> {
  const { backup, major, layout, pageservers } = options
  const files = new BackupFiles(major, layout)
  let sinks: readonly ShardSink[] = []
  let startLsn: Lsn | undefined
  const send = async (value: PlacedValue): Promise<void> => {
    if (value.shard === undefined) for (const sink of sinks) await sink.add(value)
    else await (sinks[value.shard] as ShardSink).add(value)
  }
  for await (const event of backup) {
    switch (event.kind) {
      case 'start': {
        const from = event.startLsn
        startLsn = from
        sinks = pageservers.map((address, number) => new ShardSink(address, number, from, options))
        break
      }
      case 'tablespace':
        files.tablespace(event.oid, event.location)
        break
      case 'directory':
        files.directory(event.path)
        break
      case 'file':
        files.begin(event.path)
        break
      case 'data':
        for (const value of files.data(event.bytes)) await send(value)
        break
      case 'symlink':
        break
      case 'end': {
        if (startLsn === undefined) throw refuse('unavailable', 'the backup ended before it began')
        for (const value of files.finish()) await send(value)
        for (const sink of sinks) await sink.flush()
        const { endLsn } = event
        return {
          startLsn,
          endLsn,
          unknownPaths: files.unknownPaths,
          finish: async () => {
            await Promise.all(sinks.map((sink) => sink.finish(endLsn)))
          },
        }
      }
    }
  }
  throw refuse('unavailable', 'the backup ended before it was complete')
}
