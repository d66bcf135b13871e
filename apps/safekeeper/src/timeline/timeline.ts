/**
 * One timeline: carries out what the acceptor decides. All changes of its state go through one mailbox.
 *
 * - WAL is decoded as it comes in: what fails its CRC, breaks the chain or is another system's is refused with its
 *   position before anything is written, and record ends are known here and nowhere else.
 * - Appended WAL waits in memory until a flush, which starts as soon as anything waits: one durable write
 *   for all that came while the flush before was running. Nothing ever waits for a timer.
 * - A failed write, sync or control file ends the writing of this timeline until it is opened again (reopenings.ts): what was
 *   acknowledged is durable, and reading goes on.
 * - Where there is no room, on the disk or by a quota, nothing is lost and nothing ends: what is not durable is let go
 *   of, the proposer hears why, and comes again.
 */
import { dirname, join } from 'node:path'
import { Mailbox, Signal } from '@understory/actor'
import {
  LSN_ZERO,
  advance,
  assert,
  bytesBetween,
  describeError,
  formatLsn,
  isErrorCode,
  maxLsn,
  minLsn,
  refuse,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  WalBuffer,
  historyUpTo,
  lastTermStart,
  restoreAcceptor,
  stepAcceptor,
  willWrite,
} from '@understory/consensus'
import type {
  AcceptorControl,
  AcceptorInput,
  AcceptorState,
  DurableEffect,
  FollowingEffect,
  MemberStatus,
} from '@understory/consensus'
import type { Disk, Log } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { KnownMembership } from '@understory/protocol'
import { readControlFile, writeControlFile } from './control-file.ts'
import type { ControlFile } from './control-file.ts'
import type { DiskSpace } from './disk-space.ts'
import { decoderAt, findEndOfWal, rewriteTail } from './end-of-wal.ts'
import { checkJump, checkJumps } from './jump.ts'
import { encodeMembershipFile, readMembershipFile } from './membership-file.ts'
import { Leadership } from '@understory/consensus/driver'
import type { ProposerSession } from '@understory/consensus/driver'
import { onlyStored } from './remote-wal.ts'
import type { RemoteWal } from './remote-wal.ts'
import type { TimelineObserver } from '../telemetry/safekeeper-observer.ts'
import { TimelineSpace } from './timeline-space.ts'
import { beginning, beginsAt, checkWal } from './wal-check.ts'
import { WalFiles } from './wal-files.ts'

/** WAL that may wait for a flush before a proposer is no longer read from. */
const UNFLUSHED_BYTES_MAX = 4 * 1024 * 1024
/** Recent WAL kept in memory for those who follow the commit position. */
const RECENT_BYTES_MAX = 1024 * 1024
/** Most WAL between two syncs. */
const FLUSH_BYTES_MAX = 4 * 1024 * 1024

const NO_WAL = new Uint8Array(0)

type AppendInput = Extract<AcceptorInput, { kind: 'append' }>

export class Timeline {
  readonly identity: PostgresIdentity
  readonly #disk: Disk
  readonly #log: Log
  readonly #folder: string
  readonly #files: WalFiles
  readonly #mailbox = new Mailbox({ name: 'timeline' })
  #state: AcceptorState
  #decoder
  #recent: WalBuffer
  readonly #sessions = new Set<ProposerSession>()
  /** The stream of the proposer whose term this is: it hears of flushes. */
  readonly #leadership = new Leadership<ProposerSession>()
  #failure: Error | undefined

  // What waits for the next flush, and the one that runs.
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #waitingStartLsn: Lsn
  #flushing: Promise<void> | undefined
  /** Rises when unflushed WAL is let go: a flush that began before is not reported. */
  #flushEpoch = 0
  readonly #room = new Signal()

  /** Those who follow the commit position. */
  readonly #changes = new Signal()
  readonly #ended = new AbortController()
  #remote: RemoteWal | undefined
  /** Undefined where nothing is measured. */
  #observer: TimelineObserver | undefined
  readonly #space: TimelineSpace
  /** The control file may be ahead of the state: it comes first. */
  #owesControl = false

