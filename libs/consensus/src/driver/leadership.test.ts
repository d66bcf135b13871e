/** Goal: one stream leads an acceptor, and the right one. Method: the order of messages of two proposers, by hand. */
import { describeError } from '@understory/base'
import { expect, test } from 'vitest'
import { Leadership } from './leadership.ts'
import type { ProposerSession } from './proposer-session.ts'

function stream(nodeId: string, isRecovery = false) {
  const closed: string[] = []
  const session: ProposerSession = {
    nodeId,
    ...(isRecovery ? { isRecovery: true as const } : {}),
    deliver: () => undefined,
    close: (error) => closed.push(describeError(error)),
  }
  return { session, closed }
}

function acceptor() {
  const leadership = new Leadership<ProposerSession>()
  let ownTerm = 0
  const vote = (session: ProposerSession, term: number): void => {
    const leads = leadership.leadsAfterVote(session, term, ownTerm)
    ownTerm = Math.max(term, ownTerm)
    if (leads) leadership.lead(session, term)
  }
  const append = (session: ProposerSession, term = ownTerm): void => leadership.check(session, term, ownTerm)
  const elected = (session: ProposerSession, term = ownTerm): void =>
    leadership.elected(session, term, ownTerm)
  return { leadership, vote, append, elected }
}

test('the vote brings the lead; a later term takes it without a word, and the older hears by its next append', () => {
  const { vote, append } = acceptor()
  const [a, b] = [stream('a'), stream('b')]
  vote(a.session, 1)
  append(a.session)
  expect(() => append(b.session)).toThrow('another stream leads in term 1')
  vote(b.session, 2)
  expect(a.closed).toEqual([])
  // Of an older term: the acceptor itself answers with its own.
  append(a.session, 1)
  expect(() => append(a.session, 2)).toThrow('another stream leads in term 2')
})

test('the same proposer that comes back leads by its new stream, and another does not by its vote', () => {
  const { leadership, vote } = acceptor()
  const [a, again, b] = [stream('a'), stream('a'), stream('b')]
  vote(a.session, 1)
  vote(b.session, 1)
  expect(leadership.session).toBe(a.session)
  vote(again.session, 1)
  expect(leadership.session).toBe(again.session)
  expect(a.closed).toEqual(['another stream leads in term 1'])
  leadership.leave(a.session)
  expect(leadership.session).toBe(again.session)
  leadership.leave(again.session)
  vote(b.session, 1)
  expect(leadership.session).toBe(b.session)
})

test('a proposer that was elected leads though the vote went to another; one that only recovers does not', () => {
  const { leadership, vote, elected, append } = acceptor()
  const [candidate, winner, recovery] = [stream('a'), stream('b'), stream('r', true)]
  vote(candidate.session, 1)
  elected(recovery.session)
  expect(leadership.session).toBe(candidate.session)
  elected(winner.session)
  append(winner.session)
  expect(candidate.closed).toEqual(['another proposer was elected in term 1'])
  elected(candidate.session, 0)
  expect(leadership.session).toBe(winner.session)
})
