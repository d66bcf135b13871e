/**
 * The duties of a proposer's driver under any behaviour of its transport, judged by what the transport sees of it.
 *
 * I1  It sends the bytes of its own log, and record ends.
 * I2  It asks for a term only once that is remembered, and for none once it saw that it has a successor. Without
 *     contact to a quorum it leads no longer. After its end it says nothing.
 *
 * It continues under the newest membership that it has seen, by connections that were greeted under it. It comes back
 * to every member, and to no other node, within its pause, which is short again once a member has answered. A read that
 * failed is tried again. It takes no more WAL than it may hold.
 */
import type { Lsn } from '@understory/base'
import { allMembers, isBufferFull, isQuorum } from '@understory/consensus'
import type { AppendMessage } from '@understory/consensus'
import type { DriverLimits, ProposerDriver } from '@understory/consensus/driver'
import { Violation } from './checks.ts'
import type { SimLog } from './wal.ts'

interface Seen {
  heardMs: number
  /** Since when it has no connection; undefined while it has one. */
  downSinceMs: number | undefined
  hasAnswered: boolean
  /** Of the membership that the connection was greeted under. */
  generation: number
}

export interface DriverChecksOptions {
  readonly name: string
  /** The term that it remembers from an earlier life. */
  readonly ownTerm: number | undefined
  readonly limits: DriverLimits
  readonly contactTimeoutMs: number
  /** The bytes that it may hold beyond its limit. */
  readonly slackBytes: number
  readonly recordEnds: ReadonlySet<Lsn>
  readonly nowMs: () => number
  /** The log of its Postgres. */
  readonly log: () => SimLog
}

export class DriverChecks {
  readonly #options: DriverChecksOptions
  readonly #seen = new Map<string, Seen>()
  readonly #damaged: { readonly startLsn: Lsn; readonly wal: Uint8Array }[] = []
  #rememberedTerm: number
  #electedMs = 0
  #seenGeneration = 0
  #readsCount = 0
  #hasSuccessor = false
  #isOver = false

  constructor(options: DriverChecksOptions) {
    this.#options = options
    this.#rememberedTerm = options.ownTerm ?? 0
  }

  joined(name: string): void {
    const nowMs = this.#options.nowMs()
    this.#seen.set(name, { heardMs: nowMs, downSinceMs: nowMs, hasAnswered: true, generation: 0 })
  }

  opened(name: string, generation: number): void {
    const seen = this.#seen.get(name) as Seen
    if (this.#isOver) throw new Violation(`${this.#options.name} connects to ${name} after its end`)
    this.#comesBack(name, seen)
    Object.assign(seen, { downSinceMs: undefined, hasAnswered: false, generation })
  }

  /** The driver is done with a member that left. */
  left(name: string): void {
    this.#seen.delete(name)
  }

  /** From now on it leads, maybe by votes that came long ago: the next heartbeat finds that. */
  elected(): void {
    this.#electedMs = this.#options.nowMs()
  }

  /** It is lost or closed: from now on it does nothing. */
  over(): void {
    this.#isOver = true
  }

  /** An acceptor has answered a greeting, maybe with a membership. */
  greeted(term: number, membershipGeneration: number | undefined): void {
    if (this.#options.ownTerm !== undefined && term > this.#rememberedTerm) this.#hasSuccessor = true
    this.#seenGeneration = Math.max(membershipGeneration ?? 0, this.#seenGeneration)
  }

  readBegins(): void {
    this.#readsCount++
  }
  readEnds(): void {
    this.#readsCount--
  }

  ended(name: string): void {
    const seen = this.#seen.get(name)
    if (seen !== undefined) seen.downSinceMs = this.#options.nowMs()
  }

  heard(name: string): void {
    const seen = this.#seen.get(name) as Seen
    Object.assign(seen, { heardMs: this.#options.nowMs(), hasAnswered: true })
  }

  remembered(term: number): void {
    this.#rememberedTerm = Math.max(term, this.#rememberedTerm)
  }

  asked(term: number): void {
    if (term > this.#rememberedTerm)
      throw new Violation(`I2: ${this.#options.name} asks for term ${term}, which it does not remember`)
    if (this.#hasSuccessor) throw new Violation(`I2: ${this.#options.name} runs against its successor`)
  }

  /** A donor's disk may have read it wrong: it is passed on as it is, and the acceptor finds that. */
  fetched(startLsn: Lsn, wal: Uint8Array): void {
    if (!this.#options.log().holds(startLsn, wal)) this.#damaged.push({ startLsn, wal })
  }

  #isDamaged(startLsn: Lsn, wal: Uint8Array): boolean {
    return this.#damaged.some((read) => {
      const from = startLsn - read.startLsn
      return from >= 0 && Buffer.compare(read.wal.subarray(from, from + wal.length), wal) === 0
    })
  }

  sent(to: string, { beginLsn, recordEndLsn, wal }: AppendMessage): void {
    const { name, recordEnds, log } = this.#options
    if (this.#isOver) throw new Violation(`I2: ${name} sends an append to ${to} after its end`)
    if (recordEndLsn !== 0 && !recordEnds.has(recordEndLsn))
      throw new Violation(`I3: ${name} sends ${to} that ${recordEndLsn} is a record end`)
    if (!log().holds(beginLsn, wal) && !this.#isDamaged(beginLsn, wal))
      throw new Violation(`I1: ${name} sends ${to} other bytes at ${beginLsn} than its log has`)
  }

  /** Now and then, while it is not lost. */
  look({ state }: ProposerDriver): void {
    const { name, limits, contactTimeoutMs, slackBytes, nowMs } = this.#options
    const { membership } = state.options
    const members = allMembers(membership)
    for (const other of this.#seen.keys())
      if (!members.includes(other)) throw new Violation(`${name} keeps ${other}, which is not a member`)
    for (const member of members) {
      const seen = this.#seen.get(member)
      this.#comesBack(member, seen)
      if (seen?.downSinceMs === undefined && seen?.generation !== membership.generation)
        throw new Violation(`${name} keeps a connection to ${member} from before the membership changed`)
    }
    if (membership.generation < this.#seenGeneration)
      throw new Violation(`${name} continues under a membership older than it has seen`)
    const fetching = members.filter((member) => state.peers[member]?.isFetching === true)
    if (fetching.length > this.#readsCount)
      throw new Violation(`${name} waits for a read that has ended, for ${fetching.join(' ')}`)
    const beforeMs = nowMs() - 2 * limits.heartbeatMs
    const sinceMs = beforeMs - contactTimeoutMs
    const hasContact = isQuorum(membership, (member) => (this.#seen.get(member)?.heardMs ?? 0) >= sinceMs)
    if (state.phase === 'leader' && this.#electedMs < beforeMs && !hasContact)
      throw new Violation(`I2: ${name} leads without contact to a quorum`)
    if (isBufferFull(state, limits.bufferBytesMax + slackBytes))
      throw new Violation(`${name} holds more WAL than it may`)
  }

  #comesBack(member: string, seen: Seen | undefined): void {
    const { name, limits, nowMs } = this.#options
    if (seen === undefined) throw new Violation(`${name} does not know its member ${member}`)
    if (seen.downSinceMs === undefined) return
    const pauseMsMax = seen.hasAnswered ? limits.reconnectMs : limits.reconnectMsMax
    if (nowMs() - seen.downSinceMs > pauseMsMax)
      throw new Violation(`${name} has no connection to ${member} for more than ${pauseMsMax} ms`)
  }
}
