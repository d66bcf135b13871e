/** A timeline's files: made for a new one, and read at a start, which cuts a torn tail. */
import { dirname } from 'node:path'
import { assert, describeError, formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { restoreAcceptor } from '@understory/consensus'
import type { AcceptorControl, AcceptorState } from '@understory/consensus'
import type { Disk, Log } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { readControlFile, writeControlFile } from './control-file.ts'
import type { ControlFile } from './control-file.ts'
import { findEndOfWal, rewriteTail } from './end-of-wal.ts'
import { MembershipStore } from './membership-store.ts'
import { beginning, beginsAt } from './wal-check.ts'
import { WalFiles } from './wal-files.ts'

/** A timeline as it is on the disk: whole and durable up to `state.flushLsn`, with nothing beyond it. */
export interface OpenedTimeline {
  readonly identity: PostgresIdentity
  readonly files: WalFiles
  readonly state: AcceptorState
  readonly membership: MembershipStore
  /** Before it nothing is kept here. */
  readonly oldestLsn: Lsn
  /** Start of the last record; undefined where none was seen. */
  readonly lastRecordLsn: Lsn | undefined
}

/** Makes the files of a timeline. The control file comes last: a folder without one is not a timeline. */
export async function createTimelineFiles(
  disk: Disk,
  folder: string,
  identity: PostgresIdentity,
  acceptor: AcceptorControl,
): Promise<void> {
  await disk.makeDirectory(folder)
  // A try before this one may have ended between making a folder and making its name durable.
  await disk.syncDirectory(dirname(folder))
  await disk.syncDirectory(dirname(dirname(folder)))
  await writeControlFile(disk, folder, { postgres: identity, acceptor })
}

/** Reads a timeline from disk and cuts a torn tail. Errors: `bad_file`, `bad_wal`. */
export async function openTimelineFiles(disk: Disk, log: Log, folder: string): Promise<OpenedTimeline> {
  const { control, problem } = await readControlFile(disk, folder)
  if (problem !== undefined) log.warn('control_file_repaired', { problem: describeError(problem) })
  const files = new WalFiles(disk, folder, control.postgres)
  try {
    const membership = await MembershipStore.open(disk, folder)
    return {
      identity: control.postgres,
      files,
      membership,
      ...(await openWal(disk, log, folder, files, control)),
    }
  } catch (error) {
    await files.close()
    throw error
  }
}

async function openWal(
  disk: Disk,
  log: Log,
  folder: string,
  files: WalFiles,
  control: ControlFile,
): Promise<Pick<OpenedTimeline, 'state' | 'oldestLsn' | 'lastRecordLsn'>> {
  const { postgres, acceptor } = control
  const { commitLsn, timelineStartLsn } = acceptor
  const beginsLsn = (await beginsAt(files, postgres, commitLsn)) ? commitLsn : timelineStartLsn
  const { endLsn, lastRecordLsn, reason } = await findEndOfWal(files, postgres, commitLsn, beginsLsn)
  assert(
    endLsn >= commitLsn,
    () => `I3: WAL would be cut at ${endLsn}, below the commit position ${commitLsn}`,
  )
  // The WAL found may never have been synced, and must not be reported before it is; bytes beyond it must not be read
  // as WAL later.
  await writeControlFile(disk, folder, control)
  const place = { startLsn: commitLsn, findFirst: commitLsn === beginsLsn }
  await rewriteTail(files, postgres, place, endLsn)
  await files.truncate(endLsn)
  log.info('timeline_opened', {
    end: formatLsn(endLsn),
    commit: formatLsn(commitLsn),
    term: acceptor.term,
    reason,
  })
  const { startLsn: oldestLsn } = await beginning(files, postgres, beginsLsn)
  return { state: restoreAcceptor(acceptor, endLsn), oldestLsn, lastRecordLsn }
}
