/** Which safekeepers hold a timeline, with their addresses; the rules in ../membership.ts take the names alone. */
import type { Membership } from '../membership.ts'

export interface Member {
  /** Its name in the membership. */
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

/** As the rules take it. */
export function rulesOf({ generation, members, newMembers }: KnownMembership): Membership {
  const names = (items: readonly Member[]): string[] => items.map(({ nodeId }) => nodeId)
  return newMembers.length === 0
    ? { generation, members: names(members) }
    : { generation, members: names(members), newMembers: names(newMembers) }
}

/** Every member of both sets, each once. */
export const everyMember = ({ members, newMembers }: KnownMembership): readonly Member[] => [
  ...new Map([...members, ...newMembers].map((member) => [member.nodeId, member])).values(),
]
