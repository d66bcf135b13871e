/** The checks of each second while a session runs: its configuration files, its log, its subscriptions. */
import { Loop, ProblemReport } from '@understory/actor'
import { SubscriptionGuard } from '../postgres/subscriptions.ts'
import { isConfigurationApplied } from '../postgres/sql.ts'
import type { ComputeContext } from './context.ts'
import type { Session } from './session.ts'

const LOOK_MS = 1_000

type WatchParts = Pick<
  ComputeContext,
  'configuration' | 'launcher' | 'files' | 'server' | 'clock' | 'rng' | 'log'
>

export class SessionWatch {
  readonly #parts: WatchParts
  readonly #subscriptions: SubscriptionGuard
  readonly #keepProblems: ProblemReport
  #loop: Loop | undefined

  constructor(parts: WatchParts) {
    const { clock, log } = parts
    this.#parts = parts
    this.#subscriptions = new SubscriptionGuard(clock, log)
    this.#keepProblems = new ProblemReport({ clock, log, event: 'configuration_not_kept' })
  }

  /** Of subscriptions; empty where there is none. */
  get problem(): string {
    return this.#subscriptions.problem
  }

  start(session: Session): void {
    const { clock, rng, log } = this.#parts
    const problems = new ProblemReport({ clock, log, event: 'session_not_watched' })
    const round = (): Promise<void> => this.#look(session)
    this.#loop = new Loop({ clock, rng, round, pauseMs: LOOK_MS, problems })
    this.#loop.start()
  }

  /** Resolves once nothing looks any more, which may wait for an answer of Postgres. */
  async stop(): Promise<void> {
    const loop = this.#loop
    this.#loop = undefined
    await loop?.stop()
  }

  /** A failure to keep it is logged: the server continues all the same. */
  async keepConfiguration(term: number): Promise<void> {
    const { configuration, server } = this.#parts
    try {
      await configuration.keep(term, () => isConfigurationApplied(server.target))
      this.#keepProblems.clear()
    } catch (error) {
      this.#keepProblems.report(error)
    }
  }

  async #look({ proposer, receiver }: Session): Promise<void> {
    const { launcher, files, server } = this.#parts
    await this.keepConfiguration(proposer.term)
    await launcher.boundLog(files)
    const { catalogLsn } = receiver
    await this.#subscriptions.look(server.target, { catalogLsn, commitLsn: proposer.commitLsn })
  }
}
