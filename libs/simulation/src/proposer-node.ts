/** A compute: the proposer's rules, the driver that libs/consensus/README.md describes, and a Postgres that writes. */
import type { Lsn } from '@understory/base'
import { WalBuffer, allMembers, createProposer, stepProposer } from '@understory/consensus'
import type {
  AcceptorInput,
  Membership,
  ProposerEffect,
  ProposerInput,
  ProposerState,
} from '@understory/consensus'
import type { Rng } from '@understory/env'
import type { AcceptorAnswer, AcceptorNode, AcceptorSession } from './acceptor-node.ts'
import type { Checks } from './checks.ts'
import { Violation } from './checks.ts'
import type { Counts } from './counts.ts'
import { proposerTransition } from './coverage.ts'
import type { Network, Stream } from './network.ts'
import type { Schedule } from './schedule.ts'
import { SimLog } from './wal.ts'
import type { WalFormat } from './wal.ts'

/** What a proposer has of the world around it. */
export interface ProposerHost {
  readonly schedule: Schedule
  readonly rng: Rng
  readonly counts: Counts
  readonly checks: Checks
  readonly network: Network
  readonly format: WalFormat
  readonly nodes: ReadonlyMap<string, AcceptorNode>
  readonly isCalm: boolean
  /** The membership document as of now. */
  readonly membership: Membership
  readonly recordBytesMax: number
  isPausedUntilMs(name: string): number
  isLost(name: string): boolean
  readonly say: (what: () => string) => void
}

interface Link {
  readonly stream: Stream
  readonly session: AcceptorSession
  readonly generation: number
}

export class ProposerNode {
  readonly name: string
  readonly #host: ProposerHost
  state: ProposerState | undefined
  /** Rises with each start: what belongs to an earlier life is dropped. */
  #life = 0
  #buffer: WalBuffer
  /** What its Postgres has. */
  #local: SimLog
  #handedLsn: Lsn
  #livingTerm: number | undefined
  /** The membership it starts with: read anew when it turns out to be old. */
  #known: Membership
  readonly #links = new Map<string, Link>()
  readonly #fetched = new Map<string, { readonly startLsn: Lsn; readonly bytes: Uint8Array }>()
  /** The log that each voter spoke of. */
  readonly #votedLogs = new Map<string, Uint8Array>()

  constructor(name: string, host: ProposerHost) {
    this.name = name
    this.#host = host
    this.#known = host.membership
    this.#buffer = new WalBuffer(host.format.startLsn)
    this.#local = new SimLog(host.format.startLsn)
    this.#handedLsn = host.format.startLsn
  }

