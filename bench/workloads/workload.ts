/** The facts of a workload that the driver needs, and the reports of a workload. */
import type pg from 'pg'
import type { Random } from './random.ts'
import type { Session, Statement } from './session.ts'

export interface Workload {
  readonly name: 'tpcc' | 'tpcb'
  /** Names of its transactions; a client speaks of them by index. */
  readonly transactions: readonly string[]
  /** The one whose transaction commits per minute are the headline, if the workload has one. */
  readonly headline: number | undefined
  readonly statements: readonly Statement[]
  /** Reads the scale of the loaded data, and refuses where nothing is loaded. */
  prepare(client: pg.Client): Promise<WorkloadRun>
}

export interface WorkloadRun {
  /** `index` of 0 .. `clientsCount` - 1; `random` is the client's own. */
  client(index: number, random: Random): WorkloadClient
}

export interface WorkloadClient {
  /** Draws the next transaction by the workload's mix. */
  draw(): number
  /**
   * Runs one transaction from BEGIN to COMMIT or ROLLBACK. A writing one calls `mark(session)` once after
   * BEGIN, which puts the ledger's row into it.
   */
  run(transaction: number, session: Session, mark: () => void): Promise<'committed' | 'rolledBack'>
}

export interface ConsistencyCheck {
  readonly name: string
  readonly violationsCount: number
  /** The first violation, for people. */
  readonly example: string | undefined
}

/** Runs each query, which returns its violations as rows, in one snapshot. */
export async function runChecks(
  client: pg.Client,
  queries: Readonly<Record<string, string>>,
): Promise<readonly ConsistencyCheck[]> {
  const checks: ConsistencyCheck[] = []
  await client.query('begin isolation level repeatable read read only')
  try {
    for (const [name, text] of Object.entries(queries)) {
      const { rows } = await client.query<Record<string, unknown>>(text)
      const example = rows[0] === undefined ? undefined : JSON.stringify(rows[0])
      checks.push({ name, violationsCount: rows.length, example })
    }
  } finally {
    await client.query('rollback')
  }
  return checks
}
