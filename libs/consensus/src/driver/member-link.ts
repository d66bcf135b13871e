/**
 * Keeps one connection to one member: opens it, opens it again after a growing pause when it ends, and passes on what
 * comes by the newest connection alone.
 */
import { describeError, isErrorCode, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { Clock, Log, Rng, Timer } from '@understory/env'
import type { ProposerInput } from '../proposer-state.ts'
import type { DriverLimits } from './limits.ts'
import type { Member } from './membership.ts'
import type {
  Connection,
  Greeting,
  GreetingAnswer,
  Route,
  Transport,
  WalRead,
  WalReadDone,
} from './transport.ts'

export interface LinkOwner {
  readonly transport: Transport
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  readonly limits: DriverLimits
  greeting(): Greeting
  greeted(link: MemberLink, answer: GreetingAnswer): void
  feed(input: ProposerInput): void
  /** It has flushed up to `flushLsn`; the same is fed next. */
  acknowledged(link: MemberLink, flushLsn: Lsn): void
  disconnected(link: MemberLink): void
}

export class MemberLink {
  readonly nodeId: string
  /** When the last message came, or when it became a member. */
  lastContactMs: number
  /** The outcome of the last read from a donor for this member. */
  fetched: { readonly startLsn: Lsn; readonly bytes: Uint8Array } | undefined
  readonly #owner: LinkOwner
  #address: string
  /** Of the membership that the newest connection was greeted under. */
  #generation = 0
  #route: Route
  #connection: Connection | undefined
  #pause: Timer | undefined
  /** Connections that ended since the last message. */
  #failuresCount = 0
  #hasAnswered = false
  #lastProblem = ''
  #isEnded = false

  constructor({ nodeId, address }: Member, owner: LinkOwner) {
    this.nodeId = nodeId
    this.#owner = owner
    this.#address = address
    this.#route = owner.transport.routeTo({ nodeId, address })
    this.lastContactMs = owner.clock.nowMs()
    this.#open()
  }

  /** Undefined while there is none. */
  get connection(): Connection | undefined {
    return this.#connection
  }
  /** Whether anything came by the newest connection. */
  get hasAnswered(): boolean {
    return this.#hasAnswered
  }
  get address(): string {
    return this.#address
  }

  /** Replaces the connection at once where it has another address or was greeted under an older membership. */
  renew(address: string, generation: number): void {
    if (address === this.#address && generation === this.#generation) return
    this.#hangUp()
    if (address !== this.#address) {
      this.#route.close()
      this.#address = address
      this.#route = this.#owner.transport.routeTo({ nodeId: this.nodeId, address })
    }
    this.#owner.disconnected(this)
    this.#open()
  }

  /** Closes the connection; the next one is opened after a pause. */
  drop(): void {
    if (this.#connection === undefined) return
    this.#hangUp()
    this.#owner.disconnected(this)
    this.#openLater()
  }

  /** The node is not a member any more, or the driver ends. */
  end(): void {
    this.#isEnded = true
    this.#hangUp()
    this.#route.close()
  }

  readWal(read: WalRead, signal: AbortSignal, done: WalReadDone): void {
    this.#route.readWal(read, signal, done)
  }

  #hangUp(): void {
    this.#pause?.cancel()
    this.#pause = undefined
    const connection = this.#connection
    this.#connection = undefined
    connection?.close()
  }

  #open(): void {
    if (this.#isEnded) return
    const owner = this.#owner
    const greeting = owner.greeting()
    this.#generation = greeting.membership.generation
    this.#hasAnswered = false
    const isCurrent = (): boolean => this.#connection === connection
    const connection = this.#route.open(greeting, {
      greeted: (answer) => {
        if (isCurrent()) this.#greeted(answer)
      },
      voted: (reply) => {
        if (!isCurrent()) return
        this.#heard()
        owner.feed({ kind: 'voted', from: this.nodeId, reply })
      },
      appended: (reply) => {
        if (!isCurrent()) return
        this.#heard()
        owner.acknowledged(this, reply.flushLsn)
        owner.feed({ kind: 'appended', from: this.nodeId, reply })
      },
      sent: (bytes) => {
        if (isCurrent()) owner.feed({ kind: 'sent', to: this.nodeId, bytes })
      },
      closed: (error) => {
        if (isCurrent()) this.#closed(error)
      },
    })
    this.#connection = connection
  }

  #heard(): void {
    this.#hasAnswered = true
    this.#failuresCount = 0
    this.#lastProblem = ''
    this.lastContactMs = this.#owner.clock.nowMs()
  }

  #greeted(answer: GreetingAnswer): void {
    // Where members are known by their addresses alone, they have other names for themselves.
    if (this.nodeId !== this.#address && answer.nodeId !== this.nodeId) {
      const problem = `"${answer.nodeId}" answers at ${this.#address}, where "${this.nodeId}" is expected`
      return this.#closed(fail('conflict', problem))
    }
    this.#heard()
    this.#owner.greeted(this, answer)
  }

  #closed(error: unknown): void {
    this.#hangUp()
    const problem = error === undefined ? this.#lastProblem : describeError(error)
    const isNew = problem !== this.#lastProblem
    this.#lastProblem = problem
    if (isNew) this.#owner.log.warn('safekeeper_lost', { safekeeper: this.nodeId, problem })
    this.#owner.disconnected(this)
    // It knows a newer membership, and sends it in answer to the next greeting.
    if (isNew && isErrorCode(error, 'stale')) this.#open()
    else this.#openLater()
  }

  #openLater(): void {
    if (this.#isEnded) return
    const { clock, rng, limits } = this.#owner
    const { reconnectMs: baseMs, reconnectMsMax: pauseMsMax } = limits
    const pauseMs = backoffMs(rng, ++this.#failuresCount, { baseMs, pauseMsMax })
    this.#pause = clock.setTimer(pauseMs, () => {
      this.#pause = undefined
      this.#open()
    })
  }
}
