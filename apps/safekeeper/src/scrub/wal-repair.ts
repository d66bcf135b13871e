/**
 * Repairs the committed WAL of a timeline that is not open, with what other safekeepers have. What a donor sends is
 * decoded before it is written, and only whole records are, so that one donor's damage does not become ours.
 *
 * Not repaired, but left to be replaced: a control file whose copies are all damaged (votes may be forgotten with it),
 * and a last segment that is gone (what was acknowledged beyond the commit position went with it).
 */
import { advance, formatLsn, minLsn, offsetInSegment, fail, segmentOf } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Disk, Log } from '@understory/env'
import { isSameIdentity } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { readControlFile } from '../timeline/control-file.ts'
import { decoderAt } from '../timeline/end-of-wal.ts'
import type { DecoderPlace } from '../timeline/end-of-wal.ts'
import { askSources } from '../recovery/recovery.ts'
import type { Found, WalSource } from '../recovery/recovery.ts'
import { beginning, beginsAt, checkWal, isDamage } from '../timeline/wal-check.ts'
import { WalFiles } from '../timeline/wal-files.ts'

export interface RepairOptions {
  readonly disk: Disk
  /** Of the timeline. */
  readonly folder: string
  readonly sources: readonly WalSource[]
  readonly signal: AbortSignal
  readonly log: Log
}

/**
 * Returns how many bytes were replaced. Errors: `bad_file` where it cannot be repaired, `unavailable` where not now.
 */
export async function repairWal({ disk, folder, sources, signal, log }: RepairOptions): Promise<number> {
  const { postgres, acceptor } = (await readControlFile(disk, folder)).control
  const { commitLsn, timelineStartLsn } = acceptor
  const files = new WalFiles(disk, folder, postgres)
  try {
    await assertTailThere(files, postgres, commitLsn, timelineStartLsn)
    let place = await beginning(files, postgres, timelineStartLsn)
    for (let replacedBytes = 0; ;) {
      const check = await checkWal(files, postgres, place, commitLsn)
      if (check.problem === undefined) return replacedBytes
      const { startLsn } = check.place
      log.warn('wal_damaged', { at: formatLsn(startLsn), problem: check.problem })
      place = await replaceFrom(files, postgres, check.place, commitLsn, sources, signal)
      replacedBytes += place.startLsn - startLsn
    }
  } finally {
    await files.close()
  }
}

async function assertTailThere(
  files: WalFiles,
  identity: PostgresIdentity,
  commitLsn: Lsn,
  timelineStartLsn: Lsn,
): Promise<void> {
  const { walSegmentBytes: segmentBytes } = identity
  if (commitLsn === timelineStartLsn || (await beginsAt(files, identity, commitLsn))) return
  const last = offsetInSegment(commitLsn, segmentBytes) === 0 ? advance(commitLsn, -1) : commitLsn
  const bytes = await files.readSegment(segmentOf(last, segmentBytes))
  if (bytes?.length === segmentBytes) return
  throw fail('bad_file', `the WAL segment at ${formatLsn(last)} is missing or cut off`, {
    hint: 'Replace this safekeeper with `understory safekeeper replace`.',
  })
}

/** From `place` on to some record end at least a segment further, or the commit position. Returns where it got. */
async function replaceFrom(
  files: WalFiles,
  identity: PostgresIdentity,
  place: DecoderPlace,
  commitLsn: Lsn,
  sources: readonly WalSource[],
  signal: AbortSignal,
): Promise<DecoderPlace> {
  const wantedLsn = minLsn(commitLsn, advance(place.startLsn, identity.walSegmentBytes))
  const donors = (await askSources(sources, signal)).filter(
    ({ status }) => isSameIdentity(status.identity, identity) && status.commitLsn >= wantedLsn,
  )
  for (const donor of donors) {
    const upTo = await wholeUpTo(donor, identity, place, wantedLsn, commitLsn, signal)
    if (upTo === undefined) continue
    let at = place.startLsn
    for await (const wal of donor.source.read(at, upTo.startLsn, signal)) {
      await files.write(at, [wal])
      at = advance(at, wal.length)
    }
    return upTo
  }
  throw fail(
    'unavailable',
    `no other safekeeper that answers has whole WAL from ${formatLsn(place.startLsn)} on`,
  )
}

/** The record end up to which the donor's WAL is whole, `wantedLsn` or further; undefined where it is damaged too. */
async function wholeUpTo(
  { source, status }: Found,
  identity: PostgresIdentity,
  place: DecoderPlace,
  wantedLsn: Lsn,
  commitLsn: Lsn,
  signal: AbortSignal,
): Promise<DecoderPlace | undefined> {
  const decoder = decoderAt(identity, place)
  let at = place.startLsn
  try {
    for await (const wal of source.read(at, minLsn(commitLsn, status.commitLsn), signal)) {
      decoder.push(at, wal)
      while (decoder.next());
      at = advance(at, wal.length)
      if (at >= wantedLsn && decoder.recordEndLsn > place.startLsn) break
    }
  } catch (error) {
    if (isDamage(error)) return undefined
    throw error
  }
  const { recordEndLsn, lastRecordLsn } = decoder
  if (recordEndLsn === place.startLsn) return undefined
  return { startLsn: recordEndLsn, findFirst: false, prevLsn: lastRecordLsn }
}
