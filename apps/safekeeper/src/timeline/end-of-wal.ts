/** Finds where the WAL of a timeline really ends: after the last whole record that decodes, its CRC included. */
import {
  advance,
  formatLsn,
  isErrorCode,
  offsetInSegment,
  fail,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { WalStreamDecoder, crc32c } from '@understory/postgres/wal'
import type { WalFiles } from './wal-files.ts'

export interface EndOfWal {
  readonly endLsn: Lsn
  /** Start of the last record before it; undefined where none was seen. */
  readonly lastRecordLsn: Lsn | undefined
  /** Why it ends there, if not because the files end. */
  readonly reason: string | undefined
}

export interface DecoderPlace {
  /** A record end; with `findFirst` a segment's start that may lie within a record. */
  readonly startLsn: Lsn
  readonly findFirst: boolean
  readonly prevLsn?: Lsn | undefined
}

/**
 * A decoder of the timeline's stream. Its first page may begin inside a record that was never taken in. Where nothing
 * but the ends of whole records counts, bodies are not kept: a record may have a gigabyte.
 */
export function decoderAt(
  identity: PostgresIdentity,
  { startLsn, findFirst, prevLsn }: DecoderPlace,
  keepsBody: (rmid: number) => boolean = () => false,
): WalStreamDecoder {
  const { major, systemId, pgTimelineId, walSegmentBytes: segmentBytes } = identity
  return new WalStreamDecoder({
    startLsn,
    findFirst,
    major,
    systemId,
    timelineId: pgTimelineId,
    segmentBytes,
    keepsBody,
    ...(prevLsn === undefined ? {} : { prevLsn }),
  })
}

/**
 * Decodes from the start of the segment that ends at `commitLsn` or holds it. Errors: `bad_file` where the WAL
 * ends before `commitLsn`: then this copy is damaged and must not be cut there (I3).
 */
export async function findEndOfWal(
  files: WalFiles,
  identity: PostgresIdentity,
  commitLsn: Lsn,
  timelineStartLsn: Lsn,
): Promise<EndOfWal> {
  if (commitLsn === timelineStartLsn) return scan(files, identity, { startLsn: commitLsn, findFirst: true })
  const { walSegmentBytes: segmentBytes } = identity
  const last = advance(commitLsn, -1)
  const damaged = (why: string): Error =>
    fail('bad_file', `WAL is damaged before its committed position ${formatLsn(commitLsn)}`, {
      detail: why,
      hint: 'Replace this safekeeper: the others have everything that was committed.',
    })
  const bytes = await files.readSegment(segmentOf(last, segmentBytes))
  if (bytes === undefined || bytes.length <= offsetInSegment(last, segmentBytes))
    throw damaged('its segment is missing or cut off')
  // Further back while no record that starts there is whole: the one that ends at `commitLsn` began earlier.
  for (let segment = segmentOf(last, segmentBytes); ; segment--) {
    const startLsn = segmentStart(segment, segmentBytes)
    const found = await scan(files, identity, { startLsn, findFirst: true })
    if (found.endLsn >= commitLsn) return found
    if (found.lastRecordLsn !== undefined || startLsn <= timelineStartLsn)
      throw damaged(found.reason ?? `it ends at ${formatLsn(found.endLsn)}`)
    if ((await files.readSegment(segment - 1)) === undefined)
      return scan(files, identity, { startLsn: commitLsn, findFirst: false })
  }
}

/**
 * Makes the WAL between two record ends durable, which a process before this one may have left unsynced. Written again,
 * not only synced: after a sync that failed the kernel calls pages clean that the disk does not have. The checked bytes
 * themselves are written, so that a bit that flips on the way is not made to last. Errors: `bad_file`.
 */
export async function rewriteTail(
  files: WalFiles,
  identity: PostgresIdentity,
  place: DecoderPlace,
  endLsn: Lsn,
): Promise<void> {
  const decoder = decoderAt(identity, place)
  const damaged = (cause?: unknown): Error =>
    fail('bad_file', `WAL up to ${formatLsn(endLsn)} does not read the same twice`, { cause })
  const parts = [...files.parts(place.startLsn, endLsn)]
  const sums: number[] = []
  try {
    for (const part of parts) {
      const wal = await files.read(part.startLsn, part.endLsn)
      decoder.push(part.startLsn, wal)
      while (decoder.next());
      sums.push(crc32c(wal, 0, wal.length))
    }
  } catch (error) {
    if (isErrorCode(error, 'bad_wal') || isErrorCode(error, 'unknown_wal')) throw damaged(error)
    throw error
  }
  if (decoder.recordEndLsn !== endLsn) throw damaged()
  for (const [index, part] of parts.entries()) {
    const wal = await files.read(part.startLsn, part.endLsn)
    if (crc32c(wal, 0, wal.length) !== sums[index]) throw damaged()
    await files.write(part.startLsn, [wal])
  }
}

async function scan(files: WalFiles, identity: PostgresIdentity, place: DecoderPlace): Promise<EndOfWal> {
  const { walSegmentBytes: segmentBytes } = identity
  const { startLsn } = place
  const decoder = decoderAt(identity, place)
  const end = (reason: string | undefined): EndOfWal => {
    const { recordEndLsn, lastRecordLsn } = decoder
    return {
      endLsn: recordEndLsn,
      lastRecordLsn: recordEndLsn === startLsn ? undefined : lastRecordLsn,
      reason,
    }
  }
  for (let at = startLsn; ; at = segmentStart(segmentOf(at, segmentBytes) + 1, segmentBytes)) {
    const bytes = await files.readSegment(segmentOf(at, segmentBytes))
    const offset = offsetInSegment(at, segmentBytes)
    if (bytes === undefined || bytes.length <= offset) return end(undefined)
    try {
      decoder.push(at, bytes.subarray(offset))
      while (decoder.next());
    } catch (error) {
      if (isErrorCode(error, 'bad_wal') || isErrorCode(error, 'unknown_wal')) return end(error.message)
      throw error
    }
    if (bytes.length < segmentBytes) return end(`its segment is cut off at ${bytes.length} bytes`)
  }
}
