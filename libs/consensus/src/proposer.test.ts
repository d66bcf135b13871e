/** Goal: each rule of the proposer by itself. Method: the answers of three acceptors, by hand. */
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { createProposer, hasNews, isBufferFull, stepProposer } from './proposer.ts'
import type { ProposerEffect, ProposerInput, ProposerState } from './proposer-state.ts'
import { isQuorum } from './membership.ts'
import type { TermHistory } from './term-history.ts'

const at = lsn
const base = {
  membership: { generation: 0, members: ['a', 'b', 'c'] },
  timelineStartLsn: at(0),
  livingTerm: undefined,
}

function run(
  state: ProposerState,
  ...inputs: ProposerInput[]
): { state: ProposerState; effects: ProposerEffect[] } {
  const effects: ProposerEffect[] = []
  for (const input of inputs) {
    const step = stepProposer(state, input)
    state = step.state
    effects.push(...step.effects)
  }
  return { state, effects }
}
const history = (...entries: [term: number, start: number][]): TermHistory =>
  [[0, 0] as const, ...entries].map(([term, start]) => ({ term, startLsn: at(start) }))
const greeted = (from: string, term: number): ProposerInput => ({
  kind: 'greeted',
  from,
  reply: { term, membershipGeneration: 0 },
})
const voted = (
  from: string,
  term: number,
  flush: number,
  own: TermHistory,
  commit = 0,
  voteGiven = true,
): ProposerInput => ({
  kind: 'voted',
  from,
  reply: { term, voteGiven, flushLsn: at(flush), commitLsn: at(commit), history: own },
})
const appended = (from: string, term: number, flush: number): ProposerInput => ({
  kind: 'appended',
  from,
  reply: { term, flushLsn: at(flush), commitLsn: at(0) },
})
const wal = (end: number, recordEnd = end): ProposerInput => ({
  kind: 'wal',
  endLsn: at(end),
  recordEndLsn: at(recordEnd),
})
const kinds = (effects: readonly ProposerEffect[]): string[] => effects.map((effect) => effect.kind)

/** `a` has [0, 100) of term 1, `b` a longer log of no term: `a` wins, term 2 starts at 100. */
const greetedTwo = run(createProposer(base), greeted('a', 1), greeted('b', 0))
const leader = run(greetedTwo.state, voted('a', 2, 100, history([1, 0])), voted('b', 2, 140, history()))

test('the term asked for is above every term of a quorum', () => {
  expect(greetedTwo.effects).toEqual([
    { kind: 'sendVote', to: 'a', message: { term: 2 } },
    { kind: 'sendVote', to: 'b', message: { term: 2 } },
  ])
})

test('the most advanced log wins by its last term, and each acceptor streams from the highest common point', () => {
  expect(leader.effects).toMatchObject([
    { kind: 'elected', term: 2, startLsn: 100, election: 'rebuild', donor: 'a', lastLogTerm: 1 },
    { kind: 'sendElected', to: 'a', message: { startStreamingLsn: 100, history: history([1, 0], [2, 100]) } },
    { kind: 'sendElected', to: 'b', message: { startStreamingLsn: 0 } },
    { kind: 'fetchWal', to: 'b', from: 'a', term: 2, startLsn: 0, endLsn: 100 },
  ])
})

test('older terms are committed only together with the start of the own term', () => {
  const older = run(leader.state, appended('b', 2, 64), appended('a', 2, 64))
  expect(kinds(older.effects)).not.toContain('commitAdvanced')
  expect(run(older.state, appended('a', 2, 100), appended('b', 2, 100)).effects).toContainEqual({
    kind: 'commitAdvanced',
    lsn: 100,
  })
})

test('committed is what a quorum has flushed', () => {
  const streamed = run(
    leader.state,
    { kind: 'walFetched', to: 'b', startLsn: at(0), endLsn: at(100) },
    wal(200),
  )
  expect(run(streamed.state, appended('a', 2, 200)).state.commitLsn).toBe(0)
  expect(run(streamed.state, appended('a', 2, 200), appended('b', 2, 160)).state.commitLsn).toBe(160)
})

