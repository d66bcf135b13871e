/**
 * The invariants, judged apart from the nodes by what they say and what is on their disks.
 *
 * I1  what was called committed is on the disks of a quorum then, and in every log that is elected later
 * I2  one proposer is elected a term, and one commits; a vote is given once a term
 * I3  the committed log only grows; positions are record ends; no acceptor calls committed what is not, or holds other
 *     bytes
 */
import type { Lsn } from '@understory/base'
import { isQuorum } from '@understory/consensus'
import type { Membership } from '@understory/consensus'
import type { AcceptorAnswer } from '@understory/consensus/driver'
import type { AcceptorNode } from './acceptor-node.ts'
import { SimLog } from './wal.ts'
import type { WalFormat } from './wal.ts'

export class Violation extends Error {}

interface Election {
  readonly by: string
  /** The log as the voters had it, up to where the term begins. */
  readonly log: SimLog
}

export class Checks {
  /** Every byte that was ever called committed. */
  readonly committed: SimLog
  readonly #format: WalFormat
  readonly #elections = new Map<number, Election>()
  /** By term: who committed, and how far. */
  readonly #commits = new Map<number, { readonly by: string; lsn: Lsn }>()
  readonly #votes = new Set<string>()
  /** The position that each acceptor last acknowledged as flushed, and its term. */
  readonly #acknowledged = new Map<string, { readonly term: number; readonly lsn: Lsn }>()
  /** By acceptor, the latest term of WAL that it began to take from another. */
  readonly #recoveredTerms = new Map<string, number>()
  /** Ends of all records that were ever written. */
  readonly recordEnds = new Set<Lsn>()

  constructor(format: WalFormat) {
    this.#format = format
    this.committed = new SimLog(format.startLsn)
    this.recordEnds.add(format.startLsn)
  }

  elected(by: string, term: number, log: SimLog): void {
    const before = this.#elections.get(term)
    if (before !== undefined)
      throw new Violation(`I2: ${before.by} and ${by} were both elected in term ${term}`)
    if (log.recordEndAt(log.endLsn) !== log.endLsn)
      throw new Violation(`I3: term ${term} begins inside a record, at ${log.endLsn}`)
    this.#elections.set(term, { by, log })
    for (const [earlier, { lsn }] of this.#commits) if (earlier < term) this.#covers(term, log, earlier, lsn)
  }

  #covers(term: number, log: SimLog, earlier: number, lsn: Lsn): void {
    if (log.endLsn < lsn)
      throw new Violation(`I1: term ${term} begins at ${log.endLsn}, term ${earlier} committed up to ${lsn}`)
    if (!log.isEqualUpTo(this.committed, lsn))
      throw new Violation(`I1: term ${term} begins with other WAL than term ${earlier} committed`)
  }

  committedBy(
    by: string,
    term: number,
    log: SimLog,
    lsn: Lsn,
    membership: Membership,
    nodes: ReadonlyMap<string, AcceptorNode>,
    isLost: (name: string) => boolean,
  ): void {
    const own = this.#commits.get(term)
    if (own !== undefined && own.by !== by)
      throw new Violation(`I2: ${own.by} and ${by} both commit in term ${term}`)
    if (own !== undefined && lsn < own.lsn)
      throw new Violation(`I3: commit position of term ${term} goes back from ${own.lsn} to ${lsn}`)
    if (!this.recordEnds.has(lsn)) throw new Violation(`I3: commit position ${lsn} is inside a record`)
    const startLsn = this.#elections.get(term)?.log.endLsn ?? lsn
    if (lsn < startLsn)
      throw new Violation(`I1: term ${term} commits ${lsn}, before its start at ${startLsn}`)
    const fromLsn = this.committed.endLsn
    if (!log.isEqualUpTo(this.committed, Math.min(lsn, fromLsn) as Lsn))
      throw new Violation(`I1: term ${term} commits other WAL than was committed`)
    if (own === undefined) this.#commits.set(term, { by, lsn })
    else own.lsn = lsn
    if (lsn <= fromLsn) return
    const fresh = log.slice(fromLsn, lsn)
    this.committed.append(fresh)
    for (const [later, election] of this.#elections)
      if (later > term) this.#covers(later, election.log, term, lsn)
    const holds = (name: string): boolean =>
      isLost(name) || (nodes.get(name)?.isDurable(fromLsn, fresh) ?? false)
    if (!isQuorum(membership, holds))
      throw new Violation(
        `I1: no quorum has ${fromLsn} to ${lsn} on disk, which term ${term} calls committed`,
      )
  }

  /** `generation`: of the membership that the stream was greeted under. */
  answered(node: AcceptorNode, answer: AcceptorAnswer, generation: number): void {
    if (answer.kind === 'sendGreeting') return
    const known = node.status()?.membershipGeneration ?? generation
    if (generation < known)
      throw new Violation(`I1: ${node.name} answers by membership ${generation} and knows of ${known}`)
    const { flushLsn, term } = answer.reply
    if (answer.kind === 'sendVote' && answer.reply.voteGiven) {
      const vote = `${node.name} ${term}`
      if (this.#votes.has(vote)) throw new Violation(`I2: ${node.name} gives its vote twice in term ${term}`)
      this.#votes.add(vote)
    }
    this.#remembers(node, answer)
    if (flushLsn !== 0 && !this.recordEnds.has(flushLsn))
      throw new Violation(`I3: ${node.name} reports the flush position ${flushLsn}, inside a record`)
  }

  /** From now on the log of `name` may be cut by `term`, without an answer to any proposer. */
  recovers(name: string, term: number): void {
    this.#recoveredTerms.set(name, Math.max(term, this.#recoveredTerms.get(name) ?? 0))
  }

  /** Until it gives its vote to a later term, which may cut its log, an acceptor has what it acknowledged. */
  #remembers({ name }: AcceptorNode, answer: Exclude<AcceptorAnswer, { kind: 'sendGreeting' }>): void {
    const { flushLsn, term } = answer.reply
    if (answer.kind === 'sendAppended') {
      if (flushLsn !== 0) this.#acknowledged.set(name, { term, lsn: flushLsn })
      return
    }
    const before = this.#acknowledged.get(name)
    const lastLogTerm = answer.reply.history.at(-1)?.term
    const isKept = before !== undefined && before.term >= (this.#recoveredTerms.get(name) ?? 0)
    if (isKept && before.term === lastLogTerm && flushLsn < before.lsn)
      throw new Violation(`I1: ${name} acknowledged ${before.lsn} in term ${before.term} and has ${flushLsn}`)
    if (before !== undefined && term > before.term) this.#acknowledged.delete(name)
  }

  /** The end of what an acceptor calls committed, each time; `isWhole`: all of it, for the end of a run. */
  stepped(node: AcceptorNode, isWhole = false): void {
    const status = node.status()
    if (status === undefined) return
    const { commitLsn } = status
    if (commitLsn > this.committed.endLsn)
      throw new Violation(`I3: ${node.name} calls ${commitLsn} committed, ${this.committed.endLsn} is`)
    const { startLsn } = this.#format
    const fromLsn = isWhole ? startLsn : (Math.max(startLsn, commitLsn - 200) as Lsn)
    if (!this.committed.holds(fromLsn, node.peek(fromLsn, commitLsn)))
      throw new Violation(`I3: ${node.name} holds other bytes than what is committed before ${commitLsn}`)
  }
}
