/** Names of what the state machines did, and the table of all that can happen: a campaign names what it never saw. */
import type { AcceptorInput, AcceptorState, AcceptorStep } from '@understory/consensus'
import type { ProposerInput, ProposerState } from '@understory/consensus'

export function acceptorTransition(before: AcceptorState, input: AcceptorInput, step: AcceptorStep): string {
  const refusal = step.after.find((effect) => effect.kind === 'refuse')
  return `acceptor: ${input.kind}, ${refusal === undefined ? outcome(before, input, step) : `refused ${refusal.code}`}`
}

function outcome(before: AcceptorState, input: AcceptorInput, step: AcceptorStep): string {
  switch (input.kind) {
    case 'greeting': {
      const own = before.control.membershipGeneration
      const given = input.message.membershipGeneration
      return given === own ? 'same membership' : given > own ? 'newer membership' : 'older membership'
    }
    case 'vote': {
      if (input.message.term < before.control.term) return 'older term'
      const given = input.message.term > before.control.term ? 'given' : 'asked again'
      return step.durable.some(({ kind }) => kind === 'truncateWal')
        ? `${given}, unflushed WAL dropped`
        : given
    }
    case 'elected': {
      if (input.message.term < before.control.term) return 'older term'
      return step.durable.some(({ kind }) => kind === 'truncateWal') ? 'log cut' : 'log kept'
    }
    case 'append': {
      if (input.message.term < before.control.term) return 'older term'
      return input.message.wal.length === 0 ? 'positions' : 'written'
    }
    case 'flushed':
      return step.state.commitLsn > before.commitLsn ? 'and committed' : 'flushed'
    case 'truncated':
      return 'log cut'
    case 'dropUnflushed':
      return 'back to what is durable'
    case 'rememberCommit':
      return step.durable.length > 0 ? 'recorded' : 'nothing new'
  }
}

export function proposerTransition(
  before: ProposerState,
  input: ProposerInput,
  after: ProposerState,
): string {
  const election = after.phase === 'leader' && before.phase !== 'leader' ? `, ${after.election}` : ''
  return `proposer: ${before.phase}, ${input.kind} -> ${after.phase}${election}`
}

/**
 * Every way through the two machines that a schedule can take: what the driver keeps from the proposer is not among
 * them.
 */
export const TRANSITIONS: readonly string[] = [
  'acceptor: greeting, same membership',
  'acceptor: greeting, newer membership',
  'acceptor: greeting, older membership',
  'acceptor: vote, given',
  'acceptor: vote, given, unflushed WAL dropped',
  'acceptor: vote, asked again',
  'acceptor: vote, asked again, unflushed WAL dropped',
  'acceptor: vote, older term',
  'acceptor: vote, refused stale',
  'acceptor: elected, log cut',
  'acceptor: elected, log kept',
  'acceptor: elected, older term',
  'acceptor: elected, refused conflict',
  'acceptor: elected, refused precondition',
  'acceptor: elected, refused stale',
  'acceptor: append, written',
  'acceptor: append, positions',
  'acceptor: append, older term',
  'acceptor: append, refused conflict',
  'acceptor: append, refused precondition',
  'acceptor: append, refused stale',
  'acceptor: flushed, flushed',
  'acceptor: flushed, and committed',
  'acceptor: truncated, log cut',
  'acceptor: dropUnflushed, back to what is durable',
  'acceptor: rememberCommit, recorded',
  'proposer: greeting, greeted -> greeting',
  'proposer: greeting, greeted -> campaign',
  'proposer: greeting, disconnected -> greeting',
  'proposer: greeting, heartbeat -> greeting',
  'proposer: greeting, membership -> fenced',
  'proposer: campaign, greeted -> campaign',
  'proposer: campaign, voted -> campaign',
  'proposer: campaign, voted -> comparing',
  'proposer: campaign, voted -> leader, rebuild',
  'proposer: campaign, voted -> fenced',
  'proposer: campaign, disconnected -> campaign',
  'proposer: campaign, heartbeat -> campaign',
  'proposer: campaign, membership -> fenced',
  'proposer: comparing, localWalCompared -> leader, adopt',
  'proposer: comparing, localWalCompared -> leader, rebuild',
  'proposer: leader, greeted -> leader',
  'proposer: leader, voted -> leader',
  'proposer: leader, voted -> fenced',
  'proposer: leader, appended -> leader',
  'proposer: leader, appended -> fenced',
  'proposer: leader, disconnected -> leader',
  'proposer: leader, sent -> leader',
  'proposer: leader, wal -> leader',
  'proposer: leader, walFetched -> leader',
  'proposer: leader, fetchFailed -> leader',
  'proposer: leader, membership -> leader',
  'proposer: leader, news -> leader',
  'proposer: leader, pace -> leader',
  'proposer: leader, heartbeat -> leader',
  'membership: change begun',
  'membership: change finished',
  'membership: change aborted',
]
