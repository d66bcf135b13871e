/** Goal: each rule of the acceptor by itself. Method: message sequences on one acceptor. */
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { initialControl, restoreAcceptor, stepAcceptor } from './acceptor.ts'
import type { AcceptorInput, AcceptorState, AcceptorStep } from './acceptor.ts'
import type { TermHistory } from './term-history.ts'

const at = lsn
const term1: TermHistory = [
  { term: 0, startLsn: at(0) },
  { term: 1, startLsn: at(0) },
]

function run(state: AcceptorState, ...inputs: AcceptorInput[]): AcceptorStep {
  let step: AcceptorStep = { state, durable: [], after: [] }
  for (const input of inputs) step = stepAcceptor(step.state, input)
  return step
}
const append = (
  term: number,
  begin: number,
  length: number,
  commit = 0,
  recordEnd = begin + length,
): AcceptorInput => ({
  kind: 'append',
  membershipGeneration: 0,
  message: {
    term,
    beginLsn: at(begin),
    commitLsn: at(commit),
    recordEndLsn: at(recordEnd),
    wal: new Uint8Array(length),
  },
})
const vote = (term: number): AcceptorInput => ({
  kind: 'vote',
  membershipGeneration: 0,
  message: { term },
})
const elected = (term: number, start: number, history: TermHistory = term1): AcceptorInput => ({
  kind: 'elected',
  membershipGeneration: 0,
  message: { term, startStreamingLsn: at(start), history, election: 'rebuild' },
})
const flushed = (flushLsn: number): AcceptorInput => ({ kind: 'flushed', flushLsn: at(flushLsn) })
const fresh = restoreAcceptor(initialControl(at(0)), at(0))
/** Leads in term 1 and has 100 durable bytes, 40 of them committed. */
const streaming = run(
  fresh,
  vote(1),
  elected(1, 0),
  append(1, 0, 100),
  flushed(100),
  append(1, 100, 0, 40),
).state

test('a vote is durable before it is answered, and given once a term', () => {
  const first = run(fresh, vote(3))
  expect(first.durable).toMatchObject([{ kind: 'persistControl', control: { term: 3 } }])
  expect(first.after).toMatchObject([{ kind: 'sendVote', reply: { term: 3, voteGiven: true } }])
  for (const term of [3, 2]) {
    const again = run(first.state, vote(term))
    expect(again.durable).toEqual([])
    expect(again.after).toMatchObject([{ kind: 'sendVote', reply: { term: 3, voteGiven: false } }])
  }
})

test('nothing is reported as flushed before it is', () => {
  const written = run(fresh, vote(1), elected(1, 0), append(1, 0, 100))
  expect(written.after).toEqual([{ kind: 'flush' }])
  expect(run(written.state, flushed(100)).after).toMatchObject([
    { kind: 'sendAppended', reply: { flushLsn: 100 } },
  ])
})

test('the commit position follows the flush position, never passes it', () => {
  const ahead = run(streaming, append(1, 100, 50, 150))
  expect(ahead.state.commitLsn).toBe(100)
  expect(ahead.after).toContainEqual({ kind: 'committed', lsn: 100 })
  expect(run(ahead.state, flushed(150)).after).toContainEqual({ kind: 'committed', lsn: 150 })
})

test('an older proposer is answered with the higher term and writes nothing', () => {
  const { state, durable, after } = run(streaming, vote(2), append(1, 100, 8))
  expect(durable).toEqual([])
  expect(after).toMatchObject([{ kind: 'sendAppended', reply: { term: 2 } }])
  expect(state.writeLsn).toBe(100)
})

test('written but unflushed bytes are dropped with a vote, so that the positions in the vote stay true', () => {
  const { durable, after } = run(streaming, append(1, 100, 8), vote(2))
  expect(durable).toMatchObject([
    { kind: 'truncateWal', toLsn: 100 },
    { kind: 'persistControl', control: { term: 2 } },
  ])
  expect(after).toMatchObject([{ kind: 'sendVote', reply: { flushLsn: 100, commitLsn: 40 } }])
})

test('a divergent tail is cut before the new history is recorded', () => {
  const history = [...term1, { term: 2, startLsn: at(60) }]
  const { state, durable } = run(streaming, vote(2), elected(2, 60, history))
  expect(durable).toMatchObject([
    { kind: 'truncateWal', toLsn: 60 },
    { kind: 'persistControl', control: { history, election: 'rebuild', commitLsn: 40 } },
  ])
  expect(state).toMatchObject({ writeLsn: 60, flushLsn: 60, commitLsn: 40 })
})

