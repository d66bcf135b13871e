/** SQL over the local socket, as the proxy's own role. */
import type { Clock } from '@understory/env'
import pg from 'pg'
import { PROXY_ROLE, STANDBY_NAME } from './configuration.ts'
import type { ComputeFiles } from './layout.ts'
import { endedError } from './postgres.ts'

const POLL_MS = 20

export interface SqlTarget {
  readonly files: ComputeFiles
  readonly port: number
}

export async function withSql<T>(
  { files, port }: SqlTarget,
  use: (client: pg.Client) => Promise<T>,
  { database = 'postgres', user = PROXY_ROLE }: { readonly database?: string; readonly user?: string } = {},
): Promise<T> {
  const client = await connectSql({ files, port }, database, user)
  try {
    return await use(client)
  } finally {
    await client.end()
  }
}

/** A connection that the caller ends. Commits of the proxy itself never wait for the quorum it serves. */
export async function connectSql(
  { files, port }: SqlTarget,
  database: string,
  user: string = PROXY_ROLE,
): Promise<pg.Client> {
  const client = new pg.Client({
    host: files.sockets,
    port,
    user,
    database,
    options: '-c synchronous_commit=local',
  })
  client.on('error', () => undefined)
  await client.connect()
  return client
}

/** Waits until the server takes connections; `gone` ends the wait with its reason. */
export async function waitForSql(
  target: SqlTarget,
  clock: Clock,
  gone: Promise<string>,
  user?: string,
): Promise<void> {
  const ended: { reason?: string } = {}
  void gone.then((reason) => {
    ended.reason = reason
  })
  for (;;) {
    if (ended.reason !== undefined) throw await endedError(target.files, ended.reason)
    try {
      return await withSql(target, async () => undefined, user === undefined ? {} : { user })
    } catch (error) {
      if (!isStarting(error)) throw error
    }
    await clock.sleep(POLL_MS)
  }
}

/** No socket yet, or "the database system is starting up" (57P03). */
function isStarting(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    ['ENOENT', 'ECONNREFUSED', 'ECONNRESET', '57P03'].includes(String(error.code))
  )
}

/**
 * Waits until Postgres counts the proxy as its synchronous standby: before that, commits would not wait (16 before
 * 16.9 and 17 before 17.5 right after a start).
 */
export async function waitUntilSynchronous(target: SqlTarget, clock: Clock): Promise<void> {
  await withSql(target, async (client) => {
    for (;;) {
      const { rows } = await client.query(
        'select 1 from pg_stat_replication where application_name = $1 and sync_state = $2',
        [STANDBY_NAME, 'sync'],
      )
      if (rows.length > 0) return
      await clock.sleep(POLL_MS)
    }
  })
}

/** Waits until a reload has let the outside in, for a second at most: the user's own rules may let nobody in. */
export async function waitUntilOpen(port: number, clock: Clock): Promise<void> {
  const untilMs = clock.nowMs() + 1_000
  while (clock.nowMs() < untilMs) {
    const client = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', database: 'postgres' })
    client.on('error', () => undefined)
    try {
      await client.connect()
      await client.end()
      return
    } catch {
      // Rejected still: the postmaster has not read the new rules.
      await clock.sleep(5)
    }
  }
}

/** A standby or slot that is not ours would receive WAL without page images, and could never recover (I4). */
export async function foreignReceivers(target: SqlTarget): Promise<string[]> {
  return withSql(target, async (client) => {
    const { rows } = await client.query<{ name: string }>(
      `select 'standby "' || application_name || '"' as name from pg_stat_replication r
         where application_name <> $1 and not exists (select 1 from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')
       union all
       select 'slot "' || slot_name || '"' from pg_replication_slots where slot_type = 'physical' and slot_name <> $1`,
      [STANDBY_NAME],
    )
    return rows.map(({ name }) => name)
  })
}
