/**
 * Brings a timeline's log to what other safekeepers have committed: that of a new member from nothing, that of one that
 * was away from where it ends.
 *
 * It speaks to the acceptor as the proposer did whose WAL the donor has: greeting, vote, elected, appends. A slow
 * network could have brought these very messages, so the rules of libs/consensus hold as they are: no election is
 * overruled, nothing committed is cut, and WAL whose CRC or chain of records is wrong is refused before it is written.
 * A proposer that is elected takes over from it at once.
 *
 * Bounded: one read from the donor at a time, and the timeline's own bound on unflushed WAL.
 */
import { Signal } from '@understory/actor'
import { LSN_ZERO, advance, describeError, formatLsn, isErrorCode, maxLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { highestCommonPoint, historyUpTo, initialControl, lastTermStart } from '@understory/consensus'
import type { AcceptorControl, TermHistory, VoteReply } from '@understory/consensus'
import type { Log } from '@understory/env'
import { isSameIdentity } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { AcceptorAnswer, ProposerSession } from '@understory/consensus/driver'
import type { Timeline } from '../timeline/timeline.ts'

/** So near a donor's commit position a log counts as caught up: the rest comes from the proposer. */
const NEAR_BYTES = 1024 * 1024

/** The report of a donor about its copy. */
export interface SourceStatus {
  readonly identity: PostgresIdentity
  readonly timelineStartLsn: Lsn
  readonly history: TermHistory
  readonly commitLsn: Lsn
  /** WAL before it is not kept there, though it may be read from it. */
  readonly oldestLsn: Lsn
}

/** The beginning of a new member: nothing, or the position from which the donor keeps WAL. */
export function controlFrom({
  timelineStartLsn,
  history: reported,
  oldestLsn,
}: SourceStatus): AcceptorControl {
  if (oldestLsn <= timelineStartLsn) return initialControl(timelineStartLsn)
  const history = historyUpTo(reported, oldestLsn)
  const { term } = lastTermStart(history)
  return { ...initialControl(timelineStartLsn), term, history, commitLsn: oldestLsn }
}

/** Where committed WAL comes from: another safekeeper, or the object store. */
export interface WalSource {
  readonly name: string
  /** Rejects where it does not answer or does not know the timeline. */
  status(signal: AbortSignal): Promise<SourceStatus>
  /** Committed WAL from `startLsn` to `endLsn`, in parts. */
  read(startLsn: Lsn, endLsn: Lsn, signal: AbortSignal): AsyncIterable<Uint8Array>
  close?(): void
}

export interface Found {
  readonly source: WalSource
  readonly status: SourceStatus
}

/** Every source that answers, the one that has most committed first. */
export async function askSources(sources: readonly WalSource[], signal: AbortSignal): Promise<Found[]> {
  const answers = await Promise.allSettled(
    sources.map(async (source) => ({ source, status: await source.status(signal) })),
  )
  return answers
    .flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []))
    .toSorted((a, b) => b.status.commitLsn - a.status.commitLsn)
}

export interface RecoveryOptions {
  readonly sources: readonly WalSource[]
  readonly signal: AbortSignal
  readonly log: Log
  /** The commit position of the furthest donor. */
  readonly onGoal?: (goalLsn: Lsn) => void
}

/** Returns how many bytes it took in. Errors: `unavailable` where no source has what is missing. */
export async function catchUp(timeline: Timeline, options: RecoveryOptions): Promise<number> {
  const { sources, signal, log, onGoal } = options
  const beganLsn = timeline.state.flushLsn
  for (;;) {
    const found = (await askSources(sources, signal)).filter(
      ({ status }) =>
        isSameIdentity(status.identity, timeline.identity) &&
        status.timelineStartLsn === timeline.timelineStartLsn,
    )
    const goalLsn = found[0]?.status.commitLsn
    if (goalLsn === undefined) throw fail('unavailable', 'no other safekeeper that answers has the timeline')
    onGoal?.(goalLsn)
    const { flushLsn } = timeline.state
    if (goalLsn <= flushLsn) return flushLsn - beganLsn
    await takeFromAny(timeline, found, signal, log)
    if (goalLsn - flushLsn <= NEAR_BYTES) return timeline.state.flushLsn - beganLsn
  }
}

