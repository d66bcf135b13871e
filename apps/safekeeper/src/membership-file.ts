/**
 * Which safekeepers hold a timeline, as this one was last told: a JSON line and its CRC-32C in hexadecimal. It finds
 * peers, tells proposers of a change that they missed, and tells a member that it is none any more. The rules rest on
 * the generation in the control file alone, so that a lost or damaged file costs nothing but these.
 */
import { isAddress, isErrorCode, parseNodeId, refuse } from '@understory/base'
import type { Disk } from '@understory/env'
import { crc32c } from '@understory/postgres/wal'
import type { Membership as MembershipMessage } from '@understory/rpc'
import { readGeneration } from './history-message.ts'

export interface Member {
  readonly nodeId: string
  /** host:port */
  readonly address: string
}

export interface KnownMembership {
  readonly generation: number
  readonly members: readonly Member[]
  /** During a change the members to come; empty otherwise. */
  readonly newMembers: readonly Member[]
}

const VERSION = 1
const MEMBERS_COUNT_MAX = 100

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

/** Error: refused `bad_argument`. */
export function readMembership(message: MembershipMessage | undefined): KnownMembership {
  if (message === undefined || message.members.length === 0)
    throw refuse('bad_argument', 'the membership names no members')
  const generation = readGeneration(message.generation)
  return { generation, members: readMembers(message.members), newMembers: readMembers(message.newMembers) }
}

/** Error: refused `bad_argument`. */
export function readMembers(members: readonly Member[]): Member[] {
  if (members.length > MEMBERS_COUNT_MAX)
    throw refuse('bad_argument', `${members.length} safekeepers are too many`)
  return members.map(({ nodeId, address }) => {
    if (!isAddress(address))
      throw refuse('bad_argument', `"${address}" is no address`, { hint: 'Write it as host:port.' })
    return { nodeId: parseNodeId(nodeId), address }
  })
}

export const writeMembership = ({ generation, members, newMembers }: KnownMembership): MembershipMessage => ({
  generation: BigInt(generation),
  members: [...members],
  newMembers: [...newMembers],
})

/** Everyone that takes part, each once. */
export function everyMember({ members, newMembers }: KnownMembership): readonly Member[] {
  return [...new Map([...members, ...newMembers].map((member) => [member.nodeId, member])).values()]
}

interface Told {
  readonly membership: KnownMembership | undefined
  onMembership(listener: () => void): () => void
}

/** Calls back, at once or later, when a membership without `nodeId` is known; returns how to stop that. */
export function onLeftOut(timeline: Told, nodeId: string, leftOut: (error: Error) => void): () => void {
  const look = (): void => {
    const { membership } = timeline
    if (membership === undefined || everyMember(membership).some((member) => member.nodeId === nodeId)) return
    const { generation } = membership
    leftOut(
      refuse('stale', `"${nodeId}" holds this timeline no more since membership generation ${generation}`, {
        hint: 'Ask one of its members; see `understory safekeeper list`.',
      }),
    )
  }
  look()
  return timeline.onMembership(look)
}
