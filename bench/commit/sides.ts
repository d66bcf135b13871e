/** The two sides of the comparison: a stock primary with three stock standbys, and Understory's cluster. */
import { appendFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createClient } from '@understory/sdk'
import {
  TENANT_PASSWORD,
  freePort,
  runCommand,
  startCluster,
  startPostgres,
  tenantLogin,
} from '@understory/testcontainers'
import type { Cluster, ClusterOptions, PostgresMajor, PostgresServer } from '@understory/testcontainers'
import pg from 'pg'

export interface Side extends AsyncDisposable {
  readonly connection: string
  /** Roots of its process trees. */
  readonly pids: () => readonly number[]
}

const STANDBYS_COUNT = 3

/** Runs statements one after the other. */
export async function query(connection: string, ...statements: readonly string[]): Promise<void> {
  const client = new pg.Client({ connectionString: connection })
  await client.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}

/** Postgres at its defaults, fsync on, commits wait for any two of three standbys that flush and replay. */
export async function stockQuorum(major: PostgresMajor): Promise<Side> {
  await using stack = new AsyncDisposableStack()
  const port = await freePort()
  const settings = { fsync: true, wal_keep_size: '4GB' }
  const primary = stack.use(await startPostgres({ major, settings, port, started: false }))
  const standbys: PostgresServer[] = []
  for (let number = 1; number <= STANDBYS_COUNT; number++) {
    const standby = stack.use(await startPostgres({ major, settings, started: false }))
    const conninfo = `host=127.0.0.1 port=${port} user=postgres application_name=standby_${number}`
    await runCommand({
      name: 'copy of the primary',
      command: 'cp',
      args: ['-a', '-T', primary.dataDirectory, standby.dataDirectory],
    })
    await writeFile(join(standby.dataDirectory, 'standby.signal'), '')
    await appendFile(join(standby.dataDirectory, 'postgresql.conf'), `primary_conninfo = '${conninfo}'\n`)
    standbys.push(standby)
  }
  const names = standbys.map((_, i) => `standby_${i + 1}`).join(', ')
  await primary.start({ synchronous_standby_names: `ANY 2 (${names})` })
  await Promise.all(standbys.map((standby) => standby.start()))
  const owned = stack.move()
  return {
    connection: primary.connectionString,
    pids: () => [primary, ...standbys].map(({ pid }) => pid as number),
    [Symbol.asyncDispose]: () => owned[Symbol.asyncDispose](),
  }
}

export interface UnderstorySide extends Side {
  readonly cluster: Cluster
  switchFullPageWrites(wanted: 'on' | 'off'): Promise<void>
}

/** Three safekeepers, two pageservers, and a tenant with its defaults. */
export async function understory(
  major: PostgresMajor,
  dataDirectory: string,
  options: Pick<ClusterOptions, 'environment' | 'flags'> = {},
): Promise<UnderstorySide> {
  const cluster = await startCluster({ ...options, dataDirectory, majors: [major] })
  try {
    const client = createClient({ endpoint: cluster.endpoint })
    const tenant = 'bench'
    // As the stock side is reached.
    await client.createTenant({
      name: tenant,
      postgresMajor: major,
      password: TENANT_PASSWORD,
      allowPlaintext: true,
    })
    const connection = tenantLogin(await client.waitForSql(tenant, { timeoutMs: 300_000 }))
    const nodes = [...cluster.safekeepers, ...cluster.pageservers, cluster.computeHost, cluster.controlPlane]
    return {
      cluster,
      connection,
      pids: () => nodes.map(({ pid }) => pid),
      switchFullPageWrites: async (wanted) => {
        await client.switchFullPageWrites(tenant, wanted)
        await client.waitForFullPageWrites(tenant)
      },
      [Symbol.asyncDispose]: () => cluster[Symbol.asyncDispose](),
    }
  } catch (error) {
    await cluster[Symbol.asyncDispose]()
    throw error
  }
}
