/** Which safekeepers count, as the control plane's spec or a safekeeper tells it. */
import { refuse } from '@understory/base'
import type { Membership } from '@understory/consensus'
import type { Membership as MembershipMessage } from '@understory/rpc'

/** A member's name and where it is. */
export interface Member {
  readonly name: string
  /** host:port */
  readonly address: string
}

export interface KnownMembership {
  readonly generation: number
  readonly members: readonly Member[]
  /** During a change the members to come; empty otherwise. */
  readonly newMembers: readonly Member[]
}

/** Of a timeline whose membership never changed: a safekeeper's address is its name. */
export const asMade = (addresses: readonly string[]): KnownMembership => ({
  generation: 0,
  members: addresses.map((address) => ({ name: address, address })),
  newMembers: [],
})

/** Error: refused `bad_argument`. */
export function readMembership({ generation, members, newMembers }: MembershipMessage): KnownMembership {
  if (members.length === 0) throw refuse('bad_argument', 'the membership names no members')
  const plain = (items: MembershipMessage['members']): Member[] =>
    items.map(({ nodeId, address }) => ({ name: nodeId, address }))
  return { generation: Number(generation), members: plain(members), newMembers: plain(newMembers) }
}

const writeMembership = ({ generation, members, newMembers }: KnownMembership): MembershipMessage => ({
  generation: BigInt(generation),
  members: members.map(({ name, address }) => ({ nodeId: name, address })),
  newMembers: newMembers.map(({ name, address }) => ({ nodeId: name, address })),
})

/** As the rules of libs/consensus take it. */
export function rulesOf({ generation, members, newMembers }: KnownMembership): Membership {
  const names = (items: readonly Member[]): string[] => items.map(({ name }) => name)
  return newMembers.length === 0
    ? { generation, members: names(members) }
    : { generation, members: names(members), newMembers: names(newMembers) }
}

/** Undefined where names are only addresses. */
export const tellMembership = (known: KnownMembership): MembershipMessage | undefined =>
  everyMember(known).some(({ name, address }) => name !== address) ? writeMembership(known) : undefined

/** Everyone that takes part, each once. */
export const everyMember = ({ members, newMembers }: KnownMembership): readonly Member[] => [
  ...new Map([...members, ...newMembers].map((member) => [member.name, member])).values(),
]
