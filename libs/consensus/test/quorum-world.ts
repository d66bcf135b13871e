/**
 * A small world for the two state machines: three acceptors with disks that lose what was not synced, two proposers
 * that come and go, and a network. One seed is one schedule. Records are a length byte and that many random bytes less
 * one, so an acceptor that starts again finds its end of WAL the way a real one does: by decoding.
 *
 * Checks as it goes, apart from the nodes: no committed byte is ever lost or changed (I1, I3), one committing
 * proposer a term (I2), acceptors call committed only what is, an adopted Postgres has the quorum's very bytes.
 */
import type { Lsn } from '@understory/base'
import {
  WalBuffer,
  createProposer,
  historyUpTo,
  initialControl,
  restoreAcceptor,
  stepAcceptor,
  stepProposer,
} from '../src/index.ts'
import type {
  AcceptorControl,
  AcceptorInput,
  AcceptorState,
  FollowingEffect,
  ProposerEffect,
  ProposerInput,
  ProposerState,
} from '../src/index.ts'

export const START = 1024 as Lsn
const MEMBERS = ['s1', 's2', 's3'] as const

/** mulberry32 */
export function seeded(seed: number): () => number {
  let a = seed | 0
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

export interface WorldOptions {
  readonly seed: number
  /** Streams: in order and whole until they break. Otherwise each message may be lost, repeated and overtaken. */
  readonly streams: boolean
  readonly faultsMs: number
}

class Violation extends Error {}

function recordEnd(log: readonly number[], from = 0): number {
  let at = from
  while (at < log.length && at + (log[at] as number) <= log.length) at += log[at] as number
  return at
}

class Acceptor {
  readonly name: string
  control: AcceptorControl = initialControl(START)
  durable: number[] = []
  written: number[] = []
  state: AcceptorState | undefined
  flushEpoch = 0
  isFlushing = false
  wantsFlush = false
  /** Where answers go: the newest stream. */
  stream: Stream | undefined

  constructor(name: string) {
    this.name = name
  }
}

class Proposer {
  readonly name: string
  state: ProposerState | undefined
  buffer = new WalBuffer(START)
  /** What its Postgres has, from START on. */
  local: number[] = []
  /** The part of `local` that was handed to the proposer, as a length. */
  handedLength = 0
  livingTerm: number | undefined
  readonly streams = new Map<string, Stream>()
  readonly fetched = new Map<string, { startLsn: Lsn; bytes: Uint8Array }>()
  life = 0

  constructor(name: string) {
    this.name = name
  }
}

interface Stream {
  readonly proposer: Proposer
  readonly life: number
  readonly acceptor: Acceptor
  isOpen: boolean
  /** In stream mode nothing arrives before what was sent earlier. */
  lastArrivalMs: [number, number]
}

export class World {
  readonly #options: WorldOptions
  readonly #random: () => number
  readonly #events: { at: number; order: number; run: () => void }[] = []
  #nowMs = 0
  #order = 0
  readonly acceptors = MEMBERS.map((name) => new Acceptor(name))
  readonly proposers = [new Proposer('p1'), new Proposer('p2')]
  readonly committed: number[] = []
  readonly #committers = new Map<number, string>()
  readonly counts: Record<string, number> = {}
  readonly trace: string[] = []
  #calm = false

  constructor(options: WorldOptions) {
    this.#options = options
    this.#random = seeded(options.seed)
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit)
  }
  #chance(probability: number): boolean {
    return this.#random() < probability
  }
  #fault(probability: number): boolean {
    return !this.#calm && this.#chance(probability)
  }
  #say(what: string): void {
    this.trace.push(`${this.#nowMs} ${what}`)
  }
  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1
  }
  #at(delayMs: number, run: () => void): void {
    const event = { at: this.#nowMs + delayMs, order: this.#order++, run }
    const events = this.#events
    let [low, high] = [0, events.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((events[middle] as { at: number }).at > event.at) low = middle + 1
      else high = middle
    }
    events.splice(low, 0, event)
  }
  #runUntil(endMs: number, done: () => boolean = () => false): boolean {
    for (;;) {
      if (done()) return true
      const next = this.#events.at(-1)
      if (next === undefined || next.at > endMs) return false
      this.#events.pop()
      this.#nowMs = next.at
      this.#count('events')
      next.run()
    }
  }

  /** Faults, then calm in which a new proposer must be able to commit. */
  run(): void {
    for (const acceptor of this.acceptors) this.#startAcceptor(acceptor)
    for (const proposer of this.proposers) this.#at(this.#below(50), () => this.#startProposer(proposer))
    for (const acceptor of this.acceptors) this.#at(this.#below(200), () => this.#crashLoop(acceptor))
    this.#runUntil(this.#options.faultsMs)
    this.#calm = true
    this.#nowMs = this.#options.faultsMs
    this.#events.length = 0
    for (const acceptor of this.acceptors) {
      this.#crashAcceptor(acceptor)
      this.#startAcceptor(acceptor)
    }
    for (const proposer of this.proposers) {
      proposer.life++
      proposer.state = undefined
    }
    const committedBefore = this.committed.length
    this.#startProposer(this.proposers[0] as Proposer)
    const progressed = this.#runUntil(
      this.#nowMs + 20_000,
      () =>
        this.committed.length > committedBefore &&
        this.acceptors.every(
          ({ state }) => state !== undefined && state.commitLsn - START >= committedBefore,
        ),
    )
    if (!progressed)
      throw new Violation(`no progress after the faults ended: ${this.committed.length} bytes are committed`)
  }

  // Acceptors.

  #startAcceptor(acceptor: Acceptor): void {
    const end = recordEnd(acceptor.durable)
    acceptor.durable.length = end
    acceptor.written = [...acceptor.durable]
    acceptor.state = restoreAcceptor(acceptor.control, (START + end) as Lsn)
  }

  #crashAcceptor(acceptor: Acceptor): void {
    if (acceptor.state === undefined) return
    this.#count('acceptor crashes')
    // Of what was written and not synced a prefix survives; holes would be found by the CRC all the same.
    const kept = acceptor.durable.length + this.#below(acceptor.written.length - acceptor.durable.length + 1)
    acceptor.durable = acceptor.written.slice(0, kept)
    acceptor.state = undefined
    acceptor.flushEpoch++
    acceptor.isFlushing = acceptor.wantsFlush = false
    for (const proposer of this.proposers) {
      const stream = proposer.streams.get(acceptor.name)
      if (stream !== undefined) this.#breakStream(stream)
    }
    acceptor.stream = undefined
  }

  #crashLoop(acceptor: Acceptor): void {
    this.#crashAcceptor(acceptor)
    this.#say(`${acceptor.name} crashed`)
    this.#at(this.#below(60), () => {
      if (acceptor.state === undefined) this.#startAcceptor(acceptor)
    })
    this.#at(100 + this.#below(600), () => this.#crashLoop(acceptor))
  }

  #feedAcceptor(acceptor: Acceptor, input: AcceptorInput, stream: Stream | undefined): void {
    if (acceptor.state === undefined) return
    const { state, durable, after } = stepAcceptor(acceptor.state, input)
    for (const effect of durable) {
      if (this.#fault(0.002)) {
        this.#count('crashes between effects')
        this.#crashAcceptor(acceptor)
        this.#at(this.#below(60), () => {
          if (acceptor.state === undefined) this.#startAcceptor(acceptor)
        })
        return
      }
      switch (effect.kind) {
        case 'persistControl':
          acceptor.control = effect.control
          break
        case 'truncateWal':
          if (effect.toLsn - START < acceptor.durable.length) this.#count('divergent tails cut')
          acceptor.written.length = effect.toLsn - START
          acceptor.durable.length = Math.min(acceptor.durable.length, acceptor.written.length)
          acceptor.flushEpoch++
          acceptor.isFlushing = acceptor.wantsFlush = false
          break
        case 'writeWal':
          if (effect.atLsn - START !== acceptor.written.length)
            throw new Violation(`${acceptor.name} writes with a gap`)
          acceptor.written.push(...effect.wal)
          break
      }
    }
    acceptor.state = state
    this.#checkAcceptor(acceptor)
    for (const effect of after) this.#carryOut(acceptor, effect, stream ?? acceptor.stream)
  }

  #carryOut(acceptor: Acceptor, effect: FollowingEffect, stream: Stream | undefined): void {
    const name = acceptor.name
    switch (effect.kind) {
      case 'sendGreeting':
        return this.#toProposer(stream, { kind: 'greeted', from: name, reply: effect.reply })
      case 'sendVote':
        return this.#toProposer(stream, { kind: 'voted', from: name, reply: effect.reply })
      case 'sendAppended':
        return this.#toProposer(stream, { kind: 'appended', from: name, reply: effect.reply })
      case 'flush':
        acceptor.wantsFlush = true
        return this.#flush(acceptor)
      case 'committed':
        return
      case 'refuse':
        this.#count(`refused ${effect.code}`)
        if (stream !== undefined) this.#breakStream(stream)
        return
    }
  }

  #flush(acceptor: Acceptor): void {
    if (acceptor.isFlushing || !acceptor.wantsFlush) return
    acceptor.isFlushing = true
    acceptor.wantsFlush = false
    const epoch = acceptor.flushEpoch
    const bytes = [...acceptor.written]
    this.#at(1 + this.#below(10), () => {
      if (acceptor.flushEpoch !== epoch) return
      acceptor.isFlushing = false
      acceptor.durable = bytes
      this.#feedAcceptor(
        acceptor,
        { kind: 'flushed', flushLsn: (START + recordEnd(bytes)) as Lsn },
        undefined,
      )
      this.#flush(acceptor)
    })
  }

  #checkAcceptor(acceptor: Acceptor): void {
    const length = (acceptor.state as AcceptorState).commitLsn - START
    if (length > this.committed.length)
      throw new Violation(`${acceptor.name} calls ${length} bytes committed, ${this.committed.length} are`)
    for (let i = Math.max(0, length - 200); i < length; i++) {
      if (acceptor.durable[i] !== this.committed[i])
        throw new Violation(`${acceptor.name} differs from what is committed at byte ${i}`)
    }
  }

  // The network.

  #delayMs(): number {
    return 1 + this.#below(this.#chance(0.05) && !this.#calm ? 200 : 8)
  }

  #transmit(stream: Stream, direction: 0 | 1, deliver: () => void): void {
    if (!stream.isOpen) return
    if (this.#options.streams || this.#calm) {
      if (this.#fault(0.004)) return this.#breakStream(stream)
      const arrival = Math.max(stream.lastArrivalMs[direction], this.#nowMs + this.#delayMs())
      stream.lastArrivalMs[direction] = arrival
      this.#at(arrival - this.#nowMs, () => {
        if (stream.isOpen) deliver()
      })
      return
    }
    if (this.#fault(0.05)) return this.#count('messages lost')
    const copies = this.#fault(0.05) ? 2 : 1
    for (let copy = 0; copy < copies; copy++) this.#at(this.#delayMs(), deliver)
  }

  #breakStream(stream: Stream): void {
    if (!stream.isOpen) return
    stream.isOpen = false
    this.#count('streams broken')
    const { proposer, acceptor, life } = stream
    if (acceptor.stream === stream) acceptor.stream = undefined
    this.#at(1 + this.#below(5), () => {
      if (proposer.life !== life || proposer.streams.get(acceptor.name) !== stream) return
      this.#feedProposer(proposer, { kind: 'disconnected', from: acceptor.name })
      this.#at(10 + this.#below(40), () => this.#connect(proposer, acceptor, life))
    })
  }

  #connect(proposer: Proposer, acceptor: Acceptor, life: number): void {
    if (proposer.life !== life || proposer.state === undefined || proposer.state.phase === 'fenced') return
    if (acceptor.state === undefined) {
      this.#at(20, () => this.#connect(proposer, acceptor, life))
      return
    }
    const stream: Stream = { proposer, life, acceptor, isOpen: true, lastArrivalMs: [0, 0] }
    proposer.streams.set(acceptor.name, stream)
    this.#transmit(stream, 0, () => {
      acceptor.stream = stream
      this.#feedAcceptor(acceptor, { kind: 'greeting', message: { membershipGeneration: 0 } }, stream)
    })
  }

  #toProposer(stream: Stream | undefined, input: ProposerInput): void {
    if (stream === undefined) return
    this.#transmit(stream, 1, () => {
      if (stream.proposer.life === stream.life) this.#feedProposer(stream.proposer, input)
    })
  }

  // Proposers.

  #startProposer(proposer: Proposer): void {
    proposer.life++
    const { life } = proposer
    proposer.streams.clear()
    proposer.fetched.clear()
    proposer.state = createProposer({
      membership: { generation: 0, members: MEMBERS },
      timelineStartLsn: START,
      livingTerm: proposer.livingTerm,
      appendBytesMax: this.#calm ? 120 : 1 + this.#below(120),
      inFlightBytesMax: 1 + this.#below(400),
      keptBytesMax: this.#below(300),
    })
    for (const acceptor of this.acceptors) this.#connect(proposer, acceptor, life)
    this.#at(this.#below(20), () => this.#work(proposer, life))
    const again = (): void => {
      if (proposer.life !== life) return
      // A stuck, fenced or simply unlucky proposer is followed by a new one; its Postgres may live on.
      if (this.#chance(0.3)) proposer.livingTerm = undefined
      this.#startProposer(proposer)
    }
    if (!this.#calm) this.#at(150 + this.#below(900), again)
    else
      this.#at(2_000, () => {
        if (proposer.life === life && (proposer.state?.commitLsn ?? 0) < (proposer.state?.termStartLsn ?? 0))
          again()
      })
  }

  /** Postgres writes records, whole or in pieces; the driver hands them on. */
  #work(proposer: Proposer, life: number): void {
    if (proposer.life !== life || proposer.state === undefined || proposer.state.phase === 'fenced') return
    if (proposer.state.phase === 'leader') {
      if (this.#chance(0.7)) {
        const size = 2 + this.#below(60)
        proposer.local.push(size, ...Array.from({ length: size - 1 }, () => this.#below(256)))
      }
      const end = Math.min(proposer.local.length, proposer.handedLength + 1 + this.#below(90))
      if (end > proposer.handedLength) {
        const chunk = Uint8Array.from(proposer.local.slice(proposer.handedLength, end))
        const startLsn = (START + proposer.handedLength) as Lsn
        const recordEndLsn = (START + recordEnd(proposer.local.slice(0, end))) as Lsn
        proposer.handedLength = end
        proposer.buffer.push(startLsn, chunk, recordEndLsn)
        this.#feedProposer(proposer, { kind: 'wal', endLsn: (START + end) as Lsn, recordEndLsn })
      }
      if (this.#chance(0.05)) this.#feedProposer(proposer, { kind: 'heartbeat' })
      if (this.#chance(0.2)) this.#feedProposer(proposer, { kind: 'news' })
    }
    this.#at(1 + this.#below(12), () => this.#work(proposer, life))
  }

  #feedProposer(proposer: Proposer, input: ProposerInput): void {
    const queue: ProposerInput[] = [input]
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      if (proposer.state === undefined) return
      const { state, effects } = stepProposer(proposer.state, next)
      proposer.state = state
      for (const effect of effects) this.#carryOutProposer(proposer, effect, queue)
    }
  }

  #send(proposer: Proposer, to: string, input: AcceptorInput): void {
    const stream = proposer.streams.get(to)
    if (stream === undefined) return
    this.#transmit(stream, 0, () => {
      if (this.#options.streams && stream.acceptor.stream !== stream) return
      this.#feedAcceptor(stream.acceptor, input, stream)
    })
  }

  #carryOutProposer(proposer: Proposer, effect: ProposerEffect, queue: ProposerInput[]): void {
    const state = proposer.state as ProposerState
    const { life } = proposer
    switch (effect.kind) {
      case 'sendVote':
        return this.#send(proposer, effect.to, { kind: 'vote', message: effect.message })
      case 'sendElected':
        return this.#send(proposer, effect.to, { kind: 'elected', message: effect.message })
      case 'sendPositions':
        return this.#send(proposer, effect.to, { kind: 'append', message: effect.message })
      case 'sendWal': {
        const { startLsn: beginLsn, endLsn, term, commitLsn } = effect
        const kept = proposer.fetched.get(effect.to)
        const range =
          effect.source === 'buffer'
            ? proposer.buffer.read(beginLsn, endLsn)
            : { bytes: (kept as { bytes: Uint8Array }).bytes, recordEndLsn: effect.recordEndLsn }
        if (effect.source === 'fetched' && kept?.startLsn !== beginLsn)
          throw new Violation('sends other bytes than were fetched')
        const recordEndLsn = Math.max(range.recordEndLsn, effect.recordEndLsn) as Lsn
        const message = { term, beginLsn, commitLsn, recordEndLsn, wal: range.bytes }
        this.#send(proposer, effect.to, { kind: 'append', message })
        const stream = proposer.streams.get(effect.to)
        this.#at(this.#below(6), () => {
          if (proposer.life === life && stream?.isOpen === true) {
            this.#feedProposer(proposer, { kind: 'sent', to: effect.to, bytes: range.bytes.length })
          }
        })
        return
      }
      case 'compareLocalWal': {
        const donor = this.acceptors.find(({ name }) => name === effect.donor) as Acceptor
        const length = effect.endLsn - START
        const isEqual =
          proposer.local.length >= length && this.#sameBytes(proposer.local, donor.durable, length)
        queue.push({ kind: 'localWalCompared', isEqual })
        return
      }
      case 'elected': {
        this.#count(`elected, ${effect.election}`)
        this.#say(
          `${proposer.name} elected in term ${effect.term} at ${effect.startLsn} from ${effect.donor}, ${effect.election}`,
        )
        const length = effect.startLsn - START
        const donor = this.acceptors.find(({ name }) => name === effect.donor) as Acceptor
        // The donor's durable log is what the vote spoke of; it may only have been cut since by a later term.
        const log = donor.durable.slice(0, length)
        if (log.length < length) {
          if (donor.control.term === effect.term) throw new Violation('the elected log is not there')
          // Overtaken before it knew that it had won: it can commit nothing, and there is no log to model.
          this.#count('elected too late')
          proposer.life++
          proposer.state = undefined
          this.#at(20, () => this.#startProposer(proposer))
          return
        }
        if (effect.election === 'adopt') {
          if (!this.#sameBytes(proposer.local, donor.durable, length))
            throw new Violation('adopted a Postgres with other WAL')
        } else {
          proposer.local = log
        }
        proposer.handedLength = length
        proposer.livingTerm = effect.term
        proposer.buffer = new WalBuffer(effect.startLsn)
        return
      }
      case 'commitAdvanced': {
        const other = this.#committers.get(state.term)
        if (other !== undefined && other !== `${proposer.name}/${life}`)
          throw new Violation(`I2: ${other} and ${proposer.name} both commit in term ${state.term}`)
        this.#committers.set(state.term, `${proposer.name}/${life}`)
        const length = effect.lsn - START
        const same = Math.min(length, this.committed.length)
        if (!this.#sameBytes(proposer.local, this.committed, same))
          throw new Violation(`I1: committed WAL was changed in term ${state.term}`)
        for (let i = this.committed.length; i < length; i++) this.committed.push(proposer.local[i] as number)
        this.#count('commits')
        // A quorum has it on disk, as part of a history that ends with this term or a later one.
        const holders = this.acceptors.filter(
          ({ durable }) => durable.length >= length && this.#sameBytes(durable, this.committed, length),
        )
        if (holders.length < 2)
          throw new Violation(`I1: only ${holders.length} acceptors hold what is committed`)
        return
      }
      case 'trimBuffer':
        proposer.buffer.trim(effect.lsn)
        return
      case 'fetchWal': {
        this.#count('fetches')
        const { to, from, term, startLsn, endLsn } = effect
        this.#at(this.#delayMs() + this.#delayMs(), () => {
          if (proposer.life !== life) return
          const donor = this.acceptors.find(({ name }) => name === from) as Acceptor
          const end = Math.min(endLsn, donor.state?.flushLsn ?? 0) as Lsn
          if (
            donor.state === undefined ||
            donor.state.control.term !== term ||
            end <= startLsn ||
            this.#fault(0.05)
          ) {
            this.#feedProposer(proposer, { kind: 'fetchFailed', to })
            this.#at(20, () => {
              if (proposer.life === life) this.#feedProposer(proposer, { kind: 'heartbeat' })
            })
            return
          }
          proposer.fetched.set(to, {
            startLsn,
            bytes: Uint8Array.from(donor.durable.slice(startLsn - START, end - START)),
          })
          this.#feedProposer(proposer, { kind: 'walFetched', to, startLsn, endLsn: end })
        })
        return
      }
      case 'donorMissing':
        return this.#count('donor missing')
      case 'drop': {
        const stream = proposer.streams.get(effect.peer)
        if (stream !== undefined) this.#breakStream(stream)
        return
      }
      case 'fenced':
        this.#count('fenced')
        this.#say(`${proposer.name} fenced by term ${effect.term}`)
        if (this.#calm) {
          this.#at(50, () => {
            if (proposer.life === life) this.#startProposer(proposer)
          })
        }
        return
      case 'staleMembership':
        throw new Violation('membership never changes here')
    }
  }

  #sameBytes(a: readonly number[], b: readonly number[], length: number): boolean {
    if (a.length < length || b.length < length) return false
    for (let i = 0; i < length; i++) if (a[i] !== b[i]) return false
    return true
  }
}

/** The history of an acceptor's log, for messages. */
export const historyOf = (acceptor: Acceptor): string =>
  historyUpTo(acceptor.control.history, (START + acceptor.durable.length) as Lsn)
    .map(({ term, startLsn }) => `${term}@${startLsn}`)
    .join(' ')
