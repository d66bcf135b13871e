/**
 * Whether an installation does its work: rows in, full_page_writes off, the same rows out, through Postgres and as
 * pages straight from storage, every part alive.
 */
import { isErrorCode, fail } from '@understory/base'
import { ProgressLine, realClock } from '@understory/env'
import { isServing } from '@understory/rpc'
import type { ClientContext } from '@understory/rpc'
import { createClientIn } from '@understory/sdk/in-context'
import type { UnderstoryClient } from '@understory/sdk'
import type { Command } from 'commander'
import { InvalidArgumentError } from 'commander'
import pg from 'pg'
import { wholeNumber } from './tenant.ts'
import type { GlobalOptions } from './tenant.ts'
import { printLine } from '../output.ts'

const ROWS_COUNT = 1_000
const READY_MS_MAX = 300_000
const CONNECT_MS_MAX = 30_000
const NODES_MS_MAX = 30_000
const HEALTH_MS_MAX = 5_000
const RETRY_MS = 250
/** Of a page's header. Source: storage/bufpage.h, PageHeaderData. */
const PD_UPPER_AT = 14

interface SmokeTest {
  readonly tenant: string
  readonly postgresMajor: number
  readonly nodes: ReadonlyMap<string, number>
  /** Of the role postgres; undefined where the user gave none. */
  readonly password: string | undefined
  /** Whether a tenant that is there already gets a new one. */
  readonly setsPassword: boolean
  readonly say: (line: string) => void
}

interface SmokeTestFlags {
  readonly pg: number
  readonly nodes: Map<string, number>
  readonly newPassword: boolean
}

export function addSmokeTestCommand(
  program: Command,
  rpc: ClientContext,
  environment: Readonly<Record<string, string | undefined>>,
): void {
  program
    .command('smoke-test')
    .argument('<tenant>', 'made where it is not there')
    .option('--pg <major>', 'Postgres major version of a new tenant', wholeNumber(16, 18), 17)
    .option(
      '--nodes <counts>',
      'how many must serve, such as safekeeper=3,pageserver=2',
      readCounts,
      new Map(),
    )
    .option('--new-password', 'set a new password first, instead of the one in PGPASSWORD', false)
    .description('write rows, switch full_page_writes off, read rows and status back')
    .action(async (tenant: string, options: SmokeTestFlags, command: Command) => {
      const { endpoint } = command.optsWithGlobals<GlobalOptions>()
      const say = (line: string): void => {
        printLine(line)
      }
      await smokeTest(createClientIn(rpc, { endpoint }), rpc, {
        tenant,
        postgresMajor: options.pg,
        nodes: options.nodes,
        // As psql takes it.
        password: environment['PGPASSWORD'] || undefined,
        setsPassword: options.newPassword,
        say,
      })
    })
}

function readCounts(text: string): Map<string, number> {
  return new Map(
    text.split(',').map((part) => {
      const [, kind, count] = /^([a-z-]+)=(\d+)$/.exec(part) ?? []
      if (kind === undefined) throw new InvalidArgumentError('It is KIND=COUNT,KIND=COUNT.')
      return [kind, Number(count)]
    }),
  )
}

async function smokeTest(client: UnderstoryClient, rpc: ClientContext, smoke: SmokeTest): Promise<void> {
  const { tenant, nodes, say } = smoke
  await checkNodes(client, rpc, nodes, say)
  const password = await ensureTenant(client, smoke)
  await client.waitForPassword(tenant, { timeoutMs: READY_MS_MAX })
  const progress = new ProgressLine(process.stderr, realClock)
  const connectionString = await client
    .waitForSql(tenant, { timeoutMs: READY_MS_MAX, onProgress: progress.show, password })
    .finally(() => progress.end())
  await client.switchFullPageWrites(tenant, 'on')
  await client.waitForFullPageWrites(tenant)
  // One connection over the switch: it must not be lost.
  const sql = await connect(libpqLike(connectionString))
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
    await readFromStorage(client, sql, tenant, say)
  } finally {
    await sql.end()
  }
  const { safekeepers, shards } = await client.getTimeline(tenant)
  for (const { address, alive } of [...safekeepers, ...shards]) expect(alive, `${address} does not answer`)
  say(`ok  ${safekeepers.length} safekeepers and ${shards.length} shards answer`)
}

