/**
 * Drives one proposer (libs/consensus) over real streams to the safekeepers: wins a term, sends WAL, tells what is
 * committed. One `Quorum` is one candidacy: once it is lost (fenced, or without contact for too long) it stays lost.
 *
 * Inputs are queued and fed one at a time; effects are carried out in order before the next input (see the README of
 * libs/consensus).
 */
import {
  UnderstoryError,
  advance,
  assert,
  describeError,
  formatLsn,
  isErrorCode,
  lsnFromBigint,
  lsnToBigint,
  refuse,
} from '@understory/base'
import type { ErrorCode, Lsn } from '@understory/base'
import {
  WalBuffer,
  createProposer,
  hasNews,
  isBufferFull,
  isQuorum,
  stepProposer,
} from '@understory/consensus'
import type {
  ElectionKind,
  Membership,
  ProposerEffect,
  ProposerInput,
  ProposerState,
  WalRange,
} from '@understory/consensus'
import type { Clock, Log } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import {
  everyMember,
  readHistory,
  readMembership,
  rulesOf,
  writeHistory,
  writeMembership,
} from '@understory/protocol'
import type { KnownMembership, Member } from '@understory/protocol'
import {
  ElectionKind as WireElectionKind,
  PROPOSE_VERSIONS,
  SafekeeperServiceClient,
  callServerStream,
  checkChosenVersion,
  createClient,
  openBidi,
} from '@understory/rpc'
import type { BidiStream, ClientContext, ProposeRequest, ProposeResponse, TimelineRef } from '@understory/rpc'
import { AnswerTimes } from './answer-times.ts'
import type { QuorumObserver } from './quorum-observer.ts'

const HEARTBEAT_MS = 1_000
const RECONNECT_MS = 500
/** Safekeepers hear of the commit position with the next append, or after twice this time. */
const NEWS_MS = 5
/** WAL that may wait to be committed before no more is read from Postgres. */
const BUFFER_BYTES_MAX = 64 * 1024 * 1024
/** Of one read from another safekeeper for one that lags. */
const FETCH_BYTES_MAX = 1024 * 1024
/** An acceptor needs WAL that nobody connected has: after so long a new election among those that are there. */
const DONOR_WAIT_MS = 5_000
/** A read from a donor that sends nothing for so long has failed: another one is asked. */
const DONOR_SILENCE_MS_MAX = 20_000

export interface QuorumOptions {
  readonly rpc: ClientContext
  readonly timeline: TimelineRef
  readonly postgres: PostgresIdentity
  /** Which safekeepers count, until `changeMembership`. */
  readonly membership: KnownMembership
  readonly nodeId: string
  readonly timelineStartLsn: Lsn
  /** The term under which a Postgres that still lives was streamed. */
  readonly livingTerm: number | undefined
  /** Answers whether the living Postgres's WAL up to `endLsn` is what the donor, an address, has. */
  readonly compareLocalWal?: (donor: string, term: number, endLsn: Lsn) => Promise<boolean>
  /**
   * The highest term that this compute has ever asked for; undefined where it does not know. A safekeeper that has seen
   * a higher one was asked by another compute since: this one has a successor and does not run against it.
   */
  readonly ownTerm: number | undefined
  /** Makes a term durable as its own before any safekeeper is asked for it. */
  readonly rememberTerm: (term: number) => void
  /** Without an answer from a majority for so long, the lead counts as lost. */
  readonly contactTimeoutMs: number
  readonly observer?: QuorumObserver | undefined
  readonly clock: Clock
  readonly log: Log
}

export interface Election {
  readonly term: number
  /** Where history ends and this term begins. */
  readonly startLsn: Lsn
  readonly kind: ElectionKind
}

/** Why a quorum is lost. */
export type Loss =
  | { readonly kind: 'fenced'; readonly term: number }
  /** Another compute was elected while this one did not look. */
  | { readonly kind: 'superseded'; readonly term: number }
  /** The safekeepers changed; `membership` where one of them told which they are now. */
  | { readonly kind: 'staleMembership'; readonly membership?: KnownMembership }
  | { readonly kind: 'noContact' }
  | { readonly kind: 'closed' }

