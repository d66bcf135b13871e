/** Reads WAL through that is on disk, and says where it is whole: every record's CRC, chain and page headers. */
import {
  advance,
  describeError,
  isErrorCode,
  maxLsn,
  minLsn,
  offsetInSegment,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { decoderAt } from './end-of-wal.ts'
import type { DecoderPlace } from './end-of-wal.ts'
import type { WalFiles } from './wal-files.ts'

/** Taken at a time: others get a turn between. */
const PART_BYTES = 1024 * 1024

export interface WalCheck {
  /** Where the first record begins that is not whole; `endLsn` where all are. */
  readonly place: DecoderPlace
  /** The damage there, or undefined. */
  readonly problem: string | undefined
}

/** Where the WAL that is kept here begins. */
export async function beginning(
  files: WalFiles,
  { walSegmentBytes: segmentBytes }: PostgresIdentity,
  timelineStartLsn: Lsn,
): Promise<DecoderPlace> {
  const [first] = await files.segments()
  const startLsn =
    first === undefined ? timelineStartLsn : maxLsn(timelineStartLsn, segmentStart(first, segmentBytes))
  return { startLsn, findFirst: true }
}

/** Whether the WAL that is kept here begins at `lsn`, be it that there is none yet. */
export async function beginsAt(
  files: WalFiles,
  { walSegmentBytes: segmentBytes }: PostgresIdentity,
  lsn: Lsn,
): Promise<boolean> {
  if (offsetInSegment(lsn, segmentBytes) !== 0) return false
  const [first] = await files.segments()
  return first === undefined || first === segmentOf(lsn, segmentBytes)
}

/** From `from` to the record end `endLsn`. `afterPart` may slow it down, or end it by rejecting. */
export async function checkWal(
  files: Pick<WalFiles, 'read'>,
  identity: PostgresIdentity,
  from: DecoderPlace,
  endLsn: Lsn,
  afterPart?: () => Promise<void>,
): Promise<WalCheck> {
  const decoder = decoderAt(identity, from)
  let problem: string | undefined
  for (let at = from.startLsn; at < endLsn && problem === undefined;) {
    const to = minLsn(endLsn, advance(at, PART_BYTES - (at % PART_BYTES)))
    try {
      decoder.push(at, await files.read(at, to))
      while (decoder.next());
    } catch (error) {
      if (!isDamage(error)) throw error
      problem = describeError(error)
    }
    at = to
    await afterPart?.()
  }
  const { recordEndLsn, lastRecordLsn } = decoder
  // All of it may be the end of one record, whose beginning is not kept here any more: its CRC says nothing then.
  const isWithinRecord = from.findFirst && recordEndLsn === from.startLsn
  if (problem === undefined && recordEndLsn < endLsn && !isWithinRecord)
    problem = 'its last record is not whole'
  if (recordEndLsn === from.startLsn) return { place: from, problem }
  return { place: { startLsn: recordEndLsn, findFirst: false, prevLsn: lastRecordLsn }, problem }
}

/** Whether it is the error of reading WAL or a control file whose bytes are not those that were written. */
export const isDamage = (error: unknown): boolean =>
  isErrorCode(error, 'bad_wal') ||
  isErrorCode(error, 'unknown_wal') ||
  isErrorCode(error, 'bad_file') ||
  isErrorCode(error, 'not_found')