test('a higher term in any answer ends it', () => {
  for (const input of [appended('a', 3, 0), voted('b', 9, 0, history(), 0, false)]) {
    const asked = input.kind === 'voted' ? greetedTwo.state : leader.state
    const { state, effects } = run(asked, input)
    expect(kinds(effects)).toEqual(['fenced'])
    expect(run(state, greeted('c', 0), wal(300)).effects).toEqual([])
  }
})

test('a vote that is not given in our term is a lost election', () => {
  expect(run(greetedTwo.state, voted('a', 2, 0, history(), 0, false)).effects).toEqual([
    { kind: 'fenced', term: 2 },
  ])
})

test('a living Postgres is adopted only with the last log term and equal WAL', () => {
  const votes = [
    greeted('a', 1),
    greeted('b', 0),
    voted('a', 2, 100, history([1, 0])),
    voted('b', 2, 0, history()),
  ]
  const sameTerm = run(createProposer({ ...base, livingTerm: 1 }), ...votes)
  expect(sameTerm.effects.at(-1)).toEqual({ kind: 'compareLocalWal', donor: 'a', term: 2, endLsn: 100 })
  for (const [isEqual, election] of [
    [true, 'adopt'],
    [false, 'rebuild'],
  ] as const) {
    const { effects } = run(sameTerm.state, { kind: 'localWalCompared', isEqual })
    expect(effects).toContainEqual(expect.objectContaining({ kind: 'elected', election }))
    expect(effects).toContainEqual(
      expect.objectContaining({ kind: 'sendElected', message: expect.objectContaining({ election }) }),
    )
  }
  expect(run(createProposer({ ...base, livingTerm: 7 }), ...votes).effects).toContainEqual(
    expect.objectContaining({ kind: 'elected', election: 'rebuild' }),
  )
})

test('no more waits in the transport than allowed, and one append has no more than allowed', () => {
  const small = {
    ...leader.state,
    options: { ...leader.state.options, appendBytesMax: 10, inFlightBytesMax: 20 },
  }
  const sends = run(small, wal(200)).effects.filter((effect) => effect.kind === 'sendWal')
  expect(sends.map(({ to, startLsn, endLsn }) => [to, startLsn, endLsn])).toEqual([
    ['a', 100, 110],
    ['a', 110, 120],
  ])
  const { effects } = run(small, wal(200), { kind: 'sent', to: 'a', bytes: 10 })
  expect(effects.at(-1)).toMatchObject({ kind: 'sendWal', to: 'a', startLsn: 120, endLsn: 130 })
})

const sendsTo = (to: string, effects: readonly ProposerEffect[]): [start: number, end: number][] =>
  effects.flatMap((effect) =>
    effect.kind === 'sendWal' && effect.to === to ? [[effect.startLsn, effect.endLsn]] : [],
  )

test('while two appends are unanswered, what comes waits and goes as one', () => {
  const busy = run(leader.state, wal(110), wal(120), wal(130), wal(140, 135))
  expect(sendsTo('a', busy.effects)).toEqual([
    [100, 110],
    [110, 120],
  ])
  expect(sendsTo('a', run(busy.state, appended('a', 2, 105)).effects)).toEqual([])
  const answered = run(busy.state, appended('a', 2, 110))
  expect(sendsTo('a', answered.effects)).toEqual([[120, 140]])
  // The answer to come is 120: 150 waits for it.
  expect(sendsTo('a', run(answered.state, wal(150)).effects)).toEqual([])
  expect(sendsTo('a', run(answered.state, wal(150), { kind: 'heartbeat' }).effects)).toEqual([[140, 150]])
})

test('near acceptors have one append unanswered, and when they turn out to be far a second goes at once', () => {
  const busy = run(leader.state, { kind: 'pace', unansweredMax: 1 }, wal(110), wal(120), wal(130))
  expect(sendsTo('a', busy.effects)).toEqual([[100, 110]])
  expect(sendsTo('a', run(busy.state, appended('a', 2, 110)).effects)).toEqual([[110, 130]])
  expect(sendsTo('a', run(busy.state, { kind: 'pace', unansweredMax: 2 }).effects)).toEqual([[110, 130]])
})

