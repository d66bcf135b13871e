/** Which safekeepers hold a timeline, on the wire and as libs/consensus knows it. */
import { isAddress, parseNodeId, fail } from '@understory/base'
import type { KnownMembership, Member } from '@understory/consensus/driver'
import type { Membership as MembershipMessage, SafekeeperMember } from '@understory/rpc'
import { readGeneration } from './numbers.ts'

const MEMBERS_COUNT_MAX = 100

/** Errors: `bad_argument`. */
export function readMembership(message: MembershipMessage | undefined): KnownMembership {
  if (message === undefined || message.members.length === 0)
    throw fail('bad_argument', 'the membership names no members')
  const generation = readGeneration('membership', message.generation)
  return { generation, members: readMembers(message.members), newMembers: readMembers(message.newMembers) }
}

/** Errors: `bad_argument`. */
export function readMembers(members: readonly SafekeeperMember[]): Member[] {
  if (members.length > MEMBERS_COUNT_MAX)
    throw fail('bad_argument', `${members.length} safekeepers are too many`)
  return members.map(({ nodeId, address }) => ({
    nodeId: parseNodeId(nodeId),
    address: readAddress('safekeeper', address),
  }))
}

/** Of safekeepers that are known by address alone. Errors: `bad_argument`. */
export function readSafekeeperAddresses(addresses: readonly string[]): readonly string[] {
  if (addresses.length > MEMBERS_COUNT_MAX)
    throw fail('bad_argument', `${addresses.length} safekeepers are too many`)
  return addresses.map((address) => readAddress('safekeeper', address))
}

function readAddress(what: string, address: string): string {
  if (isAddress(address)) return address
  throw fail('bad_argument', `${what} address "${address}" is malformed`, {
    hint: 'Write it as host:port.',
  })
}

export const writeMembership = ({ generation, members, newMembers }: KnownMembership): MembershipMessage => ({
  generation: BigInt(generation),
  members: [...members],
  newMembers: [...newMembers],
})

/** Of a timeline whose membership never changed: a safekeeper's address is its name. */
export const initialMembership = (addresses: readonly string[]): KnownMembership => ({
  generation: 0,
  members: addresses.map((address) => ({ nodeId: address, address })),
  newMembers: [],
})
