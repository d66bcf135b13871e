/**
 * The acceptor: votes, cuts its log where an elected proposer says, appends, and reports what is durable. Pure: WAL
 * goes through it to the effect that writes it.
 *
 * A step's effects come in two lists, and the type keeps their order: everything in `durable` is carried out, in order
 * and to the end, before anything in `after`. So no answer ever reports what is not on disk. `writeWal` alone need not
 * be durable at its return: it counts once `flushed` says so.
 *
 * The app's part
 * - The state changes by steps alone. A step counts once its `durable` effects are done; before that it may be dropped.
 * - `truncateWal` waits for a running flush, whose result is dropped, cuts the log durably, and forgets unflushed
 *   bytes. Once it is done, `truncated` is fed: even if the effects after it are dropped, the log is shorter.
 * - After `flush` it makes what is written durable and feeds `flushed` with the last record end in that, in order.
 *   One flush may answer many requests.
 * - WAL that cannot be written for want of room, or that is not WAL: `dropUnflushed`.
 * - Any other failed write, truncation or control file ends this state: read it again from disk.
 *
 * Promises: I2, a vote is given once a term, and nothing of an older term is taken after it, nor anything of an older
 * membership after a newer one; I3, the log is never cut below the commit position, which never goes back and never
 * passes the flush position.
 */
import { advance, assert, formatLsn, maxLsn, minLsn } from '@understory/base'
import type { ErrorCode, Lsn } from '@understory/base'
import type {
  AppendMessage,
  AppendReply,
  ElectedMessage,
  ElectionKind,
  GreetingMessage,
  GreetingReply,
  VoteMessage,
  VoteReply,
} from './messages.ts'
import {
  highestCommonPoint,
  historyUpTo,
  initialHistory,
  isWellFormedHistory,
  lastTermStart,
} from './term-history.ts'
import type { TermHistory } from './term-history.ts'

/** The contents of the control file. */
export interface AcceptorControl {
  readonly membershipGeneration: number
  /** Highest term seen: voted for, or announced. */
  readonly term: number
  /** History of the elected proposer that wrote last. It may reach beyond the log. */
  readonly history: TermHistory
  /** How the compute continued after that proposer's election; undefined before the first. */
  readonly election: ElectionKind | undefined
  readonly timelineStartLsn: Lsn
  /** At most the true commit position: it is not written for its own sake. */
  readonly commitLsn: Lsn
}

export interface AcceptorState {
  readonly control: AcceptorControl
  /** End of what was written, durable or not, at any byte. */
  readonly writeLsn: Lsn
  /** End of what is durable, at a record end. */
  readonly flushLsn: Lsn
  /** At most `flushLsn`. */
  readonly commitLsn: Lsn
  /** The commit position that the proposer of this log's last term sent; may be ahead of `flushLsn`. */
  readonly announcedCommitLsn: Lsn
}

/** Messages after a greeting carry the membership generation of that greeting: it holds for the whole stream. */
interface OfStream {
  readonly membershipGeneration: number
}
export type AcceptorInput =
  | { readonly kind: 'greeting'; readonly message: GreetingMessage }
  | ({ readonly kind: 'vote'; readonly message: VoteMessage } & OfStream)
  | ({ readonly kind: 'elected'; readonly message: ElectedMessage } & OfStream)
  | ({ readonly kind: 'append'; readonly message: AppendMessage } & OfStream)
  /** Everything up to the record end `flushLsn` is durable. */
  | { readonly kind: 'flushed'; readonly flushLsn: Lsn }
  /** The effect `truncateWal` of a step that does not count yet was carried out. */
  | { readonly kind: 'truncated'; readonly toLsn: Lsn }
  /** Back to what is durable: what is beyond it never will be. */
  | { readonly kind: 'dropUnflushed' }
  /**
   * Now and then, such as once a segment: a start looks for the end of the log from the recorded commit position on.
   */
  | { readonly kind: 'rememberCommit' }

export type DurableEffect =
  | { readonly kind: 'persistControl'; readonly control: AcceptorControl }
  | { readonly kind: 'truncateWal'; readonly toLsn: Lsn }
  | { readonly kind: 'writeWal'; readonly atLsn: Lsn; readonly wal: Uint8Array; readonly recordEndLsn: Lsn }

