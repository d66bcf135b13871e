/** Goal: the order of a change of safekeepers, and what is refused. Method: documents and statuses by hand. */
import { lsn } from '@understory/base'
import type { MemberStatus } from '@understory/consensus'
import { expect, test } from 'vitest'
import {
  allSafekeepers,
  beginJoint,
  cancelChange,
  completeChangeStep,
  endJoint,
  isUnderWay,
  leftOut,
  nextChangeStep,
  recoverFrom,
  requestChange,
} from './membership-change.ts'
import { aTimeline } from '../../test/support.ts'
import type { ChangeStepName, TimelineDocument } from '../documents/timeline-document.ts'

const TIMELINE = aTimeline({
  startLsn: '0/1000000',
  bootstrapped: true,
  safekeeperNodes: ['a', 'b', 'c'],
  membershipGeneration: 4,
  computeHost: 'host',
})
const REPLACE = { add: ['d'], remove: ['a'], reason: 'user' } as const

const done = (timeline: TimelineDocument, name: ChangeStepName): TimelineDocument =>
  completeChangeStep(timeline, timeline.safekeeperChange?.number ?? 0, name, 5, 1_100)
const stepOf = ({ safekeeperChange: change }: TimelineDocument): string | undefined =>
  change === undefined ? undefined : nextChangeStep(change)
const at = (membershipGeneration: number, flush: number): MemberStatus => ({
  membershipGeneration,
  term: 2,
  lastLogTerm: 2,
  flushLsn: lsn(flush),
})

test('a replacement goes through both majorities, each step once and in its order', () => {
  let timeline = requestChange(TIMELINE, REPLACE, 1_000)
  expect(stepOf(timeline)).toBe('pull')
  expect(done(timeline, 'finish')).toBe(timeline)
  timeline = done(timeline, 'pull')
  timeline = done(beginJoint(timeline), 'joint')
  expect(timeline).toMatchObject({
    membershipGeneration: 5,
    safekeeperNodes: ['a', 'b', 'c'],
    newSafekeeperNodes: ['b', 'c', 'd'],
  })
  expect(allSafekeepers(timeline)).toEqual(['a', 'b', 'c', 'd'])
  // Done again after a crash it is the same.
  expect(beginJoint(timeline)).toBe(timeline)
  const behind: Record<string, MemberStatus> = { a: at(5, 90), b: at(5, 100), c: at(4, 100), d: at(5, 60) }
  expect(endJoint(timeline, (node) => behind[node])).toBeUndefined()
  const ended = endJoint(timeline, (node) => ({ ...behind, d: at(5, 100) })[node])
  expect(ended).toMatchObject({
    membershipGeneration: 6,
    safekeeperNodes: ['b', 'c', 'd'],
    newSafekeeperNodes: [],
  })
  timeline = done(done(ended as TimelineDocument, 'finish'), 'spread')
  expect(isUnderWay(timeline.safekeeperChange)).toBe(false)
  expect(timeline.safekeeperChange?.tookMs).toBe(100)
})

test('the same request again counts as the same, under way or in force; another one waits', () => {
  const begun = requestChange(TIMELINE, REPLACE, 1_000)
  expect(requestChange(begun, REPLACE, 2_000)).toBe(begun)
  expect(() => requestChange(begun, { ...REPLACE, add: ['e'] }, 2_000)).toThrow(/under way: -a \+d/)
  const inForce = ['pull', 'joint', 'finish', 'spread'].reduce(
    (item, name) => done(item, name as ChangeStepName),
    { ...begun, safekeeperNodes: ['b', 'c', 'd'] },
  )
  expect(requestChange(inForce, REPLACE, 3_000)).toBe(inForce)
  expect(requestChange(inForce, { add: ['a'], remove: [], reason: 'user' }, 3_000)).toMatchObject({
    safekeeperChange: { number: 2 },
  })
})

test('a change is cancelled at once while newcomers pull, by a generation while both count, and not later', () => {
  expect(() => cancelChange(TIMELINE, 1_500)).toThrow(/no change/)
  const begun = requestChange(TIMELINE, REPLACE, 1_000)
  const early = cancelChange(begun, 1_500)
  expect(early).toMatchObject({ membershipGeneration: 4, safekeeperNodes: ['a', 'b', 'c'] })
  expect(early.safekeeperChange).toMatchObject({ isCancelled: true, tookMs: 500 })
  expect(isUnderWay(early.safekeeperChange)).toBe(false)
  // The same may be asked for again.
  expect(requestChange(early, REPLACE, 2_000).safekeeperChange?.number).toBe(2)

  const joint = done(beginJoint(done(begun, 'pull')), 'joint')
  const late = cancelChange(joint, 1_500)
  expect(late).toMatchObject({
    membershipGeneration: 6,
    safekeeperNodes: ['a', 'b', 'c'],
    newSafekeeperNodes: [],
  })
  expect(stepOf(late)).toBe('spread')
  expect(late.safekeeperChange && leftOut(late.safekeeperChange)).toEqual(['d'])
  expect(isUnderWay(done(late, 'spread').safekeeperChange)).toBe(false)

  const ended = done({ ...joint, newSafekeeperNodes: [], safekeeperNodes: ['b', 'c', 'd'] }, 'finish')
  expect(() => cancelChange(ended, 1_500)).toThrow(/count already/)
})

test('the one that is left counts alone, under a generation of its own, with any change under way', () => {
  const joint = done(beginJoint(done(requestChange(TIMELINE, REPLACE, 1_000), 'pull')), 'joint')
  for (const before of [TIMELINE, joint]) {
    const after = recoverFrom(before, 'b', 2_000)
    expect(after).toMatchObject({ safekeeperNodes: ['b'], newSafekeeperNodes: [] })
    expect(after.membershipGeneration).toBeGreaterThan(before.membershipGeneration)
    expect(stepOf(after)).toBe('spread')
    expect(after.safekeeperChange?.remove).toEqual(before === joint ? ['a', 'c', 'd'] : ['a', 'c'])
    const over = done(after, 'spread')
    expect(isUnderWay(over.safekeeperChange)).toBe(false)
    // And others can join again.
    expect(stepOf(requestChange(over, { add: ['x'], remove: [], reason: 'user' }, 3_000))).toBe('pull')
  }
  expect(() => recoverFrom(TIMELINE, 'x', 0)).toThrow(/"x" is not a safekeeper/)
})

test.each([
  [{ add: ['b'], remove: [] }, /"b" is a safekeeper of this timeline/],
  [{ add: [], remove: ['x'] }, /"x" is not a safekeeper of this timeline/],
  [{ add: [], remove: ['a', 'b', 'c'] }, /has 1 to 9 safekeepers, not 0/],
  [{ add: [], remove: [] }, /no safekeeper is named/],
])('%j is refused', (request, why) => {
  expect(() => requestChange(TIMELINE, { ...request, reason: 'user' }, 0)).toThrow(why)
  expect(() => requestChange({ ...TIMELINE, bootstrapped: false }, REPLACE, 0)).toThrow(
    /not bootstrapped yet/,
  )
})
