/** Goal: when a change of membership may end, and what a leader makes of one. Method: statuses and answers by hand. */
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { abortChange, allMembers, finishChange, isQuorum, startChange } from './membership.ts'
import type { MemberStatus } from './membership.ts'
import { createProposer, stepProposer } from './proposer.ts'
import type { ProposerInput, ProposerState } from './proposer-state.ts'

const before = { generation: 4, members: ['a', 'b', 'c'] }
const joint = startChange(before, ['b', 'c', 'd'])
const status = (
  membershipGeneration: number,
  term: number,
  lastLogTerm: number,
  flush: number,
): MemberStatus => ({
  membershipGeneration,
  term,
  lastLogTerm,
  flushLsn: lsn(flush),
})
const finish = (statuses: Record<string, MemberStatus>) => finishChange(joint, (name) => statuses[name])

test('during a change both majorities count', () => {
  expect(joint).toEqual({ generation: 5, members: ['a', 'b', 'c'], newMembers: ['b', 'c', 'd'] })
  expect(allMembers(joint)).toEqual(['a', 'b', 'c', 'd'])
  const has =
    (...names: string[]) =>
    (name: string): boolean =>
      names.includes(name)
  expect(isQuorum(joint, has('a', 'b'))).toBe(false)
  expect(isQuorum(joint, has('c', 'd'))).toBe(false)
  expect(isQuorum(joint, has('b', 'c'))).toBe(true)
  expect(isQuorum(joint, has('a', 'b', 'd'))).toBe(true)
})

test('a change begins once and may be cancelled', () => {
  expect(() => startChange(joint, ['a'])).toThrow(/under way/)
  expect(abortChange(joint)).toEqual({ generation: 6, members: ['a', 'b', 'c'] })
})

const synced = { a: status(5, 3, 3, 100), b: status(5, 3, 3, 100), d: status(5, 3, 3, 100) }

test('a change ends when both majorities know of it and the new one has log and term of the old', () => {
  expect(finish(synced)).toEqual({ generation: 6, members: ['b', 'c', 'd'] })
})

test.each([
  ['too few old members know of it', { ...synced, a: status(4, 3, 3, 100) }],
  ['too few new members know of it', { ...synced, d: status(4, 3, 3, 100) }],
  ['a new member has a shorter log', { ...synced, d: status(5, 3, 3, 99) }],
  ['a new member has a log of an older term', { ...synced, d: status(5, 3, 2, 200) }],
  ['a new member is in an older term', { ...synced, a: status(5, 4, 3, 100) }],
])('a change does not end while %s', (_why, statuses) => {
  expect(finish(statuses)).toBeUndefined()
})

const history = [{ term: 0, startLsn: lsn(0) }]
function feed(state: ProposerState, ...inputs: ProposerInput[]): ProposerState {
  return inputs.reduce((at, input) => stepProposer(at, input).state, state)
}
const greeted = (from: string, membershipGeneration: number): ProposerInput => ({
  kind: 'greeted',
  from,
  reply: { term: 0, membershipGeneration },
})
const voted = (from: string, voteGiven: boolean): ProposerInput => ({
  kind: 'voted',
  from,
  reply: { term: 1, voteGiven, flushLsn: lsn(0), commitLsn: lsn(0), history },
})
const appended = (from: string, flush: number): ProposerInput => ({
  kind: 'appended',
  from,
  reply: { term: 1, flushLsn: lsn(flush), commitLsn: lsn(0) },
})
const candidate = feed(
  createProposer({ membership: before, timelineStartLsn: lsn(0), livingTerm: undefined }),
  greeted('a', 4),
  greeted('b', 4),
)

test('a leader continues under a newer membership, and counts again what is flushed', () => {
  const leader = feed(
    candidate,
    voted('a', true),
    voted('b', true),
    { kind: 'wal', endLsn: lsn(50), recordEndLsn: lsn(50) },
    appended('a', 50),
  )
  const changed = stepProposer(leader, { kind: 'membership', membership: joint })
  expect(changed.effects.map((effect) => effect.kind)).toEqual(['drop', 'drop', 'drop'])
  expect(changed.state).toMatchObject({ phase: 'leader', term: 1 })
  expect(Object.keys(changed.state.peers)).toEqual(['a', 'b', 'c', 'd'])
  // An answer on a stream of before says nothing.
  expect(feed(changed.state, appended('b', 50)).commitLsn).toBe(0)
  const again = feed(
    changed.state,
    ...['a', 'b', 'd'].flatMap((name) => [greeted(name, 5), voted(name, false)]),
    appended('a', 50),
    appended('b', 50),
  )
  expect(again.commitLsn).toBe(0)
  expect(feed(again, appended('d', 50)).commitLsn).toBe(50)
})

test('a proposer that does not lead starts over under a newer membership, and ignores an older one', () => {
  const { state, effects } = stepProposer(candidate, { kind: 'membership', membership: joint })
  expect(effects).toEqual([{ kind: 'staleMembership', generation: 5 }])
  expect(state.phase).toBe('fenced')
  const older = { generation: 3, members: ['a'] }
  expect(stepProposer(candidate, { kind: 'membership', membership: older }).effects).toEqual([])
})
