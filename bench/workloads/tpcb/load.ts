/**
 * The tables of pgbench, and its initial data: the same columns, fillers, fill factors and primary keys as
 * `pgbench --initialize` of PostgreSQL 17 makes (src/bin/pgbench/pgbench.c, initCreateTables and
 * initGenerateDataClientSide), with one row of `pgbench_branches` per unit of scale.
 */
import pg from 'pg'
import { copyIn } from '../copy.ts'
import { createLedgerTable } from '../ledger.ts'
import { Random } from '../random.ts'

export const ACCOUNTS_PER_BRANCH = 100_000
export const TELLERS_PER_BRANCH = 10

export interface TpcbLoadOptions {
  readonly connectionString: string
  readonly scale: number
  /** pgbench's 100,000 unless a test wants less. */
  readonly accountsPerBranch?: number
  readonly onProgress?: (text: string) => void
}

const TABLES: Readonly<Record<string, string>> = {
  pgbench_history: 'tid int, bid int, aid int, delta int, mtime timestamp, filler char(22)',
  pgbench_tellers: 'tid int not null, bid int, tbalance int, filler char(84)',
  pgbench_accounts: 'aid int not null, bid int, abalance int, filler char(84)',
  pgbench_branches: 'bid int not null, bbalance int, filler char(88)',
}

/** Drops and makes the tables, fills them, and adds the primary keys. */
export async function loadTpcb({
  connectionString,
  scale,
  accountsPerBranch = ACCOUNTS_PER_BRANCH,
  onProgress,
}: TpcbLoadOptions): Promise<void> {
  const client = new pg.Client({ connectionString })
  client.on('error', () => undefined)
  await client.connect()
  const random = new Random(0)
  const report = (text: string) => onProgress?.(text)
  try {
    await client.query(`drop table if exists ${Object.keys(TABLES).join(', ')}`)
    await createLedgerTable(client)
    await client.query('begin')
    for (const [name, columns] of Object.entries(TABLES)) {
      await client.query(
        `create table ${name}(${columns})${name === 'pgbench_history' ? '' : ' with (fillfactor=100)'}`,
      )
    }
    await copyIn(client, 'copy pgbench_branches from stdin with (freeze)', random, function* (rows) {
      for (let branch = 1; branch <= scale; branch++) {
        rows.int(branch).int(0).null().end()
        yield
      }
    })
    await copyIn(client, 'copy pgbench_tellers from stdin with (freeze)', random, function* (rows) {
      for (let teller = 0; teller < scale * TELLERS_PER_BRANCH; teller++) {
        rows
          .int(teller + 1)
          .int(Math.floor(teller / TELLERS_PER_BRANCH) + 1)
          .int(0)
          .null()
          .end()
        yield
      }
    })
    const accountsCount = await copyIn(
      client,
      'copy pgbench_accounts from stdin with (freeze)',
      random,
      function* (rows) {
        for (let account = 0; account < scale * accountsPerBranch; account++) {
          // The empty filler is padded with blanks by its type, as pgbench has it.
          rows
            .int(account + 1)
            .int(Math.floor(account / accountsPerBranch) + 1)
            .int(0)
            .text('')
            .end()
          yield
        }
      },
    )
    await client.query('commit')
    report(`pgbench_accounts: ${accountsCount} rows`)
    await client.query(`vacuum analyze ${Object.keys(TABLES).join(', ')}`)
    for (const [name, key] of [
      ['branches', 'bid'],
      ['tellers', 'tid'],
      ['accounts', 'aid'],
    ]) {
      await client.query(`alter table pgbench_${name} add primary key (${key})`)
    }
    report('primary keys')
  } finally {
    await client.end()
  }
}