/** Tries one donor after the other: what one has damaged another has whole. */
async function takeFromAny(
  timeline: Timeline,
  found: readonly Found[],
  signal: AbortSignal,
  log: Log,
): Promise<void> {
  let problem: Error | undefined
  for (const { source, status } of found) {
    if (status.commitLsn <= timeline.state.flushLsn) continue
    try {
      return await takeFrom(timeline, source, status, signal)
    } catch (error) {
      if (signal.aborted || timeline.failure !== undefined) throw error
      // A proposer was elected: what is missing comes from it.
      if (isErrorCode(error, 'conflict')) throw error
      log.warn('donor_failed', { donor: source.name, problem: describeError(error) })
      problem = error instanceof Error ? error : new Error(String(error), { cause: error })
    }
  }
  throw problem ?? fail('unavailable', 'no other safekeeper that answers is ahead')
}

async function takeFrom(
  timeline: Timeline,
  source: WalSource,
  { history: reported, commitLsn }: SourceStatus,
  signal: AbortSignal,
): Promise<void> {
  const history = historyUpTo(reported, commitLsn)
  const { term } = lastTermStart(history)
  const { control } = timeline.state
  const { membershipGeneration } = control
  if (term < control.term) {
    throw fail(
      'precondition',
      `WAL of ${source.name} ends in term ${term}, and this safekeeper has seen ${control.term}`,
      {
        hint: 'The next elected proposer brings what is missing.',
      },
    )
  }
  const conversation = new Conversation(term)
  timeline.attach(conversation)
  try {
    await timeline.handle(conversation, { kind: 'greeting', message: { membershipGeneration } })
    await timeline.handle(conversation, { kind: 'vote', membershipGeneration, message: { term } })
    const { vote } = conversation
    if (vote === undefined || vote.term !== term)
      throw fail('conflict', `this safekeeper advanced to term ${vote?.term ?? control.term}`)
    let at = highestCommonPoint(history, vote.history, vote.flushLsn)
    const message = { term, startStreamingLsn: at, history, election: 'rebuild' } as const
    await timeline.handle(conversation, { kind: 'elected', membershipGeneration, message })
    for await (const wal of source.read(at, commitLsn, signal)) {
      conversation.throwIfClosed()
      const append = { term, beginLsn: at, commitLsn, recordEndLsn: LSN_ZERO, wal }
      await timeline.handle(conversation, { kind: 'append', membershipGeneration, message: append })
      at = advance(at, wal.length)
    }
    if (at < commitLsn) throw fail('unavailable', `${source.name} ended its WAL at ${formatLsn(at)}`)
    await conversation.flushed(commitLsn, signal)
  } finally {
    timeline.detach(conversation)
  }
}

/** The stream of a proposer, without a proposer behind it. */
class Conversation implements ProposerSession {
  readonly nodeId = 'recovery'
  readonly isRecovery = true
  vote: VoteReply | undefined
  readonly #term: number
  #flushLsn = LSN_ZERO
  #error: unknown
  #isClosed = false
  readonly #changes = new Signal()

  constructor(term: number) {
    this.#term = term
  }

  deliver(effect: AcceptorAnswer): void {
    if (effect.kind === 'sendVote') this.vote = effect.reply
    if (effect.kind === 'sendAppended') {
      const { term, flushLsn } = effect.reply
      // WAL of an older term was not taken, and no flush of it is reported.
      if (term > this.#term) return this.close(fail('conflict', `this safekeeper advanced to term ${term}`))
      this.#flushLsn = maxLsn(this.#flushLsn, flushLsn)
    }
    this.#changes.notify()
  }

  close(error: unknown): void {
    this.#isClosed = true
    this.#error = error
    this.#changes.notify()
  }

  throwIfClosed(): void {
    if (this.#isClosed) throw this.#error
  }

  async flushed(lsn: Lsn, signal: AbortSignal): Promise<void> {
    const onAbort = (): void => this.close(fail('cancelled', 'recovery was cancelled'))
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      if (signal.aborted) onAbort()
      while (this.#flushLsn < lsn) {
        this.throwIfClosed()
        await this.#changes.next()
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }
}
