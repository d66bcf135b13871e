/**
 * Runs a timeline's acceptor: the only writer of its state. What a step asks to become durable is carried out, then the
 * step counts, then its answers go out. All of it runs in jobs of the timeline's mailbox, but the flush.
 */
import type { Mailbox } from '@understory/actor'
import { assert, describeError, formatLsn, isErrorCode, fail, segmentOf } from '@understory/base'
import type { Lsn } from '@understory/base'
import { stepAcceptor } from '@understory/consensus'
import type { AcceptorInput, AcceptorState, AcceptorStep, FollowingEffect } from '@understory/consensus'
import type { ProposerSession } from '@understory/consensus/driver'
import type { Disk, Log } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { TimelineObserver } from '../telemetry/safekeeper-observer.ts'
import { Admission } from './admission.ts'
import { writeControlFile } from './control-file.ts'
import type { DecoderPlace } from './end-of-wal.ts'
import { GroupFlush } from './group-flush.ts'
import type { Flush } from './group-flush.ts'
import type { ProposerSessions } from './proposer-sessions.ts'
import type { WalFiles } from './wal-files.ts'
import type { WalMemory } from './wal-memory.ts'
import type { WalQuota } from './wal-quota.ts'
import type { WalReader } from './wal-reader.ts'

const NO_WAL = new Uint8Array(0)

type AppendInput = Extract<AcceptorInput, { kind: 'append' }>

export interface AcceptorRunnerParts {
  readonly disk: Disk
  /** Of the timeline. */
  readonly log: Log
  readonly folder: string
  readonly identity: PostgresIdentity
  readonly files: WalFiles
  readonly reader: WalReader
  readonly quota: WalQuota
  readonly memory: WalMemory
  readonly sessions: ProposerSessions
  readonly mailbox: Mailbox
  readonly observer: TimelineObserver | undefined
  /** More is committed, or nothing will be any more. */
  readonly onChange: () => void
  readonly onFailed: () => void
}

export class AcceptorRunner {
  readonly #parts: AcceptorRunnerParts
  #state: AcceptorState
  readonly #flush: GroupFlush
  readonly #admission: Admission
  #failure: Error | undefined
  /** The control file may be ahead of the state: it comes first. */
  #owesControl = false

  /** `place` is where the log ends. */
  constructor(parts: AcceptorRunnerParts, state: AcceptorState, place: DecoderPlace) {
    const { identity, files, memory, observer, quota } = parts
    const { unflushed: share } = memory
    this.#parts = parts
    this.#state = state
    const onFlushed = (flush: Flush): void => this.#onFlushed(flush)
    const onFailed = (error: unknown, flush: Flush): void => this.#onFlushFailed(error, flush)
    this.#flush = new GroupFlush({ files, share, observer, onFlushed, onFailed }, state.flushLsn)
    const isOver = (): boolean => this.#failure !== undefined
    this.#admission = new Admission({ identity, flush: this.#flush, quota, isOver }, place)
  }

  get state(): AcceptorState {
    return this.#state
  }
  /** Why it writes no more, or undefined. */
  get failure(): Error | undefined {
    return this.#failure
  }
  /** Whether a control file is still to be written before anything else. */
  get owesControl(): boolean {
    return this.#owesControl
  }
  /** Whether all WAL that was taken in is durable, and nothing is being written. */
  get isIdle(): boolean {
    return this.#flush.isIdle && this.#state.writeLsn === this.#state.flushLsn
  }

  /** Before a message with so much WAL: undefined where it need not wait for its turn. */
  turn(walBytes: number): Promise<void> | undefined {
    return this.#admission.turn(walBytes)
  }

  /** Resolves once nothing is being written. */
  settled(): Promise<void> {
    return this.#flush.settled()
  }

  /** Synchronous: its WAL counts once a flush says so. */
  append(session: ProposerSession, input: AppendInput): undefined {
    const step = stepAcceptor(this.#state, input)
    const [write] = step.durable
    if (write !== undefined) {
      assert(write.kind === 'writeWal', () => `an append asks for ${write.kind}`)
      const refusal = this.#admission.refusal(write.wal.length)
      if (refusal !== undefined) {
        // Its commit position counts: WAL is released only once that is known.
        const positions = { ...input, message: { ...input.message, wal: NO_WAL } }
        this.#accept(stepAcceptor(this.#state, positions), session)
        throw refusal
      }
      this.#write(write.atLsn, write.wal)
    }
    this.#accept(step, session)
  }

  #write(atLsn: Lsn, wal: Uint8Array): void {
    let recordEndLsn
    try {
      recordEndLsn = this.#admission.recordEndOf(atLsn, wal)
    } catch (error) {
      this.#parts.mailbox.run(() => this.#dropUnflushed()).catch((cause: unknown) => this.fail(cause))
      throw error
    }
    this.#flush.enqueue(atLsn, wal, recordEndLsn)
    this.#parts.reader.append(atLsn, wal, recordEndLsn)
  }

  // Steps.

