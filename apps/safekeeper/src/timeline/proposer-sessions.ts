/** The streams of proposers that a timeline talks to, and which of them leads. */
import { Leadership } from '@understory/consensus/driver'
import type { ProposerSession } from '@understory/consensus/driver'

export class ProposerSessions {
  readonly #sessions = new Set<ProposerSession>()
  readonly leadership = new Leadership<ProposerSession>()

  /** The stream of the proposer whose term this is: flushes are reported to it. */
  get leader(): ProposerSession | undefined {
    return this.leadership.session
  }

  attach(session: ProposerSession): void {
    this.#sessions.add(session)
  }

  detach(session: ProposerSession): void {
    this.#sessions.delete(session)
    this.leadership.leave(session)
  }

  closeAll(why: unknown): void {
    for (const session of this.#sessions) session.close(why)
    this.#sessions.clear()
    this.leadership.end()
  }
}
