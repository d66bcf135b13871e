/**
 * One timeline: the actor that owns its WAL and its votes. Every change is a job of its mailbox; the acceptor decides,
 * and acceptor-runner.ts carries out what it decides.
 *
 * - WAL that is taken in (admission.ts) waits in memory for a flush (group-flush.ts), which runs beside the mailbox.
 * - A failed write, sync or control file ends the writing of this timeline until it is opened again (reopener.ts): what
 *   was acknowledged is durable, and reading continues.
 * - Where there is no room, on the disk or by a quota, nothing is lost and nothing ends: WAL that is not durable is
 *   dropped, and the proposer learns why, and comes again.
 */
import { Mailbox, Signal } from '@understory/actor'
import { assert, formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { historyUpTo, lastTermStart } from '@understory/consensus'
import type { AcceptorInput, AcceptorState, MemberStatus } from '@understory/consensus'
import type { ProposerSession } from '@understory/consensus/driver'
import type { Disk, Log } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { KnownMembership } from '@understory/protocol'
import type { TimelineObserver } from '../telemetry/safekeeper-observer.ts'
import { AcceptorRunner } from './acceptor-runner.ts'
import type { NodeQuota } from './node-quota.ts'
import { openTimelineFiles } from './open-timeline.ts'
import type { OpenedTimeline } from './open-timeline.ts'
import { ProposerSessions } from './proposer-sessions.ts'
import type { RemoteWal } from './remote-wal.ts'
import { Retention } from './retention.ts'
import { ShardPositions } from './shard-positions.ts'
import { checkWithinBounds } from './term-bounds.ts'
import type { WalMemory } from './wal-memory.ts'
import { WalQuota } from './wal-quota.ts'
import { WalReader } from './wal-reader.ts'

export interface TimelineParts {
  readonly disk: Disk
  /** Bound to the timeline. */
  readonly log: Log
  readonly folder: string
  readonly quota: NodeQuota
  /** Of the process. */
  readonly memory: WalMemory
  /** Where WAL is read that is not kept here any more; undefined where there is no object store. */
  readonly remote: RemoteWal | undefined
  /** Undefined where nothing is measured. */
  readonly observer: TimelineObserver | undefined
  /** It takes no more WAL (`failure`). */
  readonly onFailed: () => void
}

export class Timeline {
  readonly identity: PostgresIdentity
  readonly #parts: TimelineParts
  readonly #mailbox = new Mailbox({ name: 'timeline' })
  readonly #acceptor: AcceptorRunner
  readonly #sessions = new ProposerSessions()
  readonly #reader: WalReader
  readonly #retention: Retention
  readonly #quota: WalQuota
  readonly #membership: OpenedTimeline['membership']
  readonly #shards = new ShardPositions()
  /** For those who follow the commit position. */
  readonly #changes = new Signal()
  readonly #ended = new AbortController()

  private constructor(parts: TimelineParts, opened: OpenedTimeline) {
    const { identity, files, state, membership, oldestLsn, lastRecordLsn } = opened
    const { disk, log, folder, memory, remote } = parts
    const { flushLsn } = state
    this.identity = identity
    this.#parts = parts
    this.#membership = membership
    const { recent: share } = memory
    const reader = new WalReader({ identity, files, remote, share, oldestLsn, endLsn: flushLsn })
    const onChange = (): void => this.#changes.notify()
    const quota = new WalQuota({ log, keeper: this, node: parts.quota, onExceeded: onChange })
    const [sessions, mailbox] = [this.#sessions, this.#mailbox]
    this.#acceptor = new AcceptorRunner(
      { ...parts, identity, files, reader, quota, sessions, mailbox, onChange },
      state,
      { startLsn: flushLsn, findFirst: flushLsn === oldestLsn, prevLsn: lastRecordLsn },
    )
    this.#reader = reader
    this.#quota = quota
    this.#retention = new Retention({
      disk,
      folder,
      identity,
      mailbox,
      reader,
      quota,
      acceptor: this.#acceptor,
    })
    quota.reserve()
  }

  /** Reads a timeline from disk and cuts a torn tail. Errors: `bad_file`, `bad_wal`. */
  static async open(parts: TimelineParts): Promise<Timeline> {
    return new Timeline(parts, await openTimelineFiles(parts.disk, parts.log, parts.folder))
  }

  /** Bound to the timeline. */
  get log(): Log {
    return this.#parts.log
  }
  get state(): AcceptorState {
    return this.#acceptor.state
  }
  get commitLsn(): Lsn {
    return this.state.commitLsn
  }
  get timelineStartLsn(): Lsn {
    return this.state.control.timelineStartLsn
  }
  /** Before it nothing is kept here. */
  get oldestLsn(): Lsn {
    return this.#reader.oldestLsn
  }
  /** WAL that is kept here. */
  get keptBytes(): number {
    return Math.max(0, this.state.writeLsn - this.#reader.oldestLsn)
  }
  /** Fires when it is closed; its reason is why. */
  get ended(): AbortSignal {
    return this.#ended.signal
  }
  /** Why no more WAL is taken, or undefined. */
  get failure(): Error | undefined {
    return this.#acceptor.failure
  }
  /** Why it takes no more WAL for now, or undefined. It continues by itself. */
  get shortage(): Error | undefined {
    return this.#quota.shortage
  }
  /** Whether room is so low that it should keep no more than it must. */
  get isLow(): boolean {
    return this.#quota.isLow
  }

  attach(session: ProposerSession): void {
    this.#throwIfOver()
    this.#sessions.attach(session)
  }

  detach(session: ProposerSession): void {
    this.#sessions.detach(session)
  }

  /**
   * Takes one message of `session`, which may come with a trace context. Rejects with what refuses it; then the stream
   * is to be closed with that.
   */
  handle(session: ProposerSession, input: AcceptorInput, traceparent?: string): Promise<void> {
    let walBytes = 0
    if (input.kind === 'append') {
      walBytes = input.message.wal.length
      this.#parts.observer?.received(walBytes, traceparent)
    }
    const turn = this.#acceptor.turn(walBytes)
    return turn === undefined ? this.#post(session, input) : turn.then(() => this.#post(session, input))
  }

  #post(session: ProposerSession, input: AcceptorInput): Promise<void> {
    return this.#mailbox.run(() => {
      this.#throwIfOver()
      const acceptor = this.#acceptor
      const owed = acceptor.settleControl()
      return owed === undefined
        ? this.#sessions.take(acceptor, session, input)
        : owed.then(() => this.#sessions.take(acceptor, session, input))
    })
  }

  #throwIfOver(): void {
    const { failure } = this
    if (failure !== undefined) throw failure
  }

  /** As last announced; of an older generation than the control file's where only that was announced. */
  get membership(): KnownMembership | undefined {
    return this.#membership.current
  }

  /** Called back after a newer one; returns how to stop that. */
  onMembership(listener: () => void): () => void {
    return this.#membership.onChange(listener)
  }

  /** Keeps who the members are. That their generation counts is decided by a greeting. */
  learnMembership(membership: KnownMembership): Promise<void> {
    return this.#mailbox.run(() => {
      const { membershipGeneration: known } = this.state.control
      checkWithinBounds('membership generation', membership.generation, known)
      return this.#membership.store(membership)
    })
  }

  /**
   * The same as a proposer's greeting under that membership, and what this member says of itself after it. Error:
   * refused `stale` where a newer one is known.
   */
  async configure(membership: KnownMembership): Promise<MemberStatus & { readonly commitLsn: Lsn }> {
    const { generation } = membership
    await this.learnMembership(membership)
    return this.#mailbox.run(async () => {
      this.#throwIfOver()
      await this.#acceptor.settleControl()
      const { membershipGeneration: known } = this.state.control
      checkWithinBounds('membership generation', generation, known)
      if (generation < known)
        throw fail('stale', `membership generation ${generation} is older than ${known}`)
      await this.#acceptor.step(
        { kind: 'greeting', message: { membershipGeneration: generation } },
        undefined,
      )
      const { control, flushLsn, commitLsn } = this.state
      const { term, membershipGeneration } = control
      const { term: lastLogTerm } = lastTermStart(historyUpTo(control.history, flushLsn))
      return { membershipGeneration, term, lastLogTerm, flushLsn, commitLsn }
    })
  }

  /**
   * Resolves when more is committed, when the timeline fails (`failure`) or gets short of room (`shortage`), or when
   * the signal fires.
   */
  nextChange(signal: AbortSignal): Promise<void> {
    return this.#changes.next(signal)
  }

  /** Durable WAL; from memory where it is recent. */
  async read(startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    const { flushLsn } = this.state
    assert(endLsn <= flushLsn, () => `WAL is read to ${formatLsn(endLsn)}, flushed is ${formatLsn(flushLsn)}`)
    return this.#reader.read(startLsn, endLsn)
  }

  /**
   * Durable WAL for the proposer elected in `term`, which no other may have touched in the meantime. Error: refused
   * `stale`.
   */
  async readInTerm(term: number, startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    this.#checkTerm(term)
    const wal = await this.read(startLsn, endLsn)
    this.#checkTerm(term)
    return wal
  }

  #checkTerm(term: number): void {
    const { control } = this.state
    if (term !== control.term)
      throw fail('stale', `term ${term} is not the term ${control.term} of this safekeeper`)
  }

  /** Reads through everything that is committed here. Rejects with the damage: `bad_file`. */
  check(afterPart: () => Promise<void>): Promise<void> {
    return this.#reader.check(this.commitLsn, afterPart)
  }

  /**
   * Releases whole segments before `lsn`, which are in the object store; fewer of them where the control file has an
   * older commit position, and has no room for a newer one. Error: of the control file, which ends the writing of the
   * timeline.
   */
  trim(lsn: Lsn): Promise<void> {
    return this.#retention.trim(lsn)
  }

  /** How far a shard has its layers in the object store, as it said. */
  noteRemoteConsistent(shard: number, lsn: Lsn): void {
    this.#shards.note(shard, lsn)
  }

  /** Smallest of all shards that reported; 0/0 before the first. */
  get remoteConsistentLsn(): Lsn {
    return this.#shards.smallest
  }

  /**
   * Called now and then: a timeline that was not written to since the call before keeps neither WAL in memory nor files
   * open.
   */
  releaseIdle(): Promise<void> {
    return this.#retention.releaseIdle()
  }

  /** Lets what runs end, and remembers the commit position. */
  async close(why: Error = fail('unavailable', 'safekeeper is stopping')): Promise<void> {
    this.#sessions.closeAll(why)
    await this.#acceptor.settled()
    await this.#mailbox.run(async () => {
      if (this.failure === undefined) await this.#acceptor.rememberCommit()
      this.#acceptor.end(why)
      this.#quota.release()
    })
    this.#ended.abort(why)
    await this.#reader.close()
  }
}
