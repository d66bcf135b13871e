/**
 * Postgres in a sidecar container, which has another user than this process, and some folders and its processes in
 * common with it: a pod of Kubernetes, with `shareProcessNamespace`. That container runs `run.sh` (sidecar-runner.ts),
 * which does what `request` says, as Postgres's own user: one start of `postgres` a request, and only if it can take
 * the start token away (I4).
 *
 * Orders lie in `orders`, where Postgres's user writes nothing. Answers lie where it may write anything: an answer is
 * read as such, and no signal is sent by it.
 *
 *   orders/run.sh        written before the container begins
 *   orders/request       what to do now
 *   orders/input.ID, install.ID/, INT.ID, QUIT.ID, KILL.ID
 *   orders/over          no more requests: the runner ends, and the pod with it
 *   shared/answers/      see sidecar-runner.ts
 *   shared/initdb-done   an init container has run initdb in pgdata, and it has not been used yet
 */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { describeError, isErrorCode, fail } from '@understory/base'
import { readWithin, replaceWithin } from '@understory/env'
import type { Clock, Log } from '@understory/env'
import { exitedWith } from './launcher.ts'
import type { InstalledFiles, Launcher, Postmaster, PostmasterEnd } from './launcher.ts'
import type { ComputeFiles } from './layout.ts'
import { RUNNER } from './sidecar-runner.ts'
import { isProcessRunning } from './processes.ts'

const POLL_MS = 20
const WATCH_MS = 250
/** From the end of a process until its exit code is there. */
const ENDED_WAIT_MS = 2_000
const ANSWER_BYTES_MAX = 100
/** For the group, which Postgres's user has. */
const ORDER_MODE = 0o640

export interface SidecarParts {
  readonly files: ComputeFiles
  readonly clock: Clock
  readonly log: Log
  /** The container was asked to stop, or can run nothing more: this compute is to end. */
  readonly onStopAsked: () => void
}

export class SidecarLauncher implements Launcher {
  readonly access = { owner: undefined, groupMayWrite: true }
  readonly #parts: SidecarParts
  readonly #watching = new AbortController()
  readonly #waiting = new AbortController()
  #isWanted = false

  constructor(parts: SidecarParts) {
    this.#parts = parts
  }

  /** Whether the sidecar container has something to do: it may begin. */
  get isWanted(): boolean {
    return this.#isWanted
  }

