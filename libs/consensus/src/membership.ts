/**
 * Which safekeepers hold a timeline. A change goes through a joint membership, in which both majorities count:
 *
 *     { members: A }  startChange  { members: A, newMembers: B }  finishChange  { members: B }
 *                                                                 abortChange   { members: A }
 *
 * Every arrow is one compare-and-swap on the timeline's membership document, so that no two memberships share a
 * generation. Acceptors keep the newest generation they learned and refuse older ones. After Neon's TLA+
 * specification (ProposerAcceptorReconfig.tla).
 */
import { assert } from '@understory/base'
import type { Lsn } from '@understory/base'
import { compareLogs } from './term-history.ts'

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

/** Every member of both sets, each once. */
export function allMembers({ members, newMembers = [] }: Membership): readonly string[] {
  return [...new Set([...members, ...newMembers])]
}

/** The report of a member about itself. */
export interface MemberStatus {
  readonly membershipGeneration: number
  readonly term: number
  readonly lastLogTerm: number
  readonly flushLsn: Lsn
}

export function startChange(membership: Membership, newMembers: readonly string[]): Membership {
  assert(membership.newMembers === undefined, () => `a change is under way in ${membership.generation}`)
  return { generation: membership.generation + 1, members: membership.members, newMembers }
}

export function abortChange({ generation, members }: Membership): Membership {
  return { generation: generation + 1, members }
}

/**
 * The new members alone, once that is safe; otherwise undefined. Safe means that a majority of the old members knows of
 * the joint membership, so that no older one elects or commits any more, and that a majority of the new ones knows of
 * it too and has at least the log and the term of every old member that was asked. `status` gives what each member said
 * after the change was begun.
 */
export function finishChange(
  membership: Membership,
  status: (member: string) => MemberStatus | undefined,
): Membership | undefined {
  const { generation, members, newMembers } = membership
  assert(newMembers !== undefined, () => `no change is under way in ${generation}`)
  const aware = (member: string): MemberStatus | undefined => {
    const found = status(member)
    return found?.membershipGeneration === generation ? found : undefined
  }
  const old = members.map(aware).filter((found) => found !== undefined)
  if (old.length * 2 <= members.length) return undefined
  const isSynced = (member: string): boolean => {
    const found = aware(member)
    return (
      found !== undefined && old.every((other) => compareLogs(found, other) >= 0 && found.term >= other.term)
    )
  }
  return isMajority(newMembers, isSynced) ? { generation: generation + 1, members: newMembers } : undefined
}
