/** Whether an installation does its work: rows in, full_page_writes off, the same rows out, every part alive. */
import { isErrorCode, refuse } from '@understory/base'
import { createClient } from '@understory/sdk'
import type { UnderstoryClient } from '@understory/sdk'
import type { Command } from 'commander'
import pg from 'pg'
import { wholeNumber } from './tenant.ts'
import type { GlobalOptions } from './tenant.ts'

const ROWS_COUNT = 1_000
const READY_MS_MAX = 300_000
const CONNECT_MS_MAX = 30_000
const RETRY_MS = 250

export function addSmokeTestCommand(program: Command): void {
  program
    .command('smoke-test')
    .argument('<tenant>', 'made where it is not there')
    .option('--pg <major>', 'Postgres major version of a new tenant', wholeNumber(16, 18), 17)
    .description('write rows, switch full_page_writes off, read rows and status back (password: PGPASSWORD)')
    .action(async (tenant: string, options: { pg: number }, command: Command) => {
      const { endpoint } = command.optsWithGlobals<GlobalOptions>()
      await smokeTest(createClient({ endpoint }), tenant, options.pg, (line) =>
        process.stdout.write(`${line}\n`),
      )
    })
}

async function smokeTest(
  client: UnderstoryClient,
  tenant: string,
  postgresMajor: number,
  say: (line: string) => void,
): Promise<void> {
  await client.getTenant(tenant).catch(async (error: unknown) => {
    if (!isErrorCode(error, 'unknown_tenant')) throw error
    await client.createTenant({ name: tenant, postgresMajor })
  })
  const connectionString = await client.waitForSql(tenant, { timeoutMs: READY_MS_MAX, onProgress: say })
  await client.switchFullPageWrites(tenant, 'on')
  await client.waitForFullPageWrites(tenant)
  // One connection over the switch: it must not be lost.
  const sql = await connect(connectionString)
  try {
    await sql.query('create table if not exists smoke_test (id bigint primary key, filler text)')
    await sql.query('truncate smoke_test')
    await sql.query("insert into smoke_test select i, repeat('x', 100) from generate_series(1, $1) i", [
      ROWS_COUNT,
    ])
    say(`ok  ${ROWS_COUNT} rows written`)
    await client.switchFullPageWrites(tenant, 'off')
    const { phase, sinceLsn, tookMs } = await client.waitForFullPageWrites(tenant)
    expect(phase === 'off', `full_page_writes is "${phase}"`)
    expect((await one(sql, 'show full_page_writes')) === 'off', 'Postgres says that full_page_writes is on')
    say(`ok  full_page_writes off since ${sinceLsn}, after ${tookMs} ms, over the same connection`)
    await sql.query("update smoke_test set filler = repeat('y', 100)")
    const found = await one(sql, "select count(*)::int from smoke_test where filler = repeat('y', 100)")
    expect(found === ROWS_COUNT, `${String(found)} of ${ROWS_COUNT} rows were read back`)
    say(`ok  ${ROWS_COUNT} rows changed and read back`)
  } finally {
    await sql.end()
  }
  const { safekeepers, shards } = await client.getTimeline(tenant)
  for (const { address, alive } of [...safekeepers, ...shards]) expect(alive, `${address} does not answer`)
  say(`ok  ${safekeepers.length} safekeepers and ${shards.length} shards answer`)
}

/** A service of Kubernetes leads to its pod a moment after that is open. */
async function connect(connectionString: string): Promise<pg.Client> {
  const untilMs = performance.now() + CONNECT_MS_MAX
  for (;;) {
    const sql = new pg.Client({ connectionString, connectionTimeoutMillis: CONNECT_MS_MAX })
    try {
      await sql.connect()
      return sql
    } catch (error) {
      if (performance.now() > untilMs || !isNobodyThere(error)) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
}

const isNobodyThere = (error: unknown): boolean =>
  error instanceof Error &&
  'code' in error &&
  ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN'].includes(String(error.code))

async function one(sql: pg.Client, query: string): Promise<unknown> {
  const { rows } = await sql.query<Record<string, unknown>>(query)
  return Object.values(rows[0] ?? {})[0]
}

function expect(condition: boolean, problem: string): void {
  if (!condition) throw refuse('precondition', problem)
}