  /** With `isPostgresDead` there is nothing to adopt. */
  restart(isPostgresDead: boolean): void {
    const { schedule, rng, isCalm, format } = this.#host
    this.stop()
    if (isPostgresDead) this.#livingTerm = undefined
    const life = this.#life
    if (isCalm || rng.below(4) > 0) this.#known = this.#host.membership
    this.state = createProposer({
      membership: this.#known,
      timelineStartLsn: format.startLsn,
      livingTerm: this.#livingTerm,
      appendBytesMax: isCalm ? 4 * this.#host.recordBytesMax : 1 + rng.below(2 * this.#host.recordBytesMax),
      inFlightBytesMax: 1 + rng.below(8 * this.#host.recordBytesMax),
      keptBytesMax: rng.below(6 * this.#host.recordBytesMax),
      unansweredMax: life % 2 === 0 ? 1 : 2,
    })
    for (const name of allMembers(this.#known)) this.#connect(name, life)
    schedule.at(rng.below(20), () => this.#work(life))
    const again = (): void => {
      if (this.#life === life) this.restart(this.#host.rng.below(10) < 3)
    }
    // In calm weather only a proposer that cannot get on is followed by another.
    if (!isCalm) schedule.at(300 + rng.below(2_500), again)
    else {
      const look = (): void => {
        if (this.#life !== life) return
        const { state } = this
        if (state === undefined || state.phase !== 'leader' || state.commitLsn < state.termStartLsn) again()
        else schedule.at(2_000, look)
      }
      schedule.at(2_000, look)
    }
  }

  stop(): void {
    this.#life++
    this.state = undefined
    for (const { stream, session } of this.#links.values()) this.#hangUp(stream, session)
    this.#links.clear()
    this.#fetched.clear()
    this.#votedLogs.clear()
  }

  /** A leader hears of a change of membership. */
  tellMembership(membership: Membership): void {
    this.#known = membership
    if (this.state !== undefined && this.state.phase !== 'fenced')
      this.#feed({ kind: 'membership', membership })
  }

  #hangUp(stream: Stream, session: AcceptorSession): void {
    this.#host.network.break(stream)
    this.#host.nodes.get(stream.to)?.leave(session)
  }

  #connect(to: string, life: number): void {
    const { schedule, rng, network, checks } = this.#host
    if (this.#life !== life || this.state === undefined || this.state.phase === 'fenced') return
    const { membership } = this.state.options
    if (!allMembers(membership).includes(to) || this.#links.has(to)) return
    const node = this.#host.nodes.get(to) as AcceptorNode
    if (!node.isUp) {
      schedule.at(20 + rng.below(10), () => this.#connect(to, life))
      return
    }
    const stream = network.open(this.name, to, () => {
      node.leave(session)
      if (this.#life !== life || this.#links.get(to)?.stream !== stream) return
      this.#links.delete(to)
      this.#feed({ kind: 'disconnected', from: to })
      schedule.at(10 + rng.below(40), () => this.#connect(to, life))
    })
    const session: AcceptorSession = {
      nodeId: this.name,
      deliver: (answer) => {
        checks.answered(node, answer)
        // The log that a vote speaks of, as it is when the vote is given.
        const spoken =
          answer.kind === 'sendVote'
            ? node.peek(this.#host.format.startLsn, answer.reply.flushLsn)
            : undefined
        network.send(stream, 'back', () => {
          if (this.#life !== life || this.#links.get(to)?.stream !== stream) return
          if (spoken !== undefined) this.#votedLogs.set(to, spoken)
          this.#feed(this.#inputOf(to, answer))
        })
      },
      close: () => network.break(stream),
    }
    const link: Link = { stream, session, generation: membership.generation }
    this.#links.set(to, link)
    this.#send(link, { kind: 'greeting', message: { membershipGeneration: membership.generation } })
  }

  #inputOf(from: string, answer: AcceptorAnswer): ProposerInput {
    switch (answer.kind) {
      case 'sendGreeting':
        return { kind: 'greeted', from, reply: answer.reply }
      case 'sendVote':
        return { kind: 'voted', from, reply: answer.reply }
      case 'sendAppended':
        return { kind: 'appended', from, reply: answer.reply }
    }
  }

  #send({ stream, session }: Link, input: AcceptorInput): void {
    const { network, schedule, nodes } = this.#host
    const deliver = (): void => {
      const waitMs = this.#host.isPausedUntilMs(stream.to) - schedule.nowMs
      if (waitMs > 0) return schedule.at(waitMs, deliver)
      const node = nodes.get(stream.to)
      node?.handle(session, input)
      // What comes late on a stream that has ended does not open it again.
      if (!stream.isOpen) node?.leave(session)
    }
    network.send(stream, 'out', deliver)
  }

  /** Postgres writes records; the driver hands them on, whole or in pieces. */
  #work(life: number): void {
    const { schedule, rng, checks, format, recordBytesMax } = this.#host
    if (this.#life !== life || this.state === undefined || this.state.phase === 'fenced') return
    if (this.state.phase === 'leader') {
      for (let count = rng.below(3); count > 0; count--) {
        const size = rng.below(20) === 0 ? rng.below(recordBytesMax * 8) : rng.below(recordBytesMax)
        this.#local.addRecord(format, size, rng)
        checks.recordEnds.add(this.#local.endLsn)
      }
      const endLsn = Math.min(this.#local.endLsn, this.#handedLsn + 1 + rng.below(recordBytesMax * 3)) as Lsn
      if (endLsn > this.#handedLsn) {
        const recordEndLsn = this.#local.recordEndAt(endLsn)
        this.#buffer.push(this.#handedLsn, this.#local.slice(this.#handedLsn, endLsn), recordEndLsn)
        this.#handedLsn = endLsn
        this.#feed({ kind: 'wal', endLsn, recordEndLsn })
      }
      if (rng.below(20) === 0) this.#feed({ kind: 'heartbeat' })
      if (rng.below(5) === 0) this.#feed({ kind: 'news' })
    }
    schedule.at(1 + rng.below(12), () => this.#work(life))
  }

  #feed(input: ProposerInput): void {
    const queue: ProposerInput[] = [input]
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const before = this.state
      if (before === undefined) return
      const { state, effects } = stepProposer(before, next)
      this.#host.counts.transition(proposerTransition(before, next, state))
      this.state = state
      for (const effect of effects) if (this.state !== undefined) this.#carryOut(effect, queue)
    }
  }

  #carryOut(effect: ProposerEffect, queue: ProposerInput[]): void {
    const { schedule, rng, counts, checks, network, say, isCalm } = this.#host
    const state = this.state as ProposerState
    const life = this.#life
    switch (effect.kind) {
      case 'sendVote':
        return this.#sendTo(effect.to, (membershipGeneration) => ({
          kind: 'vote',
          membershipGeneration,
          message: effect.message,
        }))
      case 'sendElected':
        return this.#sendTo(effect.to, (membershipGeneration) => ({
          kind: 'elected',
          membershipGeneration,
          message: effect.message,
        }))
      case 'sendPositions':
        return this.#sendTo(effect.to, (membershipGeneration) => ({
          kind: 'append',
          membershipGeneration,
          message: effect.message,
        }))
      case 'sendWal':
        return this.#sendWal(effect)
      case 'compareLocalWal': {
        const donorLog = SimLog.from(this.#host.format, this.#votedLogs.get(effect.donor) as Uint8Array)
        // In doubt, as where the donor cannot be asked, they differ.
        const isEqual = this.#local.isEqualUpTo(donorLog, effect.endLsn) && (isCalm || rng.below(8) > 0)
        queue.push({ kind: 'localWalCompared', isEqual })
        return
      }
      case 'elected':
        return this.#elected(effect)
      case 'commitAdvanced':
        counts.other('commits')
        return checks.committedBy(
          `${this.name}/${life}`,
          state.term,
          this.#local,
          effect.lsn,
          state.options.membership,
          this.#host.nodes,
          (name) => this.#host.isLost(name),
        )
      case 'trimBuffer':
        return this.#buffer.trim(effect.lsn)
      case 'fetchWal':
        return this.#fetch(effect)
      case 'donorMissing':
        return counts.other('donor missing')
      case 'drop': {
        const link = this.#links.get(effect.peer)
        if (link !== undefined) network.break(link.stream)
        // A change of membership may have brought members that no stream was open to.
        schedule.at(1 + rng.below(5), () => {
          for (const name of allMembers(this.state?.options.membership ?? { generation: 0, members: [] }))
            this.#connect(name, life)
        })
        return
      }
      case 'fenced':
        say(() => `${this.name} is fenced by term ${effect.term}`)
        schedule.at(20 + rng.below(isCalm ? 60 : 1_000), () => this.#follow(life))
        return
      case 'staleMembership':
        say(() => `${this.name} learns of membership generation ${effect.generation}`)
        counts.other('stale membership')
        this.#known = this.#host.membership
        schedule.at(5 + rng.below(20), () => this.#follow(life))
        return
    }
  }

  #follow(life: number): void {
    if (this.#life === life) this.restart(this.#host.rng.below(10) < 3)
  }

  #sendTo(to: string, input: (generation: number) => AcceptorInput): void {
    const link = this.#links.get(to)
    if (link !== undefined) this.#send(link, input(link.generation))
  }

  #sendWal(effect: Extract<ProposerEffect, { kind: 'sendWal' }>): void {
    const { schedule, rng } = this.#host
    const { startLsn: beginLsn, endLsn, term, commitLsn, to } = effect
    const life = this.#life
    const kept = this.#fetched.get(to)
    if (effect.source === 'fetched' && kept?.startLsn !== beginLsn)
      throw new Violation(`${this.name} sends other bytes to ${to} than it fetched`)
    const range =
      effect.source === 'buffer'
        ? this.#buffer.read(beginLsn, endLsn)
        : { bytes: (kept as { bytes: Uint8Array }).bytes, recordEndLsn: effect.recordEndLsn }
    const recordEndLsn = Math.max(range.recordEndLsn, effect.recordEndLsn) as Lsn
    const message = { term, beginLsn, commitLsn, recordEndLsn, wal: range.bytes }
    const stream = this.#links.get(to)?.stream
    this.#sendTo(to, (membershipGeneration) => ({ kind: 'append', membershipGeneration, message }))
    schedule.at(rng.below(6), () => {
      if (this.#life === life && stream?.isOpen === true && this.#links.get(to)?.stream === stream)
        this.#feed({ kind: 'sent', to, bytes: range.bytes.length })
    })
  }

  #elected(effect: Extract<ProposerEffect, { kind: 'elected' }>): void {
    const { counts, checks, format, say } = this.#host
    const { term, startLsn, donor, election, lastLogTerm } = effect
    counts.other(`elected, ${election}`)
    say(() => `${this.name} is elected in term ${term} at ${startLsn} with the log of ${donor}: ${election}`)
    const log = SimLog.from(
      format,
      (this.#votedLogs.get(donor) as Uint8Array).slice(0, startLsn - format.startLsn),
    )
    checks.elected(`${this.name}/${this.#life}`, term, log)
    if (election === 'adopt') {
      if (!this.#local.isEqualUpTo(log, startLsn))
        throw new Violation(`I4: ${this.name} adopts a Postgres with other WAL`)
      if (this.#livingTerm !== lastLogTerm)
        throw new Violation(
          `I4: ${this.name} adopts a Postgres of term ${this.#livingTerm} after ${lastLogTerm}`,
        )
    } else {
      this.#local = log.clone()
    }
    this.#handedLsn = startLsn
    this.#livingTerm = term
    this.#buffer = new WalBuffer(startLsn)
  }

  #fetch({ to, from, term, startLsn, endLsn }: Extract<ProposerEffect, { kind: 'fetchWal' }>): void {
    const { schedule, rng, counts, nodes } = this.#host
    const life = this.#life
    let isOver = false
    const failed = (): void => {
      if (this.#life !== life || isOver) return
      isOver = true
      this.#feed({ kind: 'fetchFailed', to })
      schedule.at(20, () => {
        if (this.#life === life) this.#feed({ kind: 'heartbeat' })
      })
    }
    counts.other('fetches')
    // Whom it is read from may end meanwhile.
    schedule.at(500, failed)
    const delayMs = 1 + rng.below(10)
    schedule.at(delayMs, () => {
      if (!this.#host.isCalm && rng.below(20) === 0) return failed()
      nodes.get(from)?.read(term, startLsn, endLsn, (bytes) => {
        schedule.at(1 + rng.below(8), () => {
          if (this.#life !== life || isOver) return
          if (bytes === undefined || bytes.length === 0) return failed()
          isOver = true
          this.#fetched.set(to, { startLsn, bytes })
          this.#feed({ kind: 'walFetched', to, startLsn, endLsn: (startLsn + bytes.length) as Lsn })
        })
      })
    })
  }
}
