/** The consensus conversation with one proposer: messages to the acceptor's inputs, its answers back. */
import { BoundedQueue, LSN_ZERO, lsnFromBigint, lsnToBigint, fail } from '@understory/base'
import type { AcceptorInput, ElectionKind } from '@understory/consensus'
import { describeIdentity, isSameIdentity } from '@understory/postgres/cluster'
import {
  readGeneration,
  readHistory,
  readMembership,
  readPostgresIdentity,
  readTerm,
  writeHistory,
  writeMembership,
} from '@understory/protocol'
import type { KnownMembership } from '@understory/protocol'
import { ElectionKind as WireElectionKind, PROPOSE_VERSIONS, agreeOnVersion } from '@understory/rpc'
import type { ProposeRequest, ProposeResponse } from '@understory/rpc'
import type { CatchUpScheduler } from '../recovery/catch-up-scheduler.ts'
import type { AcceptorAnswer, ProposerSession } from '@understory/consensus/driver'
import type { Timelines } from '../timeline/timelines.ts'

/** Answers are small and one for each flush: a proposer that does not read so many is gone. */
const ANSWERS_COUNT_MAX = 10_000

export interface ProposeParts {
  readonly timelines: Timelines
  readonly catchUpScheduler: CatchUpScheduler
  readonly nodeId: string
}

export async function* propose(
  { timelines, catchUpScheduler, nodeId }: ProposeParts,
  requests: AsyncIterable<ProposeRequest>,
  signal: AbortSignal,
): AsyncGenerator<ProposeResponse, void, void> {
  const incoming = requests[Symbol.asyncIterator]()
  const first = await incoming.next()
  if (first.done === true) return
  const greeting = first.value.message
  if (greeting?.$case !== 'greeting')
    throw fail('bad_argument', 'the stream of a proposer begins with its greeting')
  const { timeline: ref, postgres, membershipGeneration, membership, commitLsn } = greeting.value
  const protocolVersion = agreeOnVersion('the proposer protocol', PROPOSE_VERSIONS, greeting.value)
  const generation = readGeneration('membership', membershipGeneration)
  const timeline = timelines.get(ref)
  const identity = readPostgresIdentity(postgres)
  if (!isSameIdentity(timeline.identity, identity)) {
    throw fail(
      'precondition',
      `proposer is of ${describeIdentity(identity)}, the timeline of ${describeIdentity(timeline.identity)}`,
    )
  }

  const answers = new BoundedQueue<ProposeResponse>(ANSWERS_COUNT_MAX)
  const session: ProposerSession = {
    nodeId: greeting.value.nodeId,
    deliver: (effect) => {
      if (!answers.tryPush(writeAnswer(effect, { nodeId, protocolVersion, known: timeline.membership })))
        answers.close(fail('unavailable', 'proposer does not read its answers'))
    },
    close: (error) => answers.close(error),
  }
  timeline.attach(session)
  signal.addEventListener('abort', () => answers.close(), { once: true })
  const receiving = (async () => {
    const announced = membership === undefined ? undefined : readMembership(membership)
    // A generation whose members are not known would be of no use to later proposers.
    if (generation > timeline.state.control.membershipGeneration && announced?.generation !== generation) {
      throw fail(
        'bad_argument',
        `proposer does not say who the members of membership generation ${generation} are`,
      )
    }
    if (announced !== undefined) await timeline.learnMembership(announced)
    if (ref !== undefined)
      await catchUpScheduler.beforeLeading(timeline, ref, lsnFromBigint(commitLsn), signal)
    await timeline.handle(session, { kind: 'greeting', message: { membershipGeneration: generation } })
    for (let next = await incoming.next(); next.done !== true; next = await incoming.next()) {
      const { message } = next.value
      const traceparent = message?.$case === 'append' ? message.value.traceparent : undefined
      await timeline.handle(session, readMessage(next.value, generation), traceparent)
    }
    answers.close()
  })()
  receiving.catch((error: unknown) => answers.close(error))
  try {
    yield* answers
  } finally {
    timeline.detach(session)
  }
}

function readMessage({ message }: ProposeRequest, membershipGeneration: number): AcceptorInput {
  switch (message?.$case) {
    case 'vote':
      return { kind: 'vote', membershipGeneration, message: { term: readTerm(message.value.term) } }
    case 'elected': {
      const { term, startStreamingLsn, termHistory, kind } = message.value
      return {
        kind: 'elected',
        membershipGeneration,
        message: {
          term: readTerm(term),
          startStreamingLsn: lsnFromBigint(startStreamingLsn),
          history: readHistory(termHistory),
          election: readElection(kind),
        },
      }
    }
    case 'append': {
      const { term, beginLsn, commitLsn, wal } = message.value
      return {
        kind: 'append',
        membershipGeneration,
        message: {
          term: readTerm(term),
          beginLsn: lsnFromBigint(beginLsn),
          commitLsn: lsnFromBigint(commitLsn),
          // Where records end is known by decoding alone (admission.ts).
          recordEndLsn: LSN_ZERO,
          wal,
        },
      }
    }
    case 'greeting':
      throw fail('bad_argument', 'a proposer sends one greeting')
    default:
      throw fail('bad_argument', 'message of a proposer is of an unknown kind')
  }
}

function readElection(kind: WireElectionKind): ElectionKind {
  switch (kind) {
    case WireElectionKind.ELECTION_KIND_ADOPT:
      return 'adopt'
    case WireElectionKind.ELECTION_KIND_REBUILD:
      return 'rebuild'
    default:
      throw fail('bad_argument', 'the election does not say how the compute continues')
  }
}

interface AnswerParts {
  readonly nodeId: string
  readonly protocolVersion: number
  readonly known: KnownMembership | undefined
}

function writeAnswer(
  effect: AcceptorAnswer,
  { nodeId, protocolVersion, known }: AnswerParts,
): ProposeResponse {
  switch (effect.kind) {
    case 'sendGreeting': {
      const { term, membershipGeneration } = effect.reply
      const isCurrent = known?.generation === membershipGeneration
      const value = {
        nodeId,
        term: BigInt(term),
        membershipGeneration: BigInt(membershipGeneration),
        membership: isCurrent ? writeMembership(known) : undefined,
        protocolVersion,
      }
      return { message: { $case: 'greeting', value } }
    }
    case 'sendVote': {
      const { term, voteGiven, flushLsn, commitLsn, history } = effect.reply
      const value = {
        term: BigInt(term),
        voteGiven,
        flushLsn: lsnToBigint(flushLsn),
        commitLsn: lsnToBigint(commitLsn),
        termHistory: writeHistory(history),
        timelineStartLsn: lsnToBigint(history[0]?.startLsn ?? LSN_ZERO),
      }
      return { message: { $case: 'vote', value } }
    }
    case 'sendAppended': {
      const { term, flushLsn, commitLsn } = effect.reply
      const value = { term: BigInt(term), flushLsn: lsnToBigint(flushLsn), commitLsn: lsnToBigint(commitLsn) }
      return { message: { $case: 'append', value } }
    }
  }
}
