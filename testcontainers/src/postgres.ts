/**
 * A real Postgres server of its own: own data directory, own socket directory, a free port of 127.0.0.1, trust for
 * every connection. It is found ready by its pid file, which it writes after recovery. `fsync` is off unless a test
 * asks for it: a killed process loses nothing that the kernel holds.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { appendFile, chmod, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { UnderstoryError, assert, fail } from '@understory/base'
import pg from 'pg'
import { cached } from './cache.ts'
import { type TemporaryDirectory, temporaryDirectory } from './directory.ts'
import { freePort } from './port.ts'
import { type PostgresBinaries, type PostgresMajor, postgresBinaries } from './postgres-binaries.ts'
import { type RunningProcess, isAlive, runCommand, startProcess } from './process.ts'
import { type UserIds, unprivilegedUser } from '@understory/env'

export type PostgresSettings = Readonly<Record<string, string | number | boolean>>

export interface PostgresOptions {
  readonly major: PostgresMajor
  /** Appended to postgresql.conf, so that ALTER SYSTEM still wins over them. */
  readonly settings?: PostgresSettings
  readonly initdbArgs?: readonly string[]
  /** Undefined is the version's own default: off for 16 and 17, on for 18. */
  readonly dataChecksums?: boolean
  /** Where its data are; initdb runs unless a cluster is there already. Kept on disposal, the caller owns it. */
  readonly dataDirectory?: string
  /** Lines that replace pg_hba.conf; by default all of the machine is trusted, replication too. */
  readonly hba?: readonly string[]
  /** True runs initdb again, so that the system identifier is its own; else clusters are copies of one. */
  readonly freshInitdb?: boolean
  /** False only prepares the data directory; `start()` starts it. */
  readonly started?: boolean
  readonly port?: number
  readonly env?: Readonly<Record<string, string>>
  readonly startTimeoutMs?: number
}

export interface PostgresServer extends AsyncDisposable {
  readonly major: PostgresMajor
  readonly binaries: PostgresBinaries
  readonly port: number
  readonly socketDirectory: string
  readonly dataDirectory: string
  /** Of the superuser `postgres` and the database `postgres`. */
  readonly connectionString: string
  /** The postmaster's, undefined while it is down. */
  readonly pid: number | undefined
  /** A connected client; closed on disposal if the test did not. */
  connect(database?: string, config?: pg.ClientConfig): Promise<pg.Client>
  /** `fast` ends sessions and writes a shutdown checkpoint; `immediate` leaves the cluster to crash recovery. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>
  /** SIGKILL for the postmaster and every child, as a power cut would; returns when none is left. */
  kill(): Promise<void>
  /** Starts it (again), with further settings if given, and waits until it takes connections. */
  start(settings?: PostgresSettings): Promise<void>
  /** The end of the server log, over all starts. */
  log(): string
}

const DEFAULT_SETTINGS: PostgresSettings = { wal_level: 'replica', fsync: false }
const START_ATTEMPTS_COUNT = 5

/** Makes a cluster and starts it. */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const binaries = await postgresBinaries(options.major)
  const user = unprivilegedUser()
  const home = await temporaryDirectory({ prefix: `pg${options.major}`, owner: user })
  try {
    const dataDirectory = options.dataDirectory ?? join(home.path, 'data')
    await prepareCluster(binaries, user, dataDirectory, options)
    const server = new Server(
      options,
      binaries,
      user,
      home,
      dataDirectory,
      options.port ?? (await freePort()),
    )
    if (options.started !== false) await server.start()
    return server
  } catch (error) {
    await home[Symbol.asyncDispose]()
    throw error
  }
}

async function prepareCluster(
  binaries: PostgresBinaries,
  user: UserIds | undefined,
  dataDirectory: string,
  options: PostgresOptions,
): Promise<void> {
  if (!existsSync(join(dataDirectory, 'PG_VERSION'))) {
    const args = initdbArguments(options)
    if (options.freshInitdb === true) await initdb(binaries, user, args, dataDirectory)
    else await copyTemplate(binaries, user, args, dataDirectory)
  } else if (user !== undefined) {
    const args = ['-R', `${user.uid}:${user.gid}`, dataDirectory]
    await runCommand({ name: 'chown', command: 'chown', args })
  }
  // Postgres refuses a data directory that others can enter.
  await chmod(dataDirectory, 0o700)
  if (options.hba !== undefined)
    await writeFile(join(dataDirectory, 'pg_hba.conf'), `${options.hba.join('\n')}\n`)
  await appendSettings(dataDirectory, { ...DEFAULT_SETTINGS, ...options.settings })
}

