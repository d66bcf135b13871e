/**
 * A change of the safekeepers of a timeline, as a pure plan over its document. What may follow what is decided by
 * libs/consensus; here is in which order it is brought about:
 *
 *   pull     newcomers copy what is committed, while the members work as before
 *   joint    the document says that both majorities count, under the next generation
 *   finish   a majority of the old members and one of the new know of it, and the new ones have log and term of the
 *            old: the document says that the new members alone count, under the generation after
 *   spread   a majority of the new members knows that, and so do proposer, pageservers and, if they answer, those that
 *            left
 *
 * Where no safekeeper is left (`recoverFromStore`), others begin with what the object store has of the WAL:
 *
 *   pull      the new members, which alone count already, take it from there
 *   rollback  every shard has discarded what it made of WAL beyond it; no compute runs before that
 *   spread    as above
 *
 * Each step is stored when it is done and is idempotent, so that another process continues from the
 * document.
 */
import { formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { abortChange, allMembers, finishChange, startChange } from '@understory/consensus'
import type { MemberStatus, Membership } from '@understory/consensus'
import type { KnownMembership, Member } from '@understory/protocol'
import type { ChangeStepName, SafekeeperChange, TimelineDocument } from '../documents/timeline-document.ts'

const STEPS: readonly ChangeStepName[] = ['pull', 'joint', 'finish', 'spread']
const STORED_STEPS: readonly ChangeStepName[] = ['pull', 'rollback', 'spread']
const MEMBERS_COUNT_MAX = 9
/** More elections than there can have been since the WAL was stored that is left. */
const LOST_TERMS_MAX = 1_000_000

export interface ChangeRequest {
  readonly add: readonly string[]
  readonly remove: readonly string[]
  readonly reason: SafekeeperChange['reason']
}

/** As the rules of libs/consensus take it. */
export function membershipOf({
  membershipGeneration: generation,
  safekeeperNodes: members,
  newSafekeeperNodes: newMembers,
}: TimelineDocument): Membership {
  return newMembers.length === 0 ? { generation, members } : { generation, members, newMembers }
}

/** Last known; empty where the node was never announced. */
export const addressOf = ({ addresses }: TimelineDocument, node: string): string => addresses[node] ?? ''

/** With addresses, as safekeepers and computes are sent it. */
export function knownMembershipOf(timeline: TimelineDocument): KnownMembership {
  const member = (nodeId: string): Member => ({ nodeId, address: addressOf(timeline, nodeId) })
  return {
    generation: timeline.membershipGeneration,
    members: timeline.safekeeperNodes.map(member),
    newMembers: timeline.newSafekeeperNodes.map(member),
  }
}

/** Every safekeeper of both sets, each once. */
export const allSafekeepers = (timeline: TimelineDocument): readonly string[] =>
  allMembers(membershipOf(timeline))

/**
 * The document with the change begun; itself where that very change was asked for before. Errors: `bad_argument`,
 * `precondition`.
 */
export function requestChange(
  timeline: TimelineDocument,
  request: ChangeRequest,
  nowMs: number,
): TimelineDocument {
  const { safekeeperNodes: members, safekeeperChange: last } = timeline
  const add = [...new Set(request.add)]
  const remove = [...new Set(request.remove)]
  const isSame =
    last !== undefined && !last.isCancelled && sameNames(last.add, add) && sameNames(last.remove, remove)
  if (isSame && (isUnderWay(last) || isInForce(timeline, last))) return timeline
  if (last !== undefined && isUnderWay(last)) {
    throw fail('precondition', `a change of the safekeepers is under way: ${describeChange(last)}`, {
      hint: 'It continues by itself; see `understory safekeeper list`.',
    })
  }
  if (!timeline.bootstrapped)
    throw fail('precondition', 'the timeline is not bootstrapped yet', {
      hint: 'Try again when it takes SQL.',
    })
  if (add.length + remove.length === 0) throw fail('bad_argument', 'no safekeeper is named')
  for (const node of add)
    if (members.includes(node)) throw fail('bad_argument', `"${node}" is a safekeeper of this timeline`)
  for (const node of remove)
    if (!members.includes(node)) throw fail('bad_argument', `"${node}" is not a safekeeper of this timeline`)
  const count = members.length + add.length - remove.length
  if (count < 1 || count > MEMBERS_COUNT_MAX)
    throw fail('bad_argument', `a timeline has 1 to ${MEMBERS_COUNT_MAX} safekeepers, not ${count}`)
  return {
    ...timeline,
    retiredReplicas: timeline.retiredReplicas.filter(({ node }) => !add.includes(node)),
    safekeeperChange: {
      number: (last?.number ?? 0) + 1,
      add,
      remove,
      reason: request.reason,
      steps: STEPS.map((name) => ({ name, done: false, tookMs: 0 })),
      problem: '',
      startedAtMs: nowMs,
      isCancelled: false,
      tookMs: 0,
    },
  }
}

/**
 * The document with the change cancelled: at once while newcomers pull, and by another generation while both majorities
 * count. Errors: `precondition` where there is none, or where the new members alone count.
 */
export function cancelChange(timeline: TimelineDocument, nowMs: number): TimelineDocument {
  const { safekeeperChange: change } = timeline
  if (change === undefined || !isUnderWay(change))
    throw fail('precondition', 'no change of the safekeepers is under way')
  if (change.isCancelled) return timeline
  if (change.reason === 'stored')
    throw fail('precondition', 'the recovery cannot be cancelled: the safekeepers of before are lost', {
      hint: 'It continues by itself; see `understory safekeeper list`.',
    })
  const steps = change.steps.filter(({ done }) => done)
  const cancelled = { ...change, steps, isCancelled: true, problem: '' }
  const tookMs = Math.max(0, nowMs - change.startedAtMs)
  if (timeline.newSafekeeperNodes.length > 0) {
    const { generation } = abortChange(membershipOf(timeline))
    const spread = { name: 'spread', done: false, tookMs: 0 } as const
    return {
      ...timeline,
      membershipGeneration: generation,
      newSafekeeperNodes: [],
      safekeeperChange: { ...cancelled, steps: [...steps, spread] },
    }
  }
  if (nextChangeStep(change) === 'spread')
    throw fail('precondition', 'the new safekeepers alone count already', {
      hint: 'Ask for a change back once this one is done.',
    })
  return withRetiredReplicas({ ...timeline, safekeeperChange: { ...cancelled, tookMs } }, cancelled)
}

/**
 * The document with `survivor` alone counting, without regard to the others: for when their majority is lost for good.
 * There is no joint membership on the way, because no other member is left to agree to it. Errors: `bad_argument`.
 */
export function recoverFrom(timeline: TimelineDocument, survivor: string, nowMs: number): TimelineDocument {
  const { safekeeperChange: last, membershipGeneration } = timeline
  const known = allSafekeepers(timeline)
  if (!known.includes(survivor))
    throw fail('bad_argument', `"${survivor}" is not a safekeeper of this timeline`)
  return {
    ...timeline,
    membershipGeneration: membershipGeneration + 1,
    safekeeperNodes: [survivor],
    newSafekeeperNodes: [],
    safekeeperChange: {
      number: (last?.number ?? 0) + 1,
      add: [],
      remove: known.filter((node) => node !== survivor),
      reason: 'recovery',
      steps: [{ name: 'spread', done: false, tookMs: 0 }],
      problem: '',
      startedAtMs: nowMs,
      isCancelled: false,
      tookMs: 0,
    },
  }
}

/** Safekeepers that begin with nothing, where none of before is left. */
export interface StoredRecovery {
  readonly members: readonly { readonly nodeId: string; readonly address: string }[]
  /** Where the WAL in the object store ends: a record end. */
  readonly endLsn: Lsn
  /** Last term of it. */
  readonly term: number
}

/**
 * The document with `members` alone counting, which are to begin with what the object store has of the WAL; and with a
 * new generation of every shard, whose pages of WAL beyond that go. Errors: `precondition`.
 */
export function recoverFromStore(
  timeline: TimelineDocument,
  { members, endLsn, term }: StoredRecovery,
  nowMs: number,
): TimelineDocument {
  const { safekeeperChange: last, membershipGeneration } = timeline
  if (!timeline.bootstrapped) throw fail('precondition', 'the timeline is not bootstrapped yet')
  if (isFromStore(timeline))
    throw fail('precondition', 'a recovery from the object store is under way', {
      hint: 'It continues by itself; see `understory safekeeper list`.',
    })
  const add = members.map(({ nodeId }) => nodeId)
  const shards = timeline.shards.map(({ node, generation }) => ({ node, generation: generation + 1 }))
  return {
    ...timeline,
    membershipGeneration: membershipGeneration + 1,
    safekeeperNodes: add,
    newSafekeeperNodes: [],
    retiredReplicas: timeline.retiredReplicas.filter(({ node }) => !add.includes(node)),
    addresses: {
      ...timeline.addresses,
      ...Object.fromEntries(members.map(({ nodeId, address }) => [nodeId, address])),
    },
    shards,
    rollback: {
      lsn: formatLsn(endLsn),
      term: term + LOST_TERMS_MAX,
      shardGenerations: shards.map(({ generation }) => generation),
    },
    safekeeperChange: {
      number: (last?.number ?? 0) + 1,
      add,
      remove: allSafekeepers(timeline).filter((node) => !add.includes(node)),
      reason: 'stored',
      steps: STORED_STEPS.map((name) => ({ name, done: false, tookMs: 0 })),
      problem: '',
      startedAtMs: nowMs,
      isCancelled: false,
      tookMs: 0,
    },
  }
}

/** A recovery from the object store is under way: its safekeepers are not there yet, or its shards hold too much. */
export const isFromStore = ({ safekeeperChange: change }: TimelineDocument): boolean =>
  change?.reason === 'stored' && isUnderWay(change)

/**
 * The copies of safekeepers that are no longer members. Not of those that a recovery left behind: what only they have
 * was lost by it, and an operator may want to look at it.
 */
function withRetiredReplicas(timeline: TimelineDocument, change: SafekeeperChange): TimelineDocument {
  if (change.reason === 'recovery' || change.reason === 'stored') return timeline
  const { membershipGeneration, safekeeperNodes, retiredReplicas } = timeline
  // The first change may be cancelled before there is any generation; its copy has none either.
  const generation = Math.max(1, membershipGeneration)
  const left = leftOut(change).filter((node) => !safekeeperNodes.includes(node))
  const others = retiredReplicas.filter(({ node }) => !left.includes(node))
  return { ...timeline, retiredReplicas: [...others, ...left.map((node) => ({ node, generation }))] }
}

/** The safekeepers that do not hold the timeline once the change is over. */
export const leftOut = ({ add, remove, isCancelled }: SafekeeperChange): readonly string[] =>
  isCancelled ? add : remove

const sameNames = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((name) => b.includes(name))

const isInForce = ({ safekeeperNodes }: TimelineDocument, { add, remove }: SafekeeperChange): boolean =>
  add.every((node) => safekeeperNodes.includes(node)) &&
  !remove.some((node) => safekeeperNodes.includes(node))

export const isUnderWay = (change: SafekeeperChange | undefined): boolean =>
  change !== undefined && nextChangeStep(change) !== undefined

export const nextChangeStep = ({ steps }: SafekeeperChange): ChangeStepName | undefined =>
  steps.find(({ done }) => !done)?.name

export function describeChange({ add, remove }: SafekeeperChange): string {
  return [...remove.map((node) => `-${node}`), ...add.map((node) => `+${node}`)].join(' ')
}

/** The document with `name` done, of change `number` only: a later one has steps of its own. */
export function completeChangeStep(
  timeline: TimelineDocument,
  number: number,
  name: ChangeStepName,
  tookMs: number,
  nowMs: number,
): TimelineDocument {
  const { safekeeperChange: change } = timeline
  if (change?.number !== number || nextChangeStep(change) !== name) return timeline
  const steps = change.steps.map((step) => (step.name === name ? { ...step, done: true, tookMs } : step))
  const isOver = steps.every(({ done }) => done)
  const took = isOver ? Math.max(0, nowMs - change.startedAtMs) : 0
  const after = { ...timeline, safekeeperChange: { ...change, steps, problem: '', tookMs: took } }
  return isOver ? withRetiredReplicas(after, change) : after
}

/** The document with both majorities counting. */
export function beginJoint(timeline: TimelineDocument): TimelineDocument {
  const { safekeeperChange: change, safekeeperNodes: members } = timeline
  if (change === undefined || timeline.newSafekeeperNodes.length > 0) return timeline
  const stay = members.filter((node) => !change.remove.includes(node))
  const joint = startChange(membershipOf(timeline), [...stay, ...change.add])
  return {
    ...timeline,
    membershipGeneration: joint.generation,
    newSafekeeperNodes: [...(joint.newMembers ?? [])],
  }
}

/** The document with the new members alone, or undefined while that is not safe. */
export function endJoint(
  timeline: TimelineDocument,
  status: (node: string) => MemberStatus | undefined,
): TimelineDocument | undefined {
  const finished = finishChange(membershipOf(timeline), status)
  if (finished === undefined) return undefined
  return {
    ...timeline,
    membershipGeneration: finished.generation,
    safekeeperNodes: [...finished.members],
    newSafekeeperNodes: [],
  }
}
