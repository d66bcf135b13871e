/**
 * The leader's log on its way: each acceptor is brought to it from where their histories part, WAL is sent as the
 * transport takes it, and what a quorum has flushed is committed (I1).
 */
import { advance, assert, formatLsn, maxLsn, minLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { isQuorum } from './membership.ts'
import type { AppendReply, VoteReply } from './messages.ts'
import { mayAppend, noteSent } from './progress.ts'
import { drop, fence } from './proposer-draft.ts'
import type { Draft, MutablePeer } from './proposer-draft.ts'
import type { PeerState, ProposerEffect } from './proposer-state.ts'
import { highestCommonPoint } from './term-history.ts'

/** Announces to an acceptor whose positions are known where its log leaves ours, and begins to stream. */
export function announce(draft: Draft, to: string, effects: ProposerEffect[]): void {
  const peer = draft.peers[to] as MutablePeer
  const vote = peer.vote as VoteReply
  const startStreamingLsn = highestCommonPoint(draft.history, vote.history, vote.flushLsn)
  assert(
    startStreamingLsn >= vote.commitLsn,
    () =>
      `I3: ${to} would be cut at ${formatLsn(startStreamingLsn)}, below its commit ${formatLsn(vote.commitLsn)}`,
  )
  peer.connection = 'streaming'
  peer.nextLsn = startStreamingLsn
  peer.awaitedLsns = [0 as Lsn, 0 as Lsn]
  const { term, history, election } = draft
  effects.push({ kind: 'sendElected', to, message: { term, startStreamingLsn, history, election } })
  pump(draft, to, effects)
}

export function onWal(draft: Draft, endLsn: Lsn, recordEndLsn: Lsn, effects: ProposerEffect[]): void {
  assert(draft.phase === 'leader', () => `WAL before the election, in phase ${draft.phase}`)
  assert(
    endLsn >= draft.bufferEndLsn && recordEndLsn >= draft.recordEndLsn && recordEndLsn <= endLsn,
    () =>
      `WAL to ${formatLsn(endLsn)} with record end ${formatLsn(recordEndLsn)} after ${formatLsn(draft.bufferEndLsn)}`,
  )
  draft.bufferEndLsn = endLsn
  draft.recordEndLsn = recordEndLsn
  for (const name in draft.peers) pump(draft, name, effects)
}

export function onAppended(draft: Draft, from: string, reply: AppendReply, effects: ProposerEffect[]): void {
  const peer = draft.peers[from]
  if (peer === undefined) return
  if (reply.term > draft.term) return fence(draft, reply.term, effects)
  if (draft.phase !== 'leader' || peer.connection !== 'streaming' || reply.term !== draft.term) return
  if (reply.flushLsn > draft.bufferEndLsn)
    return drop(effects, from, `flushed ${formatLsn(reply.flushLsn)}, which was never sent`)
  peer.flushLsn = maxLsn(peer.flushLsn, reply.flushLsn)
  advanceCommit(draft, effects)
  if (peer.nextLsn < draft.bufferEndLsn) pump(draft, from, effects)
}

/** The largest position that a quorum has flushed, but only once that covers the start of this term. */
function advanceCommit(draft: Draft, effects: ProposerEffect[]): void {
  let quorumLsn = draft.commitLsn
  for (const name in draft.peers) {
    const candidate = (draft.peers[name] as PeerState).flushLsn
    if (candidate <= quorumLsn) continue
    if (isQuorum(draft.options.membership, (other) => (draft.peers[other]?.flushLsn ?? 0) >= candidate))
      quorumLsn = candidate
  }
  if (quorumLsn <= draft.commitLsn || quorumLsn < draft.termStartLsn) return
  draft.commitLsn = quorumLsn
  effects.push({ kind: 'commitAdvanced', lsn: quorumLsn })
  trim(draft, effects)
}

/** Committed WAL goes as soon as every streaming acceptor was sent it, or when too much of it is kept. */
function trim(draft: Draft, effects: ProposerEffect[]): void {
  let slowest = draft.commitLsn
  for (const name in draft.peers) {
    const { connection, nextLsn } = draft.peers[name] as PeerState
    if (connection === 'streaming') slowest = minLsn(slowest, nextLsn)
  }
  const kept = Math.max(slowest, draft.bufferEndLsn - draft.options.keptBytesMax) as Lsn
  const lsn = minLsn(kept, draft.commitLsn)
  if (lsn <= draft.bufferStartLsn) return
  draft.bufferStartLsn = lsn
  effects.push({ kind: 'trimBuffer', lsn })
}

/**
 * Busy acceptors learn the commit position with their next append; those that were sent none since get it by itself.
 */
export function onNews(draft: Draft, effects: ProposerEffect[]): void {
  for (const name in draft.peers) {
    const { connection, commitSentLsn } = draft.peers[name] as PeerState
    if (connection === 'streaming' && commitSentLsn < draft.newsLsn) sendPositions(draft, name, effects)
  }
  draft.newsLsn = draft.commitLsn
}

function sendPositions(draft: Draft, to: string, effects: ProposerEffect[]): void {
  const peer = draft.peers[to] as MutablePeer
  peer.commitSentLsn = draft.commitLsn
  const { term, commitLsn } = draft
  const message = { term, beginLsn: peer.nextLsn, commitLsn, recordEndLsn: peer.flushLsn, wal: NO_WAL }
  effects.push({ kind: 'sendPositions', to, message })
}
const NO_WAL = new Uint8Array(0)

/**
 * Sends what the transport has room for, and fetches what is not in the buffer. While two appends are unanswered, what
 * comes in the meantime waits and goes as one: so batches are as large as the acceptor is slow, without a timer.
 */
export function pump(draft: Draft, to: string, effects: ProposerEffect[], evenIfUnanswered = false): void {
  const peer = draft.peers[to] as MutablePeer
  const { appendBytesMax, inFlightBytesMax, unansweredMax } = draft.options
  while (peer.connection === 'streaming' && !peer.isFetching && peer.nextLsn < draft.bufferEndLsn) {
    if (peer.inFlightBytes >= inFlightBytesMax) return
    if (peer.nextLsn < draft.bufferStartLsn) return fetch(draft, to, effects)
    const isWhole = draft.bufferEndLsn - peer.nextLsn >= appendBytesMax
    if (!isWhole && !evenIfUnanswered && !mayAppend(peer, unansweredMax)) return
    const endLsn = minLsn(draft.bufferEndLsn, advance(peer.nextLsn, appendBytesMax))
    sendWal(draft, to, 'buffer', endLsn, effects)
  }
}

function sendWal(
  draft: Draft,
  to: string,
  source: 'buffer' | 'fetched',
  endLsn: Lsn,
  effects: ProposerEffect[],
): void {
  const peer = draft.peers[to] as MutablePeer
  const { term, commitLsn, termStartLsn } = draft
  const startLsn = peer.nextLsn
  const recordEndLsn = endLsn >= termStartLsn && startLsn <= termStartLsn ? termStartLsn : peer.flushLsn
  effects.push({ kind: 'sendWal', to, source, term, startLsn, endLsn, commitLsn, recordEndLsn })
  noteSent(peer, endLsn, commitLsn, endLsn === draft.bufferEndLsn ? draft.recordEndLsn : (0 as Lsn))
}

/**
 * Asks the most advanced other acceptor that is known to hold this term's log; one whose last read failed only where no
 * other has any of it.
 */
function fetch(draft: Draft, to: string, effects: ProposerEffect[]): void {
  const peer = draft.peers[to] as MutablePeer
  const startLsn = peer.nextLsn
  let from = ''
  let endLsn = startLsn
  for (const name in draft.peers) {
    const { connection, flushLsn } = draft.peers[name] as PeerState
    if (name === to || connection === 'down') continue
    const has = maxLsn(flushLsn, name === draft.donor ? draft.termStartLsn : (0 as Lsn))
    if (has <= startLsn) continue
    const isBetter = from === peer.failedDonor ? true : has > endLsn && name !== peer.failedDonor
    if (from === '' || isBetter) [from, endLsn] = [name, has]
  }
  if (from === '') {
    effects.push({ kind: 'donorMissing', to, startLsn })
    return
  }
  peer.isFetching = true
  peer.fetchedFrom = from
  endLsn = minLsn(minLsn(endLsn, draft.bufferStartLsn), advance(startLsn, draft.options.appendBytesMax))
  effects.push({ kind: 'fetchWal', to, from, term: draft.term, startLsn, endLsn })
}

export function onFetched(
  draft: Draft,
  to: string,
  startLsn: Lsn,
  endLsn: Lsn,
  effects: ProposerEffect[],
): void {
  const peer = draft.peers[to]
  if (peer === undefined || !peer.isFetching || peer.connection !== 'streaming' || peer.nextLsn !== startLsn)
    return
  peer.isFetching = false
  if (endLsn <= startLsn || endLsn > draft.bufferEndLsn) return
  sendWal(draft, to, 'fetched', endLsn, effects)
  pump(draft, to, effects)
}

export function onHeartbeat(draft: Draft, effects: ProposerEffect[]): void {
  if (draft.phase !== 'leader') return
  for (const name in draft.peers) {
    const peer = draft.peers[name] as PeerState
    if (peer.connection !== 'streaming') continue
    // An answer may be lost with what it answers; the append that follows shows it.
    pump(draft, name, effects, true)
    sendPositions(draft, name, effects)
  }
}
