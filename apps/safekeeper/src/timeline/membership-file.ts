/**
 * Which safekeepers hold a timeline, as last announced to this one: a JSON line and its CRC-32C in hexadecimal. It
 * finds peers, announces a change to proposers that missed it, and its loss of the timeline to a former member. The
 * rules rest on the generation in the control file alone, so that a lost or damaged file costs nothing but these.
 */
import { isErrorCode, fail } from '@understory/base'
import type { Disk } from '@understory/env'
import { everyMember } from '@understory/protocol'
import type { KnownMembership } from '@understory/protocol'
import { crc32c } from '@understory/postgres/wal'

const VERSION = 1

export function encodeMembershipFile({ generation, members, newMembers }: KnownMembership): Uint8Array {
  const line = Buffer.from(`${JSON.stringify({ version: VERSION, generation, members, newMembers })}\n`)
  return Buffer.concat([line, Buffer.from(`${checksum(line)}\n`)])
}

const checksum = (line: Uint8Array): string =>
  (crc32c(line, 0, line.length) >>> 0).toString(16).padStart(8, '0')

/** Undefined where it is damaged or of another version. */
export function decodeMembershipFile(bytes: Uint8Array): KnownMembership | undefined {
  const end = bytes.indexOf(0x0a) + 1
  const line = bytes.subarray(0, end)
  if (end === 0 || Buffer.from(bytes.subarray(end)).toString('latin1') !== `${checksum(line)}\n`)
    return undefined
  const { version, ...membership } = JSON.parse(Buffer.from(line).toString()) as KnownMembership & {
    version: number
  }
  return version === VERSION ? membership : undefined
}

/** Undefined where there is none, or none that can be read. */
export async function readMembershipFile(disk: Disk, path: string): Promise<KnownMembership | undefined> {
  try {
    return decodeMembershipFile(await disk.readFile(path))
  } catch (error) {
    if (isErrorCode(error, 'not_found')) return undefined
    throw error
  }
}

interface Announced {
  readonly membership: KnownMembership | undefined
  onMembership(listener: () => void): () => void
}

/** Calls back, at once or later, when a membership without `nodeId` is known; returns how to stop that. */
export function onLeftOut(timeline: Announced, nodeId: string, leftOut: (error: Error) => void): () => void {
  const look = (): void => {
    const { membership } = timeline
    if (membership === undefined || everyMember(membership).some((member) => member.nodeId === nodeId)) return
    const { generation } = membership
    leftOut(
      fail('stale', `"${nodeId}" has not held this timeline since membership generation ${generation}`, {
        hint: 'Ask one of its members; see `understory safekeeper list`.',
      }),
    )
  }
  look()
  return timeline.onMembership(look)
}