export type FollowingEffect =
  | { readonly kind: 'sendGreeting'; readonly reply: GreetingReply }
  | { readonly kind: 'sendVote'; readonly reply: VoteReply }
  | { readonly kind: 'sendAppended'; readonly reply: AppendReply }
  | { readonly kind: 'flush' }
  /** Committed up to here: subscribers may have it. */
  | { readonly kind: 'committed'; readonly lsn: Lsn }
  /** The message was not taken and nothing changed: end the stream with this. */
  | { readonly kind: 'refuse'; readonly code: ErrorCode; readonly message: string }

export interface AcceptorStep {
  readonly state: AcceptorState
  readonly durable: readonly DurableEffect[]
  readonly after: readonly FollowingEffect[]
}

/** The control of a timeline that is made. */
export function initialControl(timelineStartLsn: Lsn): AcceptorControl {
  return {
    membershipGeneration: 0,
    term: 0,
    history: initialHistory(timelineStartLsn),
    election: undefined,
    timelineStartLsn,
    commitLsn: timelineStartLsn,
  }
}

/** After a start: `flushLsn` is the end of the last whole record on disk, and nothing is beyond it. */
export function restoreAcceptor(control: AcceptorControl, flushLsn: Lsn): AcceptorState {
  const { commitLsn, timelineStartLsn, history, term } = control
  assert(
    flushLsn >= commitLsn && commitLsn >= timelineStartLsn,
    () => `I3: WAL ends at ${formatLsn(flushLsn)}, before the commit position ${formatLsn(commitLsn)}`,
  )
  assert(
    isWellFormedHistory(history, timelineStartLsn) && lastTermStart(history).term <= term,
    () => `term history ends with term ${lastTermStart(history).term}, control file has ${term}`,
  )
  return { control, writeLsn: flushLsn, flushLsn, commitLsn, announcedCommitLsn: commitLsn }
}

export function stepAcceptor(state: AcceptorState, input: AcceptorInput): AcceptorStep {
  const step = apply(state, input)
  const after = step.state
  assert(
    after.commitLsn >= state.commitLsn && after.commitLsn <= after.flushLsn,
    () =>
      `I3: commit position ${formatLsn(state.commitLsn)} became ${formatLsn(after.commitLsn)} with WAL flushed to ${formatLsn(after.flushLsn)}`,
  )
  assert(
    after.flushLsn <= after.writeLsn,
    () => `WAL is flushed to ${formatLsn(after.flushLsn)} and written to ${formatLsn(after.writeLsn)}`,
  )
  assert(
    after.control.commitLsn >= state.control.commitLsn && after.control.commitLsn <= after.commitLsn,
    () =>
      `I3: recorded commit position ${formatLsn(state.control.commitLsn)} became ${formatLsn(after.control.commitLsn)} where ${formatLsn(after.commitLsn)} is committed`,
  )
  assert(
    after.control.term >= state.control.term,
    () => `I2: term ${state.control.term} became ${after.control.term}`,
  )
  assert(
    after.control.membershipGeneration >= state.control.membershipGeneration,
    () =>
      `membership generation ${state.control.membershipGeneration} became ${after.control.membershipGeneration}`,
  )
  assert(
    (after === state && step.durable.length === 0) || !step.after.some(({ kind }) => kind === 'refuse'),
    () => `I10: refused message "${input.kind}" changed the acceptor`,
  )
  return step
}

function apply(state: AcceptorState, input: AcceptorInput): AcceptorStep {
  const generation = state.control.membershipGeneration
  if ('membershipGeneration' in input && input.membershipGeneration !== generation) {
    const message = `message is of membership generation ${input.membershipGeneration}, not ${generation}`
    return refusal(state, 'stale', message)
  }
  switch (input.kind) {
    case 'greeting':
      return onGreeting(state, input.message)
    case 'vote':
      return onVote(state, input.message)
    case 'elected':
      return onElected(state, input.message)
    case 'append':
      return onAppend(state, input.message)
    case 'flushed':
      return onFlushed(state, input.flushLsn)
    case 'truncated':
      return onTruncated(state, input.toLsn)
    case 'dropUnflushed':
      return onDropUnflushed(state)
    case 'rememberCommit':
      return onRememberCommit(state)
  }
}

