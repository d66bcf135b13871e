/**
 * The acceptor's rules over a disk of two byte arrays: what is written, and how much of it is synced. It carries out
 * the effects as libs/consensus asks, and no more, so thousands of schedules run in a second.
 */
import { advance, maxLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  historyUpTo,
  initialControl,
  lastTermStart,
  restoreAcceptor,
  stepAcceptor,
} from '@understory/consensus'
import type {
  AcceptorControl,
  AcceptorInput,
  AcceptorState,
  AcceptorStep,
  DurableEffect,
  FollowingEffect,
} from '@understory/consensus'
import { Leadership } from '@understory/consensus/driver'
import type { ProposerSession } from '@understory/consensus/driver'
import { noArmedFaults } from './acceptor-node.ts'
import type { AcceptorNode, NodeHost, NodeStatus } from './acceptor-node.ts'
import { acceptorTransition } from './coverage.ts'
import { SimLog } from './wal.ts'

/** After so much was committed its position is recorded; a safekeeper does with each segment. */
const REMEMBER_BYTES = 400

export class ToyAcceptor implements AcceptorNode {
  readonly name: string
  readonly armed = noArmedFaults()
  readonly #host: NodeHost
  #control: AcceptorControl
  /** Everything written; of it [start, #durableLsn) is synced. */
  readonly #written: SimLog
  #durableLsn: Lsn
  #state: AcceptorState | undefined
  #epoch = 0
  #isFlushing = false
  #wantsFlush = false
  #wasFull = false
  readonly #leadership = new Leadership<ProposerSession>()

  constructor(name: string, host: NodeHost) {
    this.name = name
    this.#host = host
    this.#control = initialControl(host.format.startLsn)
    this.#written = new SimLog(host.format.startLsn)
    this.#durableLsn = host.format.startLsn
  }

  readonly isCatchingUp = false
  get isUp(): boolean {
    return this.#state !== undefined
  }

  start(): void {
    if (this.#state !== undefined) return
    const { armed } = this
    // A control file or log that reads wrong is not used; the next start reads it again.
    if (armed.flipReadAfter > 0) {
      armed.flipReadAfter = 0
      this.#host.counts.fault('bit flip on read')
      this.#host.ended(this)
      return
    }
    const endLsn = this.#written.recordEndAt(this.#written.endLsn)
    this.#written.cut(endLsn)
    // Written again and synced: a sync that failed before this life proves nothing.
    this.#durableLsn = endLsn
    this.#state = restoreAcceptor(this.#control, endLsn)
  }

  kill(isPowerLost: boolean): void {
    if (this.#state === undefined) return
    this.#end()
    if (!isPowerLost || this.#written.endLsn === this.#durableLsn) return
    // A prefix of what was not synced survives; holes would be found by the CRC all the same.
    const unsynced = this.#written.endLsn - this.#durableLsn
    const kept = this.#host.rng.below(unsynced + 1)
    this.#host.counts.fault(kept === 0 ? 'unsynced write lost' : 'unsynced write torn')
    this.#written.cut(advance(this.#durableLsn, kept))
  }

  #end(): void {
    this.#state = undefined
    this.#epoch++
    this.#isFlushing = this.#wantsFlush = false
    this.#leadership.end()
    this.armed.crashAfterEffects = 0
  }

  #fail(): void {
    this.#end()
    this.#host.ended(this)
  }

  /** True if an armed crash strikes here. */
  #crashes(): boolean {
    const { armed } = this
    if (armed.crashAfterEffects === 0 || --armed.crashAfterEffects > 0) return false
    this.#host.counts.fault('crash between effects')
    this.kill(armed.isPowerLost)
    this.#host.ended(this)
    return true
  }

