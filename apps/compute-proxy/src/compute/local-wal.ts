/**
 * Saves the WAL that Postgres wrote to its own disk and did not send before it died. Readers of the local flush
 * position may have reported that WAL to others: an apply worker confirms it to its publisher when the postmaster's
 * death ends its wait for the quorum (syncrep.c SyncRepWaitForLSN; 16, 17, 18 alike), and a logical walsender sends the
 * WAL that is flushed here. As long as this process leads, it hands the rest to the quorum, just as Postgres's own
 * crash recovery would replay it.
 */
import {
  advance,
  describeError,
  formatLsn,
  isErrorCode,
  minLsn,
  offsetInSegment,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import { readWithin } from '@understory/env'
import type { Log } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { WalStreamDecoder, walFileName } from '@understory/postgres/wal'
import type { WalProposer } from '../wal-proposer/wal-proposer.ts'
import { lossError } from '@understory/consensus/driver'
import type { WalReceiver } from '../wal-proposer/wal-receiver.ts'
import { orStopped } from './stoppable.ts'

/** Of WAL that is handed to the quorum at a time, as a walsender does (MAX_SEND_SIZE, walsender.c). */
const PIECE_BYTES = 128 * 1024

/** The content of a WAL segment, or of its beginning; undefined where there is none. */
export type ReadSegment = (segment: number) => Promise<Uint8Array | undefined>

export interface LocalWalOptions {
  readonly segmentBytes: number
  /** End of a record. */
  readonly startLsn: Lsn
  /** Start of that record, if known. */
  readonly prevLsn: Lsn | undefined
}

/** End of the last whole record of an unbroken chain from `startLsn` on; `startLsn` where none follows. */
export async function endOfLocalWal(
  read: ReadSegment,
  { segmentBytes, startLsn, prevLsn }: LocalWalOptions,
): Promise<Lsn> {
  const known = prevLsn === undefined ? {} : { prevLsn }
  // Only where records end: one may have a gigabyte.
  const decoder = new WalStreamDecoder({ startLsn, segmentBytes, keepsBody: () => false, ...known })
  for (let at = startLsn; ; at = segmentStart(segmentOf(at, segmentBytes) + 1, segmentBytes)) {
    const bytes = await read(segmentOf(at, segmentBytes))
    if (bytes === undefined) return decoder.recordEndLsn
    decoder.push(at, bytes.subarray(offsetInSegment(at, segmentBytes), segmentBytes))
    try {
      while (decoder.next());
    } catch (error) {
      // Zeros, or what a recycled file had before.
      if (isErrorCode(error, 'bad_wal') || isErrorCode(error, 'unknown_wal')) return decoder.recordEndLsn
      throw error
    }
    if (bytes.length < segmentBytes) return decoder.recordEndLsn
  }
}

export interface DeadPostgres {
  readonly pgdata: string
  readonly postgres: PostgresIdentity
  readonly receiver: WalReceiver
  readonly proposer: WalProposer
  /** The stream from Postgres, whose processes are gone. */
  readonly streaming: Promise<void>
  readonly signal: AbortSignal
  readonly log: Log
}

/** Returns when a quorum has all of it, or cannot get it: that is logged. */
export async function saveLocalWal(dead: DeadPostgres): Promise<void> {
  const { proposer, signal, log } = dead
  const lost = proposer.lost.then((loss) => {
    throw lossError(loss)
  })
  try {
    await orStopped(Promise.race([save(dead), lost]), signal)
  } catch (error) {
    log.warn('local_wal_not_saved', { problem: describeError(error) })
  }
}

async function save({ pgdata, postgres, receiver, proposer, streaming, log }: DeadPostgres): Promise<void> {
  const { pgTimelineId, walSegmentBytes: segmentBytes } = postgres
  // All WAL that came by it is handed in by then, and how it ended does not matter.
  await streaming.catch(() => undefined)
  const read: ReadSegment = (segment) =>
    readWithin(pgdata, `pg_wal/${walFileName(pgTimelineId, segment, segmentBytes)}`, {
      bytesMax: segmentBytes,
    })
  const fromLsn = receiver.receivedLsn
  const endLsn = await endOfLocalWal(read, { segmentBytes, ...receiver.lastRecord })
  for (let at = fromLsn; at < endLsn;) {
    const segment = segmentOf(at, segmentBytes)
    const bytes = await read(segment)
    const stopLsn = minLsn(endLsn, segmentStart(segment + 1, segmentBytes))
    if (bytes === undefined) return
    while (at < stopLsn) {
      const offset = offsetInSegment(at, segmentBytes)
      const length = Math.min(PIECE_BYTES, stopLsn - at)
      await receiver.take(at, bytes.subarray(offset, offset + length))
      at = advance(at, length)
    }
  }
  if (endLsn <= proposer.commitLsn) return
  await proposer.waitForCommit(endLsn)
  log.info('local_wal_saved', { fromLsn: formatLsn(fromLsn), endLsn: formatLsn(endLsn) })
}