interface Peer {
  readonly name: string
  address: string
  client: SafekeeperServiceClient
  stream: BidiStream<ProposeRequest, ProposeResponse> | undefined
  lastContactMs: number
  /** What the last `fetchWal` for this peer brought. */
  fetched: { readonly startLsn: Lsn; readonly bytes: Uint8Array } | undefined
  /** No member any more. */
  isGone: boolean
  /** Cuts the pause before the next stream short. */
  renew: (() => void) | undefined
}

export class Quorum {
  readonly elected: Promise<Election>
  /** Resolves once, when nothing more will be committed through this quorum. */
  readonly lost: Promise<Loss>
  /** Undefined where nothing is measured. */
  readonly observer: QuorumObserver | undefined
  readonly #options: QuorumOptions
  #known: KnownMembership
  #membership: Membership
  readonly #peers = new Map<string, Peer>()
  readonly #stop = new AbortController()
  readonly #inputs: ProposerInput[] = []
  readonly #elected = Promise.withResolvers<Election>()
  readonly #lost = Promise.withResolvers<Loss>()
  readonly #commitListeners = new Set<(lsn: Lsn) => void>()
  readonly #room: (() => void)[] = []
  #state: ProposerState
  #buffer: WalBuffer | undefined
  #lastRead: { readonly startLsn: Lsn; readonly endLsn: Lsn; readonly range: WalRange } | undefined
  #isFeeding = false
  #isFeedingWal = false
  #isTellingNews = false
  #isLost = false
  #isChangingMembership = false
  #commitLsn = 0 as Lsn
  /** Of the WAL handed in. */
  #recordEndLsn = 0 as Lsn
  readonly #answerTimes = new AnswerTimes()
  #donorMissingSinceMs: number | undefined
  #ownTerm: number

