/**
 * The programs of Postgres as child processes. The kernel ends them when this process ends, but for the server: that
 * outlives it by a grace, in which the next life of this process may adopt it (lease.ts).
 */
import { spawn, spawnSync } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { closeSync, constants, fstatSync, ftruncateSync } from 'node:fs'
import { copyFile, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { describeError, fail } from '@understory/base'
import { makeFolderWithin, unprivilegedUser, openWithin, replaceWithin } from '@understory/env'
import type { Clock, Log, UserIds } from '@understory/env'
import { endUser } from './compute-users.ts'
import { AdoptedPostmaster } from './adopted-postmaster.ts'
import { LOG_BYTES_MAX, describeEnd, exitedWith } from './launcher.ts'
import type { Launcher, PostmasterEnd } from './launcher.ts'
import type { ComputeFiles } from './layout.ts'
import { endOldPostgres, takeStartToken } from './postgres.ts'
import { GUARDED, makeLease } from './lease.ts'
import { identityOf, isProcessRunning, isSameProcess } from './processes.ts'

const OUTPUT_BYTES_MAX = 2_000
/** Postgres appends, so that it continues at the start of a log that was cut. */
const LOG_FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND

const hasSetpriv = spawnSync('setpriv', ['--pdeathsig', 'QUIT', 'true']).status === 0

/** Nothing here must outlive its proxy: the kernel signals its parent's death to it, where util-linux is there. */
function endsWithParent(signal: 'QUIT' | 'KILL', command: readonly string[]): [string, ...string[]] {
  const prefix = hasSetpriv ? ['setpriv', '--pdeathsig', signal, '--'] : []
  return [...prefix, ...command] as [string, ...string[]]
}

const couldNotRun = (program: string, cause: Error): Error =>
  fail('precondition', `could not run ${program}`, {
    detail: describeError(cause),
    hint: 'Check that --postgres-bin-… names a folder that the Postgres user can read and run.',
    cause,
  })

/** Its last output in one line: its errors, or else its last words. */
function complaintsOf(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '')
  const errors = lines.filter((line) => /(error|FATAL|PANIC|DETAIL|HINT|hint|detail):/.test(line))
  return (errors.length > 0 ? errors : lines.slice(-1)).join('; ').slice(-OUTPUT_BYTES_MAX)
}

/** Links themselves, and not what they lead to. */
async function giveTree(path: string, { uid, gid }: Pick<UserIds, 'uid' | 'gid'>): Promise<void> {
  const program = spawn('chown', ['-R', '-h', '-P', `${uid}:${gid}`, path], { stdio: 'ignore' })
  const code = await new Promise<number | null>((resolve, reject) => {
    program.once('error', (cause) => reject(couldNotRun('chown', cause)))
    program.once('exit', resolve)
  })
  if (code !== 0) throw fail('precondition', `chown of "${path}" ended with exit code ${code}`)
}

async function cutLog(files: ComputeFiles): Promise<void> {
  const fd = openWithin(files.shared, basename(files.log), LOG_FLAGS, 0o600)
  try {
    if (fstatSync(fd).size <= LOG_BYTES_MAX) return
    await copyFile(files.log, `${files.log}.1`)
    ftruncateSync(fd, 0)
  } finally {
    closeSync(fd)
  }
}

export interface ChildParts {
  /** Folder of `postgres` and `initdb`. */
  readonly bin: string
  /** Whom `postgres` runs as, alone on this machine; undefined: as this process. */
  readonly owner: Pick<UserIds, 'uid' | 'gid'> | undefined
  /** Of the programs: nothing of this process's own comes with it. */
  readonly environment: Readonly<Record<string, string>>
  /** For so long a server outlives this process; 0: the kernel ends it at once. */
  readonly adoptionGraceMs: number
  readonly clock: Clock
  readonly log: Log
}