const reply = (state: AcceptorState, ...effects: FollowingEffect[]): AcceptorStep => ({
  state,
  durable: [],
  after: effects,
})
const refusal = (state: AcceptorState, code: ErrorCode, message: string): AcceptorStep =>
  reply(state, { kind: 'refuse', code, message })

/**
 * The newest membership counts for all: a proposer that knows a newer one brings it, and messages of an older one
 * are refused. WAL of the older one that is not flushed yet is dropped: the control plane, which finishes the change,
 * has asked for our positions, and an older proposer must not commit beyond them by a later flush. A proposer with an
 * older membership learns ours, which ends it; its other messages are refused.
 */
function onGreeting(state: AcceptorState, { membershipGeneration }: GreetingMessage): AcceptorStep {
  const { control } = state
  const newest = Math.max(membershipGeneration, control.membershipGeneration)
  const answer = {
    kind: 'sendGreeting',
    reply: { term: control.term, membershipGeneration: newest },
  } as const
  if (newest === control.membershipGeneration) return reply(state, answer)
  const newer = { ...control, membershipGeneration }
  const durable = withoutUnflushed(state)
  durable.push({ kind: 'persistControl', control: newer })
  return { state: { ...state, writeLsn: state.flushLsn, control: newer }, durable, after: [answer] }
}

/** The effects that drop written but unflushed bytes, if there are any. */
const withoutUnflushed = ({ writeLsn, flushLsn }: AcceptorState): DurableEffect[] =>
  writeLsn > flushLsn ? [{ kind: 'truncateWal', toLsn: flushLsn }] : []

/**
 * A vote is given for every term above ours. Asked again in the same term, by a proposer that came back, we only report
 * our positions. Either way written but unflushed bytes are dropped, so that the reported position stays true.
 */
function onVote(state: AcceptorState, { term }: VoteMessage): AcceptorStep {
  let { control } = state
  const durable = term >= control.term ? withoutUnflushed(state) : []
  let after = durable.length === 0 ? state : { ...state, writeLsn: state.flushLsn }
  const voteGiven = term > control.term
  if (voteGiven) {
    control = { ...control, term, commitLsn: state.commitLsn }
    after = { ...after, control }
    durable.push({ kind: 'persistControl', control })
  }
  const { flushLsn, commitLsn } = after
  const history = historyUpTo(control.history, flushLsn)
  const answer: VoteReply = { term: control.term, voteGiven, flushLsn, commitLsn, history }
  return { state: after, durable, after: [{ kind: 'sendVote', reply: answer }] }
}

/**
 * The log is cut first and the history replaced after: a crash between leaves a shorter log under its old history,
 * which is true; the other way round old bytes would pass as the new term's.
 */
function onElected(state: AcceptorState, message: ElectedMessage): AcceptorStep {
  const { control } = state
  if (message.term < control.term) return reply(state, appended(state))
  const own = lastTermStart(message.history)
  if (!isWellFormedHistory(message.history, control.timelineStartLsn) || own.term !== message.term) {
    return refusal(
      state,
      'bad_argument',
      `term history of the proposer elected in term ${message.term} is malformed`,
    )
  }
  const history = historyUpTo(control.history, state.flushLsn)
  const common = highestCommonPoint(message.history, history, state.flushLsn)
  if (common !== message.startStreamingLsn) {
    return refusal(
      state,
      'conflict',
      `proposer wants to stream from ${formatLsn(message.startStreamingLsn)}, but the logs part at ${formatLsn(common)}`,
    )
  }
  if (common < state.commitLsn) {
    return refusal(
      state,
      'precondition',
      `proposer wants to cut WAL at ${formatLsn(common)}, below the commit position ${formatLsn(state.commitLsn)}`,
    )
  }
  const durable: DurableEffect[] = []
  if (state.writeLsn > common) durable.push({ kind: 'truncateWal', toLsn: common })
  const newer: AcceptorControl = {
    ...control,
    term: message.term,
    history: message.history,
    election: message.election,
    commitLsn: state.commitLsn,
  }
  durable.push({ kind: 'persistControl', control: newer })
  const after: AcceptorState = { ...state, control: newer, writeLsn: common, flushLsn: common }
  return { state: after, durable, after: [appended(after)] }
}

