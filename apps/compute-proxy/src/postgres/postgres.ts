/**
 * The local Postgres. A start consumes the one-time token that was written when its data directory became fit to be
 * started, so that no program, this one included, starts the same files twice (I4).
 */
import { closeSync, constants } from 'node:fs'
import { rm, unlink } from 'node:fs/promises'
import { basename } from 'node:path'
import { fail } from '@understory/base'
import { openFileWithin, openWithin } from '@understory/env'
import type { Clock, Log } from '@understory/env'
import { databaseNames } from './database-names.ts'
import { describeEnd } from './launcher.ts'
import type { Launcher, Postmaster, PostmasterEnd } from './launcher.ts'
import type { ComputeFiles } from './layout.ts'
import { shownMessages } from './postgres-log.ts'
import { processesOn, sendSignal } from './processes.ts'

/** So much of postgres.log is looked through for what an error shows. */
const LOG_TAIL_BYTES = 16_384
const QUIT_WAIT_MS = 1_000
/** As long for a postmaster of this process, which may have much to end. */
const END_WAIT_MS = 5_000
const POLL_MS = 20

export interface PostgresParts {
  readonly files: ComputeFiles
  readonly launcher: Launcher
  readonly clock: Clock
  readonly log: Log
}

export async function allowStart(files: ComputeFiles): Promise<void> {
  await rm(files.startToken, { force: true })
  const { O_CREAT, O_EXCL, O_WRONLY } = constants
  closeSync(openWithin(files.shared, basename(files.startToken), O_CREAT | O_EXCL | O_WRONLY, 0o600))
}

/** The next start needs a token of its own. */
export const forbidStart = (files: ComputeFiles): Promise<void> => rm(files.startToken, { force: true })

/** Consumes the token, just before the start. Errors: `precondition` where there is none. */
export async function takeStartToken(files: ComputeFiles): Promise<void> {
  await unlink(files.startToken).catch((cause: unknown) => {
    throw fail('precondition', 'this data directory must not be started: it has no start token', {
      hint: 'It is rebuilt from storage by itself; do not start it by hand.',
      cause,
    })
  })
}

/** Settings that load libraries into a server in single-user mode. */
const PRELOADS = ['shared_preload_libraries', 'session_preload_libraries', 'local_preload_libraries']

/**
 * Runs statements without a server, as the bootstrap superuser: a failure of one does not count. Consumes a start
 * token.
 */
export async function runSingleUser(
  { files, launcher }: PostgresParts,
  args: readonly string[],
  statements: readonly string[],
): Promise<void> {
  const input = statements.map((statement) => `${statement}\n`).join('')
  let failure: Error | undefined
  for (const database of await databaseNames(files.pgdata)) {
    // A database that could not be opened was not written to.
    if (failure !== undefined) await allowStart(files)
    // Nothing here waits for a standby: there is none. And no library of a superuser's is loaded: it would run as a
    // user that others have in common.
    const without = ['synchronous_standby_names', ...PRELOADS].flatMap((name) => ['-c', `${name}=`])
    const all = ['--single', ...args, ...without, database]
    const { exited } = await launcher.start(files, all, input)
    if ((await exited).kind === 'clean') return
    failure = await postgresError(files, 'does not run in single-user mode')
  }
  throw failure ?? fail('precondition', 'Postgres has no database to open in single-user mode')
}

/** Errors: `precondition` without a token. */
export async function startPostgres(
  { files, launcher, log }: PostgresParts,
  args: readonly string[],
): Promise<Postmaster> {
  const postmaster = await launcher.start(files, args)
  log.info('postgres_started', { pid: postmaster.pid })
  return postmaster
}

/**
 * An error that says how Postgres ended and, of what it wrote to its log, what may be shown outside of its compute
 * (postgres-log.ts).
 */
export const endedError = (files: ComputeFiles, end: PostmasterEnd): Promise<Error> =>
  postgresError(files, describeEnd(end))

/** `how` completes "postgres …". */
export async function postgresError(files: ComputeFiles, how: string): Promise<Error> {
  const shown = shownMessages(await logTail(files))
  return fail('unavailable', `postgres ${how}`, {
    ...(shown.length === 0 ? {} : { detail: shown.join('; ') }),
    hint: `Its own log has more: "${files.log}".`,
  })
}

/** The end of postgres.log; empty where that is not a file. */
async function logTail({ shared, log }: ComputeFiles): Promise<string> {
  await using file = await openFileWithin(shared, basename(log), true).catch(() => undefined)
  if (file === undefined) return ''
  const { size } = await file.stat()
  const bytes = Buffer.alloc(Math.min(size, LOG_TAIL_BYTES))
  const { bytesRead } = await file.read(bytes, 0, bytes.length, size - bytes.length)
  return bytes.toString('utf8', 0, bytesRead)
}

/** Ends it at once; a postmaster that does not react is killed. */
export async function endPostmaster(postmaster: Postmaster, clock: Clock): Promise<void> {
  postmaster.signal('SIGQUIT')
  const timer = clock.setTimer(END_WAIT_MS, () => postmaster.signal('SIGKILL'))
  await postmaster.exited
  timer.cancel()
}

/**
 * Ends every process of Postgres that still runs on these files, from an earlier life of the proxy, and waits until it
 * is gone. Backends can outlive a postmaster that was killed, and would serve what is no longer true. Every process of
 * Postgres has its data directory as working directory; another process with it (a shell that looks around there) is
 * left alone.
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
    for (const pid of pids) sendSignal(pid, signal)
    await clock.sleep(POLL_MS)
  }
}