/** Makes the tenant where it is not there. Returns the password of its role postgres. */
async function ensureTenant(
  client: UnderstoryClient,
  { tenant, postgresMajor, password, setsPassword }: SmokeTest,
): Promise<string | undefined> {
  const isThere = await client.getTenant(tenant).then(
    () => true,
    (error: unknown) => {
      if (isErrorCode(error, 'unknown_tenant')) return false
      throw error
    },
  )
  if (!isThere) {
    const made = await client.createTenant({ name: tenant, postgresMajor, password })
    const known = password ?? made.password
    if (known !== undefined) return known
  } else if (!setsPassword) {
    if (password !== undefined) return password
    throw fail('bad_argument', `the password of tenant "${tenant}" is not known`, {
      hint: 'Give it in PGPASSWORD, or have a new one set: --new-password.',
    })
  }
  return client.setTenantPassword(tenant)
}

/** Each announces itself a moment after it is ready, and answers for its own health from then on. */
async function checkNodes(
  client: UnderstoryClient,
  rpc: ClientContext,
  expected: ReadonlyMap<string, number>,
  say: (line: string) => void,
): Promise<void> {
  const untilMs = performance.now() + NODES_MS_MAX
  for (const [kind, count] of expected) {
    let found = (await client.listNodes()).filter((node) => node.kind === kind)
    while (found.length < count && performance.now() < untilMs) {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
      found = (await client.listNodes()).filter((node) => node.kind === kind)
    }
    expect(found.length >= count, `${found.length} of ${count} nodes of kind ${kind} are there`)
    for (const { nodeId, address } of found)
      expect(
        await isServing(rpc, address, { deadlineMs: HEALTH_MS_MAX }),
        `${nodeId} says that it does not serve`,
      )
    say(`ok  ${found.length} of kind ${kind} serve`)
  }
}

/** The rows again, out of pages that pageservers made: by gRPC, without Postgres. */
async function readFromStorage(
  client: UnderstoryClient,
  sql: pg.Client,
  tenant: string,
  say: (line: string) => void,
): Promise<void> {
  const ask = `select pg_relation_filenode('smoke_test')::int as relation, pg_relation_size('smoke_test')::int / 8192 as blocks,
    (select oid::int from pg_database where datname = current_database()) as database, pg_current_wal_flush_lsn()::text as lsn`
  const { rows } = await sql.query<{ relation: number; blocks: number; database: number; lsn: string }>(ask)
  const { relation, blocks, database, lsn } = rows[0] as (typeof rows)[0]
  const addresses = Array.from({ length: blocks }, (_, block) => ({ relation, database, block }))
  const pages = await client.getPages(tenant, addresses, { lsn })
  const found = pages.reduce((count, page) => count + countRows(page), 0)
  expect(found === ROWS_COUNT, `${found} of ${ROWS_COUNT} rows are in the pages of storage at ${lsn}`)
  say(`ok  ${ROWS_COUNT} rows found in ${blocks} pages of storage at ${lsn}`)
}

/** The pages after the change: bytes before pd_upper are of no row. */
const countRows = (page: Buffer | undefined): number =>
  page?.toString('latin1', page.readUInt16LE(PD_UPPER_AT)).match(/y{100}/g)?.length ?? 0

/** node-postgres takes `sslmode` as libpq does only on request: by itself it would look for an authority. */
function libpqLike(connectionString: string): string {
  const url = new URL(connectionString)
  if (url.searchParams.has('sslmode')) url.searchParams.set('uselibpqcompat', 'true')
  return url.href
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
      if (performance.now() > untilMs || !isUnreachable(error)) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
}

const isUnreachable = (error: unknown): boolean =>
  error instanceof Error &&
  'code' in error &&
  ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN'].includes(String(error.code))

async function one(sql: pg.Client, query: string): Promise<unknown> {
  const { rows } = await sql.query<Record<string, unknown>>(query)
  return Object.values(rows[0] ?? {})[0]
}

function expect(condition: boolean, problem: string): void {
  if (!condition) throw fail('precondition', problem)
}