  step(input: AcceptorInput, session: ProposerSession | undefined): Promise<void> | undefined {
    const step = stepAcceptor(this.#state, input)
    if (step.durable.length > 0) return this.#stepDurably(step, session)
    this.#accept(step, session)
    return undefined
  }

  async #stepDurably(step: AcceptorStep, session: ProposerSession | undefined): Promise<void> {
    let isCut = true
    try {
      for (const effect of step.durable) {
        if (effect.kind === 'persistControl') await this.#persist(effect.control)
        else {
          assert(effect.kind === 'truncateWal', () => 'WAL is written by appends alone')
          isCut = false
          await this.#truncate(effect.toLsn)
          isCut = true
          this.#parts.sessions.dropped(session)
        }
      }
    } catch (error) {
      if (isCut && isErrorCode(error, 'disk_full')) this.#lackControl(error)
      else this.fail(error)
      throw error
    }
    const { term } = step.state.control
    if (term !== this.#state.control.term) this.#parts.log.info('term_changed', { term })
    this.#accept(step, session)
  }

  /** The step counts: what was to become durable is. */
  #accept({ state, after }: AcceptorStep, session: ProposerSession | undefined): void {
    this.#state = state
    this.#parts.quota.reserve()
    for (const effect of after) this.#follow(effect, session)
  }

  /** Answers go to `session`; a flush reports to the leader. */
  #follow(effect: FollowingEffect, session: ProposerSession | undefined): void {
    switch (effect.kind) {
      case 'flush':
        return this.#flush.start()
      case 'committed':
        return this.#parts.onChange()
      case 'refuse':
        throw fail(effect.code, effect.message)
      default:
        if (effect.kind === 'sendVote' && effect.reply.voteGiven) this.#parts.observer?.voted()
        session?.deliver(effect)
    }
  }

  async #persist(acceptor: AcceptorState['control']): Promise<void> {
    const { disk, folder } = this.#parts
    await writeControlFile(disk, folder, { postgres: this.#parts.identity, acceptor })
  }

  async #truncate(toLsn: Lsn): Promise<void> {
    const dropped = this.#flush.drop(toLsn)
    this.#parts.reader.cut(toLsn)
    this.#admission.restart({ startLsn: toLsn, findFirst: toLsn === this.#parts.reader.oldestLsn })
    await dropped
    await this.#parts.files.truncate(toLsn)
    this.#state = stepAcceptor(this.#state, { kind: 'truncated', toLsn }).state
  }

  async #dropUnflushed(): Promise<void> {
    await this.step({ kind: 'dropUnflushed' }, undefined)
  }

  /** So that a start does not decode from far back. */
  async rememberCommit(): Promise<void> {
    const step = stepAcceptor(this.#state, { kind: 'rememberCommit' })
    try {
      for (const effect of step.durable)
        if (effect.kind === 'persistControl') await this.#persist(effect.control)
    } catch (error) {
      // It is written for the sake of speed alone.
      if (isErrorCode(error, 'disk_full')) return
      throw error
    }
    this.#state = step.state
  }

  // Flushes.

  #onFlushed(flush: Flush): void {
    void this.#parts.mailbox
      .run(() => {
        if (!this.#flush.isCurrent(flush) || this.#failure !== undefined) return
        const before = this.#state.flushLsn
        const done = this.step({ kind: 'flushed', flushLsn: flush.recordEndLsn }, this.#parts.sessions.leader)
        assert(done === undefined, () => 'a flush asks for nothing durable')
        this.#parts.quota.cleared()
        this.#parts.observer?.answered(flush.endLsn)
        this.#flush.start()
        const { walSegmentBytes: segmentBytes } = this.#parts.identity
        return segmentOf(before, segmentBytes) === segmentOf(flush.recordEndLsn, segmentBytes)
          ? undefined
          : this.rememberCommit()
      })
      .catch((error: unknown) => this.fail(error))
  }

  #onFlushFailed(error: unknown, flush: Flush): void {
    if (isErrorCode(error, 'disk_full'))
      void this.#parts.mailbox
        .run(() => this.#standBack(error, flush))
        .catch((cause: unknown) => this.fail(cause))
    else if (this.#flush.isCurrent(flush)) this.fail(error)
  }

  /** The disk has no room for what was to become durable: back to what is. Its sender comes again. */
  async #standBack(error: Error, flush: Flush): Promise<void> {
    this.#flush.resume()
    if (this.#failure !== undefined) return
    this.#parts.quota.exceeded(error)
    // The log has been cut in the meantime, and with it what had no room.
    if (!this.#flush.isCurrent(flush)) return this.#flush.start()
    await this.#dropUnflushed()
    this.#parts.sessions.closeAll(error)
  }

  #lackControl(error: Error): void {
    this.#parts.quota.exceeded(error)
    this.#owesControl = true
    this.#parts.quota.reserve()
  }

  /** Before any other step: undefined where no control file is owed. */
  settleControl(): Promise<void> | undefined {
    return this.#owesControl ? this.#settleControl() : undefined
  }

  /** After a control file that had no room, and may have got on the disk in one copy all the same. */
  async #settleControl(): Promise<void> {
    try {
      await this.#persist(this.#state.control)
    } catch (error) {
      if (!isErrorCode(error, 'disk_full')) this.fail(error)
      throw error
    }
    this.#owesControl = false
    this.#parts.quota.cleared()
  }

  /** It is closed: nothing is reported any more. */
  end(why: Error): void {
    this.#failure ??= why
    this.#flush.stop()
  }

  /** The disk has to be read again before anything else is written. */
  fail(error: unknown): void {
    if (this.#failure !== undefined) return
    this.#failure = error instanceof Error ? error : new Error(String(error))
    this.#parts.log.error('timeline_failed', {
      reason: describeError(error),
      flush: formatLsn(this.#state.flushLsn),
    })
    this.#flush.stop()
    this.#parts.sessions.closeAll(error)
    this.#parts.onChange()
    this.#parts.onFailed()
  }
}
