/**
 * The proposer: wins a term, brings the acceptors to its log, streams WAL and says what is committed. Pure: it sees
 * positions only; the bytes stay with its driver (`WalBuffer`). README.md says how to drive it.
 *
 * Promises
 * - I1: `commitAdvanced` names only what a quorum has flushed, at a record end, once that covers this term's start.
 * - I2: after any sign of a higher term it sends and commits nothing more (`fenced`).
 * - I3: the commit position never goes back, and the log it starts from covers everything an acceptor knows committed.
 *
 * States: greeting -> campaign -> (comparing ->) leader, and from each of them -> fenced.
 */
import { advance, assert, formatLsn, maxLsn, minLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { allMembers, isQuorum } from './membership.ts'
import type { Membership } from './membership.ts'
import type {
  AppendMessage,
  AppendReply,
  ElectedMessage,
  ElectionKind,
  GreetingReply,
  VoteMessage,
  VoteReply,
} from './messages.ts'
import { compareLogs, highestCommonPoint, isWellFormedHistory, lastTermStart } from './term-history.ts'
import type { TermHistory } from './term-history.ts'

export interface ProposerOptions {
  readonly membership: Membership
  readonly timelineStartLsn: Lsn
  /** The term under which a Postgres that still lives was streamed; undefined where none lives: then rebuild. */
  readonly livingTerm: number | undefined
  /** Most WAL in one append. */
  readonly appendBytesMax?: number
  /** WAL that may wait in the transport to one acceptor. */
  readonly inFlightBytesMax?: number
  /** Committed WAL that the buffer keeps for acceptors that lag; further back it is read from another acceptor. */
  readonly keptBytesMax?: number
  /** Appends to one acceptor that may be unanswered while less than a whole one waits: see `pace`. */
  readonly unansweredMax?: 1 | 2
}

type PeerConnection =
  | 'down'
  /** The greeting was answered. */
  | 'greeted'
  /** Asked for its vote, or as leader for its positions. */
  | 'asked'
  /** Its positions of this connection are known. */
  | 'known'
  /** `elected` was sent on this connection: WAL may follow. */
  | 'streaming'

export interface PeerState {
  readonly connection: PeerConnection
  /** From its greeting. */
  readonly term: number
  /** Newest positions; with `hasVoted`, those it voted with or later ones. */
  readonly vote: VoteReply | undefined
  readonly hasVoted: boolean
  /** Next byte to send. */
  readonly nextLsn: Lsn
  /** Durable there as part of this term's log; 0/0 until it said so. */
  readonly flushLsn: Lsn
  readonly commitSentLsn: Lsn
  /** Record ends that the last two appends to the buffer's end brought: what it is to tell as flushed. */
  readonly awaitedLsns: readonly [older: Lsn, newer: Lsn]
  readonly inFlightBytes: number
  /** WAL for it is being read from another acceptor. */
  readonly isFetching: boolean
  /** From whom WAL was fetched for it last, and whose read failed last; '' = nobody. */
  readonly fetchedFrom: string
  readonly failedDonor: string
}

export interface ProposerState {
  readonly phase: 'greeting' | 'campaign' | 'comparing' | 'leader' | 'fenced'
  readonly options: Required<ProposerOptions>
  readonly peers: Readonly<Record<string, PeerState>>
  /** Asked for or won; 0 before the campaign. */
  readonly term: number
  /** From the election on: this proposer's history, its own term last. */
  readonly history: TermHistory
  /** Where this term begins. */
  readonly termStartLsn: Lsn
  /** Decided with the election. */
  readonly election: ElectionKind
  /** Holds the whole log up to `termStartLsn`. */
  readonly donor: string
  /** The driver's buffer holds [bufferStartLsn, bufferEndLsn). */
  readonly bufferStartLsn: Lsn
  readonly bufferEndLsn: Lsn
  /** Last record end known, at most `bufferEndLsn`. */
  readonly recordEndLsn: Lsn
  /** 0/0 until this term committed something. */
  readonly commitLsn: Lsn
  /** `commitLsn` as of the last `news`. */
  readonly newsLsn: Lsn
}

export type ProposerInput =
  /** A stream to the acceptor stands and its greeting was answered. */
  | { readonly kind: 'greeted'; readonly from: string; readonly reply: GreetingReply }
  | { readonly kind: 'voted'; readonly from: string; readonly reply: VoteReply }
  | { readonly kind: 'appended'; readonly from: string; readonly reply: AppendReply }
  | { readonly kind: 'disconnected'; readonly from: string }
  /** The transport took an append with so many bytes of WAL. */
  | { readonly kind: 'sent'; readonly to: string; readonly bytes: number }
  /** Answers `compareLocalWal`. */
  | { readonly kind: 'localWalCompared'; readonly isEqual: boolean }
  /** The buffer now ends at `endLsn`; `recordEndLsn` is the last record end in it. */
  | { readonly kind: 'wal'; readonly endLsn: Lsn; readonly recordEndLsn: Lsn }
  /** Answers `fetchWal`: the driver holds these bytes. They may end before what was asked for. */
  | { readonly kind: 'walFetched'; readonly to: string; readonly startLsn: Lsn; readonly endLsn: Lsn }
  | { readonly kind: 'fetchFailed'; readonly to: string }
  /** A newer membership: a leader goes on under it, anybody else has to begin anew. */
  | { readonly kind: 'membership'; readonly membership: Membership }
  /** Some milliseconds after `commitAdvanced`, and again while `hasNews`: for acceptors that no append told of it. */
  | { readonly kind: 'news' }
  /**
   * How far away the acceptors are. Near ones are sent the next append once they answered: what came meanwhile goes as
   * one, which is the cheapest. Far ones have a second on its way, so that they never wait for one.
   */
  | { readonly kind: 'pace'; readonly unansweredMax: 1 | 2 }
  /** Now and then, such as every second: asks idle acceptors for a sign of life and tries again what was stuck. */
  | { readonly kind: 'heartbeat' }

export type ProposerEffect =
  | { readonly kind: 'sendVote'; readonly to: string; readonly message: VoteMessage }
  | { readonly kind: 'sendElected'; readonly to: string; readonly message: ElectedMessage }
  /** An append without WAL: a heartbeat, or news of the commit position. */
  | { readonly kind: 'sendPositions'; readonly to: string; readonly message: AppendMessage }
  /** An append with the bytes [startLsn, endLsn) of the buffer, or of what was fetched for this acceptor. */
  | {
      readonly kind: 'sendWal'
      readonly to: string
      readonly source: 'buffer' | 'fetched'
      readonly term: number
      readonly startLsn: Lsn
      readonly endLsn: Lsn
      readonly commitLsn: Lsn
      /** A record end within or before the range; the buffer may know a later one. */
      readonly recordEndLsn: Lsn
    }
  /** Is the WAL of the living Postgres, up to `endLsn`, what `donor` has? Answer with `localWalCompared`. */
  | { readonly kind: 'compareLocalWal'; readonly donor: string; readonly term: number; readonly endLsn: Lsn }
  /** Won. The next byte of WAL goes to `startLsn`; what lies before is fixed, though maybe not committed yet. */
  | {
      readonly kind: 'elected'
      readonly term: number
      readonly startLsn: Lsn
      readonly election: ElectionKind
      readonly lastLogTerm: number
      readonly donor: string
    }
  | { readonly kind: 'commitAdvanced'; readonly lsn: Lsn }
  /** Nothing before is sent from the buffer any more. */
  | { readonly kind: 'trimBuffer'; readonly lsn: Lsn }
  /** Read [startLsn, endLsn) from acceptor `from`, naming `term`, for acceptor `to`. One at a time for each `to`. */
  | {
      readonly kind: 'fetchWal'
      readonly to: string
      readonly from: string
      readonly term: number
      readonly startLsn: Lsn
      readonly endLsn: Lsn
    }
  /** `to` needs WAL that no connected acceptor has. If this term has committed nothing, a new election helps. */
  | { readonly kind: 'donorMissing'; readonly to: string; readonly startLsn: Lsn }
  /** Close the stream: the peer broke the protocol, or the membership changed. Open a new one while it is a member. */
  | { readonly kind: 'drop'; readonly peer: string; readonly reason: string }
  /** The end: another proposer has `term`, or the vote was lost. Stop Postgres, or try again with a new proposer. */
  | { readonly kind: 'fenced'; readonly term: number }
  /** The end: the membership is older than what an acceptor knows. */
  | { readonly kind: 'staleMembership'; readonly generation: number }

export interface ProposerStep {
  readonly state: ProposerState
  readonly effects: readonly ProposerEffect[]
}

const PEER_DOWN: PeerState = {
  connection: 'down',
  term: 0,
  vote: undefined,
  hasVoted: false,
  nextLsn: 0 as Lsn,
  flushLsn: 0 as Lsn,
  commitSentLsn: 0 as Lsn,
  awaitedLsns: [0 as Lsn, 0 as Lsn],
  inFlightBytes: 0,
  isFetching: false,
  fetchedFrom: '',
  failedDonor: '',
}

export function createProposer(options: ProposerOptions): ProposerState {
  const { timelineStartLsn } = options
  return {
    phase: 'greeting',
    options: {
      appendBytesMax: 256 * 1024,
      inFlightBytesMax: 4 * 1024 * 1024,
      keptBytesMax: 16 * 1024 * 1024,
      unansweredMax: 2,
      ...options,
    },
    peers: Object.fromEntries(allMembers(options.membership).map((member) => [member, PEER_DOWN])),
    term: 0,
    history: [],
    termStartLsn: timelineStartLsn,
    election: 'rebuild',
    donor: '',
    bufferStartLsn: timelineStartLsn,
    bufferEndLsn: timelineStartLsn,
    recordEndLsn: timelineStartLsn,
    commitLsn: 0 as Lsn,
    newsLsn: 0 as Lsn,
  }
}

/** Whether an acceptor is still to hear of the commit position: time for another `news` soon. */
export function hasNews(state: ProposerState): boolean {
  for (const name in state.peers) {
    const { connection, commitSentLsn } = state.peers[name] as PeerState
    if (connection === 'streaming' && commitSentLsn < state.commitLsn) return true
  }
  return false
}

/** Whether the driver should take no more WAL for now: `bytesMax` wait to be committed, and some of it can be. */
export function isBufferFull(state: ProposerState, bytesMax: number): boolean {
  return (
    state.bufferEndLsn - state.bufferStartLsn > bytesMax &&
    state.recordEndLsn > maxLsn(state.commitLsn, state.termStartLsn)
  )
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }
type MutablePeer = Mutable<PeerState>
interface Draft extends Omit<Mutable<ProposerState>, 'peers'> {
  peers: Record<string, MutablePeer>
}

export function stepProposer(state: ProposerState, input: ProposerInput): ProposerStep {
  if (state.phase === 'fenced') return { state, effects: [] }
  const peers: Record<string, MutablePeer> = {}
  for (const name in state.peers) peers[name] = { ...(state.peers[name] as PeerState) }
  const draft: Draft = { ...state, peers }
  const effects: ProposerEffect[] = []
  apply(draft, input, effects)
  assert(
    draft.commitLsn >= state.commitLsn,
    () => `I3: commit position went back from ${formatLsn(state.commitLsn)} to ${formatLsn(draft.commitLsn)}`,
  )
  return { state: draft, effects }
}

function apply(draft: Draft, input: ProposerInput, effects: ProposerEffect[]): void {
  switch (input.kind) {
    case 'greeted':
      return onGreeted(draft, input.from, input.reply, effects)
    case 'voted':
      return onVoted(draft, input.from, input.reply, effects)
    case 'appended':
      return onAppended(draft, input.from, input.reply, effects)
    case 'disconnected': {
      const peer = draft.peers[input.from]
      if (peer !== undefined) Object.assign(peer, { connection: 'down', inFlightBytes: 0, isFetching: false })
      return
    }
    case 'sent': {
      const peer = draft.peers[input.to]
      if (peer === undefined || peer.connection !== 'streaming') return
      peer.inFlightBytes = Math.max(0, peer.inFlightBytes - input.bytes)
      return pump(draft, input.to, effects)
    }
    case 'localWalCompared':
      assert(draft.phase === 'comparing', () => `local WAL compared while in phase ${draft.phase}`)
      return lead(draft, input.isEqual ? 'adopt' : 'rebuild', effects)
    case 'wal':
      return onWal(draft, input.endLsn, input.recordEndLsn, effects)
    case 'walFetched':
      return onFetched(draft, input.to, input.startLsn, input.endLsn, effects)
    case 'fetchFailed': {
      // Tried again by the next heartbeat, from another donor where there is one.
      const peer = draft.peers[input.to]
      if (peer !== undefined) Object.assign(peer, { isFetching: false, failedDonor: peer.fetchedFrom })
      return
    }
    case 'membership':
      return onMembership(draft, input.membership, effects)
    case 'pace':
      draft.options = { ...draft.options, unansweredMax: input.unansweredMax }
      for (const name in draft.peers) pump(draft, name, effects)
      return
    case 'news':
      return onNews(draft, effects)
    case 'heartbeat':
      return onHeartbeat(draft, effects)
  }
}

/**
 * The votes of a campaign are of its own membership, so only a leader can go on. It greets everybody anew: what was
 * flushed counts again once that acceptor says so under the new generation.
 */
function onMembership(draft: Draft, membership: Membership, effects: ProposerEffect[]): void {
  const { generation } = membership
  if (generation <= draft.options.membership.generation) return
  if (draft.phase !== 'leader') {
    draft.phase = 'fenced'
    effects.push({ kind: 'staleMembership', generation })
    return
  }
  for (const name in draft.peers) drop(effects, name, `membership has generation ${generation} now`)
  draft.options = { ...draft.options, membership }
  draft.peers = Object.fromEntries(allMembers(membership).map((member) => [member, { ...PEER_DOWN }]))
}

function onGreeted(draft: Draft, from: string, reply: GreetingReply, effects: ProposerEffect[]): void {
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

function onVoted(draft: Draft, from: string, reply: VoteReply, effects: ProposerEffect[]): void {
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
  // Given to somebody else in this term, or to us with the answer lost: there is no telling.
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

function lead(draft: Draft, election: ElectionKind, effects: ProposerEffect[]): void {
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

/** Tells an acceptor whose positions are known where its log leaves ours, and begins to stream. */
function announce(draft: Draft, to: string, effects: ProposerEffect[]): void {
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

function onWal(draft: Draft, endLsn: Lsn, recordEndLsn: Lsn, effects: ProposerEffect[]): void {
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

function onAppended(draft: Draft, from: string, reply: AppendReply, effects: ProposerEffect[]): void {
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

/** Acceptors that are busy hear of the commit position with their next append; who has heard of none since is told. */
function onNews(draft: Draft, effects: ProposerEffect[]): void {
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
 * comes meanwhile waits and goes as one: so batches are as large as the acceptor is slow, without a timer.
 */
function pump(draft: Draft, to: string, effects: ProposerEffect[], evenIfUnanswered = false): void {
  const peer = draft.peers[to] as MutablePeer
  const { appendBytesMax, inFlightBytesMax, unansweredMax } = draft.options
  while (peer.connection === 'streaming' && !peer.isFetching && peer.nextLsn < draft.bufferEndLsn) {
    if (peer.inFlightBytes >= inFlightBytesMax) return
    if (peer.nextLsn < draft.bufferStartLsn) return fetch(draft, to, effects)
    const isWhole = draft.bufferEndLsn - peer.nextLsn >= appendBytesMax
    const [older, newer] = peer.awaitedLsns
    if (!isWhole && !evenIfUnanswered && peer.flushLsn < (unansweredMax === 1 ? newer : older)) return
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
  peer.nextLsn = endLsn
  peer.inFlightBytes += endLsn - startLsn
  peer.commitSentLsn = commitLsn
  // The acceptor answers with a record end: an append that brings none is not waited for.
  const [, newer] = peer.awaitedLsns
  if (endLsn === draft.bufferEndLsn && draft.recordEndLsn > newer)
    peer.awaitedLsns = [newer, draft.recordEndLsn]
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

function onFetched(draft: Draft, to: string, startLsn: Lsn, endLsn: Lsn, effects: ProposerEffect[]): void {
  const peer = draft.peers[to]
  if (peer === undefined || !peer.isFetching || peer.connection !== 'streaming' || peer.nextLsn !== startLsn)
    return
  peer.isFetching = false
  if (endLsn <= startLsn || endLsn > draft.bufferEndLsn) return
  sendWal(draft, to, 'fetched', endLsn, effects)
  pump(draft, to, effects)
}

function onHeartbeat(draft: Draft, effects: ProposerEffect[]): void {
  if (draft.phase !== 'leader') return
  for (const name in draft.peers) {
    const peer = draft.peers[name] as PeerState
    if (peer.connection !== 'streaming') continue
    // An answer may be lost with what it answers; the append that follows shows it.
    pump(draft, name, effects, true)
    sendPositions(draft, name, effects)
  }
}

function fence(draft: Draft, term: number, effects: ProposerEffect[]): void {
  draft.phase = 'fenced'
  effects.push({ kind: 'fenced', term })
}

function drop(effects: ProposerEffect[], peer: string, reason: string): void {
  effects.push({ kind: 'drop', peer, reason })
}
