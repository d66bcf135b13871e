/** Processes of Postgres, as the kernel shows them in /proc. */
import { readFileSync } from 'node:fs'
import { readFile, readdir, readlink } from 'node:fs/promises'
import { basename } from 'node:path'
import type { ProcessIdentity } from './launcher.ts'
import { GUARDED } from './lease.ts'

/** `setpriv` becomes one of the others, by exec. */
const PROGRAMS = ['postgres', 'initdb', 'setpriv']
/** The suffix that the kernel adds to the path of a file or folder that was removed since. */
const REMOVED = ' (deleted)'

/** Processes of Postgres, by their program, whose working directory it is, and those that are about to become one. */
export async function processesOn(folder: string): Promise<number[]> {
  const pids: number[] = []
  for (const name of await readdir('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    if (await worksIn(pid, folder)) pids.push(pid)
  }
  return pids
}

/** Whether the process is of Postgres, or about to be, by its program, and has this working directory. */
export async function worksIn(pid: number, folder: string): Promise<boolean> {
  // A process that ends in between has neither.
  const where = await readlink(`/proc/${pid}/cwd`).catch(() => '')
  if (where !== folder && where !== `${folder}${REMOVED}`) return false
  // A program may take the shell's place between the looks.
  return (await isOfPostgres(pid)) || (await isGuardedStart(pid)) || isOfPostgres(pid)
}

async function isOfPostgres(pid: number): Promise<boolean> {
  const program = await readlink(`/proc/${pid}/exe`).catch(() => '')
  return PROGRAMS.includes(basename(program.replace(REMOVED, '')))
}

/** Whether it is the shell that starts a postmaster; any other is a person's who looks around there. */
async function isGuardedStart(pid: number): Promise<boolean> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
  return commandLine.split('\0').includes(GUARDED)
}

/** Undefined where it does not run. */
export async function identityOf(pid: number): Promise<ProcessIdentity | undefined> {
  const startTime = startTimeOf(pid)
  if (startTime === undefined) return undefined
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  return { pid, startTime, bootId }
}

/** Whether that very process runs, and is of Postgres in this data directory. */
export async function isSameProcess(identity: ProcessIdentity, pgdata: string): Promise<boolean> {
  const now = await identityOf(identity.pid)
  return (
    now?.startTime === identity.startTime && now.bootId === identity.bootId && worksIn(identity.pid, pgdata)
  )
}

/** A process that is gone has had it. */
export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/** Also of another user. A process that has ended and was not waited for yet does not run. */
export const isProcessRunning = (pid: number): boolean => startTimeOf(pid) !== undefined

/**
 * When it started, in clock ticks since the machine did (proc(5), /proc/pid/stat, field 22): with its number it names
 * one process. Undefined where it does not run.
 */
export function startTimeOf(pid: number): string | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // The second field is the program's name in parentheses, which may have anything in it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
}
