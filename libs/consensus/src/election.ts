/**
 * The proposer until it leads: a term that no member of a quorum has seen, their votes, and where the history of the
 * winner ends (I2; I3: at the end of the most advanced log among the voters).
 */
import { assert, formatLsn } from '@understory/base'
import { isQuorum } from './membership.ts'
import type { ElectionKind, GreetingReply, VoteReply } from './messages.ts'
import { drop, fence } from './proposer-draft.ts'
import type { Draft, MutablePeer } from './proposer-draft.ts'
import type { PeerState, ProposerEffect } from './proposer-state.ts'
import { announce } from './replication.ts'
import { compareLogs, isWellFormedHistory, lastTermStart } from './term-history.ts'

export function onGreeted(draft: Draft, from: string, reply: GreetingReply, effects: ProposerEffect[]): void {
  const peer = draft.peers[from]
  if (peer === undefined) return drop(effects, from, 'is not a member')
  if (reply.membershipGeneration > draft.options.membership.generation) {
    draft.phase = 'fenced'
    effects.push({ kind: 'staleMembership', generation: reply.membershipGeneration })
    return
  }
  Object.assign(peer, {
    connection: 'greeted',
    term: reply.term,
    inFlightBytes: 0,
    isFetching: false,
    commitSentLsn: 0,
  })
  if (draft.phase === 'greeting') {
    if (!isQuorum(draft.options.membership, (name) => draft.peers[name]?.connection === 'greeted')) return
    let highest = 0
    for (const name in draft.peers) highest = Math.max(highest, (draft.peers[name] as PeerState).term)
    draft.term = highest + 1
    draft.phase = 'campaign'
    for (const name in draft.peers) if (draft.peers[name]?.connection === 'greeted') ask(draft, name, effects)
  } else if (draft.phase === 'leader' || (draft.phase === 'campaign' && !peer.hasVoted)) {
    ask(draft, from, effects)
  }
}

/** For the vote, and once elected for the positions of this connection. */
function ask(draft: Draft, to: string, effects: ProposerEffect[]): void {
  const peer = draft.peers[to] as MutablePeer
  peer.connection = 'asked'
  effects.push({ kind: 'sendVote', to, message: { term: draft.term } })
}

export function onVoted(draft: Draft, from: string, reply: VoteReply, effects: ProposerEffect[]): void {
  const peer = draft.peers[from]
  if (peer === undefined || peer.connection !== 'asked') return
  if (reply.term > draft.term) return fence(draft, reply.term, effects)
  if (reply.term < draft.term)
    return drop(effects, from, `answered the vote for term ${draft.term} with term ${reply.term}`)
  const { history, flushLsn } = reply
  if (
    !isWellFormedHistory(history, draft.options.timelineStartLsn) ||
    lastTermStart(history).startLsn > flushLsn
  ) {
    return drop(effects, from, 'has a term history that is none of this timeline')
  }
  peer.vote = reply
  peer.connection = 'known'
  if (draft.phase === 'leader') return announce(draft, from, effects)
  if (peer.hasVoted) return
  // Given to another proposer in this term, or to us with the answer lost: the two look the same.
  if (!reply.voteGiven) return fence(draft, reply.term, effects)
  peer.hasVoted = true
  if (
    draft.phase === 'campaign' &&
    isQuorum(draft.options.membership, (name) => draft.peers[name]?.hasVoted === true)
  ) {
    win(draft, effects)
  }
}

/** Fixes where the history ends: at the end of the most advanced log among the voters. */
function win(draft: Draft, effects: ProposerEffect[]): void {
  let donor = ''
  let best: VoteReply | undefined
  for (const name in draft.peers) {
    const { hasVoted, vote } = draft.peers[name] as PeerState
    if (!hasVoted || vote === undefined) continue
    if (best === undefined || compareLogs(logEnd(vote), logEnd(best)) > 0) [donor, best] = [name, vote]
  }
  assert(best !== undefined, () => 'won an election without a vote')
  const startLsn = best.flushLsn
  for (const name in draft.peers) {
    const { hasVoted, vote } = draft.peers[name] as PeerState
    assert(
      !hasVoted || vote === undefined || vote.commitLsn <= startLsn,
      () =>
        `I3: ${name} knows commit ${formatLsn(vote?.commitLsn ?? startLsn)} beyond the elected log's end ${formatLsn(startLsn)}`,
    )
  }
  const { term: lastLogTerm } = lastTermStart(best.history)
  assert(lastLogTerm < draft.term, () => `I2: a log of term ${lastLogTerm} votes for term ${draft.term}`)
  draft.donor = donor
  draft.history = [...best.history, { term: draft.term, startLsn }]
  draft.termStartLsn = startLsn
  draft.bufferStartLsn = startLsn
  draft.bufferEndLsn = startLsn
  draft.recordEndLsn = startLsn
  if (draft.options.livingTerm === lastLogTerm) {
    draft.phase = 'comparing'
    effects.push({ kind: 'compareLocalWal', donor, term: draft.term, endLsn: startLsn })
  } else {
    lead(draft, 'rebuild', effects)
  }
}

const logEnd = (vote: VoteReply) => ({
  lastLogTerm: lastTermStart(vote.history).term,
  flushLsn: vote.flushLsn,
})

export function lead(draft: Draft, election: ElectionKind, effects: ProposerEffect[]): void {
  draft.phase = 'leader'
  draft.election = election
  const { term, termStartLsn: startLsn, donor } = draft
  const lastLogTerm = draft.history[draft.history.length - 2]?.term ?? 0
  effects.push({ kind: 'elected', term, startLsn, election, lastLogTerm, donor })
  for (const name in draft.peers) {
    const { connection } = draft.peers[name] as PeerState
    if (connection === 'known') announce(draft, name, effects)
    else if (connection === 'greeted') ask(draft, name, effects)
  }
}
