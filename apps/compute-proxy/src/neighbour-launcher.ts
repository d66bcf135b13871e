/**
 * Postgres in a neighbouring container, which has this folder and its processes in common with this one: a pod of
 * Kubernetes, with `shareProcessNamespace`. That container runs `handover/run.sh` (below), which does what it finds in
 * `handover/request`: one start of `postgres` a request, and only if it can take the start token away (I4). Signals go
 * to the process itself.
 *
 *   handover/run.sh      written here before the container begins
 *   handover/request     what to run, for whom: renamed away by the runner
 *   handover/pid.ID      of what it started       refused.ID  there was no token
 *   handover/ended.ID    its exit code
 *   handover/runner      process id of the runner
 *   handover/stop-asked  the container was told to stop: what to do about it is decided here
 *   handover/over        no more requests: the runner ends, and the pod with it
 *   initdb-done          an init container has run initdb in pgdata, and nobody has used it yet
 */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, refuse } from '@understory/base'
import { readWithin, replaceWithin } from '@understory/env'
import type { Clock, Log } from '@understory/env'
import { LOG_BYTES_MAX } from './launcher.ts'
import type { Launcher, Postmaster } from './launcher.ts'
import type { ComputeFiles } from './layout.ts'

const POLL_MS = 20
const WATCH_MS = 250
/** From the end of a process until its exit code is there. */
const ENDED_WAIT_MS = 2_000
const ANSWER_BYTES_MAX = 100

/** In plain sh, because the container's image is anybody's. */
const RUNNER = `# Written by compute-proxy. Starts Postgres as often as it is asked to, each time for a token.
cd "\${0%/*}" || exit 1
trap ': >stop-asked' TERM INT QUIT
echo $$ >runner.new && mv runner.new runner
: >>../postgres.log
tail -n 0 -F ../postgres.log 2>/dev/null &
log=$!
while [ ! -e over ]; do
  if [ ! -e request ]; then
    sleep 0.1
    continue
  fi
  mv request running
  . ./running
  if ! rm ../start-token 2>/dev/null; then
    : >"refused.$id"
    continue
  fi
  serve &
  server=$!
  echo "$server" >"pid.$id.new" && mv "pid.$id.new" "pid.$id"
  # Nothing here outlives the proxy that asked for it. What has only begun does not heed a signal yet: it is told again.
  (
    while kill -0 "$proxy"; do
      [ "$(wc -c <../postgres.log)" -gt ${LOG_BYTES_MAX} ] && : >../postgres.log
      sleep 1
    done
    while kill -QUIT "$server"; do sleep 1; done
  ) 2>/dev/null &
  watch=$!
  # A signal to this shell ends a wait, not the server.
  while kill -0 "$server" 2>/dev/null; do wait "$server"; code=$?; done
  kill "$watch" 2>/dev/null
  echo "$code" >"ended.$id.new" && mv "ended.$id.new" "ended.$id"
done
kill "$log"
exit 0
`

export interface NeighbourParts {
  readonly files: ComputeFiles
  readonly clock: Clock
  readonly log: Log
  /** The container was told to stop, or can run nothing more: this compute is to end. */
  readonly onStopAsked: () => void
}

export class NeighbourLauncher implements Launcher {
  readonly #parts: NeighbourParts
  readonly #folder: string
  readonly #initdbDone: string
  readonly #watching = new AbortController()
  readonly #waiting = new AbortController()
  #isWanted = false

  constructor(parts: NeighbourParts) {
    this.#parts = parts
    this.#folder = join(parts.files.root, 'handover')
    this.#initdbDone = join(parts.files.root, 'initdb-done')
  }

  /** Whether the neighbouring container has something to do: it may begin. */
  get isWanted(): boolean {
    return this.#isWanted
  }