function initdbArguments({ major, dataChecksums, initdbArgs = [] }: PostgresOptions): string[] {
  const args = ['-U', 'postgres', '-A', 'trust', '--no-sync', '--encoding=UTF8', '--locale=C']
  if (dataChecksums === true) args.push('--data-checksums')
  // Only 18 knows the option, being the first to switch checksums on by itself.
  if (dataChecksums === false && major >= 18) args.push('--no-data-checksums')
  return [...args, ...initdbArgs]
}

async function initdb(
  binaries: PostgresBinaries,
  user: UserIds | undefined,
  args: readonly string[],
  path: string,
): Promise<void> {
  const name = `initdb of PostgreSQL ${binaries.major}`
  // A folder below the cache is one that only root can make; hand an empty one over.
  await runCommand({
    name: 'install',
    command: 'install',
    args: ['-d', '-m', '700', ...ownerArgs(user), path],
  })
  await runCommand({
    name,
    command: binaries.initdb,
    args: [...args, '-D', path],
    user,
    cwd: '/',
    env: cleanEnv(),
  })
}

/** initdb takes seconds and a copy of its result does not. */
async function copyTemplate(
  binaries: PostgresBinaries,
  user: UserIds | undefined,
  args: readonly string[],
  path: string,
): Promise<void> {
  const hash = createHash('sha256')
    .update(JSON.stringify([user?.uid, args]))
    .digest('hex')
    .slice(0, 12)
  const name = `initdb-${binaries.version}-${process.arch}-${hash}`
  const template = await cached(name, (draft) => initdb(binaries, user, args, draft))
  await runCommand({
    name: 'install',
    command: 'install',
    args: ['-d', '-m', '700', ...ownerArgs(user), path],
  })
  const copy = ['-R', '-p', '--reflink=auto', '--sparse=always', `${template}/.`, path]
  await runCommand({ name: 'copy of a fresh cluster', command: 'cp', args: copy, user, cwd: '/' })
}

function ownerArgs(user: UserIds | undefined): string[] {
  return user === undefined ? [] : ['-o', String(user.uid), '-g', String(user.gid)]
}

async function appendSettings(dataDirectory: string, settings: PostgresSettings): Promise<void> {
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${quoteSetting(value)}\n`)
  await appendFile(join(dataDirectory, 'postgresql.conf'), lines.join(''))
}

function quoteSetting(value: string | number | boolean): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off'
  return typeof value === 'number' ? String(value) : `'${value.replaceAll("'", "''")}'`
}

/** PGPORT, PGDATA and their like of the caller must not reach the server. */
function cleanEnv(extra: Readonly<Record<string, string>> = {}): Record<string, string | undefined> {
  const names = Object.keys(process.env).filter((name) => name.startsWith('PG'))
  return { ...Object.fromEntries(names.map((name) => [name, undefined])), LC_ALL: 'C', ...extra }
}

class Server implements PostgresServer {
  readonly major: PostgresMajor
  readonly binaries: PostgresBinaries
  readonly dataDirectory: string
  readonly socketDirectory: string
  readonly #options: PostgresOptions
  readonly #user: UserIds | undefined
  readonly #home: TemporaryDirectory
  readonly #clients = new Set<pg.Client>()
  #port: number
  #process: RunningProcess | undefined
  #earlierLog = ''

  constructor(
    options: PostgresOptions,
    binaries: PostgresBinaries,
    user: UserIds | undefined,
    home: TemporaryDirectory,
    dataDirectory: string,
    port: number,
  ) {
    this.major = options.major
    this.binaries = binaries
    this.dataDirectory = dataDirectory
    this.socketDirectory = home.path
    this.#options = options
    this.#user = user
    this.#home = home
    this.#port = port
  }

