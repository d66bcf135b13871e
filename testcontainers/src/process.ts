/**
 * A child process with bounds: its output is kept up to a limit, its start and stop have deadlines, and it never
 * outlives this process (a parent-death signal where util-linux's `setpriv` is there, an exit handler everywhere).
 */
import { type ChildProcessByStdio, spawn, spawnSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { describeError, fail } from '@understory/base'
import { findProgram, isExecutable } from './program.ts'
import type { UserIds } from '@understory/env'

const OUTPUT_BYTES_MAX = 64 * 1024
const PROBE_INTERVAL_MS = 10

export interface ExitStatus {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface ProcessOptions {
  /** Its name in messages. */
  readonly name: string
  readonly command: string
  readonly args?: readonly string[]
  /** Added to this process's environment; undefined removes a variable. */
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
  /** Whom it runs as; its supplementary groups are dropped. */
  readonly user?: UserIds | undefined
  /** When it counts as started: its output matches, or the probe returns true (a throwing probe means not yet). */
  readonly ready?: RegExp | ((pid: number) => Promise<boolean>)
  readonly readyTimeoutMs?: number
  /** The signal that asks it to end, and how long it may take before SIGKILL. */
  readonly stopSignal?: NodeJS.Signals
  readonly stopTimeoutMs?: number
  /** Sent to it when this process dies. */
  readonly parentDeathSignal?: NodeJS.Signals
}

export interface RunningProcess extends AsyncDisposable {
  readonly name: string
  readonly pid: number
  /** The last 64 KiB of what it wrote, both streams in order of arrival. */
  output(): string
  stdout(): string
  stderr(): string
  /** Resolves when it has ended and all its output is here; never rejects. */
  readonly exited: Promise<ExitStatus>
  readonly exitStatus: ExitStatus | undefined
  /** True if the signal could be sent. */
  kill(signal?: NodeJS.Signals): boolean
  /** Asks it to end, forces it after the deadline, and waits until it has. */
  stop(signal?: NodeJS.Signals): Promise<ExitStatus>
  /** Waits until its output matches. */
  waitForOutput(pattern: RegExp, timeoutMs?: number): Promise<void>
}

/** Keeps the end of a text. */
class Tail {
  #text = ''

  add(chunk: string): void {
    this.#text = (this.#text + chunk).slice(-OUTPUT_BYTES_MAX)
  }

  get text(): string {
    return this.#text
  }
}

class Child implements RunningProcess {
  readonly name: string
  readonly pid: number
  readonly exited: Promise<ExitStatus>
  exitStatus: ExitStatus | undefined
  readonly #child: ChildProcessByStdio<null, Readable, Readable>
  readonly #options: ProcessOptions
  readonly #tails = { output: new Tail(), stdout: new Tail(), stderr: new Tail() }
  readonly #watchers = new Set<() => void>()

  constructor(child: ChildProcessByStdio<null, Readable, Readable>, pid: number, options: ProcessOptions) {
    this.name = options.name
    this.pid = pid
    this.#child = child
    this.#options = options
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream].setEncoding('utf8').on('data', (chunk: string) => {
        this.#tails.output.add(chunk)
        this.#tails[stream].add(chunk)
        for (const look of this.#watchers) look()
      })
    }
    this.exited = new Promise((resolve) => {
      child.once('close', (code, signal) => {
        this.exitStatus = { code, signal }
        running.delete(this)
        if (running.size === 0) process.removeListener('exit', killAll)
        for (const look of this.#watchers) look()
        resolve(this.exitStatus)
      })
    })
    if (running.size === 0) process.once('exit', killAll)
    running.add(this)
  }

  output(): string {
    return this.#tails.output.text
  }
  stdout(): string {
    return this.#tails.stdout.text
  }
  stderr(): string {
    return this.#tails.stderr.text
  }

  kill(signal: NodeJS.Signals = 'SIGKILL'): boolean {
    return this.exitStatus === undefined && this.#child.kill(signal)
  }

  async stop(signal: NodeJS.Signals = this.#options.stopSignal ?? 'SIGTERM'): Promise<ExitStatus> {
    this.kill(signal)
    const timer = setTimeout(() => this.kill('SIGKILL'), this.#options.stopTimeoutMs ?? 10_000)
    try {
      return await this.exited
    } finally {
      clearTimeout(timer)
    }
  }

  async waitForOutput(pattern: RegExp, timeoutMs = 30_000): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const look = (): void => {
      if (pattern.test(this.output())) resolve()
      else if (this.exitStatus !== undefined) reject(this.#endedEarly())
    }
    const timer = setTimeout(() => reject(this.#late(`print ${String(pattern)}`, timeoutMs)), timeoutMs)
    this.#watchers.add(look)
    try {
      look()
      await promise
    } finally {
      this.#watchers.delete(look)
      clearTimeout(timer)
    }
  }

  /** Waits until the probe says yes. */
  async waitForProbe(probe: (pid: number) => Promise<boolean>, timeoutMs: number): Promise<void> {
    const deadlineMs = performance.now() + timeoutMs
    let trouble: unknown
    for (;;) {
      if (this.exitStatus !== undefined) throw this.#endedEarly()
      try {
        if (await probe(this.pid)) return
      } catch (error) {
        trouble = error
      }
      if (performance.now() > deadlineMs) throw this.#late('become ready', timeoutMs, trouble)
      await Promise.race([delay(PROBE_INTERVAL_MS), this.exited])
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #endedEarly(): Error {
    const { code, signal } = this.exitStatus ?? { code: null, signal: null }
    const how = signal === null ? `with exit code ${code}` : `by ${signal}`
    return fail('unavailable', `${this.name} ended ${how} before it was ready`, { detail: this.output() })
  }

  #late(what: string, timeoutMs: number, cause?: unknown): Error {
    const detail = `${cause === undefined ? '' : `${describeError(cause)}\n`}${this.output()}`
    return fail('timeout', `${this.name} did not ${what} within ${timeoutMs} ms`, { detail, cause })
  }
}

const running = new Set<Child>()

function killAll(): void {
  for (const child of running) child.kill('SIGKILL')
}

/** Starts the process and waits until it is ready; a process that does not get there is ended. */
export async function startProcess(options: ProcessOptions): Promise<RunningProcess> {
  const program = options.command.includes('/') ? options.command : await findProgram(options.command)
  if (program === undefined || !(await isExecutable(program))) {
    throw fail('precondition', `there is no program "${options.command}" to run ${options.name}`)
  }
  const args = [...(options.args ?? [])]
  const deathSignal = (options.parentDeathSignal ?? 'SIGKILL').slice('SIG'.length)
  const [command, commandArgs] = canSetParentDeathSignal()
    ? ['setpriv', ['--pdeathsig', deathSignal, '--', program, ...args]]
    : [program, args]
  const child = spawn(command, commandArgs, {
    stdio: ['ignore', 'pipe', 'pipe'],
    // Of its own process group: Ctrl-C at a terminal reaches this process alone, which stops things in order.
    detached: true,
    env: { ...process.env, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.user === undefined ? {} : { uid: options.user.uid, gid: options.user.gid }),
  })
  if (child.pid === undefined) {
    const cause = await new Promise((resolve) => child.once('error', resolve))
    throw fail('precondition', `could not run "${options.command}"`, {
      detail: describeError(cause),
      cause,
    })
  }
  const started = new Child(child, child.pid, options)
  const timeoutMs = options.readyTimeoutMs ?? 60_000
  try {
    if (options.ready instanceof RegExp) await started.waitForOutput(options.ready, timeoutMs)
    else if (options.ready !== undefined) await started.waitForProbe(options.ready, timeoutMs)
  } catch (error) {
    started.kill('SIGKILL')
    await started.exited
    throw error
  }
  return started
}

/** Runs a command to its end and returns its standard output; anything but exit code 0 is an error with its output. */
export async function runCommand(
  options: Omit<ProcessOptions, 'ready'> & { readonly timeoutMs?: number },
): Promise<string> {
  const timeoutMs = options.timeoutMs ?? 120_000
  const child = await startProcess(options)
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs)
  const { code, signal } = await child.exited
  clearTimeout(timer)
  if (code === 0) return child.stdout()
  const how = signal === null ? `exit code ${code}` : signal
  throw fail('unavailable', `${options.name} failed with ${how}`, { detail: child.output() })
}

/** A zombie is dead: it holds no file and no memory, and waits only for init to notice. */
export async function isAlive(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  return stat !== undefined && !/\) [ZX] /.test(stat)
}

let parentDeathSignalWorks: boolean | undefined

function canSetParentDeathSignal(): boolean {
  parentDeathSignalWorks ??=
    process.platform === 'linux' && spawnSync('setpriv', ['--pdeathsig', 'KILL', 'true']).status === 0
  return parentDeathSignalWorks
}
