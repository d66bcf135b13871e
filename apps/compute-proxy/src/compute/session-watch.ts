/**
 * The checks while a session runs: its configuration files, its log, its subscriptions each second; the lag of its
 * shards more often.
 */
import { Loop, ProblemReport } from '@understory/actor'
import { pageserverClient } from '@understory/protocol/clients'
import { SubscriptionGuard } from '../postgres/subscriptions.ts'
import { isConfigurationApplied } from '../postgres/sql.ts'
import { IngestLagWatch } from '../wal-proposer/ingest-lag.ts'
import type { IngestLag } from '../wal-proposer/ingest-lag.ts'
import type { ComputeContext } from './context.ts'
import type { Session } from './session.ts'

const LOOK_MS = 1_000

type WatchParts = Pick<
  ComputeContext,
  | 'spec'
  | 'rpc'
  | 'configuration'
  | 'launcher'
  | 'files'
  | 'server'
  | 'ingestLagLimitBytes'
  | 'clock'
  | 'rng'
  | 'log'
>

export class SessionWatch {
  readonly #parts: WatchParts
  readonly #subscriptions: SubscriptionGuard
  readonly #keepProblems: ProblemReport
  #loop: Loop | undefined
  #ingestLag: IngestLagWatch | undefined

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

  /** Undefined while no session is watched. */
  get ingestLag(): IngestLag | undefined {
    return this.#ingestLag?.view
  }

  start(session: Session): void {
    const { clock, rng, log } = this.#parts
    const problems = new ProblemReport({ clock, log, event: 'session_not_watched' })
    const round = (): Promise<void> => this.#look(session)
    this.#loop = new Loop({ clock, rng, round, pauseMs: LOOK_MS, problems })
    this.#loop.start()
    this.#ingestLag = this.#lagOf(session)
    this.#ingestLag.start()
  }

  /** Resolves once nothing looks any more, which may wait for an answer of Postgres. */
  async stop(): Promise<void> {
    const [loop, ingestLag] = [this.#loop, this.#ingestLag]
    this.#loop = undefined
    this.#ingestLag = undefined
    await Promise.all([loop?.stop(), ingestLag?.stop()])
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

  #lagOf({ proposer, receiver }: Session): IngestLagWatch {
    const parts = this.#parts
    const { rpc, ingestLagLimitBytes: limitBytes } = parts
    return new IngestLagWatch({
      ...parts,
      connect: (address) => pageserverClient(rpc, address),
      spec: () => parts.spec,
      commitLsn: () => proposer.commitLsn,
      brake: receiver.brake,
      limitBytes,
    })
  }

  async #look({ proposer, receiver }: Session): Promise<void> {
    const { launcher, files, server } = this.#parts
    await this.keepConfiguration(proposer.term)
    await launcher.boundLog(files)
    const { catalogLsn } = receiver
    await this.#subscriptions.look(server.target, { catalogLsn, commitLsn: proposer.commitLsn })
  }
}
