/**
 * Election and commit on a model so small that every state of it can be visited, through the very state machines that
 * run. A log entry is one byte, a record of its own, that holds the term it was written in; what is written is durable
 * at once, and an exchange between a proposer and an acceptor happens at once or not at all.
 *
 * After Neon's TLA+ specification (ProposerAcceptorStatic.tla), whose invariants these are: a term is elected once, a
 * log's terms never fall, what is committed at a position is committed for good.
 */
import { advance } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  createProposer,
  initialControl,
  restoreAcceptor,
  stepAcceptor,
  stepProposer,
} from '@understory/consensus'
import type {
  AcceptorInput,
  AcceptorState,
  ProposerInput,
  ProposerState,
  TermHistory,
} from '@understory/consensus'
import { Violation } from './checks.ts'

const START = 1 as Lsn

interface Acceptor {
  readonly state: AcceptorState
  /** The term of each entry. */
  readonly wal: readonly number[]
}
type Append = Extract<AcceptorInput, { kind: 'append' }>
interface Proposer {
  readonly state: ProposerState
  /** By acceptor, once its log is this term's: the entry that goes to it next, if there is one. */
  readonly streams: readonly ({ readonly append: Append | undefined } | undefined)[]
}
export interface ModelState {
  readonly acceptors: readonly Acceptor[]
  readonly proposers: readonly (Proposer | undefined)[]
  /** The term of each committed entry. */
  readonly committed: readonly number[]
  /** Terms that were elected. */
  readonly elected: readonly number[]
}
export interface ModelBounds {
  readonly proposersCount: number
  readonly acceptorsCount: number
  readonly termMax: number
  readonly entriesMax: number
}

const nameOf = (acceptor: number): string => `s${acceptor}`
const replaced = <T>(items: readonly T[], index: number, item: T): T[] =>
  items.map((old, at) => (at === index ? item : old))

export function initialModel({ proposersCount, acceptorsCount }: ModelBounds): ModelState {
  const acceptor: Acceptor = { state: restoreAcceptor(initialControl(START), START), wal: [] }
  return {
    acceptors: Array.from({ length: acceptorsCount }, () => acceptor),
    proposers: Array.from({ length: proposersCount }, () => undefined),
    committed: [],
    elected: [],
  }
}

/** The entry at a position, as the history of a log says. */
const termAt = (history: TermHistory, lsn: Lsn): number =>
  (history.findLast(({ startLsn }) => startLsn <= lsn) as { term: number }).term

/** One step at a time on a copy of a state. */
export class Model {
  acceptors: Acceptor[]
  proposers: (Proposer | undefined)[]
  committed: number[]
  elected: number[]

  constructor({ acceptors, proposers, committed, elected }: ModelState) {
    this.acceptors = [...acceptors]
    this.proposers = [...proposers]
    this.committed = [...committed]
    this.elected = [...elected]
  }

  /** A proposer without memory, that asks these acceptors for their terms. */
  restart(p: number, quorum: readonly number[]): void {
    const members = this.acceptors.map((_, index) => nameOf(index))
    const state = createProposer({
      membership: { generation: 0, members },
      timelineStartLsn: START,
      livingTerm: undefined,
      appendBytesMax: 1,
      inFlightBytesMax: 1,
    })
    this.proposers[p] = { state, streams: members.map(() => undefined) }
    for (const a of quorum) this.#greet(p, a)
  }

  /** Asks for the vote. */
  vote(p: number, a: number): void {
    if ((this.proposers[p] as Proposer).state.peers[nameOf(a)]?.connection === 'down') this.#greet(p, a)
    this.#ask(p, a)
  }

  /** As leader, on a new stream: has the acceptor cut its log to ours. */
  announce(p: number, a: number): void {
    this.#setStream(p, a, undefined)
    this.#feed(p, { kind: 'disconnected', from: nameOf(a) })
    this.#greet(p, a)
    this.#announcement = undefined
    this.#ask(p, a)
    const message = this.#announcement as AcceptorInput | undefined
    if (message === undefined || this.#take(p, a, message)) return
    // The messages after the announcement.
    this.#setStream(p, a, { append: this.#following.get(a) })
  }
  #announcement: AcceptorInput | undefined
  readonly #following = new Map<number, Append>()

  #greet(p: number, a: number): void {
    const { control } = (this.acceptors[a] as Acceptor).state
    const reply = { term: control.term, membershipGeneration: 0 }
    this.#feed(p, { kind: 'greeted', from: nameOf(a), reply })
  }

