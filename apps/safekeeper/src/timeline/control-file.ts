/**
 * The control file of a timeline: what an acceptor must not forget. There are two copies, each replaced as a whole
 * (temporary file, sync, rename, sync of the folder), and nothing is answered before both are: where one is damaged the
 * other has all that was ever answered. Little-endian:
 *
 *   0   magic     "USAFEKPR"
 *   8   version   u32 = 1
 *   12  length    u32  of all that follows but the checksum
 *   16  major u16 | zero u16 | pgTimelineId u32 | systemId u64 | walSegmentBytes u32 | zero u32
 *   40  membershipGeneration u64 | term u64 | timelineStartLsn u64 | commitLsn u64
 *   72  election u8 (0 none, 1 adopt, 2 rebuild) | zero u8 x3 | historyCount u32
 *   80  historyCount x (term u64, startLsn u64)
 *   ..  crc32c    u32  of everything before
 */
import { join } from 'node:path'
import { Cursor, LSN_ZERO, isErrorCode, lsnHigh, lsnLow, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { isWellFormedHistory, lastTermStart } from '@understory/consensus'
import type { AcceptorControl, ElectionKind, TermStart } from '@understory/consensus'
import type { Disk } from '@understory/env'
import { isPostgresMajor } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { crc32c } from '@understory/postgres/wal'

export interface ControlFile {
  readonly postgres: PostgresIdentity
  readonly acceptor: AcceptorControl
}

const MAGIC = 'USAFEKPR'
const VERSION = 1
const HEAD_BYTES = 16
const FIXED_BYTES = 80
const ELECTIONS: readonly (ElectionKind | undefined)[] = [undefined, 'adopt', 'rebuild']

export function encodeControlFile({ postgres, acceptor }: ControlFile): Uint8Array {
  const { history } = acceptor
  const size = FIXED_BYTES + history.length * 16 + 4
  const bytes = new Uint8Array(size)
  const view = new DataView(bytes.buffer)
  const u64 = (at: number, value: number): void => {
    view.setUint32(at, lsnLow(value as Lsn), true)
    view.setUint32(at + 4, lsnHigh(value as Lsn), true)
  }
  bytes.set(new TextEncoder().encode(MAGIC))
  view.setUint32(8, VERSION, true)
  view.setUint32(12, size - HEAD_BYTES - 4, true)
  view.setUint16(16, postgres.major, true)
  view.setUint32(20, postgres.pgTimelineId, true)
  view.setBigUint64(24, postgres.systemId, true)
  view.setUint32(32, postgres.walSegmentBytes, true)
  u64(40, acceptor.membershipGeneration)
  u64(48, acceptor.term)
  u64(56, acceptor.timelineStartLsn)
  u64(64, acceptor.commitLsn)
  view.setUint8(72, ELECTIONS.indexOf(acceptor.election))
  view.setUint32(76, history.length, true)
  history.forEach(({ term, startLsn }, index) => {
    u64(FIXED_BYTES + index * 16, term)
    u64(FIXED_BYTES + index * 16 + 8, startLsn)
  })
  view.setUint32(size - 4, crc32c(bytes, 0, size - 4), true)
  return bytes
}

export const controlPaths = (folder: string): readonly [string, string] => [
  join(folder, 'control'),
  join(folder, 'control.2'),
]

/** Both copies. */
export async function writeControlFile(disk: Disk, folder: string, file: ControlFile): Promise<void> {
  const bytes = encodeControlFile(file)
  for (const path of controlPaths(folder)) await disk.durableReplace(path, bytes)
}

/** Whether there is any copy: a folder without one is not a timeline. */
export async function hasControlFile(disk: Disk, folder: string): Promise<boolean> {
  for (const path of controlPaths(folder)) if ((await disk.stat(path)) !== undefined) return true
  return false
}

export interface FoundControl {
  readonly control: ControlFile
  /** The damage of a copy, or undefined. */
  readonly problem: unknown
}

/** The newest copy that is whole. Errors: `bad_file` where none is. */
export async function readControlFile(disk: Disk, folder: string): Promise<FoundControl> {
  let control: ControlFile | undefined
  let problem: unknown
  for (const path of controlPaths(folder)) {
    try {
      const copy = decodeControlFile(await disk.readFile(path), path)
      if (control === undefined || isNewer(copy.acceptor, control.acceptor)) control = copy
    } catch (error) {
      if (!isErrorCode(error, 'bad_file') && !isErrorCode(error, 'not_found')) throw error
      problem ??= error
    }
  }
  if (control === undefined) throw problem
  return { control, problem }
}

/** Nothing of it ever goes back. */
function isNewer(a: AcceptorControl, b: AcceptorControl): boolean {
  const order = ({ membershipGeneration, term, history, commitLsn }: AcceptorControl): number[] => [
    membershipGeneration,
    term,
    lastTermStart(history).term,
    commitLsn,
  ]
  const ofB = order(b)
  const difference = order(a)
    .map((value, index) => value - (ofB[index] as number))
    .find((value) => value !== 0)
  return (difference ?? 0) > 0
}

/** Errors: `bad_file` that names `path`. */
export function decodeControlFile(bytes: Uint8Array, path: string): ControlFile {
  const damage = (what: string): Error =>
    fail('bad_file', `control file "${path}" ${what}`, {
      hint: 'Do not start this timeline from it: the other safekeepers have everything that was committed.',
    })
  if (bytes.length < FIXED_BYTES + 4 || new TextDecoder('latin1').decode(bytes.subarray(0, 8)) !== MAGIC)
    throw damage('is not one')
  const cursor = new Cursor(bytes, `control file "${path}"`, 'bad_file', 8)
  const version = cursor.u32()
  if (version !== VERSION) throw damage(`has version ${version}, not ${VERSION}`)
  if (cursor.u32() !== bytes.length - HEAD_BYTES - 4) throw damage('has the wrong length')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(bytes.length - 4, true) !== crc32c(bytes, 0, bytes.length - 4))
    throw damage('has a wrong checksum')
  const major = cursor.u16()
  cursor.skip(2)
  const pgTimelineId = cursor.u32()
  const systemId = cursor.u64()
  const walSegmentBytes = cursor.u32()
  cursor.skip(4)
  const membershipGeneration = cursor.lsn()
  const term = cursor.lsn()
  const timelineStartLsn = cursor.lsn()
  const commitLsn = cursor.lsn()
  const election = cursor.u8()
  cursor.skip(3)
  const historyCount = cursor.u32()
  if (FIXED_BYTES + historyCount * 16 + 4 !== bytes.length) throw damage('has the wrong length')
  const history = Array.from({ length: historyCount }, (): TermStart => ({
    term: cursor.lsn(),
    startLsn: cursor.lsn(),
  }))
  if (
    !isPostgresMajor(major) ||
    election >= ELECTIONS.length ||
    commitLsn < timelineStartLsn ||
    timelineStartLsn === LSN_ZERO ||
    !isWellFormedHistory(history, timelineStartLsn) ||
    lastTermStart(history).term > term
  ) {
    throw damage('contradicts itself')
  }
  return {
    postgres: { major, pgTimelineId, systemId, walSegmentBytes },
    acceptor: {
      membershipGeneration,
      term,
      history,
      election: ELECTIONS[election],
      timelineStartLsn,
      commitLsn,
    },
  }
}
