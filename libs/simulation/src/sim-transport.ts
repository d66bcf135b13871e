/**
 * The driver's transport over the simulated network. It delivers what comes late on a connection that has ended, too,
 * where the network is a bag of messages: the driver has to know which connection counts.
 */
import { fail } from '@understory/base'
import type {
  AcceptorInput,
  AppendMessage,
  ElectedMessage,
  Membership,
  VoteMessage,
} from '@understory/consensus'
import type {
  AcceptorAnswer,
  Connection,
  ConnectionListener,
  Greeting,
  KnownMembership,
  Member,
  ProposerSession,
  Route,
  Transport,
  WalRead,
  WalReadDone,
} from '@understory/consensus/driver'
import type { AcceptorNode } from './acceptor-node.ts'
import type { DriverChecks } from './driver-checks.ts'
import type { Stream } from './network.ts'
import type { ProposerHost } from './proposer-host.ts'

/** A donor that sends nothing for so long has failed. */
const DONOR_SILENCE_MS_MAX = 500

const PORT = ':1'
export const nameAt = (address: string): string => address.slice(0, -PORT.length)

/** With addresses, which the rules do not know. */
export function knownOf({ generation, members, newMembers = [] }: Membership): KnownMembership {
  const placed = (names: readonly string[]): Member[] =>
    names.map((nodeId) => ({ nodeId, address: `${nodeId}${PORT}` }))
  return { generation, members: placed(members), newMembers: placed(newMembers) }
}

export class SimTransport implements Transport {
  readonly proposer: string
  readonly host: ProposerHost
  readonly checks: DriverChecks
  /** The newest connection to each member, until it ends. */
  readonly #current = new Map<string, SimConnection>()
  /** The log that each voter spoke of. */
  readonly #votedLogs = new Map<string, Uint8Array>()

  constructor(proposer: string, host: ProposerHost, checks: DriverChecks) {
    this.proposer = proposer
    this.host = host
    this.checks = checks
  }

  votedLog(name: string): Uint8Array {
    return this.#votedLogs.get(name) as Uint8Array
  }

  routeTo({ nodeId }: Member): Route {
    this.checks.joined(nodeId)
    return {
      open: (greeting, listener) => {
        const connection = new SimConnection(this, nodeId, greeting, listener)
        this.#current.set(nodeId, connection)
        this.checks.opened(nodeId, greeting.membership.generation)
        return connection
      },
      readWal: (read, _signal, done) => this.#read(nodeId, read, done),
      close: () => this.checks.left(nodeId),
    }
  }

