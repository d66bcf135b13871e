/** One compute of a host as a process of its own: started, watched, started again, ended. */
import type { ChildProcess } from 'node:child_process'
import { describeError } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import { encodeSpec } from '@understory/protocol'
import type { CheckedSpec } from '@understory/protocol'
import { EXIT_FENCED } from '../compute/exit-codes.ts'
import type { ComputeFiles } from '../postgres/layout.ts'
import { endOldPostgres } from '../postgres/postgres.ts'
import type { Spares } from './spares.ts'

/**
 * Between a compute's end and its next start, growing while it does not come to serve SQL; after one that did it is at
 * once.
 */
const RESTART_MIN_MS = 100
const RESTART_MAX_MS = 5_000
const STOP_GRACE_MS = 70_000
/**
 * For so long a process may be silent that has not begun: it has no Postgres yet, and a busy machine is slow to start
 * it.
 */
const START_MS_MAX = 60_000
/** As `compute-proxy run` reads its option `spec`. */
const SPEC_VARIABLE = 'UNDERSTORY_COMPUTE_PROXY_SPEC'
/** How often a compute reports to its host that it is alive. */
export const ALIVE_MS = 500

export interface ComputeProcessParts {
  readonly files: ComputeFiles
  readonly contactTimeoutMs: number
  /** Of `compute-proxy run`: all but the spec and whether it is to run although it was fenced. */
  readonly argv: readonly string[]
  readonly spares: Pick<Spares, 'start' | 'prepare'>
  readonly clock: Clock
  readonly log: Log
}

export class ComputeProcess {
  readonly #parts: ComputeProcessParts
  readonly #stop = new AbortController()
  readonly #supervision: Promise<void>
  #spec: CheckedSpec
  #child: ChildProcess | undefined
  #address = ''
  #metricsPort = 0
  #starts = 0
  #isFenced = false
  /** It gave way to another compute, and a newer spec wants it here again; until its next process runs. */
  #restartsAfterFencing: boolean
  /** Its process of now, or its last one, has served SQL. */
  #hasServed = false

  /** Begins at once. */
  constructor(parts: ComputeProcessParts, spec: CheckedSpec, restartsAfterFencing: boolean) {
    this.#parts = parts
    this.#spec = spec
    this.#restartsAfterFencing = restartsAfterFencing
    this.#supervision = this.#keepRunning()
  }

  get spec(): CheckedSpec {
    return this.#spec
  }
  /** 0 where none runs. */
  get pid(): number {
    return this.#child?.pid ?? 0
  }
  /** Of its service; empty until it listens. */
  get address(): string {
    return this.#address
  }
  /** Of its /metrics on loopback; 0 where it serves none. */
  get metricsPort(): number {
    return this.#metricsPort
  }
  get starts(): number {
    return this.#starts
  }
  get state(): 'running' | 'fenced' | 'restarting' {
    if (this.#isFenced) return 'fenced'
    return this.#child === undefined ? 'restarting' : 'running'
  }

  /** The running Postgres continues as it is; its next life, in this process or a new one, takes the new spec. */
  updateSpec(spec: CheckedSpec): void {
    this.#spec = spec
    if (this.#child?.connected === true) this.#child.send({ spec: encodeSpec(spec) })
  }

  /** Cleanly, if it does so in time. */
  async end(): Promise<void> {
    this.#stop.abort()
    const child = this.#child
    child?.kill('SIGTERM')
    const timer = this.#parts.clock.setTimer(STOP_GRACE_MS, () => child?.kill('SIGKILL'))
    await this.#supervision
    timer.cancel()
  }

  async #keepRunning(): Promise<void> {
    const { clock, log } = this.#parts
    const { timelineId } = this.#spec.timeline
    const { signal } = this.#stop
    let pauseMs = RESTART_MIN_MS
    while (!signal.aborted) {
      const how = await this.#runOnce()
      if (signal.aborted) return
      if (how === EXIT_FENCED) {
        log.warn('compute_fenced', { timeline: timelineId })
        this.#isFenced = true
        return
      }
      log.warn('compute_ended', { timeline: timelineId, how })
      if (this.#hasServed) {
        pauseMs = RESTART_MIN_MS
        continue
      }
      await clock.sleep(pauseMs, signal).catch(() => undefined)
      pauseMs = Math.min(pauseMs * 2, RESTART_MAX_MS)
    }
  }

  /** One life of its process: its exit code, or the signal that ended it. */
  async #runOnce(): Promise<number | string> {
    const { argv, spares } = this.#parts
    const child = spares.start({
      argv: [...argv, '--restart-after-fencing', this.#restartsAfterFencing ? 'yes' : 'no'],
      environment: { [SPEC_VARIABLE]: encodeSpec(this.#spec) },
    })
    this.#child = child
    this.#starts++
    this.#hasServed = false
    const watch = this.#watch(child)
    child.on('message', (message) => {
      // Of a spare that was taken before it was ready.
      if (typeof message !== 'object' || message === null || 'spare' in message) return
      watch.heard()
      if ('address' in message) this.#started(message)
      if ('isRunning' in message && message.isRunning === true) this.#hasServed = true
    })
    const how = await new Promise<number | string>((resolve) => {
      child.once('error', (error) => resolve(describeError(error)))
      child.once('exit', (code, signal) => resolve(signal ?? code ?? 'unknown'))
    })
    await watch.stop()
    this.#child = undefined
    this.#address = ''
    this.#metricsPort = 0
    return how
  }

  #started(message: { readonly address: unknown; readonly metricsPort?: unknown }): void {
    this.#address = String(message.address)
    this.#metricsPort = Number(message.metricsPort ?? 0)
    this.#restartsAfterFencing = false
    this.#parts.spares.prepare()
  }

  /**
   * I2: a compute that is frozen (stopped, or stuck) commits nothing, but its Postgres continues to serve reads that
   * may be stale. It is killed, and so is its Postgres. Looks are counted, not time: a host that was itself frozen does
   * not blame its computes.
   */
  #watch(child: ChildProcess): { heard(): void; stop(): Promise<void> } {
    const { clock, log, files, contactTimeoutMs } = this.#parts
    let silentLooks = 0
    let silentMsMax = Math.max(contactTimeoutMs, START_MS_MAX)
    let ending = Promise.resolve()
    const look = (): void => {
      silentLooks++
      if (silentLooks * ALIVE_MS > silentMsMax) {
        const { timelineId } = this.#spec.timeline
        log.warn('compute_frozen', { timeline: timelineId, silentMs: silentLooks * ALIVE_MS })
        child.kill('SIGKILL')
        // It has had no contact for long, and is not to outlive its proxy: no grace.
        ending = endOldPostgres({ files, clock, log }).catch((error: unknown) =>
          log.warn('postgres_not_ended', { timeline: timelineId, problem: describeError(error) }),
        )
      }
      timer = clock.setTimer(ALIVE_MS, look)
    }
    let timer = clock.setTimer(ALIVE_MS, look)
    return {
      heard: () => {
        silentLooks = 0
        silentMsMax = contactTimeoutMs
      },
      stop: () => {
        timer.cancel()
        return ending
      },
    }
  }
}
