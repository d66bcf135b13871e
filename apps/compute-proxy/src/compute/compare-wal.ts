/** Whether the WAL of a Postgres that lives is what a safekeeper has: byte for byte, as far as it may differ. */
import {
  advance,
  formatLsn,
  maxLsn,
  minLsn,
  offsetInSegment,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import { openFileWithin } from '@understory/env'
import { walFileName } from '@understory/postgres/wal'

/** So much of what is equal for certain is compared all the same. */
const ALREADY_KNOWN_BYTES = 1024 * 1024

export interface LocalWal {
  readonly pgdata: string
  readonly pgTimelineId: number
  readonly segmentBytes: number
  /** Where this Postgres began to write. */
  readonly startLsn: Lsn
  /** That was confirmed to it: a quorum has all before, and Postgres keeps what follows. */
  readonly confirmedLsn: Lsn
  /** As far as it is written. */
  readonly flushLsn: Lsn
}

/** Undefined where they are equal up to `endLsn`, or else how they differ. */
export type WalDifference = string | undefined

/** WAL of the safekeeper, [startLsn, endLsn), piece by piece. */
export type ReadDonor = (startLsn: Lsn, endLsn: Lsn) => AsyncIterable<Uint8Array>

/** Errors: those of the donor and of the disk; the caller takes them for a difference. */
export async function compareWal(local: LocalWal, endLsn: Lsn, readDonor: ReadDonor): Promise<WalDifference> {
  const { startLsn, confirmedLsn, flushLsn, segmentBytes } = local
  // I3: a quorum has what was confirmed, so the log that won ends behind it.
  if (endLsn < confirmedLsn)
    return `the log of the safekeepers ends at ${formatLsn(endLsn)}, before ${formatLsn(confirmedLsn)}, which was confirmed`
  if (endLsn > flushLsn)
    return `Postgres has written up to ${formatLsn(flushLsn)}, and the log of the safekeepers ends at ${formatLsn(endLsn)}`
  // Segments before are Postgres's to remove.
  const keptLsn = maxLsn(startLsn, segmentStart(segmentOf(confirmedLsn, segmentBytes), segmentBytes))
  const known = Math.max(keptLsn, endLsn - ALREADY_KNOWN_BYTES) as Lsn
  let at = maxLsn(keptLsn, minLsn(confirmedLsn, known))
  if (endLsn === at) return undefined
  for await (const bytes of readDonor(at, endLsn)) {
    const difference = await differenceWithin(local, at, bytes)
    if (difference !== undefined) return difference
    at = advance(at, bytes.length)
  }
  return at === endLsn ? undefined : `a safekeeper returned WAL to ${formatLsn(at)} alone`
}

async function differenceWithin(local: LocalWal, startLsn: Lsn, bytes: Uint8Array): Promise<WalDifference> {
  const { pgdata, pgTimelineId, segmentBytes } = local
  for (let done = 0; done < bytes.length;) {
    const at = advance(startLsn, done)
    const offset = offsetInSegment(at, segmentBytes)
    const length = Math.min(bytes.length - done, segmentBytes - offset)
    const name = walFileName(pgTimelineId, segmentOf(at, segmentBytes), segmentBytes)
    await using file = await openFileWithin(pgdata, `pg_wal/${name}`)
    if (file === undefined) return `Postgres has no file "${name}" any more`
    const own = Buffer.alloc(length)
    const { bytesRead } = await file.read(own, 0, length, offset)
    if (bytesRead < length || own.compare(bytes, done, done + length) !== 0)
      return `WAL behind ${formatLsn(at)} is not what the safekeepers have`
    done += length
  }
  return undefined
}
