/** SQL over the local socket, as the proxy's own role. */
import { parseLsn, present, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { socketWithin } from '@understory/env'
import type { Clock } from '@understory/env'
import pg from 'pg'
import type { PgMajor } from '@understory/postgres/wal'
import { PROXY_ROLE, STANDBY_NAME } from './configuration.ts'
import { databaseNames } from './database-names.ts'
import { socketName } from './layout.ts'
import type { PostmasterEnd } from './launcher.ts'
import type { ComputeFiles } from './layout.ts'
import { withoutValues } from './postgres-log.ts'
import { endedError } from './postgres.ts'

const POLL_MS = 20
const RELOAD_MS_MAX = 1_000
/** A server that accepts a connection and does not answer hangs, or is stopped. */
const CONNECT_MS_MAX = 20_000
/** Of a statement that is repeated each second: a session that holds a lock must not keep it for ever. */
export const LOOK_TIMEOUT_MS = 5_000

export interface SqlTarget {
  readonly files: ComputeFiles
  readonly port: number
  readonly major: PgMajor
}

/** Where to go: by default as the proxy's role, into any database that is there. */
interface Login {
  readonly database?: string | undefined
  readonly user?: string
}

export async function withSql<T>(
  target: SqlTarget,
  use: (client: pg.Client) => Promise<T>,
  login: Login = {},
): Promise<T> {
  const client = await connectSql(target, login)
  try {
    return await use(client)
  } catch (error) {
    throw withoutValues(error)
  } finally {
    await client.end()
  }
}

/** A connection that the caller ends. */
export async function connectSql(
  target: SqlTarget,
  { database, user = PROXY_ROLE }: Login = {},
): Promise<pg.Client> {
  if (database !== undefined) return connectTo(target, database, user)
  let refusal: unknown
  for await (const name of databasesOf(target)) {
    try {
      return await connectTo(target, name, user)
    } catch (error) {
      if (!isOneOf(error, NO_SUCH_DATABASE)) throw error
      refusal = error
    }
  }
  throw fail('precondition', 'no database of this server takes connections', {
    hint: 'Allow connections to one of them with ALTER DATABASE.',
    cause: refusal,
  })
}

/** A user may drop any database but one: these are tried in turn. */
async function* databasesOf({ files }: SqlTarget): AsyncGenerator<string, void, void> {
  const usual = ['postgres', 'template1']
  yield* usual
  for (const name of await databaseNames(files.pgdata)) if (!usual.includes(name)) yield name
}

async function connectTo(target: SqlTarget, database: string, user: string): Promise<pg.Client> {
  const { files, port, major } = target
  const options = sessionOptions(major)
  const stream = () => socketWithin(files.sockets, socketName(port))
  const client = new pg.Client({
    user,
    database,
    options,
    stream,
    connectionTimeoutMillis: CONNECT_MS_MAX,
  })
  client.on('error', () => undefined)
  try {
    await client.connect()
  } catch (error) {
    throw withoutValues(error)
  }
  return client
}

/**
 * Settings that a user may have made for all roles, and that would keep the proxy from its work. Commits of the proxy
 * itself never wait for the quorum that it serves.
 */
function sessionOptions(major: SqlTarget['major']): string {
  const settings = {
    synchronous_commit: 'local',
    default_transaction_read_only: 'off',
    statement_timeout: '0',
    lock_timeout: '0',
    role: 'none',
    search_path: 'public',
    session_preload_libraries: '',
    local_preload_libraries: '',
    ...(major >= 17 ? { transaction_timeout: '0', event_triggers: 'off' } : {}),
  }
  return Object.entries(settings)
    .map(([name, value]) => `-c ${name}=${value}`)
    .join(' ')
}

/** 3D000 invalid_catalog_name; 55000: it allows no connections. */
const NO_SUCH_DATABASE = ['3D000', '55000']
/** 28000: no such role, or none that may log in; 42501: it is not a superuser. */
const ROLE_LOST = ['28000', '42501']

const isOneOf = (error: unknown, codes: readonly string[]): boolean =>
  error instanceof Error && 'code' in error && codes.includes(String(error.code))

/**
 * Waits until the server takes connections; false where it does not take those of the proxy's role, which a user may
 * have dropped or cut down. `exited` ends the wait.
 */
export async function waitForSql(
  target: SqlTarget,
  clock: Clock,
  exited: Promise<PostmasterEnd>,
  user: string = PROXY_ROLE,
): Promise<boolean> {
  const postmaster: { end?: PostmasterEnd } = {}
  void exited.then((end) => {
    postmaster.end = end
  })
  for (;;) {
    if (postmaster.end !== undefined) throw await endedError(target.files, postmaster.end)
    try {
      return await withSql(target, isRoleWhole, { user })
    } catch (error) {
      if (isOneOf(error, ROLE_LOST)) return false
      if (!isStarting(error)) throw error
    }
    await clock.sleep(POLL_MS)
  }
}

async function isRoleWhole(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ whole: boolean }>(
    'select rolsuper and rolreplication as whole from pg_roles where rolname = session_user',
  )
  return rows[0]?.whole === true
}