  constructor(options: QuorumOptions) {
    this.#options = options
    this.observer = options.observer
    this.#ownTerm = options.ownTerm ?? 0
    this.#known = options.membership
    this.#membership = rulesOf(options.membership)
    const { timelineStartLsn, livingTerm } = options
    this.#state = createProposer({
      membership: this.#membership,
      timelineStartLsn,
      livingTerm,
      unansweredMax: 1,
    })
    this.elected = this.#elected.promise
    this.lost = this.#lost.promise
    // Whoever waits for the election hears of a loss through it; nobody has to.
    this.elected.catch(() => undefined)
    const members = everyMember(options.membership)
    this.observer?.begins(members.map(({ nodeId }) => nodeId))
    for (const member of members) this.#addPeer(member)
    void this.#beat()
  }

  #addPeer({ nodeId: name, address }: Member): void {
    const peer: Peer = {
      name,
      address,
      client: createClient(this.#options.rpc, SafekeeperServiceClient, address),
      stream: undefined,
      lastContactMs: this.#options.clock.nowMs(),
      fetched: undefined,
      isGone: false,
      renew: undefined,
    }
    this.#peers.set(name, peer)
    void this.#talkTo(peer)
  }

  get membershipGeneration(): number {
    return this.#membership.generation
  }

  /** A newer membership: a leader goes on under it at once, a candidate ends with `staleMembership`. */
  changeMembership(known: KnownMembership): void {
    if (this.#isLost || known.generation < this.#membership.generation) return
    const members = everyMember(known)
    for (const { nodeId: name, address } of members) {
      const peer = this.#peers.get(name)
      if (peer !== undefined && peer.address !== address) this.#movePeer(peer, address)
    }
    if (known.generation === this.#membership.generation) return
    this.#options.log.info('membership_changed', {
      generation: known.generation,
      members: known.members.map(({ nodeId }) => nodeId),
      newMembers: known.newMembers.map(({ nodeId }) => nodeId),
    })
    this.#known = known
    this.#membership = rulesOf(known)
    this.observer?.membershipChanged(members.map(({ nodeId }) => nodeId))
    for (const [name, peer] of this.#peers) {
      if (members.some((member) => member.nodeId === name)) continue
      peer.isGone = true
      this.#peers.delete(name)
      this.#hangUp(peer)
      peer.client.close()
    }
    for (const member of members) if (!this.#peers.has(member.nodeId)) this.#addPeer(member)
    this.#isChangingMembership = true
    this.#feed({ kind: 'membership', membership: this.#membership })
    this.#isChangingMembership = false
  }

  #movePeer(peer: Peer, address: string): void {
    peer.client.close()
    peer.address = address
    peer.client = createClient(this.#options.rpc, SafekeeperServiceClient, address)
    this.#hangUp(peer)
  }

  /** Ends the stream: what still comes by it is not taken. The next one is opened at once. */
  #hangUp(peer: Peer): void {
    peer.stream?.cancel()
    peer.stream = undefined
    peer.renew?.()
  }

  get term(): number {
    return this.#state.term
  }
  get commitLsn(): Lsn {
    return this.#commitLsn
  }
  /** End of the WAL handed in. */
  get endLsn(): Lsn {
    return this.#buffer?.endLsn ?? this.#state.bufferEndLsn
  }

  /** Called with each new commit position; returns how to stop that. */
  onCommit(listener: (lsn: Lsn) => void): () => void {
    this.#commitListeners.add(listener)
    return () => this.#commitListeners.delete(listener)
  }

  /** Resolves when `lsn` is committed; rejects `unavailable` when the quorum is lost before. */
  async waitForCommit(lsn: Lsn): Promise<void> {
    if (this.#commitLsn >= lsn) return
    const committed = Promise.withResolvers<void>()
    const stopListening = this.onCommit((at) => {
      if (at >= lsn) committed.resolve()
    })
    try {
      await Promise.race([
        committed.promise,
        this.lost.then((loss) => {
          throw lossError(loss)
        }),
      ])
    } finally {
      stopListening()
    }
  }

  /**
   * Hands in the next WAL: it must begin where the last ended. `recordEndLsn` is the last record end known in or
   * before it. The bytes stay the quorum's. Waits while too much is uncommitted; rejects once the quorum is lost.
   */
  async push(startLsn: Lsn, bytes: Uint8Array, recordEndLsn: Lsn): Promise<void> {
    while (!this.#isLost && isBufferFull(this.#state, BUFFER_BYTES_MAX)) {
      await new Promise<void>((resolve) => this.#room.push(resolve))
    }
    if (this.#isLost) throw lossError(await this.lost)
    const buffer = this.#buffer
    assert(buffer !== undefined, () => 'WAL is handed in before the election')
    buffer.push(startLsn, bytes, recordEndLsn)
    this.observer?.pushed(advance(startLsn, bytes.length), bytes.length)
    this.#recordEndLsn = recordEndLsn
    if (this.#isFeedingWal) return
    this.#isFeedingWal = true
    // All messages of one read from Postgres are handed in first: they leave as one append.
    process.nextTick(() => {
      this.#isFeedingWal = false
      this.#feed({ kind: 'wal', endLsn: buffer.endLsn, recordEndLsn: this.#recordEndLsn })
    })
  }

  /** Leaves the safekeepers alone; what is not committed may be lost. */
  close(): void {
    this.#lose({ kind: 'closed' })
  }

  #feed(input: ProposerInput): void {
    this.#inputs.push(input)
    if (this.#isFeeding) return
    this.#isFeeding = true
    try {
      for (
        let next = this.#inputs.shift();
        next !== undefined && !this.#isLost;
        next = this.#inputs.shift()
      ) {
        const { state, effects } = stepProposer(this.#state, next)
        this.#state = state
        for (const effect of effects) this.#carryOut(effect)
      }
    } finally {
      this.#isFeeding = false
    }
    for (const wake of this.#room.splice(0)) wake()
  }

  #carryOut(effect: ProposerEffect): void {
    switch (effect.kind) {
      case 'sendVote':
        this.#rememberTerm(effect.message.term)
        return this.#send(effect.to, {
          message: { $case: 'vote', value: { term: BigInt(effect.message.term) } },
        })
      case 'sendElected': {
        const { term, startStreamingLsn, history, election } = effect.message
        const kind =
          election === 'adopt' ? WireElectionKind.ELECTION_KIND_ADOPT : WireElectionKind.ELECTION_KIND_REBUILD
        const value = {
          term: BigInt(term),
          startStreamingLsn: lsnToBigint(startStreamingLsn),
          termHistory: writeHistory(history),
          kind,
        }
        return this.#send(effect.to, { message: { $case: 'elected', value } })
      }
      case 'sendPositions': {
        const { term, beginLsn, commitLsn, recordEndLsn } = effect.message
        void this.#sendAppend(effect.to, { term, beginLsn, commitLsn, recordEndLsn, wal: EMPTY })
        return
      }
      case 'sendWal':
        return this.#sendWal(effect)
      case 'compareLocalWal':
        return void this.#compareLocalWal(effect)
      case 'elected':
        this.#buffer = new WalBuffer(effect.startLsn)
        this.#options.log.info('elected', {
          term: effect.term,
          startLsn: formatLsn(effect.startLsn),
          election: effect.election,
        })
        this.observer?.elected(effect.term, effect.election, effect.startLsn)
        return this.#elected.resolve({ term: effect.term, startLsn: effect.startLsn, kind: effect.election })
      case 'commitAdvanced':
        this.#commitLsn = effect.lsn
        this.#donorMissingSinceMs = undefined
        this.observer?.decided()
        for (const listener of this.#commitListeners) listener(effect.lsn)
        this.observer?.committed(effect.lsn)
        if (!this.#isTellingNews) void this.#tellNews()
        return
      case 'trimBuffer':
        return this.#buffer?.trim(effect.lsn)
      case 'fetchWal':
        return void this.#fetchWal(effect)
      case 'donorMissing':
        this.#donorMissingSinceMs ??= this.#options.clock.nowMs()
        if (
          this.#commitLsn === 0 &&
          this.#options.clock.nowMs() - this.#donorMissingSinceMs > DONOR_WAIT_MS
        ) {
          this.#lose({ kind: 'noContact' })
        }
        return
      case 'drop':
        return this.#drop(effect.peer, effect.reason)
      case 'fenced':
        return this.#lose({ kind: 'fenced', term: effect.term })
      case 'staleMembership':
        return this.#lose({ kind: 'staleMembership' })
    }
  }

  #drop(name: string, reason: string): void {
    const peer = this.#peers.get(name)
    if (peer === undefined) return
    if (this.#isChangingMembership) return this.#hangUp(peer)
    this.#options.log.warn('safekeeper_dropped', { safekeeper: name, reason })
    peer.stream?.cancel()
  }

  #rememberTerm(term: number): void {
    if (term <= this.#ownTerm) return
    this.#ownTerm = term
    this.#options.rememberTerm(term)
  }

  #send(to: string, request: ProposeRequest): void {
    // A stream that is gone or closing: its end is fed as `disconnected` by whoever reads it.
    this.#peers.get(to)?.stream?.send(request).catch(ignoreCancelled)
  }

  #sendAppend(
    to: string,
    append: { term: number; beginLsn: Lsn; commitLsn: Lsn; recordEndLsn: Lsn; wal: Buffer },
  ): Promise<void> | void {
    const { term, beginLsn, commitLsn, recordEndLsn, wal } = append
    const traceparent = this.observer?.sending(to, advance(beginLsn, wal.length)) || undefined
    const value = {
      term: BigInt(term),
      beginLsn: lsnToBigint(beginLsn),
      commitLsn: lsnToBigint(commitLsn),
      recordEndLsn: lsnToBigint(recordEndLsn),
      wal,
      traceparent,
    }
    const stream = this.#peers.get(to)?.stream
    if (stream === undefined) return
    const sent = stream.send({ message: { $case: 'append', value } })
    if (wal.length === 0) {
      sent.catch(ignoreCancelled)
      return
    }
    return sent.then(() => {
      if (this.#peers.get(to)?.stream === stream) this.#feed({ kind: 'sent', to, bytes: wal.length })
    }, ignoreCancelled)
  }

  #sendWal(effect: Extract<ProposerEffect, { kind: 'sendWal' }>): void {
    const { to, source, term, startLsn, endLsn, commitLsn } = effect
    let bytes: Uint8Array
    let { recordEndLsn } = effect
    if (source === 'buffer') {
      const range = this.#readBuffer(startLsn, endLsn)
      bytes = range.bytes
      if (range.recordEndLsn > recordEndLsn && range.recordEndLsn <= endLsn) recordEndLsn = range.recordEndLsn
    } else {
      const fetched = this.#peers.get(to)?.fetched
      assert(fetched !== undefined, () => `nothing was fetched for ${to}`)
      bytes = fetched.bytes.subarray(startLsn - fetched.startLsn, endLsn - fetched.startLsn)
    }
    const wal = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    if (source === 'buffer' && endLsn === this.#buffer?.endLsn && this.#recordEndLsn > startLsn)
      this.#answerTimes.sent(to, this.#recordEndLsn, this.#options.clock.nowMs())
    void this.#sendAppend(to, { term, beginLsn: startLsn, commitLsn, recordEndLsn, wal })
  }

  /** Mostly all safekeepers are sent the same range, one right after the other. */
  #readBuffer(startLsn: Lsn, endLsn: Lsn): WalRange {
    const last = this.#lastRead
    if (last !== undefined && last.startLsn === startLsn && last.endLsn === endLsn) return last.range
    const range = (this.#buffer as WalBuffer).read(startLsn, endLsn)
    this.#lastRead = { startLsn, endLsn, range }
    return range
  }

  async #compareLocalWal({
    donor,
    term,
    endLsn,
  }: Extract<ProposerEffect, { kind: 'compareLocalWal' }>): Promise<void> {
    const compare = this.#options.compareLocalWal
    const address = this.#peers.get(donor)?.address ?? donor
    const isEqual = compare === undefined ? false : await compare(address, term, endLsn).catch(() => false)
    this.#feed({ kind: 'localWalCompared', isEqual })
  }

  async #fetchWal({
    to,
    from,
    term,
    startLsn,
    endLsn,
  }: Extract<ProposerEffect, { kind: 'fetchWal' }>): Promise<void> {
    const peer = this.#peers.get(to)
    const donor = this.#peers.get(from)
    if (peer === undefined || donor === undefined) return
    const until = Math.min(endLsn, startLsn + FETCH_BYTES_MAX)
    const request = {
      timeline: this.#options.timeline,
      startLsn: lsnToBigint(startLsn),
      endLsn: BigInt(until),
      term: BigInt(term),
    }
    try {
      const parts: Uint8Array[] = []
      const options = {
        signal: this.#stop.signal,
        peer: `safekeeper ${from}`,
        silenceMsMax: DONOR_SILENCE_MS_MAX,
      }
      for await (const { wal } of callServerStream(donor.client.readWal.bind(donor.client), request, options))
        parts.push(wal)
      const bytes = Buffer.concat(parts)
      peer.fetched = { startLsn, bytes }
      this.#feed({ kind: 'walFetched', to, startLsn, endLsn: advance(startLsn, bytes.length) })
    } catch (error) {
      if (this.#stop.signal.aborted) return
      this.#options.log.warn('wal_not_fetched', { from, to, problem: describeError(error) })
      this.#feed({ kind: 'fetchFailed', to })
    }
  }

  /** Keeps a conversation with one safekeeper going until the quorum is lost. */
  async #talkTo(peer: Peer): Promise<void> {
    const { clock, log } = this.#options
    let lastProblem = ''
    while (!this.#isLost && !peer.isGone) {
      const stream = openBidi(peer.client.propose.bind(peer.client), {
        signal: this.#stop.signal,
        peer: `safekeeper ${peer.name}`,
      })
      const renewed = new AbortController()
      peer.stream = stream
      peer.renew = () => renewed.abort()
      try {
        await stream.send({ message: { $case: 'greeting', value: this.#greeting() } })
        for await (const { message } of stream.messages) {
          // After a change of membership nothing counts that came by a stream of before.
          if (this.#isLost || peer.stream !== stream) break
          lastProblem = ''
          peer.lastContactMs = clock.nowMs()
          this.#receive(peer, message)
        }
      } catch (error) {
        const problem = describeError(error)
        if (!this.#isLost && !renewed.signal.aborted && problem !== lastProblem)
          log.warn('safekeeper_lost', { safekeeper: peer.name, problem })
        // It knows a newer membership, and tells it when it is greeted again.
        if (isErrorCode(error, 'stale') && problem !== lastProblem) peer.renew()
        lastProblem = problem
      }
      if (this.#isLost || peer.isGone) return
      if (peer.stream === stream) peer.stream = undefined
      this.#answerTimes.forget(peer.name)
      this.#feed({ kind: 'disconnected', from: peer.name })
      const isOver = AbortSignal.any([this.#stop.signal, renewed.signal])
      await clock.sleep(RECONNECT_MS, isOver).catch(ignoreCancelled)
    }
  }

  #greeting() {
    const { timeline, postgres, nodeId } = this.#options
    return {
      protocolVersion: PROPOSE_VERSIONS.min,
      protocolVersionMax: PROPOSE_VERSIONS.max,
      timeline,
      postgres,
      nodeId,
      membershipGeneration: BigInt(this.#membership.generation),
      membership: isNamed(this.#known) ? writeMembership(this.#known) : undefined,
      commitLsn: lsnToBigint(this.#commitLsn),
    }
  }

  /** A leader goes on under it as soon as it knows it; a candidate begins anew. */
  #onNewerMembership(peer: Peer, generation: number, known: KnownMembership | undefined): void {
    const told = known?.generation === generation ? known : undefined
    if (this.#state.phase !== 'leader')
      return this.#lose({ kind: 'staleMembership', ...(told === undefined ? {} : { membership: told }) })
    if (told !== undefined) return this.changeMembership(told)
    this.#options.log.warn('membership_not_known', { safekeeper: peer.name, generation })
    peer.stream?.cancel()
  }

  #receive(peer: Peer, message: ProposeResponse['message']): void {
    const from = peer.name
    switch (message?.$case) {
      case 'greeting': {
        const { nodeId, term, membershipGeneration, membership, protocolVersion } = message.value
        checkChosenVersion('the proposer protocol', PROPOSE_VERSIONS, protocolVersion)
        if (from !== peer.address && nodeId !== from)
          throw refuse('conflict', `"${nodeId}" answers at ${peer.address}, where "${from}" is expected`)
        if (this.#options.ownTerm !== undefined && Number(term) > this.#ownTerm)
          return this.#lose({ kind: 'superseded', term: Number(term) })
        if (Number(membershipGeneration) > this.#membership.generation) {
          const known = membership === undefined ? undefined : readMembership(membership)
          return this.#onNewerMembership(peer, Number(membershipGeneration), known)
        }
        return this.#feed({
          kind: 'greeted',
          from,
          reply: { term: Number(term), membershipGeneration: Number(membershipGeneration) },
        })
      }
      case 'vote': {
        const { term, voteGiven, flushLsn, commitLsn, termHistory } = message.value
        const reply = {
          term: Number(term),
          voteGiven,
          flushLsn: lsnFromBigint(flushLsn),
          commitLsn: lsnFromBigint(commitLsn),
          history: readHistory(termHistory),
        }
        return this.#feed({ kind: 'voted', from, reply })
      }
      case 'append': {
        const { term, flushLsn, commitLsn } = message.value
        const reply = {
          term: Number(term),
          flushLsn: lsnFromBigint(flushLsn),
          commitLsn: lsnFromBigint(commitLsn),
        }
        this.observer?.acknowledged(from, reply.flushLsn, peer.lastContactMs)
        this.#answerTimes.answered(from, reply.flushLsn, this.#options.clock.nowMs())
        return this.#feed({ kind: 'appended', from, reply })
      }
      default:
        throw refuse('unsupported', `safekeeper ${from} sent a message of an unknown kind`)
    }
  }

  async #tellNews(): Promise<void> {
    this.#isTellingNews = true
    do {
      await this.#options.clock.sleep(NEWS_MS, this.#stop.signal).catch(ignoreCancelled)
      this.#feed({ kind: 'news' })
    } while (!this.#isLost && hasNews(this.#state))
    this.#isTellingNews = false
  }

  /** I2: a compute without contact to a quorum could serve stale reads, so it counts as having lost the lead. */
  async #beat(): Promise<void> {
    const { clock, contactTimeoutMs } = this.#options
    while (!this.#isLost) {
      await clock.sleep(HEARTBEAT_MS, this.#stop.signal).catch(ignoreCancelled)
      if (this.#isLost) return
      this.#feed({ kind: 'heartbeat' })
      const unansweredMax = this.#answerTimes.areFar ? 2 : 1
      if (unansweredMax !== this.#state.options.unansweredMax) this.#feed({ kind: 'pace', unansweredMax })
      const sinceMs = clock.nowMs() - contactTimeoutMs
      const inContact = (member: string): boolean => (this.#peers.get(member)?.lastContactMs ?? 0) >= sinceMs
      if (this.#state.phase === 'leader' && !isQuorum(this.#membership, inContact))
        this.#lose({ kind: 'noContact' })
    }
  }

  #lose(loss: Loss): void {
    if (this.#isLost) return
    this.#isLost = true
    this.#stop.abort()
    for (const peer of this.#peers.values()) {
      peer.stream?.cancel()
      peer.client.close()
    }
    if (loss.kind !== 'closed') {
      this.#options.log.warn('quorum_lost', { ...loss })
      this.observer?.lost(loss.kind)
    }
    this.#elected.reject(electionError(loss))
    this.#lost.resolve(loss)
    for (const wake of this.#room.splice(0)) wake()
  }
}

const EMPTY = Buffer.alloc(0)

/** Not where names are addresses only, of a membership that never changed. */
const isNamed = (known: KnownMembership): boolean =>
  everyMember(known).some(({ nodeId, address }) => nodeId !== address)

function ignoreCancelled(error: unknown): void {
  if (!isErrorCode(error, 'cancelled')) throw error
}

/** A candidate that was overtaken, or whose own vote's answer was lost, may try again; only a leader is fenced for good. */
function electionError(loss: Loss): Error {
  if (loss.kind !== 'fenced') return lossError(loss)
  return refuse('conflict', `the election was lost to term ${loss.term}`)
}

/** The lead is lost. */
export class LeadLostError extends UnderstoryError {
  readonly loss: Loss

  constructor(code: ErrorCode, message: string, loss: Loss) {
    super(code, message)
    this.loss = loss
  }
}

/** Whether another compute has the timeline for good: this one is to end. */
export const isFinal = (loss: Loss): boolean => loss.kind === 'fenced' || loss.kind === 'superseded'

export function lossError(loss: Loss): Error {
  switch (loss.kind) {
    case 'fenced':
      return new LeadLostError('stale', `another compute has the lead with term ${loss.term}`, loss)
    case 'superseded':
      return new LeadLostError('stale', `another compute was elected with term ${loss.term} meanwhile`, loss)
    case 'staleMembership':
      return new LeadLostError('stale', 'the safekeepers of this timeline have changed', loss)
    case 'noContact':
      return new LeadLostError('unavailable', 'there is no contact to a majority of the safekeepers', loss)
    case 'closed':
      return new LeadLostError('cancelled', 'the lead was given up', loss)
  }
}