test('WAL without a record end is not waited for, and whole appends do not wait', () => {
  const pieces = run(leader.state, wal(110, 100), wal(120, 100), wal(130, 100), wal(140, 100))
  expect(sendsTo('a', pieces.effects)).toHaveLength(4)
  const options = { ...leader.state.options, appendBytesMax: 10 }
  const whole = run({ ...leader.state, options }, wal(105), wal(110), wal(120), wal(130), wal(132))
  expect(sendsTo('a', whole.effects)).toEqual([
    [100, 105],
    [105, 110],
    [110, 120],
    [120, 130],
  ])
})

test('an acceptor that got the commit position with no append gets it with the second news', () => {
  const committed = run(
    leader.state,
    { kind: 'walFetched', to: 'b', startLsn: at(0), endLsn: at(100) },
    wal(200),
    appended('a', 2, 200),
    appended('b', 2, 200),
  )
  expect(committed.state.commitLsn).toBe(200)
  expect(kinds(committed.effects)).not.toContain('sendPositions')
  const first = run(committed.state, { kind: 'news' })
  expect(first.effects).toEqual([])
  expect(hasNews(first.state)).toBe(true)
  const second = run(first.state, { kind: 'news' })
  expect(second.effects).toMatchObject([
    { kind: 'sendPositions', to: 'a', message: { commitLsn: 200 } },
    { kind: 'sendPositions', to: 'b', message: { commitLsn: 200 } },
  ])
  expect(hasNews(second.state)).toBe(false)
  expect(run(first.state, wal(210), { kind: 'news' }).effects).not.toContainEqual(
    expect.objectContaining({ kind: 'sendPositions' }),
  )
})

test('an acceptor that comes back as a leader is asked for its positions and continues from there', () => {
  const back = run(leader.state, wal(200), { kind: 'disconnected', from: 'a' }, greeted('a', 2))
  expect(back.effects.at(-1)).toEqual({ kind: 'sendVote', to: 'a', message: { term: 2 } })
  const { effects } = run(back.state, voted('a', 2, 160, history([1, 0], [2, 100]), 0, false))
  expect(effects).toMatchObject([
    { kind: 'sendElected', to: 'a', message: { startStreamingLsn: 160 } },
    { kind: 'sendWal', to: 'a', startLsn: 160, endLsn: 200 },
  ])
})

test('WAL that no connected acceptor has is reported', () => {
  const { effects } = run(
    leader.state,
    { kind: 'disconnected', from: 'a' },
    { kind: 'fetchFailed', to: 'b' },
    { kind: 'heartbeat' },
  )
  expect(effects).toContainEqual({ kind: 'donorMissing', to: 'b', startLsn: 0 })
})

test('after a read from a donor that failed another one is asked, where there is one', () => {
  const alone = run(leader.state, { kind: 'fetchFailed', to: 'b' }, { kind: 'heartbeat' })
  expect(alone.effects).toContainEqual(expect.objectContaining({ kind: 'fetchWal', to: 'b', from: 'a' }))

  const joined = run(
    leader.state,
    greeted('c', 2),
    voted('c', 2, 80, history([1, 0]), 0, false),
    appended('c', 2, 80),
  )
  const failed = run(joined.state, { kind: 'fetchFailed', to: 'b' }, { kind: 'heartbeat' })
  expect(failed.effects).toContainEqual(
    expect.objectContaining({ kind: 'fetchWal', to: 'b', from: 'c', startLsn: 0, endLsn: 80 }),
  )
  // The one that failed first is asked again, since there is no other.
  const both = run(failed.state, { kind: 'fetchFailed', to: 'b' }, { kind: 'heartbeat' })
  expect(both.effects).toContainEqual(expect.objectContaining({ kind: 'fetchWal', to: 'b', from: 'a' }))
})

test('the buffer is full only while something of it can be committed', () => {
  expect(isBufferFull(run(leader.state, wal(300, 100)).state, 100)).toBe(false)
  expect(isBufferFull(run(leader.state, wal(300, 200)).state, 100)).toBe(true)
})

test('during a change both majorities count', () => {
  const joint = { generation: 1, members: ['a', 'b', 'c'], newMembers: ['c', 'd', 'e'] }
  expect(isQuorum(joint, (name) => 'abc'.includes(name))).toBe(false)
  expect(isQuorum(joint, (name) => 'acd'.includes(name))).toBe(true)
})