/** No socket yet, or "the database system is starting up" (57P03). */
const isStarting = (error: unknown): boolean =>
  isOneOf(error, ['ENOENT', 'ECONNREFUSED', 'ECONNRESET', '57P03'])

/**
 * Whether the server has taken in all that its files say: no line of them is wrong, and nothing waits for a start, at
 * which it could turn out to be impossible. Settings on the command line are not the files' matter.
 */
export function isConfigurationApplied(target: SqlTarget): Promise<boolean> {
  return withSql(target, async (client) => {
    await client.query(`set statement_timeout = ${LOOK_TIMEOUT_MS}`)
    const { rows } = await client.query<{ sound: boolean }>(`
      select not exists (select from pg_settings where pending_restart and source <> 'command line')
         and not exists (select from pg_file_settings f where f.error is not null
                           and not exists (select from pg_settings s where s.name = f.name and s.source = 'command line'))
         and not exists (select from pg_hba_file_rules where error is not null) as sound`)
    return rows[0]?.sound === true
  })
}

/** Of the rules as they are in the files now. */
export async function areRulesReadable(client: pg.Client): Promise<boolean> {
  const { rowCount } = await client.query('select from pg_hba_file_rules where error is not null limit 1')
  return rowCount === 0
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

/**
 * Makes Postgres read its files again; resolves once that judges new connections. A session has the time of the load
 * that the postmaster had when it began (PgReloadTime), or has got a newer one itself, which the postmaster announces
 * after it began with it; and it takes no connection before it is done with the rules (process_pm_reload_request,
 * postmaster.c, 16 to 18). Files with an error keep that time as it is: then it is waited for a second.
 */
export async function reloadConfiguration(target: SqlTarget, clock: Clock): Promise<void> {
  const loadedAt = async (client: pg.Client): Promise<string | undefined> =>
    (await client.query<{ at: string }>('select pg_conf_load_time()::text as at')).rows[0]?.at
  const before = await withSql(target, async (client) => {
    const at = await loadedAt(client)
    await client.query('select pg_reload_conf()')
    return at
  })
  const untilMs = clock.nowMs() + RELOAD_MS_MAX
  while ((await withSql(target, loadedAt)) === before && clock.nowMs() < untilMs) await clock.sleep(5)
}

/** Oid of the bootstrap superuser, under any name (BOOTSTRAP_SUPERUSERID, pg_authid.dat, 16 to 18). */
const BOOTSTRAP_SUPERUSER = 10

/**
 * Gives the bootstrap superuser the password of this verifier. Resolves to where the commit ends in WAL: it does not
 * wait for the quorum. Errors: `bad_argument` where Postgres does not know it for a verifier; nothing is changed then.
 */
export function setVerifier(target: SqlTarget, verifier: string): Promise<Lsn> {
  return withSql(target, async (client) => {
    // The statement must not get into any log.
    await client.query(
      "begin; set local log_statement = 'none'; set local log_min_duration_statement = -1; set local log_min_error_statement = panic",
    )
    const { rows } = await client.query<{ statement: string }>(
      "select format('alter role %I password %L', rolname, $2::text) as statement from pg_authid where oid = $1",
      [BOOTSTRAP_SUPERUSER, verifier],
    )
    await client.query(present(rows[0], 'the bootstrap superuser').statement)
    const { rowCount } = await client.query('select from pg_authid where oid = $1 and rolpassword = $2', [
      BOOTSTRAP_SUPERUSER,
      verifier,
    ])
    if (rowCount !== 1) throw fail('bad_argument', 'Postgres does not accept the password verifier')
    await client.query('commit')
    const { rows: at } = await client.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn')
    return parseLsn(present(at[0], 'the flush position').lsn)
  })
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
