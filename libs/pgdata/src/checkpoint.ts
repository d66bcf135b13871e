/** The shutdown checkpoint at which a Postgres starts from storage: forged, or the real one of a clean stop. */
import { assert, formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  CHECKPOINT_BYTES,
  decodeTrackerState,
  forgeShutdownCheckpoint,
  parseControlFile,
} from '@understory/postgres/cluster'
import type { ForgedCheckpoint, TrackerState } from '@understory/postgres/cluster'
import { pageserverClient } from '@understory/protocol/clients'
import { RM_XLOG_ID, XLOG_CHECKPOINT_SHUTDOWN, XLR_INFO_MASK } from '@understory/postgres/wal'
import { asRecordEnd, lastRecordAtOrBefore } from './last-record.ts'
import type { LastRecord } from './last-record.ts'
import { whileShardMoves } from './shard-files.ts'
import { checkSource, seamsOf, shardRefOf, walIdentityOf } from './source.ts'
import type { PgdataSource } from './source.ts'

export interface PrepareCheckpointOptions extends PgdataSource {
  /** X: a record end. Waited for. */
  readonly lsn: Lsn
}

export interface PreparedCheckpoint {
  /** X: where `forged.bytes` go. */
  readonly atLsn: Lsn
  /** Start of the last record before X. */
  readonly prevLsn: Lsn
  /**
   * The bytes that are appended at X; Postgres continues at `nextLsn`. After a clean stop the record before X is the
   * checkpoint: then `bytes` is empty and `nextLsn` is X.
   */
  readonly forged: ForgedCheckpoint
  /** As of X. */
  readonly state: Readonly<TrackerState>
  /** pg_control as imported: the template. */
  readonly controlFile: Uint8Array
  readonly timeSeconds: number
}

/**
 * Makes the checkpoint at X, and appends nothing. Errors: `bad_lsn` where X is not a record end, `timeout` or
 * `unavailable` where storage does not get there in time.
 */
export async function prepareCheckpoint(options: PrepareCheckpointOptions): Promise<PreparedCheckpoint> {
  const atLsn = asRecordEnd(options.lsn, options.postgres.walSegmentBytes)
  checkSource(options, atLsn)
  const [control, last] = await Promise.all([
    readControlState(options, atLsn),
    lastRecordAtOrBefore(options, atLsn),
  ])
  if (last.nextLsn !== atLsn) {
    throw fail('bad_lsn', `no WAL record ends at ${formatLsn(atLsn)}`, {
      hint: `The nearest record end before it is ${formatLsn(last.nextLsn)}.`,
    })
  }
  const { state, controlFile } = control
  const timeSeconds = Math.floor(seamsOf(options).clock.wallMs() / 1000)
  const prevLsn = last.recordLsn
  const wal = walIdentityOf(options)
  const forged =
    shutdownCheckpointOf(last) ?? forgeShutdownCheckpoint({ state, atLsn, prevLsn, wal, timeSeconds })
  return { atLsn, prevLsn, forged, state, controlFile, timeSeconds }
}

/** The record as a checkpoint at which a start can begin, if it is one. */
function shutdownCheckpointOf({
  rmid,
  info,
  bytes,
  recordLsn,
  nextLsn,
}: LastRecord): ForgedCheckpoint | undefined {
  if (rmid !== RM_XLOG_ID || (info & ~XLR_INFO_MASK) !== XLOG_CHECKPOINT_SHUTDOWN) return undefined
  // Header 24 bytes, short data header 2.
  const checkpoint = bytes.subarray(bytes.length - CHECKPOINT_BYTES)
  assert(
    bytes.length === 26 + CHECKPOINT_BYTES,
    () => `shutdown checkpoint of ${bytes.length} bytes at ${formatLsn(recordLsn)}`,
  )
  return { bytes: new Uint8Array(0), recordLsn, nextLsn, checkpoint }
}

interface ControlState {
  readonly state: TrackerState
  readonly controlFile: Uint8Array
}

async function readControlState(options: PgdataSource, atLsn: Lsn): Promise<ControlState> {
  const address = options.pageservers[0] as string
  const client = pageserverClient(options.rpc, address)
  try {
    const { timeline, signal } = options
    const shard = { number: 0, client, peer: `pageserver ${address}` }
    const { tracker, controlFile } = await whileShardMoves(options, shard, () =>
      client.controlState(timeline, shardRefOf(options, 0), atLsn, { signal }),
    )
    const { major, systemId } = parseControlFile(controlFile)
    const { postgres } = options
    if (major !== postgres.major || systemId !== postgres.systemId) {
      throw fail('conflict', `pg_control in storage is of PostgreSQL ${major}, system ${systemId}`, {
        detail: `the timeline's is PostgreSQL ${postgres.major}, system ${postgres.systemId}`,
      })
    }
    return { state: decodeTrackerState(tracker), controlFile }
  } finally {
    client.close()
  }
}
