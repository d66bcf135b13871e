/** The streams of proposers that a timeline talks to: which of them leads, and what the acceptor is asked by each. */
import { fail } from '@understory/base'
import type { AcceptorInput, AcceptorState } from '@understory/consensus'
import { Leadership } from '@understory/consensus/driver'
import type { ProposerSession } from '@understory/consensus/driver'
import { checkTermBounds } from './term-bounds.ts'

type Append = Extract<AcceptorInput, { kind: 'append' }>
type Vote = Extract<AcceptorInput, { kind: 'vote' }>

/** Steps of the acceptor; synchronous where nothing has to become durable first. */
interface Acceptor {
  readonly state: AcceptorState
  step(input: AcceptorInput, session: ProposerSession): Promise<void> | undefined
  append(session: ProposerSession, input: Append): undefined
}

export class ProposerSessions {
  readonly #sessions = new Set<ProposerSession>()
  readonly #leadership = new Leadership<ProposerSession>()

  /** The stream of the proposer whose term this is: flushes are reported to it. */
  get leader(): ProposerSession | undefined {
    return this.#leadership.session
  }

  attach(session: ProposerSession): void {
    this.#sessions.add(session)
  }

  detach(session: ProposerSession): void {
    this.#sessions.delete(session)
    this.#leadership.leave(session)
  }

  /**
   * WAL that was not flushed yet was dropped by a message of `by`, or of no proposer. The leader learns of it with its
   * next message; a recovery has none where all of its WAL is sent, and would wait for that flush for ever.
   */
  dropped(by: ProposerSession | undefined): void {
    const { leader } = this
    if (leader?.isRecovery === true && leader !== by)
      leader.close(fail('conflict', 'WAL that was not flushed yet was dropped'))
  }

  closeAll(why: unknown): void {
    for (const session of this.#sessions) session.close(why)
    this.#sessions.clear()
    this.#leadership.end()
  }

  /**
   * One message of `session`, in its turn. Synchronous where nothing has to become durable first: on the path of an
   * append. Errors: `conflict` where another stream leads, `bad_argument`; what the acceptor refuses.
   */
  take(acceptor: Acceptor, session: ProposerSession, input: AcceptorInput): Promise<void> | undefined {
    const { control } = acceptor.state
    checkTermBounds(input, control)
    switch (input.kind) {
      case 'append':
        this.#leadership.check(session, input.message.term, control.term)
        return acceptor.append(session, input)
      case 'elected':
        this.#leadership.elected(session, input.message.term, control.term)
        this.#leadership.check(session, input.message.term, control.term)
        return acceptor.step(input, session)
      case 'vote':
        return this.#vote(acceptor, session, input)
      default:
        return acceptor.step(input, session)
    }
  }

  async #vote(acceptor: Acceptor, session: ProposerSession, input: Vote): Promise<void> {
    const { term } = input.message
    const leads = this.#leadership.leadsAfterVote(session, term, acceptor.state.control.term)
    await acceptor.step(input, session)
    if (leads) this.#leadership.lead(session, term)
  }
}
