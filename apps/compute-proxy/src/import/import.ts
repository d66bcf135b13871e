/**
 * Imports a base backup into the shards of a new timeline: each shard gets its values by a stream of its own, all at
 * the pace of the slowest, in one pass over the backup and bounded memory. Two phases, because a shard may be read only
 * from the backup's end on, and only once a quorum has the WAL up to there:
 *
 *   importBaseBackup   every value is with its shard, the backup is over
 *   finish             the shards make it durable and begin to ingest WAL from the backup's start
 */
import { assert, formatLsn, fail } from '@understory/base'
import type { ShardLayout } from '@understory/base'
import { throwIfCancelled } from '@understory/env'
import type { PgMajor } from '@understory/postgres/wal'
import type { BackupEvent } from '@understory/postgres/wire'
import type { ClientContext, TimelineRef } from '@understory/rpc'
import { KEY_CONTROL_FILE, shardOfKey } from '@understory/storage'
import { BackupValues } from './backup-values.ts'
import type { ImportedCluster } from './backup-values.ts'
import { ShardStream } from './shard-stream.ts'

interface ImportProgress {
  /** Bytes of files read so far. */
  readonly bytes: number
  readonly filesCount: number
}

export interface ImportOptions {
  /** From `ReplicationConnection.baseBackup`; read to its end, or left early where the import fails. */
  readonly backup: AsyncIterable<BackupEvent>
  readonly major: PgMajor
  readonly layout: ShardLayout
  readonly rpc: ClientContext
  /** host:port by shard number. */
  readonly pageservers: readonly string[]
  readonly timeline: TimelineRef
  readonly signal: AbortSignal
  /** Every few megabytes. */
  readonly onProgress?: (progress: ImportProgress) => void
}

export interface ImportedBackup extends ImportedCluster {
  /**
   * To be called once a quorum has the WAL up to `endLsn`: resolves when every shard has the import in the object
   * store; returns the values they took in. Rejects where a shard was lost since.
   */
  finish(): Promise<number>
  /** Instead of `finish`: the shards forget what they got. */
  abandon(): void
}

const PROGRESS_BYTES = 8 << 20

/** Errors: what the backup, a shard or the network say; `bad_file`, `unsupported`, `precondition`, `cancelled`. */
export async function importBaseBackup(options: ImportOptions): Promise<ImportedBackup> {
  const { backup, major, layout, pageservers, signal, onProgress } = options
  assert(
    pageservers.length === layout.count,
    () => `${pageservers.length} pageservers for ${layout.count} shards`,
  )
  let streams: ShardStream[] = []
  const values = new BackupValues(major, (key, bytes) => {
    // Every shard's redo depends on settings that pg_control holds.
    if (key.keyClass === KEY_CONTROL_FILE) for (const stream of streams) stream.put(key, bytes)
    else streams[shardOfKey(layout, key) ?? 0]?.put(key, bytes)
  })
  const abandon = (error: unknown): void => {
    for (const stream of streams) stream.fail(error)
  }
  try {
    let [bytes, reportedBytes, filesCount] = [0, 0, 0]
    for await (const event of backup) {
      throwIfCancelled(signal)
      values.take(event)
      if (event.kind === 'start') streams = openStreams(options, event.startLsn)
      else if (event.kind === 'file') filesCount++
      else if (event.kind === 'data') bytes += event.bytes.length
      for (const stream of streams) await stream.send()
      if (onProgress === undefined || bytes - reportedBytes < PROGRESS_BYTES) continue
      reportedBytes = bytes
      onProgress({ bytes, filesCount })
    }
    const cluster = values.finish()
    await Promise.all(streams.map((stream) => stream.close()))
    onProgress?.({ bytes, filesCount })
    const finish = async (): Promise<number> => {
      const counts = await Promise.all(streams.map((stream) => stream.finish(cluster.endLsn)))
      return counts.reduce((sum, count) => sum + count, 0)
    }
    const range = `${formatLsn(cluster.startLsn)} to ${formatLsn(cluster.endLsn)}`
    return {
      ...cluster,
      finish,
      abandon: () => abandon(fail('cancelled', `import of the base backup ${range} was abandoned`)),
    }
  } catch (error) {
    abandon(error)
    throw error
  }
}

function openStreams(
  { rpc, pageservers, timeline, layout, signal }: ImportOptions,
  startLsn: ImportedCluster['startLsn'],
): ShardStream[] {
  return pageservers.map(
    (pageserver, number) => new ShardStream({ rpc, pageserver, timeline, layout, number, startLsn, signal }),
  )
}
