/** Which safekeepers hold a timeline. A change goes through a joint configuration, in which both majorities count. */

export interface Membership {
  /** Rises with every change; 0 until membership can be changed. */
  readonly generation: number
  /** Names of the safekeepers, without repeats. */
  readonly members: readonly string[]
  /** During a change: the members to come. */
  readonly newMembers?: readonly string[]
}

/** Whether those that `has` names are a majority, of both lists during a change. */
export function isQuorum(membership: Membership, has: (member: string) => boolean): boolean {
  const { members, newMembers } = membership
  return isMajority(members, has) && (newMembers === undefined || isMajority(newMembers, has))
}

function isMajority(members: readonly string[], has: (member: string) => boolean): boolean {
  let count = 0
  for (const member of members) if (has(member)) count++
  return count * 2 > members.length
}

/** Everyone that takes part, each once. */
export function allMembers({ members, newMembers = [] }: Membership): readonly string[] {
  return [...new Set([...members, ...newMembers])]
}