test('a cut below the commit position is refused', () => {
  const history = [...term1, { term: 2, startLsn: at(30) }]
  const { state, durable, after } = run(streaming, vote(2), elected(2, 30, history))
  expect(durable).toEqual([])
  expect(after).toMatchObject([{ kind: 'refuse', code: 'precondition' }])
  expect(state.flushLsn).toBe(100)
})

test.each([
  ['a gap', append(1, 101, 8), 'conflict'],
  ['an overlap', append(1, 99, 8), 'conflict'],
  ['positions beyond a gap', append(1, 101, 0), 'conflict'],
  ['a record end beyond the bytes', append(1, 100, 8, 0, 109), 'bad_argument'],
  ['WAL before its election was announced', append(2, 100, 8), 'precondition'],
  ['an election that streams from elsewhere', elected(1, 50), 'conflict'],
  ['a history that is not of this timeline', elected(1, 100, [{ term: 1, startLsn: at(0) }]), 'bad_argument'],
  ['a history that ends with another term', elected(2, 100), 'bad_argument'],
] as const)('%s is refused and changes nothing', (_what, input, code) => {
  const { state, durable, after } = run(streaming, input)
  expect(after).toMatchObject([{ kind: 'refuse', code }])
  expect(durable).toEqual([])
  expect(state).toEqual(streaming)
})

test('a newer membership is recorded, and what comes by an older one is refused', () => {
  const greeting = (membershipGeneration: number): AcceptorInput => ({
    kind: 'greeting',
    message: { membershipGeneration },
  })
  const newer = run(fresh, greeting(2))
  expect(newer.durable).toMatchObject([{ control: { membershipGeneration: 2 } }])
  const older = run(newer.state, greeting(1))
  expect(older.durable).toEqual([])
  expect(older.after).toMatchObject([{ kind: 'sendGreeting', reply: { membershipGeneration: 2 } }])
  // Unflushed WAL of the older membership is dropped: it is never reported as flushed later.
  const unflushed = run(streaming, append(1, 100, 8), greeting(1))
  expect(unflushed.durable).toMatchObject([
    { kind: 'truncateWal', toLsn: 100 },
    { kind: 'persistControl', control: { membershipGeneration: 1 } },
  ])
  expect(unflushed.state.writeLsn).toBe(100)
  for (const input of [vote(1), elected(1, 0), append(1, 0, 8)]) {
    const refused = run(newer.state, input)
    expect(refused.after).toMatchObject([{ kind: 'refuse', code: 'stale' }])
    expect(refused.durable).toEqual([])
    expect(refused.state).toEqual(newer.state)
  }
})

test('a log that ends before the commit position is not taken up', () => {
  expect(() => restoreAcceptor({ ...initialControl(at(0)), commitLsn: at(80) }, at(72))).toThrow(/I3/)
})

test('a cut counts as soon as it is done, under the old history', () => {
  const cut = run(streaming, { kind: 'truncated', toLsn: at(60) })
  expect(cut).toMatchObject({ durable: [], after: [], state: { writeLsn: 60, flushLsn: 60, commitLsn: 40 } })
  expect(cut.state.control).toBe(streaming.control)
  const beyondFlush = run(streaming, append(1, 100, 50), { kind: 'truncated', toLsn: at(120) })
  expect(beyondFlush.state).toMatchObject({ writeLsn: 120, flushLsn: 100 })
  expect(() => run(streaming, { kind: 'truncated', toLsn: at(39) })).toThrow(/^I3: /)
  expect(() => run(streaming, { kind: 'truncated', toLsn: at(101) })).toThrow(/^I3: /)
})

test('unflushed WAL is dropped down to what is durable, also where none was taken in', () => {
  for (const state of [run(streaming, append(1, 100, 50)).state, streaming]) {
    const step = run(state, { kind: 'dropUnflushed' })
    expect(step.durable).toEqual([{ kind: 'truncateWal', toLsn: 100 }])
    expect(step.state).toMatchObject({ writeLsn: 100, flushLsn: 100, commitLsn: 40 })
  }
})

test('the commit position is recorded where it is newer than the recorded one', () => {
  const step = run(streaming, { kind: 'rememberCommit' })
  expect(step.durable).toMatchObject([{ kind: 'persistControl', control: { term: 1, commitLsn: 40 } }])
  expect(step.state.control.commitLsn).toBe(40)
  expect(run(step.state, { kind: 'rememberCommit' }).durable).toEqual([])
})
