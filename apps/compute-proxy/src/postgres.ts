/**
 * The local Postgres as a child process. A start consumes the one-time token that was written when its data directory
 * became fit to be started, so that nobody, this program included, starts the same files twice (I4).
 */
import { spawn, spawnSync } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { chown, mkdir, readFile, readdir, readlink, rm, unlink, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { describeError, refuse } from '@understory/base'
import type { Clock, Log, UserIds } from '@understory/env'
import { databaseNames } from './database-names.ts'
import type { ComputeFiles } from './layout.ts'

/** Lines of postgres.log that an error shows. */
const LOG_TAIL_BYTES = 2_000
const QUIT_WAIT_MS = 1_000
/** As long for a postmaster of this process, which may have much to end. */
const END_WAIT_MS = 5_000
const POLL_MS = 20

export interface PostgresParts {
  readonly files: ComputeFiles
  /** Folder of `postgres` and `initdb`. */
  readonly bin: string
  /** Whom they run as; undefined: as this process. */
  readonly owner: UserIds | undefined
  readonly clock: Clock
  readonly log: Log
}

/** How a clean stop looks in `Postmaster.exited`. */
export const CLEAN_EXIT = 'ended with exit code 0'

/** A running postmaster. */
export interface Postmaster {
  readonly pid: number
  /** Resolves when it is gone, with a line that says how. */
  readonly exited: Promise<string>
  /** SIGINT: fast shutdown. SIGQUIT: immediate. */
  signal(name: 'SIGINT' | 'SIGQUIT' | 'SIGKILL'): void
}

const identity = ({ owner }: PostgresParts): { uid?: number; gid?: number } =>
  owner === undefined ? {} : { uid: owner.uid, gid: owner.gid }

const hasParentDeathSignal = spawnSync('setpriv', ['--pdeathsig', 'QUIT', 'true']).status === 0

/** Nothing here must outlive its proxy: the kernel tells it of its parent's death, where util-linux is there. */
function endsWithParent(signal: 'QUIT' | 'KILL', command: readonly string[]): [string, ...string[]] {
  const prefix = hasParentDeathSignal ? ['setpriv', '--pdeathsig', signal, '--'] : []
  return [...prefix, ...command] as [string, ...string[]]
}

export async function runInitdb(parts: PostgresParts, args: readonly string[]): Promise<void> {
  const { files, bin, owner } = parts
  await rm(files.pgdata, { recursive: true, force: true })
  await mkdir(files.pgdata, { recursive: true, mode: 0o700 })
  if (owner !== undefined) await chown(files.pgdata, owner.uid, owner.gid)
  const [program, ...rest] = endsWithParent('KILL', [join(bin, 'initdb'), '-D', files.pgdata, ...args])
  // Its working directory tells the next life of the proxy that it is there, as with the server itself.
  const child = spawn(program, rest, {
    ...identity(parts),
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: files.pgdata,
  })
  const output: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => output.push(chunk))
  child.stderr.on('data', (chunk: Buffer) => output.push(chunk))
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', (cause) => reject(couldNotRun('initdb', cause)))
    child.once('close', resolve)
  })
  if (code === 0) return
  throw refuse('precondition', `initdb ended with exit code ${code}`, {
    detail: Buffer.concat(output).toString().slice(-LOG_TAIL_BYTES).trim(),
  })
}

function couldNotRun(program: string, cause: Error): Error {
  return refuse('precondition', `could not run ${program}`, {
    detail: describeError(cause),
    hint: 'Check that --postgres-bin-… names a folder that the Postgres user can read and run.',
    cause,
  })
}

export async function allowStart(files: ComputeFiles): Promise<void> {
  await writeFile(files.startToken, '')
}

async function takeStartToken(files: ComputeFiles): Promise<void> {
  await unlink(files.startToken).catch((cause: unknown) => {
    throw refuse('precondition', 'this data directory must not be started: it has no start token', {
      hint: 'It is rebuilt from storage by itself; do not start it by hand.',
      cause,
    })
  })
}

/** Runs statements without a server, as the bootstrap superuser: one that fails is no error. Consumes a start token. */
export async function runSingleUser(
  parts: PostgresParts,
  args: readonly string[],
  statements: readonly string[],
): Promise<void> {
  await takeStartToken(parts.files)
  const { files, bin } = parts
  let complaint = ''
  for (const database of await databaseNames(files.pgdata)) {
    // Nothing here waits for a standby: there is none.
    const all = [...args, '-c', 'synchronous_standby_names=', database]
    const [program, ...rest] = endsWithParent('KILL', [join(bin, 'postgres'), '--single', ...all])
    const child = spawn(program, rest, {
      ...identity(parts),
      stdio: ['pipe', 'ignore', 'pipe'],
      cwd: files.pgdata,
    })
    const output: Buffer[] = []
    child.stderr.on('data', (chunk: Buffer) => output.push(chunk))
    // One that ends without reading says why by its exit code.
    child.stdin.on('error', () => undefined)
    child.stdin.end(statements.map((statement) => `${statement}\n`).join(''))
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', (cause) => reject(couldNotRun('postgres', cause)))
      child.once('close', resolve)
    })
    if (code === 0) return
    complaint = Buffer.concat(output).toString().slice(-LOG_TAIL_BYTES).trim()
  }
  throw refuse('precondition', 'Postgres does not run in single-user mode', { detail: complaint })
}

