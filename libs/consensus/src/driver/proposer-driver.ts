/**
 * Drives one proposer over a transport: wins a term, sends WAL, reports what is committed. The same driver runs in
 * production and in the simulation. One driver is one candidacy: once it is lost (fenced, or without contact for too
 * long) it stays lost.
 *
 * Inputs are queued and fed one at a time; effects are carried out in order before the next input (../../README.md).
 * Time and chance are what is handed in; nothing here sets a timer of its own.
 */
import { formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { createProposer, hasNews, isBufferFull } from '../proposer.ts'
import type { ProposerEffect, ProposerState } from '../proposer-state.ts'
import { Candidacy } from './candidacy.ts'
import { CommitPosition } from './commit-position.ts'
import { DRIVER_LIMITS } from './limits.ts'
import type { DriverLimits } from './limits.ts'
import type { Loss } from './loss.ts'
import type { LinkOwner, MemberLink } from './member-link.ts'
import { MemberLinks } from './member-links.ts'
import type { KnownMembership } from './membership.ts'
import type { DriverObserver } from './observer.ts'
import type { DriverOptions, Election } from './options.ts'
import type { GreetingAnswer } from './transport.ts'
import { ProposerSteps } from './proposer-steps.ts'
import { Pulse } from './pulse.ts'
import { WalSender } from './wal-sender.ts'

type Effect<K extends ProposerEffect['kind']> = Extract<ProposerEffect, { kind: K }>

export class ProposerDriver {
  readonly elected: Promise<Election>
  /** Resolves once, when nothing more will be committed through this driver. */
  readonly lost: Promise<Loss>
  readonly observer: DriverObserver | undefined
  readonly #options: DriverOptions
  readonly #limits: DriverLimits
  readonly #links: MemberLinks
  readonly #stop = new AbortController()
  readonly #steps: ProposerSteps
  readonly #candidacy = new Candidacy()
  readonly #committed = new CommitPosition()
  readonly #room: (() => void)[] = []
  readonly #sender: WalSender
  readonly #pulse: Pulse
  #donorMissingSinceMs: number | undefined
  #ownTerm: number

  constructor(options: DriverOptions) {
    const { membership, timelineStartLsn, livingTerm, rules, clock } = options
    this.#options = options
    this.elected = this.#candidacy.elected
    this.lost = this.#candidacy.lost
    this.#limits = { ...DRIVER_LIMITS, ...options.limits }
    this.observer = options.observer
    this.#ownTerm = options.ownTerm ?? 0
    this.#links = new MemberLinks(membership, this.#linkOwner())
    const proposer = { ...rules, membership: this.#links.rules, timelineStartLsn, livingTerm }
    this.#steps = new ProposerSteps(createProposer({ ...proposer, unansweredMax: 1 }), {
      carryOut: (effect) => this.#carryOut(effect),
      stepped: (before, input, after) => this.observer?.stepped?.(before, input, after),
      settled: this.#wakePushes,
    })
    this.#sender = new WalSender({
      links: this.#links,
      clock,
      log: options.log,
      observer: this.observer,
      defer: options.defer,
      fetchBytesMax: this.#limits.fetchBytesMax,
      stop: this.#stop.signal,
      feed: (input) => this.#steps.feed(input),
    })
    this.observer?.begins(this.#links.names)
    this.#links.link()
    this.#pulse = new Pulse({
      clock,
      limits: this.#limits,
      beat: () => this.#beat(),
      announceCommit: () => {
        this.#steps.feed({ kind: 'news' })
        return hasNews(this.state)
      },
    })
  }

  #linkOwner(): LinkOwner {
    const { transport, clock, rng, log } = this.#options
    return {
      transport,
      clock,
      rng,
      log,
      limits: this.#limits,
      greeting: () => ({ membership: this.#links.known, commitLsn: this.#committed.lsn }),
      greeted: (link, answer) => this.#greeted(link, answer),
      feed: (input) => this.#steps.feed(input),
      acknowledged: ({ nodeId, lastContactMs }, flushLsn) =>
        this.#sender.answered(nodeId, flushLsn, lastContactMs),
      disconnected: ({ nodeId }) => {
        this.#sender.forget(nodeId)
        this.#steps.feed({ kind: 'disconnected', from: nodeId })
      },
    }
  }

  get membershipGeneration(): number {
    return this.#links.rules.generation
  }
  get term(): number {
    return this.state.term
  }
  get commitLsn(): Lsn {
    return this.#committed.lsn
  }
  /** End of the WAL handed in. */
  get endLsn(): Lsn {
    return this.#sender.endLsn ?? this.state.bufferEndLsn
  }
  /** The state of the rules, for views and checks. */
  get state(): ProposerState {
    return this.#steps.state
  }

  /** Called with each new commit position; returns how to stop that. */
  onCommit(listener: (lsn: Lsn) => void): () => void {
    return this.#committed.listen(listener)
  }

  /** Resolves when `lsn` is committed; rejects with `lossError` when the lead is lost before. */
  waitForCommit(lsn: Lsn): Promise<void> {
    return this.#committed.reach(lsn, this.#candidacy.failed)
  }

  /** A newer membership: a leader continues under it at once, a candidate ends with `staleMembership`. */
  changeMembership(known: KnownMembership): void {
    if (this.#candidacy.isLost || known.generation < this.#links.rules.generation) return
    const isNewer = known.generation > this.#links.rules.generation
    this.#links.replace(known)
    if (isNewer) {
      this.#options.log.info('membership_changed', {
        generation: known.generation,
        members: known.members.map(({ nodeId }) => nodeId),
        newMembers: known.newMembers.map(({ nodeId }) => nodeId),
      })
      this.observer?.membershipChanged(this.#links.names)
    }
    this.#links.link()
    if (isNewer) this.#steps.feed({ kind: 'membership', membership: this.#links.rules })
  }

  /**
   * Hands in the next WAL: it must begin where the last ended. `recordEndLsn` is the last record end known in or
   * before it. The bytes are borrowed. Waits while too much is uncommitted; rejects once the lead is lost.
   */
  async push(startLsn: Lsn, bytes: Uint8Array, recordEndLsn: Lsn): Promise<void> {
    while (!this.#candidacy.isLost && isBufferFull(this.state, this.#limits.bufferBytesMax))
      await new Promise<void>((resolve) => this.#room.push(resolve))
    if (this.#candidacy.isLost) return this.#candidacy.failed
    this.#sender.push(startLsn, bytes, recordEndLsn)
  }

  readonly #wakePushes = (): void => {
    for (const wake of this.#room.splice(0)) wake()
  }

  /** Leaves the safekeepers alone; what is not committed may be lost. */
  close(): void {
    this.#lose({ kind: 'closed' })
  }

  #carryOut(effect: ProposerEffect): void {
    switch (effect.kind) {
      case 'sendVote':
        this.#rememberTerm(effect.message.term)
        return this.#links.connection(effect.to)?.sendVote(effect.message)
      case 'sendElected':
        return this.#links.connection(effect.to)?.sendElected(effect.message)
      case 'sendPositions':
        return this.#sender.send(effect.to, effect.message)
      case 'sendWal':
        return this.#sender.sendWal(effect)
      case 'compareLocalWal':
        return void this.#compareLocalWal(effect)
      case 'elected':
        return this.#begin(effect)
      case 'commitAdvanced':
        this.#donorMissingSinceMs = undefined
        this.observer?.decided()
        this.#committed.advance(effect.lsn)
        this.observer?.committed(effect.lsn)
        return this.#pulse.announceSoon()
      case 'trimBuffer':
        return this.#sender.trim(effect.lsn)
      case 'fetchWal':
        return this.#sender.fetch(effect)
      case 'donorMissing':
        return this.#missDonor()
      case 'drop':
        return this.#drop(effect.peer, effect.reason)
      case 'fenced':
        return this.#lose({ kind: 'fenced', term: effect.term })
      case 'staleMembership':
        return this.#lose({ kind: 'staleMembership' })
    }
  }

  #rememberTerm(term: number): void {
    if (term <= this.#ownTerm) return
    this.#options.rememberTerm(term)
    this.#ownTerm = term
  }

  #begin({ term, startLsn, election }: Effect<'elected'>): void {
    this.#sender.begin(startLsn)
    this.#options.log.info('elected', { term, startLsn: formatLsn(startLsn), election })
    this.observer?.elected(term, election, startLsn)
    this.#candidacy.win({ term, startLsn, kind: election })
  }

  async #compareLocalWal({ donor, term, endLsn }: Effect<'compareLocalWal'>): Promise<void> {
    const address = this.#links.get(donor)?.address ?? donor
    const isEqual = (await this.#options.compareLocalWal?.(address, term, endLsn).catch(() => false)) === true
    this.#steps.feed({ kind: 'localWalCompared', isEqual })
  }

  #missDonor(): void {
    const nowMs = this.#options.clock.nowMs()
    this.#donorMissingSinceMs ??= nowMs
    if (this.#committed.lsn === 0 && nowMs - this.#donorMissingSinceMs > this.#limits.donorWaitMs)
      this.#lose({ kind: 'noContact' })
  }

  #drop(name: string, reason: string): void {
    const link = this.#links.get(name)
    // Its connection is new since the membership changed: the drop is about the one before.
    if (link === undefined || !link.hasAnswered) return
    this.#options.log.warn('safekeeper_dropped', { safekeeper: name, reason })
    link.drop()
  }

  #greeted(link: MemberLink, answer: GreetingAnswer): void {
    const { term, membershipGeneration, membership } = answer
    if (this.#options.ownTerm !== undefined && term > this.#ownTerm)
      return this.#lose({ kind: 'superseded', term })
    if (membershipGeneration <= this.#links.rules.generation)
      return this.#steps.feed({ kind: 'greeted', from: link.nodeId, reply: { term, membershipGeneration } })
    // A leader continues under the newer membership as soon as it knows it; a candidate starts over.
    const newer = membership?.generation === membershipGeneration ? membership : undefined
    if (this.state.phase !== 'leader')
      return this.#lose({ kind: 'staleMembership', ...(newer === undefined ? {} : { membership: newer }) })
    if (newer !== undefined) return this.changeMembership(newer)
    const { nodeId: safekeeper } = link
    this.#options.log.warn('membership_not_known', { safekeeper, generation: membershipGeneration })
    link.drop()
  }

  #beat(): void {
    const { clock, contactTimeoutMs } = this.#options
    this.#steps.feed({ kind: 'heartbeat' })
    const unansweredMax = this.#sender.areFar ? 2 : 1
    if (unansweredMax !== this.state.options.unansweredMax) this.#steps.feed({ kind: 'pace', unansweredMax })
    // I2: a compute without contact to a quorum could serve stale reads, so it counts as having lost the lead.
    const hasContact = this.#links.hasContact(clock.nowMs() - contactTimeoutMs)
    if (this.state.phase === 'leader' && !hasContact) this.#lose({ kind: 'noContact' })
  }

  #lose(loss: Loss): void {
    if (!this.#candidacy.lose(loss)) return
    this.#steps.end()
    this.#stop.abort()
    this.#pulse.end()
    this.#links.end()
    if (loss.kind !== 'closed') {
      this.#options.log.warn('quorum_lost', { ...loss })
      this.observer?.lost(loss.kind)
    }
    this.#wakePushes()
  }
}