  ended(connection: SimConnection): void {
    if (this.#current.get(connection.to) !== connection) return
    this.#current.delete(connection.to)
    this.checks.ended(connection.to)
  }

  /** `spoken`: the log that a vote speaks of, as it was when the vote was given. */
  arrived(connection: SimConnection, spoken: Uint8Array | undefined): void {
    if (this.#current.get(connection.to) !== connection) return
    this.checks.heard(connection.to)
    if (spoken !== undefined) this.#votedLogs.set(connection.to, spoken)
  }

  greeted(connection: SimConnection, term: number, generation: number | undefined): void {
    if (this.#current.get(connection.to) === connection) this.checks.greeted(term, generation)
  }

  #read(from: string, { term, startLsn, endLsn }: WalRead, done: WalReadDone): void {
    const { schedule, rng, counts, nodes, isCalm } = this.host
    let isOver = false
    const end = (wal: Uint8Array | undefined): void => {
      if (isOver) return
      isOver = true
      this.checks.readEnds()
      if (wal === undefined) done(undefined, fail('unavailable', `${from} cannot be read`))
      else {
        this.checks.fetched(startLsn, wal)
        done(wal)
      }
    }
    counts.other('fetches')
    this.checks.readBegins()
    schedule.at(DONOR_SILENCE_MS_MAX, () => end(undefined))
    schedule.at(1 + rng.below(10), () => {
      if (!isCalm && rng.below(20) === 0) return end(undefined)
      nodes.get(from)?.read(term, startLsn, endLsn, (wal) => {
        schedule.at(1 + rng.below(8), () => end(wal))
      })
    })
  }
}

class SimConnection implements Connection {
  readonly to: string
  readonly #transport: SimTransport
  readonly #listener: ConnectionListener
  readonly #generation: number
  readonly #node: AcceptorNode
  readonly #session: ProposerSession
  readonly #stream: Stream
  #problem: unknown

  constructor(transport: SimTransport, to: string, greeting: Greeting, listener: ConnectionListener) {
    this.to = to
    this.#transport = transport
    this.#listener = listener
    this.#generation = greeting.membership.generation
    const { network, nodes } = transport.host
    this.#node = nodes.get(to) as AcceptorNode
    this.#session = {
      nodeId: transport.proposer,
      deliver: (answer) => this.#answered(answer),
      close: (problem) => {
        this.#problem = problem
        network.break(this.#stream)
      },
    }
    this.#stream = network.open(transport.proposer, to, () => this.#ended())
    if (this.#node.isUp) {
      const message = { membershipGeneration: this.#generation }
      this.#send({ kind: 'greeting', message })
    } else network.break(this.#stream)
  }

  sendVote(message: VoteMessage): void {
    this.#transport.checks.asked(message.term)
    this.#send({ kind: 'vote', membershipGeneration: this.#generation, message })
  }

  sendElected(message: ElectedMessage): void {
    this.#send({ kind: 'elected', membershipGeneration: this.#generation, message })
  }

  sendAppend(message: AppendMessage): void {
    const { checks, host } = this.#transport
    checks.sent(this.to, message)
    this.#send({ kind: 'append', membershipGeneration: this.#generation, message })
    const { length } = message.wal
    if (length === 0) return
    host.schedule.at(host.rng.below(6), () => {
      if (this.#stream.isOpen) this.#listener.sent(length)
    })
  }

  close(): void {
    this.#transport.ended(this)
    this.#transport.host.network.break(this.#stream)
  }

  #ended(): void {
    this.#node.leave(this.#session)
    this.#transport.ended(this)
    this.#listener.closed(this.#problem ?? fail('unavailable', `the stream to ${this.to} broke`))
  }

  #send(input: AcceptorInput): void {
    const { network, schedule } = this.#transport.host
    const deliver = (): void => {
      const waitMs = this.#transport.host.isPausedUntilMs(this.to) - schedule.nowMs
      if (waitMs > 0) return schedule.at(waitMs, deliver)
      this.#node.handle(this.#session, input)
      // A late message on a stream that has ended does not open it again.
      if (!this.#stream.isOpen) this.#node.leave(this.#session)
    }
    network.send(this.#stream, 'out', deliver)
  }

  #answered(answer: AcceptorAnswer): void {
    const { checks, format, network } = this.#transport.host
    checks.answered(this.#node, answer, this.#generation)
    const spoken =
      answer.kind === 'sendVote' ? this.#node.peek(format.startLsn, answer.reply.flushLsn) : undefined
    network.send(this.#stream, 'back', () => {
      this.#transport.arrived(this, spoken)
      this.#deliver(answer)
    })
  }

  #deliver(answer: AcceptorAnswer): void {
    switch (answer.kind) {
      case 'sendGreeting': {
        const { membershipGeneration } = answer.reply
        const known = this.#transport.host.membershipOf(membershipGeneration)
        const membership = known === undefined ? undefined : knownOf(known)
        this.#transport.greeted(this, answer.reply.term, known?.generation)
        return this.#listener.greeted({ ...answer.reply, nodeId: this.to, membership })
      }
      case 'sendVote':
        return this.#listener.voted(answer.reply)
      case 'sendAppended':
        return this.#listener.appended(answer.reply)
    }
  }
}