  #ask(p: number, a: number): void {
    const { term, phase } = (this.proposers[p] as Proposer).state
    if (phase !== 'fenced') this.#take(p, a, { kind: 'vote', membershipGeneration: 0, message: { term } })
  }

  #setStream(p: number, a: number, stream: Proposer['streams'][number]): void {
    const proposer = this.proposers[p] as Proposer
    this.proposers[p] = { ...proposer, streams: replaced(proposer.streams, a, stream) }
  }

  /** The next entry arrives and is durable, and the leader learns of it. */
  append(p: number, a: number): void {
    const message = (this.proposers[p] as Proposer).streams[a]?.append as Append
    this.#setStream(p, a, { append: undefined })
    if (this.#take(p, a, message)) return this.#setStream(p, a, undefined)
    this.#feed(p, { kind: 'sent', to: nameOf(a), bytes: message.message.wal.length })
    this.#take(p, a, { kind: 'flushed', flushLsn: (this.acceptors[a] as Acceptor).state.writeLsn })
  }

  addEntry(p: number): void {
    const { state } = this.proposers[p] as Proposer
    const endLsn = advance(state.bufferEndLsn, 1)
    this.#feed(p, { kind: 'wal', endLsn, recordEndLsn: endLsn })
  }

  #take(p: number, a: number, input: AcceptorInput): boolean {
    const acceptor = this.acceptors[a] as Acceptor
    const { state, durable, after } = stepAcceptor(acceptor.state, input)
    let { wal } = acceptor
    for (const effect of durable) {
      if (effect.kind === 'truncateWal') wal = wal.slice(0, effect.toLsn - START)
      if (effect.kind === 'writeWal') wal = [...wal.slice(0, effect.atLsn - START), ...effect.wal]
    }
    if (wal.some((term, index) => index > 0 && term < (wal[index - 1] as number)))
      throw new Violation(`the terms of a log fall: ${wal.join(' ')}`)
    this.acceptors[a] = { state, wal }
    for (const effect of after) {
      if (effect.kind === 'refuse') return true
      if (effect.kind === 'sendVote') this.#feed(p, { kind: 'voted', from: nameOf(a), reply: effect.reply })
      if (effect.kind === 'sendAppended')
        this.#feed(p, { kind: 'appended', from: nameOf(a), reply: effect.reply })
    }
    return false
  }

  #feed(p: number, input: ProposerInput): void {
    const before = this.proposers[p] as Proposer
    const { state, effects } = stepProposer(before.state, input)
    this.proposers[p] = { ...before, state }
    const membershipGeneration = 0
    for (const effect of effects) {
      switch (effect.kind) {
        case 'sendElected':
          this.#announcement = { kind: 'elected', membershipGeneration, message: effect.message }
          this.#following.delete(Number(effect.to.slice(1)))
          break
        case 'sendWal': {
          const { term, startLsn: beginLsn, endLsn: recordEndLsn, commitLsn } = effect
          const wal = Uint8Array.of(termAt(state.history, beginLsn))
          const message = { term, beginLsn, commitLsn, recordEndLsn, wal }
          const append: Append = { kind: 'append', membershipGeneration, message }
          const a = Number(effect.to.slice(1))
          this.#following.set(a, append)
          if ((this.proposers[p] as Proposer).streams[a] !== undefined) this.#setStream(p, a, { append })
          break
        }
        case 'elected':
          if (this.elected.includes(effect.term)) throw new Violation(`term ${effect.term} is elected twice`)
          this.elected = [...this.elected, effect.term].sort((one, other) => one - other)
          break
        case 'commitAdvanced':
          this.#commit(state, effect.lsn)
          break
        case 'fetchWal': {
          const { to, startLsn } = effect
          this.#feed(p, { kind: 'walFetched', to, startLsn, endLsn: advance(startLsn, 1) })
          break
        }
        default:
      }
    }
  }

  #commit({ history, term }: ProposerState, lsn: Lsn): void {
    for (let index = 0; index < lsn - START; index++) {
      const entry = termAt(history, advance(START, index))
      const before = this.committed[index] ?? entry
      if (before !== entry)
        throw new Violation(
          `term ${term} commits entry ${index} of term ${entry}, that of term ${before} was`,
        )
      this.committed[index] = entry
    }
  }
}

