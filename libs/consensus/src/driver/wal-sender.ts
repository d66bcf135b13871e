/** Brings WAL to the members: from the outbox, or from what another member was read. */
import { advance, assert, describeError, minLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import type { AppendMessage } from '../messages.ts'
import type { ProposerEffect, ProposerInput } from '../proposer-state.ts'
import { AnswerTimes } from './answer-times.ts'
import type { MemberLinks } from './member-links.ts'
import type { DriverObserver } from './observer.ts'
import { WalOutbox, fetchedPart } from './wal-outbox.ts'

type Effect<K extends ProposerEffect['kind']> = Extract<ProposerEffect, { kind: K }>

export interface SenderOwner {
  readonly links: MemberLinks
  readonly clock: Clock
  readonly log: Log
  readonly observer: DriverObserver | undefined
  readonly fetchBytesMax: number
  defer(this: void, work: () => void): void
  /** Fires when nothing is sent any more. */
  readonly stop: AbortSignal
  feed(this: void, input: ProposerInput): void
}

export class WalSender {
  readonly #owner: SenderOwner
  readonly #answerTimes = new AnswerTimes()
  #outbox: WalOutbox | undefined

  constructor(owner: SenderOwner) {
    this.#owner = owner
  }

  /** Whether a second append on its way is worth it. */
  get areFar(): boolean {
    return this.#answerTimes.areFar
  }

  answered(from: string, flushLsn: Lsn, atMs: number): void {
    this.#owner.observer?.acknowledged(from, flushLsn, atMs)
    this.#answerTimes.answered(from, flushLsn, atMs)
  }

  /** Appends to it are not going to be answered any more. */
  forget(name: string): void {
    this.#answerTimes.forget(name)
  }

  send(to: string, message: AppendMessage): void {
    const { links, observer } = this.#owner
    const connection = links.connection(to)
    if (connection === undefined) return
    connection.sendAppend(message, observer?.sending(to, advance(message.beginLsn, message.wal.length)) ?? '')
  }

  /** The term begins at `startLsn`: WAL that is handed in continues from there. */
  begin(startLsn: Lsn): void {
    const { defer, feed } = this.#owner
    const grown = (endLsn: Lsn, recordEndLsn: Lsn): void => feed({ kind: 'wal', endLsn, recordEndLsn })
    this.#outbox = new WalOutbox(startLsn, { defer, grown })
  }

  /** Of the WAL handed in; undefined before the term has begun. */
  get endLsn(): Lsn | undefined {
    return this.#outbox?.endLsn
  }

  push(startLsn: Lsn, bytes: Uint8Array, recordEndLsn: Lsn): void {
    assert(this.#outbox !== undefined, () => 'WAL is handed in before the election')
    this.#outbox.push(startLsn, bytes, recordEndLsn)
    this.#owner.observer?.pushed(this.#outbox.endLsn, bytes.length)
  }

  trim(lsn: Lsn): void {
    this.#outbox?.trim(lsn)
  }

  sendWal(effect: Effect<'sendWal'>): void {
    const { to, source, term, startLsn: beginLsn, endLsn, commitLsn } = effect
    if (source === 'fetched') {
      const wal = fetchedPart(this.#owner.links.get(to)?.fetched, beginLsn, endLsn)
      return this.send(to, { term, beginLsn, commitLsn, recordEndLsn: effect.recordEndLsn, wal })
    }
    const outbox = this.#outbox as WalOutbox
    const { bytes: wal, recordEndLsn: found } = outbox.read(beginLsn, endLsn)
    const recordEndLsn = found > effect.recordEndLsn && found <= endLsn ? found : effect.recordEndLsn
    if (endLsn === outbox.endLsn && outbox.recordEndLsn > beginLsn)
      this.#answerTimes.sent(to, outbox.recordEndLsn, this.#owner.clock.nowMs())
    this.send(to, { term, beginLsn, commitLsn, recordEndLsn, wal })
  }

  fetch({ to, from, term, startLsn, endLsn }: Effect<'fetchWal'>): void {
    const { links, log, fetchBytesMax, stop, feed } = this.#owner
    const link = links.get(to)
    const read = { term, startLsn, endLsn: minLsn(endLsn, advance(startLsn, fetchBytesMax)) }
    links.get(from)?.readWal(read, stop, (wal, problem) => {
      // A member that left and came back since then has asked for its own.
      if (stop.aborted || link === undefined || links.get(to) !== link) return
      if (wal === undefined) {
        log.warn('wal_not_fetched', { from, to, problem: describeError(problem) })
        return feed({ kind: 'fetchFailed', to })
      }
      link.fetched = { startLsn, bytes: wal }
      feed({ kind: 'walFetched', to, startLsn, endLsn: advance(startLsn, wal.length) })
    })
  }
}