function onAppend(state: AcceptorState, message: AppendMessage): AcceptorStep {
  const { control } = state
  if (message.term < control.term) return reply(state, appended(state))
  if (message.term > control.term || lastTermStart(control.history).term !== message.term) {
    return refusal(
      state,
      'precondition',
      `append of term ${message.term} came before its election was announced`,
    )
  }
  const { beginLsn, wal, recordEndLsn } = message
  // Positions alone show too that what was sent before was dropped: by a vote in this term that another asked for.
  if (wal.length === 0 ? beginLsn > state.writeLsn : beginLsn !== state.writeLsn) {
    return refusal(
      state,
      'conflict',
      `append begins at ${formatLsn(beginLsn)}, but the log ends at ${formatLsn(state.writeLsn)}`,
    )
  }
  if (wal.length === 0) {
    const after = withCommit({
      ...state,
      announcedCommitLsn: maxLsn(state.announcedCommitLsn, message.commitLsn),
    })
    return reply(after, ...committed(state, after), appended(after))
  }
  const writeLsn = advance(beginLsn, wal.length)
  if (recordEndLsn > writeLsn) {
    return refusal(
      state,
      'bad_argument',
      `append ends at ${formatLsn(writeLsn)}, before its record end ${formatLsn(recordEndLsn)}`,
    )
  }
  const after = withCommit({
    ...state,
    writeLsn,
    announcedCommitLsn: maxLsn(state.announcedCommitLsn, message.commitLsn),
  })
  return {
    state: after,
    durable: [{ kind: 'writeWal', atLsn: beginLsn, wal, recordEndLsn }],
    after: [{ kind: 'flush' }, ...committed(state, after)],
  }
}

function onFlushed(state: AcceptorState, flushLsn: Lsn): AcceptorStep {
  assert(
    flushLsn >= state.flushLsn && flushLsn <= state.writeLsn,
    () =>
      `flushed ${formatLsn(flushLsn)} is not within ${formatLsn(state.flushLsn)} and ${formatLsn(state.writeLsn)}`,
  )
  if (flushLsn === state.flushLsn) return reply(state)
  const after = withCommit({ ...state, flushLsn })
  return reply(after, appended(after), ...committed(state, after))
}

/** A shorter log under its old history, until the effects that follow are done too. */
function onTruncated(state: AcceptorState, toLsn: Lsn): AcceptorStep {
  assert(
    toLsn >= state.commitLsn && toLsn <= state.writeLsn,
    () =>
      `I3: WAL was cut at ${formatLsn(toLsn)}, which is not within its commit position ${formatLsn(state.commitLsn)} and ${formatLsn(state.writeLsn)}`,
  )
  return reply({ ...state, writeLsn: toLsn, flushLsn: minLsn(state.flushLsn, toLsn) })
}

/** Cut even where nothing is written: what was on its way may have left bytes on the disk. */
function onDropUnflushed(state: AcceptorState): AcceptorStep {
  const { flushLsn } = state
  return {
    state: { ...state, writeLsn: flushLsn },
    durable: [{ kind: 'truncateWal', toLsn: flushLsn }],
    after: [],
  }
}

function onRememberCommit(state: AcceptorState): AcceptorStep {
  const { control: older, commitLsn } = state
  if (commitLsn === older.commitLsn) return reply(state)
  const control = { ...older, commitLsn }
  return { state: { ...state, control }, durable: [{ kind: 'persistControl', control }], after: [] }
}

/** Positions, except that a log which is not of this term's proposer yet has nothing to report to it. */
function appended({ control, flushLsn, commitLsn }: AcceptorState): FollowingEffect {
  const isOfTerm = lastTermStart(control.history).term === control.term
  const reported = isOfTerm ? flushLsn : (0 as Lsn)
  return { kind: 'sendAppended', reply: { term: control.term, flushLsn: reported, commitLsn } }
}

function withCommit(state: AcceptorState): AcceptorState {
  const commitLsn = maxLsn(state.commitLsn, minLsn(state.announcedCommitLsn, state.flushLsn))
  return commitLsn === state.commitLsn ? state : { ...state, commitLsn }
}

function committed(before: AcceptorState, after: AcceptorState): FollowingEffect[] {
  return after.commitLsn === before.commitLsn ? [] : [{ kind: 'committed', lsn: after.commitLsn }]
}