/** Everything that can happen in a state, within the bounds. */
function* successors(state: ModelState, bounds: ModelBounds): Generator<{ name: string; next: Model }> {
  const all = state.acceptors.map((_, index) => index)
  for (let p = 0; p < bounds.proposersCount; p++) {
    const terms = state.acceptors.map((acceptor) => acceptor.state.control.term)
    for (const without of all) {
      const quorum = all.filter((index) => index !== without)
      if (Math.max(...quorum.map((index) => terms[index] as number)) >= bounds.termMax) continue
      const next = new Model(state)
      next.restart(p, quorum)
      yield { name: `restart ${p} without ${without}`, next }
    }
    const proposer = state.proposers[p]
    if (proposer === undefined || proposer.state.phase === 'fenced') continue
    const { phase, peers } = proposer.state
    for (const a of all) {
      if (phase === 'campaign' && peers[nameOf(a)]?.hasVoted === false) {
        const next = new Model(state)
        next.vote(p, a)
        yield { name: `vote ${p} ${a}`, next }
      }
      if (phase === 'leader') {
        const next = new Model(state)
        next.announce(p, a)
        yield { name: `announce ${p} ${a}`, next }
      }
      if (phase === 'leader' && proposer.streams[a]?.append !== undefined) {
        const next = new Model(state)
        next.append(p, a)
        yield { name: `append ${p} ${a}`, next }
      }
    }
    if (phase === 'leader' && proposer.state.bufferEndLsn - START < bounds.entriesMax) {
      const next = new Model(state)
      next.addEntry(p)
      yield { name: `entry ${p}`, next }
    }
  }
}

/**
 * Text that is the same for states that differ in names, or in nothing that a later step looks at: all that belongs to
 * one acceptor stands in one column, and columns are sorted.
 */
function keyOf(state: ModelState): string {
  const texts = [state.proposers, [...state.proposers].reverse()].map((proposers) => {
    const columns = state.acceptors.map(({ state: own, wal }, a) => {
      const { control } = own
      const peers = proposers.map((proposer) => peerText(proposer, a)).join('&')
      return `${control.term}${historyText(control.history)}${own.commitLsn}${own.announcedCommitLsn}w${wal.join('')}&${peers}`
    })
    return `${columns.sort().join('/')}|${proposers.map(proposerText).join('/')}`
  })
  return `${(texts as [string, string]).sort()[0]}|${state.committed.join('')}|${state.elected.join('')}`
}

const historyText = (history: TermHistory): string =>
  `[${history.map(({ term, startLsn }) => `${term}.${startLsn}`).join(' ')}]`

function proposerText(proposer: Proposer | undefined): string {
  if (proposer === undefined) return '-'
  const { phase, term, history, bufferEndLsn, commitLsn } = proposer.state
  if (phase === 'fenced') return 'x'
  return phase === 'leader'
    ? `l${term}${historyText(history)}${bufferEndLsn},${commitLsn}`
    : `${phase}${term}`
}

function peerText(proposer: Proposer | undefined, a: number): string {
  if (proposer === undefined || proposer.state.phase === 'fenced') return ''
  const { state, streams } = proposer
  const { vote, hasVoted, nextLsn, flushLsn } = state.peers[nameOf(a)] as ProposerState['peers'][string]
  if (state.phase !== 'leader')
    return hasVoted && vote !== undefined
      ? `${vote.flushLsn}${historyText(vote.history)}${vote.commitLsn}`
      : ''
  const stream = streams[a]
  return `${flushLsn}${stream === undefined ? '' : `>${nextLsn}${stream.append === undefined ? '' : stream.append.message.commitLsn}`}`
}

export interface Exhausted {
  readonly statesCount: number
  readonly stepsCount: number
  readonly depth: number
}

/** Visits every state. Throws a `Violation` with the shortest way to a bad one. */
export function exhaust(bounds: ModelBounds, statesMax = Infinity): Exhausted {
  const first = initialModel(bounds)
  const seen = new Set([keyOf(first)])
  let frontier: { readonly state: ModelState; readonly way: Way | undefined }[] = [
    { state: first, way: undefined },
  ]
  let stepsCount = 0
  let depth = 0
  while (frontier.length > 0) {
    const following: typeof frontier = []
    for (const { state, way } of frontier) {
      const steps = successors(state, bounds)
      for (;;) {
        let step: IteratorResult<{ name: string; next: Model }, void>
        try {
          step = steps.next()
        } catch (error) {
          throw new Violation(
            `${error instanceof Error ? error.message : String(error)}; after: ${textOf(way)}`,
            {
              cause: error,
            },
          )
        }
        if (step.done === true) break
        const { name, next } = step.value
        stepsCount++
        const key = keyOf(next)
        if (seen.has(key)) continue
        seen.add(key)
        following.push({ state: next, way: { name, before: way } })
      }
    }
    if (following.length > 0) depth++
    frontier = following
    if (seen.size > statesMax) throw new Error(`more than ${statesMax} states`)
  }
  return { statesCount: seen.size, stepsCount, depth }
}

interface Way {
  readonly name: string
  readonly before: Way | undefined
}
function textOf(way: Way | undefined): string {
  const names: string[] = []
  for (let at = way; at !== undefined; at = at.before) names.push(at.name)
  return names.reverse().join(', ')
}