/** Error: refused `precondition` without a token. */
export async function startPostgres(parts: PostgresParts, args: readonly string[]): Promise<Postmaster> {
  const { files, bin, owner, log } = parts
  await takeStartToken(files)
  await mkdir(files.sockets, { recursive: true, mode: 0o700 })
  if (owner !== undefined) await chown(files.sockets, owner.uid, owner.gid)
  const output = openSync(files.log, 'w')
  const [program, ...rest] = endsWithParent('QUIT', [join(bin, 'postgres'), ...args])
  const child: ChildProcess = spawn(program, rest, {
    ...identity(parts),
    stdio: ['ignore', output, output],
    cwd: files.pgdata,
  })
  closeSync(output)
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(`could not be started: ${error.message}`))
    child.once('exit', (code, signal) =>
      resolve(signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`),
    )
  })
  const { pid } = child
  if (pid === undefined) throw refuse('precondition', `postgres ${await exited}`)
  log.info('postgres_started', { pid })
  return { pid, exited, signal: (name) => void child.kill(name) }
}

/** The end of postgres.log, for errors. */
export async function logTail(files: ComputeFiles): Promise<string> {
  const text = await readFile(files.log, 'utf8').catch(() => '')
  return text.slice(-LOG_TAIL_BYTES).trim()
}

const COMPLAINT = /(LOG|WARNING|ERROR|FATAL|PANIC|HINT): +(.*)/
const COMPLAINTS_MAX = 4

/** An error that says how Postgres ended and, in one line, what it complained of last. */
export async function endedError(files: ComputeFiles, how: string): Promise<Error> {
  const lines = (await logTail(files)).split('\n')
  const complaints = lines.flatMap((line) => {
    const [, level, text = ''] = COMPLAINT.exec(line) ?? []
    const isOne =
      level !== undefined && ((level !== 'LOG' && level !== 'WARNING') || text.startsWith('could not'))
    return isOne ? [text] : []
  })
  return refuse('unavailable', `postgres ${how}`, {
    // Before it has a log, it says in plain words what is wrong.
    detail: complaints.slice(-COMPLAINTS_MAX).join('; ') || lines.at(-1) || 'its log says nothing of it',
  })
}

/** Ends it at once; one that does not heed that is killed. */
export async function endPostmaster(postmaster: Postmaster, clock: Clock): Promise<void> {
  postmaster.signal('SIGQUIT')
  const timer = clock.setTimer(END_WAIT_MS, () => postmaster.signal('SIGKILL'))
  await postmaster.exited
  timer.cancel()
}

/**
 * Ends whatever of Postgres still runs on these files, from an earlier life of the proxy, and waits until it is gone.
 * Backends can outlive a postmaster that was killed, and would serve what is no longer true. Every process of Postgres
 * has its data directory as working directory; whoever else has (a shell that looks around there) is left alone.
 */
export async function endOldPostgres({
  files,
  clock,
  log,
}: Pick<PostgresParts, 'files' | 'clock' | 'log'>): Promise<void> {
  const startedMs = clock.nowMs()
  // Immediate shutdown first: a postmaster takes its children along.
  let signal: NodeJS.Signals = 'SIGQUIT'
  for (let pids = await processesOn(files.pgdata); pids.length > 0; pids = await processesOn(files.pgdata)) {
    if (clock.nowMs() - startedMs > QUIT_WAIT_MS) signal = 'SIGKILL'
    log.debug('old_postgres_ended', { pids, signal })
    for (const pid of pids) kill(pid, signal)
    await clock.sleep(POLL_MS)
  }
}

const PROGRAMS = ['postgres', 'initdb']
/** What the kernel adds to the path of a file or folder that was removed since. */
const REMOVED = ' (deleted)'

/** Processes of Postgres, by their program, whose working directory it is. */
async function processesOn(folder: string): Promise<number[]> {
  const pids: number[] = []
  for (const name of await readdir('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    // A process that ends meanwhile has neither.
    const where = await readlink(`/proc/${name}/cwd`).catch(() => '')
    if (where !== folder && where !== `${folder}${REMOVED}`) continue
    const program = await readlink(`/proc/${name}/exe`).catch(() => '')
    if (PROGRAMS.includes(basename(program.replace(REMOVED, '')))) pids.push(pid)
  }
  return pids
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}