  #seenFlushLsn = LSN_ZERO
  #restsAtLsn = LSN_ZERO
  #keptFromLsn: Lsn
  #membership: KnownMembership | undefined
  readonly #membershipListeners = new Set<() => void>()
  /** By shard number, as its subscriber last said. */
  readonly #remoteConsistent = new Map<number, Lsn>()

  private constructor(
    disk: Disk,
    log: Log,
    folder: string,
    files: WalFiles,
    identity: PostgresIdentity,
    state: AcceptorState,
    lastRecordLsn: Lsn | undefined,
    keptFromLsn: Lsn,
  ) {
    this.#keptFromLsn = keptFromLsn
    this.#disk = disk
    this.#log = log
    this.#folder = folder
    this.#files = files
    this.identity = identity
    this.#state = state
    this.#decoder = decoderAt(identity, {
      startLsn: state.flushLsn,
      findFirst: state.flushLsn === keptFromLsn,
      prevLsn: lastRecordLsn,
    })
    this.#recent = new WalBuffer(state.flushLsn)
    this.#waitingStartLsn = state.flushLsn
    this.#space = new TimelineSpace(log, this, () => this.#changes.notify())
  }

  static membershipPath = (folder: string): string => join(folder, 'membership')

  /** Makes the files of a timeline. The control file comes last: a folder without one is none. */
  static async create(
    disk: Disk,
    folder: string,
    identity: PostgresIdentity,
    acceptor: AcceptorControl,
  ): Promise<void> {
    await disk.makeDirectory(folder)
    // A try before this one may have ended between making a folder and making its name durable.
    await disk.syncDirectory(dirname(folder))
    await disk.syncDirectory(dirname(dirname(folder)))
    await writeControlFile(disk, folder, { postgres: identity, acceptor })
  }

  /** Reads a timeline from disk and cuts a torn tail. Error: refused `bad_file`, `bad_wal`. */
  static async open(disk: Disk, log: Log, folder: string): Promise<Timeline> {
    const { control, problem } = await readControlFile(disk, folder)
    if (problem !== undefined) log.warn('control_file_repaired', { problem: describeError(problem) })
    const files = new WalFiles(disk, folder, control.postgres)
    try {
      return await Timeline.#open(disk, log, folder, files, control)
    } catch (error) {
      await files.close()
      throw error
    }
  }

  static async #open(
    disk: Disk,
    log: Log,
    folder: string,
    files: WalFiles,
    control: ControlFile,
  ): Promise<Timeline> {
    const { postgres, acceptor } = control
    const { commitLsn, timelineStartLsn } = acceptor
    const beginsLsn = (await beginsAt(files, postgres, commitLsn)) ? commitLsn : timelineStartLsn
    const { endLsn, lastRecordLsn, reason } = await findEndOfWal(files, postgres, commitLsn, beginsLsn)
    assert(
      endLsn >= commitLsn,
      () => `I3: WAL would be cut at ${endLsn}, below the commit position ${commitLsn}`,
    )
    // What is found may never have been synced, and must not be told of before; what lies behind must not pass for WAL
    // later.
    await writeControlFile(disk, folder, control)
    const place = { startLsn: commitLsn, findFirst: commitLsn === beginsLsn }
    await rewriteTail(files, postgres, place, endLsn)
    await files.truncate(endLsn)
    log.info('timeline_opened', {
      end: formatLsn(endLsn),
      commit: formatLsn(commitLsn),
      term: acceptor.term,
      reason,
    })
    const state = restoreAcceptor(acceptor, endLsn)
    const kept = await beginning(files, postgres, beginsLsn)
    const timeline = new Timeline(disk, log, folder, files, postgres, state, lastRecordLsn, kept.startLsn)
    timeline.#membership = await readMembershipFile(disk, Timeline.membershipPath(folder))
    return timeline
  }

  /** From now on, what happens on the way of appends is told. */
  observe(observer: TimelineObserver): void {
    this.#observer = observer
  }

  /** From now on its WAL counts there, and its limits hold. */
  shareSpace(space: DiskSpace): void {
    this.#space.share(space)
  }

  /** Bound to the timeline. */
  get log(): Log {
    return this.#log
  }
  get state(): AcceptorState {
    return this.#state
  }
  get commitLsn(): Lsn {
    return this.#state.commitLsn
  }
  get timelineStartLsn(): Lsn {
    return this.#state.control.timelineStartLsn
  }
  /** Fires when it is closed; its reason is why. */
  get ended(): AbortSignal {
    return this.#ended.signal
  }
  /** Why no more WAL is taken, or undefined. */
  get failure(): Error | undefined {
    return this.#failure
  }

  /** Why it takes no more WAL for now, or undefined. It goes on by itself. */
  get shortage(): Error | undefined {
    return this.#space.shortage
  }
  /** WAL that lies here. */
  get keptBytes(): number {
    return Math.max(0, this.#state.writeLsn - this.#keptFromLsn)
  }
  /** Whether it had better keep no more than it must. */
  get isTight(): boolean {
    return this.#space.isTight
  }

  // The proposer's side.

  attach(session: ProposerSession): void {
    if (this.#failure !== undefined) throw this.#failure
    this.#sessions.add(session)
  }

  detach(session: ProposerSession): void {
    this.#sessions.delete(session)
    this.#leadership.leave(session)
  }

  /**
   * Takes one message of `session`, which may come with a trace context. Rejects with what refuses it; then the stream
   * is to be closed with that.
   */
  async handle(session: ProposerSession, input: AcceptorInput, traceparent?: string): Promise<void> {
    if (input.kind === 'append') this.#observer?.received(input.message.wal.length, traceparent)
    if (this.#waitingBytes > UNFLUSHED_BYTES_MAX) await this.#room.next()
    if (input.kind === 'append') {
      const { length } = input.message.wal
      if (this.#space.refusal(length) !== undefined)
        await this.#space.waitFor(length, () => this.#failure !== undefined)
    }
    return this.#mailbox.run(() => {
      if (this.#failure !== undefined) throw this.#failure
      return this.#owesControl
        ? this.#settleControl().then(() => this.#take(session, input))
        : this.#take(session, input)
    })
  }

  #take(session: ProposerSession, input: AcceptorInput): Promise<void> | undefined {
    checkJumps(input, this.#state.control)
    if (input.kind === 'vote') return this.#vote(session, input)
    const { term: ownTerm } = this.#state.control
    if (input.kind === 'elected') this.#leadership.elected(session, input.message.term, ownTerm)
    if (input.kind === 'append' || input.kind === 'elected')
      this.#leadership.check(session, input.message.term, ownTerm)
    if (input.kind !== 'append') return this.#step(input, session)
    const refusal = this.#space.refusal(input.message.wal.length)
    if (refusal === undefined || !willWrite(this.#state, input))
      return this.#step(this.#decode(input), session)
    // What it says is committed counts: WAL is let go of only once that is known.
    const done = this.#step({ ...input, message: { ...input.message, wal: NO_WAL } }, session)
    assert(done === undefined, () => 'positions alone ask for nothing durable')
    throw refusal
  }

  // Room.

  /** The disk has no room for what was to become durable: back to what is. Whoever sent it comes again. */
  async #standBack(error: Error, epoch: number): Promise<void> {
    this.#flushing = undefined
    if (this.#failure !== undefined) return
    this.#space.lack(error)
    // Somebody else has cut the log meanwhile, and with it what had no room.
    if (epoch !== this.#flushEpoch) return this.#startFlush()
    await this.#dropUnflushed()
    this.#closeSessions(error)
  }

  /** After a control file that had no room, and may have got on the disk in one copy all the same. */
  async #settleControl(): Promise<void> {
    try {
      await this.#persist(this.#state.control)
    } catch (error) {
      if (!isErrorCode(error, 'disk_full')) this.#fail(error)
      throw error
    }
    this.#owesControl = false
    this.#space.taken()
  }

  async #vote(session: ProposerSession, input: Extract<AcceptorInput, { kind: 'vote' }>): Promise<void> {
    const { term } = input.message
    const leads = this.#leadership.leadsAfterVote(session, term, this.#state.control.term)
    await this.#step(input, session)
    if (leads) this.#leadership.lead(session, term)
  }

  /** Checks the WAL of an append that will be written, and says in it where its last record ends. */
  #decode(input: AppendInput): AppendInput {
    if (!willWrite(this.#state, input)) return input
    const { message } = input
    const decoder = this.#decoder
    try {
      decoder.push(message.beginLsn, message.wal)
      while (decoder.next());
    } catch (error) {
      this.#mailbox.run(() => this.#dropUnflushed()).catch((cause: unknown) => this.#fail(cause))
      throw error
    }
    return { ...input, message: { ...message, recordEndLsn: decoder.recordEndLsn } }
  }

  /** Synchronous where nothing has to be made durable first: on the path of an append. */
  #step(input: AcceptorInput, session: ProposerSession | undefined): Promise<void> | undefined {
    const { state, durable, after } = stepAcceptor(this.#state, input)
    const isAppend = durable.every(({ kind }) => kind === 'writeWal')
    if (!isAppend) return this.#stepDurably(state, durable, after, session)
    for (const effect of durable) {
      if (effect.kind === 'writeWal') this.#enqueue(effect.atLsn, effect.wal, effect.recordEndLsn)
    }
    this.#state = state
    this.#space.charge()
    this.#follow(after, session)
    return undefined
  }

  async #stepDurably(
    state: AcceptorState,
    durable: readonly DurableEffect[],
    after: readonly FollowingEffect[],
    session: ProposerSession | undefined,
  ): Promise<void> {
    let isCut = true
    try {
      for (const effect of durable) {
        if (effect.kind === 'persistControl') await this.#persist(effect.control)
        else if (effect.kind === 'truncateWal') {
          isCut = false
          await this.#truncate(effect.toLsn)
          isCut = true
          // Whatever becomes of the control file, this is gone: a shorter log under its old history.
          const { flushLsn } = this.#state
          this.#state = { ...this.#state, writeLsn: effect.toLsn, flushLsn: minLsn(flushLsn, effect.toLsn) }
        }
      }
    } catch (error) {
      if (isCut && isErrorCode(error, 'disk_full')) this.#lackControl(error)
      else this.#fail(error)
      throw error
    }
    if (state.control.term !== this.#state.control.term)
      this.#log.info('term_changed', { term: state.control.term })
    this.#state = state
    this.#space.charge()
    this.#follow(after, session)
  }

  #lackControl(error: Error): void {
    this.#space.lack(error)
    this.#owesControl = true
    this.#space.charge()
  }

  /** Answers go to `session`; what a flush brings about goes to the leader. */
  #follow(effects: readonly FollowingEffect[], session: ProposerSession | undefined): void {
    for (const effect of effects) {
      switch (effect.kind) {
        case 'flush':
          this.#startFlush()
          break
        case 'committed':
          this.#changes.notify()
          break
        case 'refuse':
          throw refuse(effect.code, effect.message)
        default:
          if (effect.kind === 'sendVote' && effect.reply.voteGiven) this.#observer?.voted()
          session?.deliver(effect)
      }
    }
  }

  async #persist(control: AcceptorControl): Promise<void> {
    await writeControlFile(this.#disk, this.#folder, { postgres: this.identity, acceptor: control })
  }

  // Membership.

  /** As last told; of an older generation than the control file's where only that was told. */
  get membership(): KnownMembership | undefined {
    return this.#membership
  }

  /** Called back after a newer one; returns how to stop that. */
  onMembership(listener: () => void): () => void {
    this.#membershipListeners.add(listener)
    return () => this.#membershipListeners.delete(listener)
  }

  /** Keeps who the members are. That their generation counts is decided by a greeting. */
  learnMembership(membership: KnownMembership): Promise<void> {
    return this.#mailbox.run(async () => {
      checkJump('membership generation', membership.generation, this.#state.control.membershipGeneration)
      if (membership.generation < (this.#membership?.generation ?? 0)) return
      const bytes = encodeMembershipFile(membership)
      if (
        this.#membership !== undefined &&
        Buffer.compare(bytes, encodeMembershipFile(this.#membership)) === 0
      )
        return
      await this.#disk.durableReplace(Timeline.membershipPath(this.#folder), bytes)
      this.#membership = membership
      for (const listener of this.#membershipListeners) listener()
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
      if (this.#failure !== undefined) throw this.#failure
      const { membershipGeneration: known } = this.#state.control
      if (this.#owesControl) await this.#settleControl()
      checkJump('membership generation', generation, known)
      if (generation < known)
        throw refuse('stale', `membership generation ${generation} is older than ${known}`)
      await this.#step({ kind: 'greeting', message: { membershipGeneration: generation } }, undefined)
      const { control, flushLsn, commitLsn } = this.#state
      return {
        membershipGeneration: control.membershipGeneration,
        term: control.term,
        lastLogTerm: lastTermStart(historyUpTo(control.history, flushLsn)).term,
        flushLsn,
        commitLsn,
      }
    })
  }

  // Writing.

  #enqueue(atLsn: Lsn, wal: Uint8Array, recordEndLsn: Lsn): void {
    if (this.#waiting.length === 0) this.#waitingStartLsn = atLsn
    this.#waiting.push(wal)
    this.#waitingBytes += wal.length
    this.#observer?.waits(advance(atLsn, wal.length))
    this.#recent.push(atLsn, wal, recordEndLsn)
    this.#recent.trim(advance(this.#recent.endLsn, -Math.min(RECENT_BYTES_MAX, this.#recent.endLsn)))
  }

  #startFlush(): void {
    if (this.#flushing !== undefined || this.#waiting.length === 0 || this.#failure !== undefined) return
    this.#flushing = this.#flush()
  }

  async #flush(): Promise<void> {
    const epoch = this.#flushEpoch
    const { startLsn, chunks, recordEndLsn } = this.#takeWaiting()
    const endLsn = this.#waitingStartLsn
    this.#observer?.flushing(endLsn, bytesBetween(startLsn, endLsn))
    try {
      await this.#files.write(startLsn, chunks)
      this.#observer?.flushed(endLsn, bytesBetween(startLsn, endLsn))
    } catch (error) {
      if (isErrorCode(error, 'disk_full')) {
        // Nothing more is written before that: `#flushing` stands.
        void this.#mailbox
          .run(() => this.#standBack(error, epoch))
          .catch((cause: unknown) => this.#fail(cause))
        return
      }
      this.#flushing = undefined
      if (epoch === this.#flushEpoch) this.#fail(error)
      return
    }
    // Whoever truncates waits for this promise, so the report must not hold it up.
    this.#flushing = undefined
    void this.#mailbox
      .run(() => {
        if (epoch !== this.#flushEpoch || this.#failure !== undefined) return
        const before = this.#state.flushLsn
        const done = this.#step({ kind: 'flushed', flushLsn: recordEndLsn }, this.#leadership.session)
        assert(done === undefined, () => 'a flush asks for nothing durable')
        this.#space.taken()
        this.#observer?.answered(endLsn)
        this.#startFlush()
        const { walSegmentBytes: segmentBytes } = this.identity
        return segmentOf(before, segmentBytes) === segmentOf(recordEndLsn, segmentBytes)
          ? undefined
          : this.#rememberCommit()
      })
      .catch((error: unknown) => this.#fail(error))
    this.#room.notify()
  }

  #takeWaiting(): { startLsn: Lsn; chunks: readonly Uint8Array[]; recordEndLsn: Lsn } {
    const startLsn = this.#waitingStartLsn
    let count = 0
    let size = 0
    while (
      count < this.#waiting.length &&
      (count === 0 || size + (this.#waiting[count] as Uint8Array).length <= FLUSH_BYTES_MAX)
    ) {
      size += (this.#waiting[count++] as Uint8Array).length
    }
    const chunks = this.#waiting.splice(0, count)
    this.#waitingBytes -= size
    this.#waitingStartLsn = advance(startLsn, size)
    const isAll = this.#waiting.length === 0
    const recordEndLsn = isAll
      ? this.#decoder.recordEndLsn
      : this.#recent.recordEndAt(this.#waitingStartLsn, this.#state.flushLsn)
    return { startLsn, chunks, recordEndLsn }
  }

  /** So that a start does not decode from far back. */
  async #rememberCommit(): Promise<void> {
    const { control, commitLsn } = this.#state
    if (commitLsn === control.commitLsn) return
    const newer = { ...control, commitLsn }
    try {
      await this.#persist(newer)
    } catch (error) {
      // It is written for the sake of speed alone.
      if (isErrorCode(error, 'disk_full')) return
      throw error
    }
    this.#state = { ...this.#state, control: newer }
  }

  /** Called now and then: one that nothing was written to since the call before keeps neither WAL in memory nor files open. */
  async rest(): Promise<void> {
    const { flushLsn } = this.#state
    if (this.#space.isDiskFull && !this.#owesControl) {
      // Where nobody appends, nobody finds out.
      const freeBytes = await this.#disk.freeBytes(this.#folder).catch(() => 0)
      if (freeBytes > this.identity.walSegmentBytes) this.#space.taken()
    }
    const isIdle = flushLsn === this.#seenFlushLsn
    this.#seenFlushLsn = flushLsn
    if (!isIdle || flushLsn === this.#restsAtLsn || this.#failure !== undefined) return
    await this.#mailbox.run(async () => {
      const isWritten = this.#recent.endLsn === flushLsn && this.#waiting.length === 0
      if (!isWritten || this.#flushing !== undefined || this.#state.flushLsn !== flushLsn) return
      this.#recent = new WalBuffer(flushLsn)
      this.#restsAtLsn = flushLsn
      await this.#files.rest()
    })
  }

  async #truncate(toLsn: Lsn): Promise<void> {
    this.#forgetWaiting(toLsn)
    await this.#flushing
    await this.#files.truncate(toLsn)
  }

  #forgetWaiting(toLsn: Lsn): void {
    this.#flushEpoch++
    this.#observer?.dropped()
    this.#waiting = []
    this.#waitingBytes = 0
    this.#waitingStartLsn = toLsn
    this.#recent = new WalBuffer(toLsn)
    this.#decoder = decoderAt(this.identity, { startLsn: toLsn, findFirst: toLsn === this.#keptFromLsn })
    this.#room.notify()
  }

  /** After WAL that does not decode: back to what is durable. */
  async #dropUnflushed(): Promise<void> {
    const { flushLsn } = this.#state
    await this.#truncate(flushLsn)
    this.#state = { ...this.#state, writeLsn: flushLsn }
    this.#space.charge()
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined) return
    this.#failure = error instanceof Error ? error : new Error(String(error))
    this.#log.error('timeline_failed', {
      reason: describeError(error),
      flush: formatLsn(this.#state.flushLsn),
    })
    this.#waiting = []
    this.#waitingBytes = 0
    this.#room.notify()
    this.#closeSessions(error)
    this.#changes.notify()
  }

  #closeSessions(error: unknown): void {
    for (const session of this.#sessions) session.close(error)
    this.#sessions.clear()
    this.#leadership.end()
  }

  // Reading.

  /**
   * Resolves when more is committed, when the timeline fails (`failure`) or gets short of room (`shortage`), or when the
   * signal fires.
   */
  nextChange(signal: AbortSignal): Promise<void> {
    return this.#changes.next(signal)
  }

  /** Durable WAL; from memory where it is recent. */
  async read(startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    assert(
      endLsn <= this.#state.flushLsn,
      () => `WAL is read to ${formatLsn(endLsn)}, flushed is ${formatLsn(this.#state.flushLsn)}`,
    )
    if (bytesBetween(startLsn, endLsn) === 0) return new Uint8Array(0)
    if (startLsn >= this.#recent.startLsn && endLsn <= this.#recent.endLsn)
      return this.#recent.read(startLsn, endLsn).bytes
    if (startLsn >= this.#keptFromLsn) {
      try {
        return await this.#files.read(startLsn, endLsn)
      } catch (error) {
        // It may have been let go of meanwhile.
        if (startLsn >= this.#keptFromLsn) throw error
      }
    }
    return this.#readOffloaded(startLsn, endLsn)
  }

  async #readOffloaded(startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    if (this.#remote === undefined) throw onlyStored(this.#keptFromLsn)
    const middle = minLsn(endLsn, this.#keptFromLsn)
    const offloaded = await this.#remote.read(this.identity, startLsn, middle)
    return middle === endLsn ? offloaded : Buffer.concat([offloaded, await this.read(middle, endLsn)])
  }

  /** Where WAL is read that is not kept here any more. */
  attachRemote(remote: RemoteWal): void {
    this.#remote = remote
  }

  /** Before it nothing is kept here. */
  get keptFromLsn(): Lsn {
    return this.#keptFromLsn
  }

  /**
   * Releases whole segments before `lsn`, which are in the object store; fewer of them where the control file has an older
   * commit position, and has no room for a newer one. Error: of the control file, which ends the writing of the timeline.
   */
  async trim(lsn: Lsn): Promise<void> {
    if (lsn <= this.#keptFromLsn || this.#remote === undefined) return
    await this.#mailbox.run(async () => {
      assert(lsn <= this.commitLsn, () => `${formatLsn(lsn)} is not committed, so it is not released`)
      const durableLsn = await this.#durableCommit(lsn)
      // The next start looks for the end of the WAL in the segment that holds the last byte before that (end-of-wal.ts).
      const { walSegmentBytes: segmentBytes } = this.identity
      const neededLsn = segmentStart(segmentOf(advance(durableLsn, -1), segmentBytes), segmentBytes)
      const keptFromLsn = minLsn(lsn, neededLsn)
      if (keptFromLsn <= this.#keptFromLsn) return
      // First, so that readers look elsewhere before the files are gone.
      this.#keptFromLsn = keptFromLsn
      await this.#files.removeBefore(keptFromLsn)
      this.#space.charge()
    })
  }

  /** The commit position in the control file, which is brought past `lsn` where it can be. */
  async #durableCommit(lsn: Lsn): Promise<Lsn> {
    if (this.#state.control.commitLsn <= lsn && this.#failure === undefined) {
      try {
        await this.#rememberCommit()
      } catch (error) {
        this.#fail(error)
        throw error
      }
    }
    return this.#state.control.commitLsn
  }

  /**
   * Durable WAL for the proposer elected in `term`, which no other may have touched meanwhile. Error: refused `stale`.
   */
  async readInTerm(term: number, startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    this.#checkTerm(term)
    const wal = await this.read(startLsn, endLsn)
    this.#checkTerm(term)
    return wal
  }

  #checkTerm(term: number): void {
    const { control } = this.#state
    if (term !== control.term)
      throw refuse('stale', `term ${term} is not the term ${control.term} of this safekeeper`)
  }

  /** Reads everything that is committed here through. Rejects with the damage: refused `bad_file`. */
  async check(afterPart: () => Promise<void>): Promise<void> {
    const from = { startLsn: this.#keptFromLsn, findFirst: true }
    const { place, problem } = await checkWal(this.#files, this.identity, from, this.commitLsn, afterPart)
    if (problem === undefined) return
    // What was let go of meanwhile is not missing.
    if (this.#keptFromLsn > place.startLsn) return
    throw refuse('bad_file', `WAL is damaged at ${formatLsn(place.startLsn)}`, { detail: problem })
  }

  noteRemoteConsistent(shard: number, lsn: Lsn): void {
    this.#remoteConsistent.set(shard, maxLsn(lsn, this.#remoteConsistent.get(shard) ?? LSN_ZERO))
  }

  /** Smallest of all shards heard of; 0/0 before the first. */
  get remoteConsistentLsn(): Lsn {
    const [first = LSN_ZERO, ...rest] = this.#remoteConsistent.values()
    return rest.reduce(minLsn, first)
  }

  /** Lets what runs end, and remembers the commit position. */
  async close(why: Error = refuse('unavailable', 'safekeeper is stopping')): Promise<void> {
    this.#closeSessions(why)
    await this.#flushing
    await this.#mailbox.run(async () => {
      if (this.#failure === undefined) await this.#rememberCommit()
      this.#failure ??= why
      this.#space.release()
    })
    this.#ended.abort(why)
    await this.#files.close()
  }
}
