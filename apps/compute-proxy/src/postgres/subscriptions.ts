/**
 * Keeps subscriptions from confirming what no quorum has.
 *
 * An apply worker confirms a transaction to its publisher once the local disk has its commit record (worker.c
 * get_flush_position, by GetFlushRecPtr; 16, 17, 18 alike), and the publisher never sends it again: a compute that is
 * lost before the quorum has that record would lose the transaction. With synchronous_commit = on, remote_write or
 * remote_apply a worker (apply, parallel apply, table synchronization) waits for the quorum within each commit and
 * confirms nothing until then. A subscription has a setting of its own, by default off, which no configuration
 * overrides (InitializeLogRepWorker sets it); so it is changed with ALTER SUBSCRIPTION, which a running worker follows.
 */
import { ProblemReport } from '@understory/actor'
import { describeError } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import { LOOK_TIMEOUT_MS, withSql } from './sql.ts'
import type { SqlTarget } from './sql.ts'

/** A commit is in the WAL before its changes are visible: it is looked for so long after a quorum has it. */
const SETTLE_MS = 10_000
/** Of each statement: a session that holds a lock on a subscription must not keep this one for ever. */
const STATEMENT_TIMEOUT_MS = 1_000

interface Subscription {
  /** In decimal. */
  readonly oid: string
  readonly name: string
  readonly database: string
  readonly databaseOid: string
}

/** The facts of the WAL that the guard needs. */
export interface CatalogPosition {
  /** End of the last transaction that changed a catalog. */
  readonly catalogLsn: Lsn
  readonly commitLsn: Lsn
}

export class SubscriptionGuard {
  readonly #clock: Clock
  readonly #log: Log
  #lookedLsn: Lsn | undefined
  #lookUntilMs = 0
  readonly #problems: ProblemReport

  constructor(clock: Clock, log: Log) {
    this.#clock = clock
    this.#log = log
    this.#problems = new ProblemReport({ clock, log, event: 'subscription_not_synchronous' })
  }

  /** In one line, what keeps a subscription from being safe; empty while nothing does. */
  get problem(): string {
    return this.#problems.current
  }

  /** To be called every second or so; costs nothing while no catalog changes. */
  async look(target: SqlTarget, { catalogLsn, commitLsn }: CatalogPosition): Promise<void> {
    const nowMs = this.#clock.nowMs()
    if (catalogLsn !== this.#lookedLsn || commitLsn < catalogLsn) this.#lookUntilMs = nowMs + SETTLE_MS
    if (nowMs >= this.#lookUntilMs) return
    this.#lookedLsn = catalogLsn
    try {
      const subscriptions = await unsafeSubscriptions(target)
      const failures: unknown[] = []
      for (const subscription of subscriptions)
        await this.#makeSafe(target, subscription).catch((error: unknown) => failures.push(error))
      if (failures.length > 0) throw failures[0]
      this.#problems.clear()
    } catch (error) {
      // The next look finds it again.
      this.#lookedLsn = undefined
      this.#problems.report(`a subscription may confirm what no quorum has: ${describeError(error)}`)
    }
  }

  async #makeSafe(target: SqlTarget, subscription: Subscription): Promise<void> {
    await makeSafe(target, subscription)
    const { oid, databaseOid } = subscription
    this.#log.warn('subscription_made_synchronous', { subscription: oid, database: databaseOid })
  }
}

/** Names of synchronous_commit's values are not case-sensitive (guc.c config_enum_lookup_by_name) and kept as typed. */
function unsafeSubscriptions(target: SqlTarget): Promise<Subscription[]> {
  return withSql(target, async (client) => {
    await client.query(`set statement_timeout = ${LOOK_TIMEOUT_MS}`)
    const { rows } = await client.query<Subscription>(`
      select s.oid::int8 as oid, s.subname as name, d.datname as database, d.oid::int8 as "databaseOid"
        from pg_subscription s join pg_database d on d.oid = s.subdbid
       where lower(s.subsynccommit) not in ('on', 'remote_write', 'remote_apply', 'true', 'yes', '1')
       order by s.oid`)
    return rows
  })
}

function makeSafe(target: SqlTarget, { name, database }: Subscription): Promise<void> {
  return withSql(
    target,
    async (client) => {
      await client.query(`set statement_timeout = ${STATEMENT_TIMEOUT_MS}`)
      const identifier = client.escapeIdentifier(name)
      await client.query(`alter subscription ${identifier} set (synchronous_commit = 'on')`)
    },
    { database },
  )
}