  get port(): number {
    return this.#port
  }
  get pid(): number | undefined {
    return this.#process?.exitStatus === undefined ? this.#process?.pid : undefined
  }
  get connectionString(): string {
    return `postgresql://postgres@127.0.0.1:${this.#port}/postgres`
  }

  log(): string {
    return this.#earlierLog + (this.#process?.output() ?? '')
  }

  async start(settings?: PostgresSettings): Promise<void> {
    assert(this.pid === undefined, () => `Postgres is running already as process ${this.pid}`)
    if (settings !== undefined) await appendSettings(this.dataDirectory, settings)
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#startOnce()
      } catch (error) {
        // Another process took the port between our looking and the server's binding it.
        const isPortTaken =
          error instanceof UnderstoryError && /could not bind .*in use/.test(error.detail ?? '')
        if (!isPortTaken || this.#options.port !== undefined || attempt === START_ATTEMPTS_COUNT) throw error
        this.#port = await freePort()
      }
    }
  }

  async #startOnce(): Promise<void> {
    this.#earlierLog = this.log()
    this.#process = undefined
    const args = ['-D', this.dataDirectory, '-p', String(this.#port)]
    args.push('-c', 'listen_addresses=127.0.0.1', '-c', `unix_socket_directories=${this.socketDirectory}`)
    this.#process = await startProcess({
      name: `PostgreSQL ${this.major}`,
      command: this.binaries.postgres,
      args,
      cwd: '/',
      env: cleanEnv(this.#options.env),
      user: this.#user,
      ready: (pid) => isReady(this.dataDirectory, pid),
      readyTimeoutMs: this.#options.startTimeoutMs ?? 60_000,
      // Immediate shutdown: the server takes its children and its shared memory with it.
      parentDeathSignal: 'SIGQUIT',
      stopSignal: 'SIGQUIT',
      stopTimeoutMs: 60_000,
    })
  }

  async connect(database = 'postgres', config: pg.ClientConfig = {}): Promise<pg.Client> {
    const client = new pg.Client({
      host: '127.0.0.1',
      port: this.#port,
      user: 'postgres',
      database,
      ...config,
    })
    // A server that goes down also rejects the pending query, which is where the test learns of it.
    client.on('error', () => this.#clients.delete(client))
    client.on('end', () => this.#clients.delete(client))
    await client.connect()
    this.#clients.add(client)
    return client
  }

  async stop(mode: 'fast' | 'immediate' = 'fast'): Promise<void> {
    if (this.#process === undefined) return
    const { code, signal } = await this.#process.stop(mode === 'fast' ? 'SIGINT' : 'SIGQUIT')
    if (code === 0) return
    throw fail(
      'unavailable',
      `PostgreSQL ${this.major} did not stop cleanly (${signal ?? `exit code ${code}`})`,
      {
        detail: this.log(),
      },
    )
  }

  async kill(): Promise<void> {
    const pid = this.pid
    if (this.#process === undefined || pid === undefined) return
    // Stopped first, so that it makes no child we do not know of.
    this.#process.kill('SIGSTOP')
    const children = await childrenOf(pid)
    this.#process.kill('SIGKILL')
    for (const child of children) killIfAlive(child)
    await this.#process.exited
    for (const child of children) while (await isAlive(child)) await delay(1)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await Promise.allSettled([...this.#clients].map((client) => client.end()))
      await this.#process?.stop('SIGQUIT')
    } finally {
      await this.#home[Symbol.asyncDispose]()
    }
  }
}

/**
 * Postgres 16-18, utils/pidfile.h: the eighth line of postmaster.pid is `ready   ` or, in recovery, `standby `. The
 * first is the postmaster's pid: a file that a killed one left says nothing about this one.
 */
async function isReady(dataDirectory: string, pid: number): Promise<boolean> {
  const lines = (await readFile(join(dataDirectory, 'postmaster.pid'), 'utf8')).split('\n')
  if (lines[0] !== String(pid)) return false
  const status = lines[7]?.trim()
  return status === 'ready' || status === 'standby'
}

async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')
  return text
    .split(' ')
    .filter((word) => word !== '')
    .map(Number)
}

function killIfAlive(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