  /** Before anything else; what an earlier life of this process asked for is void. */
  async open(): Promise<void> {
    await mkdir(this.#parts.files.orders, { recursive: true })
    this.#order('request', 'id=none\nkind=:\n')
    this.#order('run.sh', RUNNER)
    void this.#watch()
  }

  /** The pod ends, once its containers have seen it. */
  finish(): void {
    this.#watching.abort()
    this.#order('over', '')
    this.#isWanted = true
  }

  /** Waits for the sidecar end. */
  cancelWaits(): void {
    this.#waiting.abort()
  }

  async initdb({ pgdata, shared }: ComputeFiles): Promise<void> {
    const done = join(shared, 'initdb-done')
    const isThere = await rename(done, `${done}.used`).then(
      () => existsSync(join(pgdata, 'PG_VERSION')),
      () => false,
    )
    if (isThere) return
    this.#parts.onStopAsked()
    throw fail('precondition', 'this pod has no new cluster, or has used it', {
      hint: 'The control plane makes another pod by itself.',
    })
  }

  /**
   * Where the container has not begun, or has ended, nothing of Postgres runs. Also after `cancelWaits`, which cuts
   * waits for work short: this is how a clean end ends.
   */
  async endOld(): Promise<void> {
    if ((await this.#read('runner')) === undefined || (await this.#isRunnerGone())) return
    const id = newId()
    this.#ask('end_old', id)
    while ((await this.#read(`done.${id}`)) === undefined) {
      if (await this.#isRunnerGone()) return
      await this.#parts.clock.sleep(POLL_MS)
    }
  }

  emptyPgdata(): Promise<void> {
    return this.#do('empty', newId())
  }

  async install({ orders }: ComputeFiles, contents: InstalledFiles): Promise<void> {
    const id = newId()
    const folder = join(orders, `install.${id}`)
    await mkdir(folder)
    for (const [name, content] of contents) replaceWithin(folder, name, content, undefined, ORDER_MODE)
    try {
      await this.#do('install', id)
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  }

  async start(files: ComputeFiles, args: readonly string[], input?: string): Promise<Postmaster> {
    const id = newId()
    this.#order(`input.${id}`, input ?? '')
    const log = quoted(files.log)
    // In single-user mode standard output has nothing but its prompts.
    const output = input === undefined ? `>>${log} 2>&1` : `2>>${log} >/dev/null`
    const command = ['postgres', ...args.map(quoted)].join(' ')
    const serve = `serve() {\n  exec <"$orders/input.$id" ${output}\n  cd ${quoted(files.pgdata)} && exec ${command}\n}\n`
    this.#ask('start', id, serve)
    const pid = await this.#answerOf(() => this.#startOf(id))
    return {
      pid,
      exited: this.#endOf(id, pid),
      isRunning: () => isProcessRunning(pid),
      signal: (name) => this.#order(`${name.slice('SIG'.length)}.${id}`, ''),
    }
  }

  /** The runner ends its server when the proxy that asked for it is gone: nothing is left to be adopted. */
  identify(): Promise<undefined> {
    return Promise.resolve(undefined)
  }
  findOld(): Promise<undefined> {
    return Promise.resolve(undefined)
  }

  /** The runner does so. */
  boundLog(): Promise<void> {
    return Promise.resolve()
  }

  /** Errors: `unavailable` where it failed, or the container is gone. */
  async #do(kind: string, id: string): Promise<void> {
    this.#ask(kind, id)
    const code = await this.#answerOf(() => this.#read(`done.${id}`))
    if (code !== '0') throw fail('unavailable', `"${kind}" failed in the container of Postgres`)
  }

  #ask(kind: string, id: string, more = ''): void {
    this.#order('request', `id=${id}\nkind=${kind}\nproxy=${process.pid}\n${more}`)
    this.#isWanted = true
  }

  async #answerOf<T>(look: () => Promise<T | undefined>): Promise<T> {
    const { clock } = this.#parts
    for (;;) {
      const answer = await look()
      if (answer !== undefined) return answer
      if (await this.#isRunnerGone()) throw fail('unavailable', 'the container of Postgres has ended')
      try {
        await clock.sleep(POLL_MS, this.#waiting.signal)
      } catch (error) {
        this.#order('request', 'id=none\nkind=:\n')
        throw error
      }
    }
  }

  async #startOf(id: string): Promise<number | undefined> {
    if ((await this.#read(`refused.${id}`)) === undefined) return this.#readPid(`pid.${id}`)
    throw fail('precondition', 'this data directory must not be started: it has no start token', {
      hint: 'It is rebuilt from storage by itself; do not start it by hand.',
    })
  }

  async #endOf(id: string, pid: number): Promise<PostmasterEnd> {
    const { clock } = this.#parts
    while (isProcessRunning(pid)) await clock.sleep(POLL_MS)
    const untilMs = clock.nowMs() + ENDED_WAIT_MS
    for (;;) {
      const code = await this.#read(`ended.${id}`)
      if (code !== undefined) return exitedWith(Number(code))
      if ((await this.#isRunnerGone()) || clock.nowMs() > untilMs) return { kind: 'gone', where: 'container' }
      await clock.sleep(POLL_MS)
    }
  }

  async #watch(): Promise<void> {
    const { clock, log, onStopAsked } = this.#parts
    for (;;) {
      try {
        await clock.sleep(WATCH_MS, this.#watching.signal)
      } catch {
        // It is over.
        return
      }
      const isAsked = (await this.#read('stop-asked')) !== undefined
      if (!isAsked && !(await this.#isRunnerGone())) continue
      log.info(isAsked ? 'stop_asked' : 'postgres_container_ended')
      return onStopAsked()
    }
  }

  /** False while it has not begun. A runner whose own report makes no sense is of no more use. */
  async #isRunnerGone(): Promise<boolean> {
    try {
      const pid = await this.#readPid('runner')
      return pid !== undefined && !isProcessRunning(pid)
    } catch (error) {
      this.#parts.log.warn('runner_unreadable', { problem: describeError(error) })
      return true
    }
  }

  /** The answer of the sidecar, which may be anything: its superuser can write there too. */
  async #read(name: string): Promise<string | undefined> {
    const options = { bytesMax: ANSWER_BYTES_MAX, anyOwner: true }
    try {
      const bytes = await readWithin(this.#parts.files.shared, `answers/${name}`, options)
      return bytes?.toString().trim()
    } catch (error) {
      if (isErrorCode(error, 'bad_file')) return 'unreadable'
      throw error
    }
  }

  /** Errors: `bad_file` where it is not a process of its own: 0 and -1 would be whole groups of them, 1 all. */
  async #readPid(name: string): Promise<number | undefined> {
    const text = await this.#read(name)
    if (text === undefined) return undefined
    const pid = /^\d{1,10}$/.test(text) ? Number(text) : 0
    if (pid > 1) return pid
    throw fail('bad_file', `answer "${name}" of the container of Postgres is not the id of a process`, {
      hint: 'Delete the pod: the control plane makes another.',
    })
  }

  #order(name: string, text: string): void {
    replaceWithin(this.#parts.files.orders, basename(name), text, undefined, ORDER_MODE)
  }
}

const newId = (): string => randomBytes(8).toString('hex')

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`