  handle(session: ProposerSession, input: AcceptorInput): void {
    if (this.#state === undefined) return
    const { term: ownTerm } = this.#state.control
    if (input.kind === 'vote') {
      const { term } = input.message
      const leads = this.#leadership.leadsAfterVote(session, term, ownTerm)
      if (this.#step(input, session) && leads) this.#leadership.lead(session, term)
      return
    }
    try {
      if (input.kind === 'elected') this.#leadership.elected(session, input.message.term, ownTerm)
      if (input.kind === 'append' || input.kind === 'elected')
        this.#leadership.check(session, input.message.term, ownTerm)
    } catch (error) {
      return session.close(error)
    }
    this.#step(input, session)
  }

  leave(session: ProposerSession): void {
    this.#leadership.leave(session)
  }

  /** False when the process ended in it, or had no room for it. */
  #step(input: AcceptorInput, session: ProposerSession | undefined): boolean {
    const step = this.#decide(input)
    for (const effect of step.durable) {
      if (this.#crashes()) return false
      if (effect.kind !== 'truncateWal' && this.#isFullFor(effect, step)) {
        this.#host.counts.fault('disk full')
        this.#lackRoom(effect, session)
        return false
      }
      this.#carryOut(effect)
    }
    if (this.#crashes()) return false
    this.#state = step.state
    for (const effect of step.after) this.#follow(effect, session)
    if (this.isUp) this.#host.stepped(this)
    return this.isUp
  }

  /** A disk that was full is so once more for the control file after a cut: both at once are rare otherwise. */
  #isFullFor(effect: DurableEffect, { durable }: AcceptorStep): boolean {
    const isAfterCut = effect.kind === 'persistControl' && durable[0]?.kind === 'truncateWal'
    const isFull = this.armed.fullUntilMs > this.#host.schedule.nowMs || (this.#wasFull && isAfterCut)
    if (isFull) this.#wasFull = !isAfterCut
    return isFull
  }

  #decide(input: AcceptorInput): AcceptorStep {
    const before = this.#state as AcceptorState
    const step = stepAcceptor(before, input)
    this.#host.counts.transition(acceptorTransition(before, input, step))
    return step
  }

  #carryOut(effect: DurableEffect): void {
    switch (effect.kind) {
      case 'persistControl':
        this.#control = effect.control
        break
      case 'truncateWal':
        this.#written.cut(effect.toLsn)
        this.#durableLsn = Math.min(this.#durableLsn, effect.toLsn) as Lsn
        this.#epoch++
        this.#isFlushing = this.#wantsFlush = false
        this.#state = this.#decide({ kind: 'truncated', toLsn: effect.toLsn }).state
        break
      case 'writeWal':
        this.#written.append(effect.wal)
        this.#written.findRecords(this.#host.format)
        break
    }
  }

  /** The step does not count. WAL that had no room takes with it what is not durable before it. */
  #lackRoom(effect: DurableEffect, session: ProposerSession | undefined): void {
    if (effect.kind === 'writeWal' && !this.#step({ kind: 'dropUnflushed' }, undefined)) return
    session?.close(fail('disk_full', 'there is no room'))
  }

  #follow(effect: FollowingEffect, session: ProposerSession | undefined): void {
    switch (effect.kind) {
      case 'flush':
        this.#wantsFlush = true
        return this.#flush()
      case 'committed':
        return
      case 'refuse':
        return session?.close(fail(effect.code, effect.message))
      default:
        session?.deliver(effect)
    }
  }

  #flush(): void {
    if (this.#isFlushing || !this.#wantsFlush) return
    this.#isFlushing = true
    this.#wantsFlush = false
    const epoch = this.#epoch
    const toLsn = this.#written.endLsn
    const { schedule, rng, counts } = this.#host
    const isSlow = this.armed.slowUntilMs > schedule.nowMs
    if (isSlow) counts.fault('slow disk')
    schedule.at(1 + rng.below(10) + (isSlow ? 50 + rng.below(400) : 0), () => {
      if (this.#epoch !== epoch) return
      this.#isFlushing = false
      if (this.armed.failSyncAfter > 0 && --this.armed.failSyncAfter === 0) {
        counts.fault('sync failed')
        return this.#fail()
      }
      this.#durableLsn = maxLsn(this.#durableLsn, toLsn)
      if (this.#crashes()) return
      this.#step(
        { kind: 'flushed', flushLsn: this.#written.recordEndAt(this.#durableLsn) },
        this.#leadership.session,
      )
      if (this.#state !== undefined && this.#state.commitLsn - this.#control.commitLsn > REMEMBER_BYTES)
        this.#step({ kind: 'rememberCommit' }, undefined)
      if (this.isUp) this.#flush()
    })
  }

  read(term: number, startLsn: Lsn, endLsn: Lsn, done: (wal: Uint8Array | undefined) => void): void {
    const state = this.#state
    if (state === undefined || state.control.term !== term || state.flushLsn <= startLsn)
      return done(undefined)
    done(this.#written.slice(startLsn, Math.min(endLsn, state.flushLsn) as Lsn))
  }

  status(): NodeStatus | undefined {
    const state = this.#state
    if (state === undefined) return undefined
    const { control, flushLsn, commitLsn } = state
    const history = historyUpTo(control.history, flushLsn)
    const { membershipGeneration, term } = control
    const terms = history.map((entry) => `${entry.term}@${entry.startLsn}`).join(' ')
    return {
      membershipGeneration,
      term,
      lastLogTerm: lastTermStart(history).term,
      flushLsn,
      commitLsn,
      text: `generation ${membershipGeneration} term ${term} flush ${flushLsn} commit ${commitLsn} [${terms}]`,
    }
  }

  peek(startLsn: Lsn, endLsn: Lsn): Uint8Array {
    return this.#written.slice(startLsn, endLsn)
  }

  isDurable(startLsn: Lsn, wal: Uint8Array): boolean {
    return startLsn + wal.length <= this.#durableLsn && this.#written.holds(startLsn, wal)
  }
}
