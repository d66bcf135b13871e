/** WAL of a real Postgres under a load, in memory: whole segments up to a record end, and where records end in it. */
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { LSN_ZERO, advance, bytesBetween, isErrorCode, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import {
  WAL_SEGMENT_BYTES,
  WalStreamDecoder,
  XLogLongPageHeader,
  parseWalFileName,
} from '@understory/postgres/wal'
import type { PostgresMajor } from '@understory/testcontainers'
import { makeWal } from '../redo/wal-source.ts'
import type { Load } from '../redo/wal-source.ts'

export interface RecordedWal {
  readonly identity: PostgresIdentity
  /** Start of a segment. */
  readonly startLsn: Lsn
  /** A record end. */
  readonly endLsn: Lsn
  /** Of [startLsn, endLsn). */
  readonly bytes: Uint8Array
  /** A record end about every 64 KiB, in order; the first is that of the first record. */
  readonly recordEnds: readonly Lsn[]
}

const RECORD_ENDS_DISTANCE_BYTES = 64 * 1024

export async function recordWal(
  major: PostgresMajor,
  load: Load,
  folder: string,
  megabytes: number,
): Promise<RecordedWal> {
  const { directory } = await makeWal({ major, load, fullPageWrites: false, folder, megabytes })
  const walFolder = join(directory, 'pg_wal')
  const names = (await readdir(walFolder)).filter((name) => /^[0-9A-F]{24}$/.test(name)).toSorted()
  const [first] = names
  if (first === undefined) throw fail('precondition', 'Postgres has left no WAL')
  const place = parseWalFileName(first, WAL_SEGMENT_BYTES)
  if (place === undefined) throw fail('precondition', `"${first}" does not name a segment`)
  const bytes = Buffer.concat(await Promise.all(names.map((name) => readFile(join(walFolder, name)))))
  const identity: PostgresIdentity = {
    major,
    systemId: XLogLongPageHeader.systemId.get(new DataView(bytes.buffer, bytes.byteOffset), 0),
    pgTimelineId: 1,
    walSegmentBytes: WAL_SEGMENT_BYTES,
  }
  const { startLsn } = place
  const recordEnds = recordEndsOf(startLsn, bytes)
  const endLsn = recordEnds.at(-1) ?? startLsn
  return { identity, startLsn, endLsn, bytes: bytes.subarray(0, bytesBetween(startLsn, endLsn)), recordEnds }
}

/** The last is the end of all that decodes. */
function recordEndsOf(startLsn: Lsn, bytes: Uint8Array): Lsn[] {
  const decoder = new WalStreamDecoder({ startLsn, findFirst: true, keepsBody: () => false })
  const ends: Lsn[] = []
  let lastLsn = LSN_ZERO
  decoder.push(startLsn, bytes)
  try {
    while (decoder.next()) {
      lastLsn = decoder.nextLsn
      if (bytesBetween(ends.at(-1) ?? startLsn, lastLsn) >= RECORD_ENDS_DISTANCE_BYTES || ends.length === 0)
        ends.push(lastLsn)
    }
  } catch (error) {
    // Bytes after the last record of a crashed server do not decode.
    if (!isErrorCode(error, 'bad_wal') && !isErrorCode(error, 'unknown_wal')) throw error
  }
  if (lastLsn > (ends.at(-1) ?? startLsn)) ends.push(lastLsn)
  return ends
}

/** The record end nearest to a part of the whole. */
export function recordEndAt({ startLsn, endLsn, recordEnds }: RecordedWal, part: number): Lsn {
  const goalLsn = advance(startLsn, Math.floor(bytesBetween(startLsn, endLsn) * part))
  return recordEnds.find((end) => end >= goalLsn) ?? endLsn
}