export function childLauncher({
  bin,
  owner,
  environment,
  adoptionGraceMs,
  clock,
  log,
}: ChildParts): Launcher {
  const runAs = (user: typeof owner) => ({
    env: environment,
    ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
  })
  /** For programs that refuse a user without a name; PGDATA is given to it while they run. */
  const named = owner === undefined ? undefined : unprivilegedUser()

  /** Where its user is changed by a program, the guard beside it keeps that of this process. */
  const isGuarded = adoptionGraceMs > 0 && (owner === undefined || hasSetpriv)

  /**
   * The kernel ends the shell with this process, up to the moment when the postmaster takes its place, by then with a
   * guard: a successor must not meet a start of this process on files that are its own by then (I4). A change of user
   * clears the signal.
   */
  const guarded = ({ lease }: ComputeFiles, command: readonly string[]): [string, ...string[]] => {
    const unbound =
      owner === undefined
        ? ['--pdeathsig', 'clear']
        : ['--reuid', String(owner.uid), '--regid', String(owner.gid), '--clear-groups']
    const prefix = hasSetpriv ? ['setpriv', ...unbound, '--'] : []
    const shell = ['sh', '-c', GUARDED, 'sh', String(process.pid), lease, String(adoptionGraceMs / 1_000)]
    return endsWithParent('KILL', [...shell, ...prefix, ...command])
  }

  /** Programs that a superuser has begun are ended, too: they could change the files made here next. */
  const endAll = async (files: ComputeFiles): Promise<void> => {
    await endOldPostgres({ files, clock, log })
    if (owner !== undefined) await endUser(owner.uid, clock)
  }

  let logProblem = ''

  const emptyFolder = async (files: ComputeFiles, path: string, folderOwner = owner): Promise<void> => {
    await rm(path, { recursive: true, force: true })
    makeFolderWithin(files.shared, basename(path), folderOwner)
  }

  return {
    access: { owner, groupMayWrite: false },

    async initdb(files, args) {
      const { pgdata } = files
      // initdb.c, get_id; 16, 17, 18 alike.
      await emptyFolder(files, pgdata, named)
      const [program, ...rest] = endsWithParent('KILL', [join(bin, 'initdb'), '-D', pgdata, ...args])
      // By its working directory the next life of the proxy finds it, as with the server itself.
      const child = spawn(program, rest, { ...runAs(named), stdio: ['ignore', 'pipe', 'pipe'], cwd: pgdata })
      const output: Buffer[] = []
      child.stdout.on('data', (chunk: Buffer) => output.push(chunk))
      child.stderr.on('data', (chunk: Buffer) => output.push(chunk))
      const code = await new Promise<number | null>((resolve, reject) => {
        child.once('error', (cause) => reject(couldNotRun('initdb', cause)))
        child.once('close', resolve)
      })
      if (code === 0) return owner === undefined ? undefined : giveTree(pgdata, owner)
      throw fail('precondition', `initdb ended with exit code ${code}`, {
        detail: complaintsOf(Buffer.concat(output).toString()),
      })
    },

    endOld: endAll,

    async emptyPgdata(files) {
      await endAll(files)
      await emptyFolder(files, files.pgdata)
    },

    install({ pgdata }, contents) {
      for (const [name, content] of contents) replaceWithin(pgdata, name, content, owner)
      return Promise.resolve()
    },

    async start(files, args, input) {
      await takeStartToken(files)
      // The server before this one may have begun more than itself (shared_preload_libraries, ssl_passphrase_command),
      // and who changes a folder while root removes it has root remove something else.
      if (owner !== undefined) await endUser(owner.uid, clock)
      await emptyFolder(files, files.sockets)
      // main.c, get_user_name_or_exit before PostgresSingleUserMain; 16, 17, 18 alike.
      const isSingleUser = input !== undefined
      if (isSingleUser && named !== undefined) await giveTree(files.pgdata, named)
      const output = openWithin(files.shared, basename(files.log), LOG_FLAGS | constants.O_TRUNC, 0o600)
      const command = [join(bin, 'postgres'), ...args]
      const lease = isSingleUser || !isGuarded ? undefined : await makeLease(files.lease)
      const [program, ...rest] =
        lease === undefined
          ? endsWithParent(isSingleUser ? 'KILL' : 'QUIT', command)
          : guarded(files, command)
      const child: ChildProcess = spawn(program, rest, {
        ...runAs(isSingleUser ? named : lease === undefined ? owner : undefined),
        // In single-user mode standard output has nothing but its prompts.
        stdio: isSingleUser ? ['pipe', 'ignore', output] : ['ignore', output, output],
        cwd: files.pgdata,
      })
      closeSync(output)
      const ended = new Promise<PostmasterEnd>((resolve) => {
        child.once('error', ({ message }) => resolve({ kind: 'notRun', problem: message }))
        child.once('exit', (code, signal) =>
          resolve(signal === null ? exitedWith(code ?? -1) : { kind: 'signalled', signal }),
        )
      })
      const giveBack = async (end: PostmasterEnd): Promise<PostmasterEnd> => {
        if (owner !== undefined) await giveTree(files.pgdata, owner)
        return end
      }
      void ended.then(() => lease?.release())
      const exited = isSingleUser ? ended.then(giveBack) : ended
      // A program that ends without reading says why by its exit code.
      child.stdin?.on('error', () => undefined)
      child.stdin?.end(input)
      const { pid } = child
      if (pid === undefined) throw couldNotRun('postgres', new Error(describeEnd(await exited)))
      return {
        pid,
        exited,
        isRunning: () => isProcessRunning(pid),
        signal: (name) => void child.kill(name),
      }
    },

    identify: ({ pid }) => (isGuarded ? identityOf(pid) : Promise.resolve(undefined)),

    async findOld(files, identity) {
      if (!isGuarded || !(await isSameProcess(identity, files.pgdata))) return undefined
      return new AdoptedPostmaster(files, identity, clock)
    },

    async boundLog(files) {
      try {
        await cutLog(files)
        logProblem = ''
      } catch (error) {
        const problem = describeError(error)
        if (problem !== logProblem) log.warn('postgres_log_not_bounded', { problem })
        logProblem = problem
      }
    },
  }
}
