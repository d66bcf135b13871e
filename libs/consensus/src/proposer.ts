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
import { assert, formatLsn, maxLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { lead, onGreeted, onVoted } from './election.ts'
import { allMembers } from './membership.ts'
import type { Membership } from './membership.ts'
import { drop } from './proposer-draft.ts'
import type { Draft, MutablePeer } from './proposer-draft.ts'
import { PEER_DOWN } from './proposer-state.ts'
import type {
  PeerState,
  ProposerEffect,
  ProposerInput,
  ProposerOptions,
  ProposerState,
  ProposerStep,
} from './proposer-state.ts'
import { onAppended, onFetched, onHeartbeat, onNews, onWal, pump } from './replication.ts'

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

/** Whether an acceptor does not know the commit position yet: time for another `news` soon. */
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
 * The votes of a campaign are of its own membership, so only a leader can continue. It greets every member again: what
 * was flushed counts again once that acceptor says so under the new generation.
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
