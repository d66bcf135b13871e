/** The machines of a transcript (transcript.ts), and what is under way between them: each effect is written down. */
import { assert, lsn, maxLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { restoreAcceptor, stepAcceptor, stepProposer } from '../src/index.ts'
import type {
  AcceptorInput,
  AcceptorState,
  AppendMessage,
  FollowingEffect,
  ProposerEffect,
  ProposerInput,
  ProposerState,
  TermHistory,
} from '../src/index.ts'

interface Delivery {
  readonly from: string
  readonly to: string
  readonly run: () => void
}

/** An acceptor and what its disk has. */
interface AcceptorHost {
  state: AcceptorState
  /** Last record end of what was written. */
  recordEndLsn: Lsn
  /** So many more flushes and control files find room, then one does not. */
  roomCount: number
  isFlushQueued: boolean
}

export const START = lsn(0)
const terms = (history: TermHistory): string =>
  history.map(({ term, startLsn }) => `${term}@${startLsn}`).join(' ')

export class Machines {
  readonly say: (line: string) => void
  readonly #acceptors = new Map<string, AcceptorHost>()
  readonly #proposers = new Map<string, ProposerState>()
  #queue: Delivery[] = []

  constructor(say: (line: string) => void) {
    this.say = say
  }

  get names(): readonly string[] {
    return [...this.#acceptors.keys(), ...this.#proposers.keys()]
  }

  addProposer(name: string, state: ProposerState): void {
    this.#proposers.set(name, state)
  }

  proposer(name: string): ProposerState {
    const found = this.#proposers.get(name)
    assert(found !== undefined, () => `there is no proposer "${name}"`)
    return found
  }

  acceptor(name: string): AcceptorHost {
    const found = this.#acceptors.get(name)
    assert(found !== undefined, () => `there is no acceptor "${name}"`)
    return found
  }

  describe(name: string): string {
    const proposer = this.#proposers.get(name)
    if (proposer !== undefined) {
      const peers = Object.entries(proposer.peers).map(
        ([peer, { connection, nextLsn, flushLsn }]) => `${peer}:${connection}/${nextLsn}/${flushLsn}`,
      )
      const { phase, term, termStartLsn, commitLsn } = proposer
      return `${name} ${phase} term=${term} start=${termStartLsn} commit=${commitLsn} ${peers.join(' ')}`
    }
    const { control, writeLsn, flushLsn, commitLsn } = this.acceptor(name).state
    const { membershipGeneration: generation, term, commitLsn: recorded } = control
    return `${name} generation=${generation} term=${term} write=${writeLsn} flush=${flushLsn} commit=${commitLsn} recorded=${recorded} [${terms(control.history)}]`
  }

  stabilize(names: readonly string[]): void {
    const concerns = ({ from, to }: Delivery): boolean =>
      names.length === 0 || (names.includes(from) && names.includes(to))
    for (let count = 0; ; count++) {
      assert(count < 1_000, () => 'messages never end')
      const at = this.#queue.findIndex(concerns)
      if (at === -1) return
      const [delivery] = this.#queue.splice(at, 1)
      delivery?.run()
    }
  }

  #lose(one: string, other: string): void {
    this.#queue = this.#queue.filter(
      ({ from, to }) => !(from === one && to === other) && !(from === other && to === one),
    )
  }

  disconnect(proposer: string, acceptor: string): void {
    this.#lose(proposer, acceptor)
    this.propose(proposer, { kind: 'disconnected', from: acceptor })
  }

  // Proposers.

  propose(name: string, input: ProposerInput): void {
    const step = stepProposer(this.proposer(name), input)
    this.#proposers.set(name, step.state)
    for (const effect of step.effects) this.#carryOut(name, effect)
  }

  #send(from: string, to: string, text: string, run: () => void): void {
    this.say(`${from} -> ${to}: ${text}`)
    this.#queue.push({ from, to, run })
  }

  #carryOut(name: string, effect: ProposerEffect): void {
    const { generation: membershipGeneration } = this.proposer(name).options.membership
    const accept = (to: string, input: AcceptorInput) => () => this.#accept(to, input, name)
    switch (effect.kind) {
      case 'sendVote': {
        const { to, message } = effect
        return this.#send(
          name,
          to,
          `vote term=${message.term}`,
          accept(to, { kind: 'vote', membershipGeneration, message }),
        )
      }
      case 'sendElected': {
        const { to, message } = effect
        const { term, startStreamingLsn, history, election } = message
        const text = `elected term=${term} from=${startStreamingLsn} [${terms(history)}] ${election}`
        return this.#send(name, to, text, accept(to, { kind: 'elected', membershipGeneration, message }))
      }
      case 'sendPositions':
        return this.#append(name, effect.to, effect.message, membershipGeneration)
      case 'sendWal': {
        const { to, startLsn, endLsn, term, commitLsn, recordEndLsn: known } = effect
        const { recordEndLsn: newest } = this.proposer(name)
        const recordEndLsn = newest <= endLsn ? maxLsn(known, newest) : known
        const wal = new Uint8Array(endLsn - startLsn)
        this.#append(
          name,
          to,
          { term, beginLsn: startLsn, commitLsn, recordEndLsn, wal },
          membershipGeneration,
        )
        const sent = { kind: 'sent', to, bytes: wal.length } as const
        this.#queue.push({ from: name, to, run: () => this.propose(name, sent) })
        return
      }
      case 'fetchWal': {
        const { to, from, startLsn, endLsn } = effect
        return this.#send(name, from, `read ${startLsn}..${endLsn} for ${to}`, () =>
          this.propose(name, { kind: 'walFetched', to, startLsn, endLsn }),
        )
      }
      default: {
        const { kind, ...fields } = effect
        const text = Object.entries(fields).map(([field, value]) => `${field}=${String(value)}`)
        this.say(`${name} ${kind} ${text.join(' ')}`)
      }
    }
  }

  #append(name: string, to: string, message: AppendMessage, membershipGeneration: number): void {
    const { term, beginLsn, commitLsn, wal } = message
    const range = wal.length === 0 ? `at=${beginLsn}` : `${beginLsn}..${beginLsn + wal.length}`
    this.#send(name, to, `append term=${term} ${range} commit=${commitLsn}`, () =>
      this.#accept(to, { kind: 'append', membershipGeneration, message }, name),
    )
  }

  // Acceptors.

  restart(name: string, state: AcceptorState): void {
    this.#acceptors.set(name, {
      state,
      recordEndLsn: state.flushLsn,
      roomCount: Infinity,
      isFlushQueued: false,
    })
  }

  crash(name: string): void {
    const { control, flushLsn } = this.acceptor(name).state
    this.restart(name, restoreAcceptor(control, flushLsn))
    this.#queue = this.#queue.filter(({ from, to }) => from !== name && to !== name)
    for (const proposer of this.#proposers.keys())
      this.propose(proposer, { kind: 'disconnected', from: name })
  }

  greet(proposer: string, acceptor: string): void {
    const { generation: membershipGeneration } = this.proposer(proposer).options.membership
    this.#send(proposer, acceptor, `greeting generation=${membershipGeneration}`, () =>
      this.#accept(acceptor, { kind: 'greeting', message: { membershipGeneration } }, proposer),
    )
  }

  #accept(name: string, input: AcceptorInput, from: string): void {
    const host = this.acceptor(name)
    const { state, durable, after } = stepAcceptor(host.state, input)
    for (const effect of durable) {
      if (effect.kind === 'persistControl') {
        if (!takesRoom(host)) {
          this.say(`${name} has no room for its control file`)
          return this.#end(name, from)
        }
        const { membershipGeneration: generation, term, commitLsn, history } = effect.control
        this.say(
          `${name} persists generation=${generation} term=${term} commit=${commitLsn} [${terms(history)}]`,
        )
      } else if (effect.kind === 'truncateWal') {
        this.say(`${name} cuts its log at ${effect.toLsn}`)
        this.#queue = this.#queue.filter((delivery) => delivery.from !== name || delivery.to !== name)
        host.isFlushQueued = false
        host.recordEndLsn = effect.toLsn
        host.state = stepAcceptor(host.state, { kind: 'truncated', toLsn: effect.toLsn }).state
      } else {
        host.recordEndLsn = maxLsn(host.recordEndLsn, effect.recordEndLsn)
      }
    }
    host.state = state
    for (const effect of after) this.#follow(name, host, effect, from)
  }

  #follow(name: string, host: AcceptorHost, effect: FollowingEffect, from: string): void {
    switch (effect.kind) {
      case 'sendGreeting': {
        const { term, membershipGeneration } = effect.reply
        const text = `greeted term=${term} generation=${membershipGeneration}`
        return this.#send(name, from, text, () =>
          this.propose(from, { kind: 'greeted', from: name, reply: effect.reply }),
        )
      }
      case 'sendVote': {
        const { term, voteGiven, flushLsn, commitLsn, history } = effect.reply
        const text = `voted term=${term} given=${voteGiven} flush=${flushLsn} commit=${commitLsn} [${terms(history)}]`
        return this.#send(name, from, text, () =>
          this.propose(from, { kind: 'voted', from: name, reply: effect.reply }),
        )
      }
      case 'sendAppended': {
        const { term, flushLsn, commitLsn } = effect.reply
        return this.#send(name, from, `appended term=${term} flush=${flushLsn} commit=${commitLsn}`, () =>
          this.propose(from, { kind: 'appended', from: name, reply: effect.reply }),
        )
      }
      case 'flush':
        if (host.isFlushQueued) return
        host.isFlushQueued = true
        this.#queue.push({ from: name, to: name, run: () => this.#flush(name, host, from) })
        return
      case 'committed':
        return this.say(`${name} knows commit=${effect.lsn}`)
      case 'refuse':
        this.say(`${name} refuses ${effect.code}: ${effect.message}`)
        return this.#end(name, from)
    }
  }

  #flush(name: string, host: AcceptorHost, from: string): void {
    host.isFlushQueued = false
    if (takesRoom(host)) return this.#accept(name, { kind: 'flushed', flushLsn: host.recordEndLsn }, from)
    this.say(`${name} has no room for its WAL`)
    this.#accept(name, { kind: 'dropUnflushed' }, from)
    this.#end(name, from)
  }

  /** The stream ends, with what is under way on it. */
  #end(acceptor: string, proposer: string): void {
    this.disconnect(proposer, acceptor)
  }
}
function takesRoom(host: AcceptorHost): boolean {
  const isFull = host.roomCount === 0
  host.roomCount = isFull ? Infinity : host.roomCount - 1
  return !isFull
}
