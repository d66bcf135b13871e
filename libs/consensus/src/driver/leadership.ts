/**
 * Which stream leads, of the proposers that are connected to one acceptor: it alone may write, and flushes are reported
 * to it. The acceptor's rules know terms; two streams of one term look the same to them.
 */
import { fail } from '@understory/base'
import type { ProposerSession } from './proposer-session.ts'

export class Leadership<S extends ProposerSession> {
  #leader: { readonly session: S; readonly term: number } | undefined

  get session(): S | undefined {
    return this.#leader?.session
  }

  /** The stream has ended. */
  leave(session: S): void {
    if (this.#leader?.session === session) this.#leader = undefined
  }

  /** From now on no session leads. */
  end(): void {
    this.#leader = undefined
  }

  /**
   * Before `elected` of `term` is taken. A proposer that was elected leads, though the vote in this term went to
   * another, whose stream may stand for long. (Two streams of one proposer are distinguished by their votes.)
   */
  elected(session: S, term: number, ownTerm: number): void {
    const before = this.#leader
    if (term !== ownTerm || before?.session.nodeId === session.nodeId) return
    if (before !== undefined && session.isRecovery === true) return
    this.#leader = { session, term }
    before?.session.close(fail('conflict', `another proposer was elected in term ${term}`))
  }

  /**
   * Before `elected` or an append of `term` is taken. An older stream of a proposer that has come back is over; of
   * older terms the acceptor itself takes nothing. Errors: `conflict`.
   */
  check(session: S, term: number, ownTerm: number): void {
    if (term < ownTerm || this.#leader?.session === session) return
    throw fail('conflict', `another stream leads in term ${ownTerm}`)
  }

  /**
   * Before a vote for `term` is taken: whether `session` is to lead after it, as it does that gets the vote, and the
   * same proposer that comes back in its term. A greeting alone takes the lead from no session.
   */
  leadsAfterVote(session: S, term: number, ownTerm: number): boolean {
    if (term > ownTerm) return true
    const before = this.#leader
    return term === ownTerm && (before === undefined || before.session.nodeId === session.nodeId)
  }

  /** The leader before learns of a higher term with its next message, and of another stream of its own at once. */
  lead(session: S, term: number): void {
    const before = this.#leader
    this.#leader = { session, term }
    if (before !== undefined && before.session !== session && before.term === term)
      before.session.close(fail('conflict', `another stream leads in term ${term}`))
  }
}