  /** Before anything else; what an earlier life of this process asked for is void. */
  async open(): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 })
    await rm(this.#at('request'), { force: true })
    this.#write('run.sh', RUNNER)
    void this.#watch()
  }

  /** The pod ends, once its containers have seen it. */
  async finish(): Promise<void> {
    this.#watching.abort()
    this.#write('over', '')
    this.#isWanted = true
  }

  /** Whoever waits for the neighbour waits no longer. */
  giveUp(): void {
    this.#waiting.abort()
  }

  async initdb({ pgdata }: ComputeFiles): Promise<void> {
    const isThere = await rename(this.#initdbDone, `${this.#initdbDone}.used`).then(
      () => existsSync(join(pgdata, 'PG_VERSION')),
      () => false,
    )
    if (isThere) return
    this.#parts.onStopAsked()
    throw refuse('precondition', 'this pod has no new cluster, or has used it', {
      hint: 'The control plane makes another pod by itself.',
    })
  }

  async start(files: ComputeFiles, args: readonly string[], input?: string): Promise<Postmaster> {
    const id = randomBytes(8).toString('hex')
    this.#write(`input.${id}`, input ?? '')
    // In single-user mode standard output has nothing but its prompts.
    const log = quoted(files.log)
    const output = input === undefined ? `>>${log} 2>&1` : `2>>${log} >/dev/null`
    const command = ['postgres', ...args.map(quoted)].join(' ')
    this.#write(
      'request',
      `id=${id}\nproxy=${process.pid}\nserve() {\n  : >${log}\n  exec <input.${id} ${output}\n` +
        `  cd ${quoted(files.pgdata)} && exec ${command}\n}\n`,
    )
    this.#isWanted = true
    const pid = await this.#pidOf(id)
    return {
      pid,
      exited: this.#endOf(id, pid),
      signal: (name) => {
        if (isAlive(pid)) process.kill(pid, name)
      },
    }
  }

  /** The runner does so. */
  boundLog(): Promise<void> {
    return Promise.resolve()
  }

  async #pidOf(id: string): Promise<number> {
    const { clock } = this.#parts
    for (;;) {
      const pid = await this.#readPid(`pid.${id}`)
      if (pid !== undefined) return pid
      if (existsSync(this.#at(`refused.${id}`))) {
        throw refuse('precondition', 'this data directory must not be started: it has no start token', {
          hint: 'It is rebuilt from storage by itself; do not start it by hand.',
        })
      }
      if (await this.#isRunnerGone()) throw refuse('unavailable', 'the container of Postgres has ended')
      try {
        await clock.sleep(POLL_MS, this.#waiting.signal)
      } catch (error) {
        await rm(this.#at('request'), { force: true })
        throw error
      }
    }
  }

  async #endOf(id: string, pid: number): Promise<string> {
    const { clock } = this.#parts
    while (isAlive(pid)) await clock.sleep(POLL_MS)
    const untilMs = clock.nowMs() + ENDED_WAIT_MS
    for (;;) {
      const code = await this.#read(`ended.${id}`)
      if (code !== undefined) return `ended with exit code ${Number(code)}`
      if ((await this.#isRunnerGone()) || clock.nowMs() > untilMs) return 'ended with its container'
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
      const isAsked = existsSync(this.#at('stop-asked'))
      if (!isAsked && !(await this.#isRunnerGone())) continue
      log.info(isAsked ? 'stop_asked' : 'postgres_container_ended')
      return onStopAsked()
    }
  }

  /** False while it has not begun. One whose own word of itself makes no sense is of no more use. */
  async #isRunnerGone(): Promise<boolean> {
    try {
      const pid = await this.#readPid('runner')
      return pid !== undefined && !isAlive(pid)
    } catch (error) {
      this.#parts.log.warn('runner_unreadable', { problem: describeError(error) })
      return true
    }
  }

  #at(name: string): string {
    return join(this.#folder, name)
  }

  /** What the neighbour wrote, which may be anything: its superuser can write there too. */
  async #read(name: string): Promise<string | undefined> {
    const options = { bytesMax: ANSWER_BYTES_MAX, anyOwner: true }
    return (await readWithin(this.#parts.files.root, `handover/${name}`, options))?.toString().trim()
  }

  /** Error: refused `bad_file` where it is no process of its own: 0 and -1 would be whole groups of them, 1 all. */
  async #readPid(name: string): Promise<number | undefined> {
    const text = await this.#read(name)
    if (text === undefined) return undefined
    const pid = /^\d{1,10}$/.test(text) ? Number(text) : 0
    if (pid > 1) return pid
    throw refuse('bad_file', `file "${this.#at(name)}" does not have the id of a process`, {
      hint: 'Delete the pod: the control plane makes another.',
    })
  }

  #write(name: string, text: string): void {
    replaceWithin(this.#parts.files.root, `handover/${name}`, text, undefined, 0o700)
  }
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
