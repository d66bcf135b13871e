/** Which safekeepers hold a timeline, with their addresses; the rules of libs/consensus take the names alone. */
import { isAddress, parseNodeId, refuse } from '@understory/base'
import type { Membership } from '@understory/consensus'
import type { Membership as MembershipMessage, SafekeeperMember } from '@understory/rpc'
import { readGeneration } from './numbers.ts'

export interface Member {
  readonly nodeId: string
  /** host:port */
  readonly address: string
}

export interface KnownMembership {
  /** Rises with every change; 0 = as the timeline was created. */
  readonly generation: number
  readonly members: readonly Member[]
  /** During a change the members to come; empty otherwise. */
  readonly newMembers: readonly Member[]
}

const MEMBERS_COUNT_MAX = 100

/** Error: refused `bad_argument`. */
export function readMembership(message: MembershipMessage | undefined): KnownMembership {
  if (message === undefined || message.members.length === 0)
    throw refuse('bad_argument', 'the membership names no members')
  const generation = readGeneration('membership', message.generation)
  return { generation, members: readMembers(message.members), newMembers: readMembers(message.newMembers) }
}

/** Error: refused `bad_argument`. */
export function readMembers(members: readonly SafekeeperMember[]): Member[] {
  if (members.length > MEMBERS_COUNT_MAX)
    throw refuse('bad_argument', `${members.length} safekeepers are too many`)
  return members.map(({ nodeId, address }) => ({
    nodeId: parseNodeId(nodeId),
    address: readAddress('safekeeper', address),
  }))
}

/** Of safekeepers that are known by address alone. Error: refused `bad_argument`. */
export function readSafekeeperAddresses(addresses: readonly string[]): readonly string[] {
  if (addresses.length > MEMBERS_COUNT_MAX)
    throw refuse('bad_argument', `${addresses.length} safekeepers are too many`)
  return addresses.map((address) => readAddress('safekeeper', address))
}

function readAddress(what: string, address: string): string {
  if (isAddress(address)) return address
  throw refuse('bad_argument', `${what} address "${address}" is malformed`, {
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

/** As the rules of libs/consensus take it. */
export function rulesOf({ generation, members, newMembers }: KnownMembership): Membership {
  const names = (items: readonly Member[]): string[] => items.map(({ nodeId }) => nodeId)
  return newMembers.length === 0
    ? { generation, members: names(members) }
    : { generation, members: names(members), newMembers: names(newMembers) }
}

/** Everyone that takes part, each once. */
export const everyMember = ({ members, newMembers }: KnownMembership): readonly Member[] => [
  ...new Map([...members, ...newMembers].map((member) => [member.nodeId, member])).values(),
]
