/**
 * A host of computes: keeps those that are wanted running, each as a process of its own. What is wanted lies in
 * `computes.json`, so a host that died starts them again; a compute that ended by itself is started again unless it
 * was fenced, because then another host has its timeline.
 */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Mailbox } from '@understory/actor'
import { describeError, parseTimelineId, refuse } from '@understory/base'
import { diskError, realDisk } from '@understory/env'
import type { Clock, Log } from '@understory/env'
import { checkSpec, decodeSpec, encodeSpec } from '@understory/protocol'
import type { CheckedSpec } from '@understory/protocol'
import { ComputeHostServiceService, service, unary } from '@understory/rpc'
import type {
  ComputeHostServiceServer,
  ComputeSpec,
  Configuration,
  HostedCompute,
  RpcService,
} from '@understory/rpc'
import { chooseUser, endUser } from '../postgres/compute-users.ts'
import type { UserRange } from '../postgres/compute-users.ts'
import { EXIT_FENCED } from '../compute/exit-codes.ts'
import { readKeptIfWhole, takePublished, toMessage } from '../postgres/kept-configuration.ts'
import { hostFiles } from '../postgres/layout.ts'
import { endOldPostgres } from '../postgres/postgres.ts'
import type { ComputeFiles } from '../postgres/layout.ts'

/** Between a compute's end and its next start, growing while it does not last. */
const RESTART_MIN_MS = 100
const RESTART_MAX_MS = 5_000
/** A compute that lasted so long is as good as new. */
const LASTED_MS = 30_000
const STOP_GRACE_MS = 70_000
/** As `compute-proxy run` reads its option `spec`. */
const SPEC_VARIABLE = 'UNDERSTORY_COMPUTE_PROXY_SPEC'
/** As Node.js reads it: its folder is this host's alone to write to. */
const COMPILE_CACHE_VARIABLE = 'NODE_COMPILE_CACHE'
/** How often a compute tells its host that it is there. */
export const ALIVE_MS = 500

export interface HostParts {
  readonly nodeId: string
  readonly dataDirectory: string
  /** Folder of the binaries by major version. */
  readonly binaries: Readonly<Partial<Record<number, string>>>
  readonly contactTimeoutMs: number
  /** For so long a Postgres outlives its compute-proxy. */
  readonly adoptionGraceMs: number
  /** Whether computes serve /metrics to this host, which shows them as its own. */
  readonly hasMetrics: boolean
  readonly logLevel: string
  /** Of this process: computes have all of it. */
  readonly environment: NodeJS.ProcessEnv
  /** Where it is root: who may be a compute's user, and who is somebody else. */
  readonly users: { readonly range: UserRange; readonly named: ReadonlySet<number> } | undefined
  readonly clock: Clock
  readonly log: Log
}

interface Hosted {
  spec: CheckedSpec
  child: ChildProcess | undefined
  address: string
  /** Of its /metrics on loopback; 0 where it serves none. */
  metricsPort: number
  starts: number
  /** Ends the supervision. */
  readonly stop: AbortController
  supervision: Promise<void>
  isFenced: boolean
  /** It gave way to another compute, and a newer spec wants it here again; until its next process runs. */
  isWantedAnew: boolean
}

export class Host implements ComputeHosting {
  readonly #parts: HostParts
  readonly #removing = new Map<string, Promise<void>>()
  readonly #computes = new Map<string, Hosted>()
  /** By timeline: also of those that are being removed. */
  readonly #users = new Map<string, number>()
  readonly #writes = new Mailbox({ name: 'computes' })

  constructor(parts: HostParts) {
    this.#parts = parts
  }

  /** Starts what was wanted when this host last ran. */
  async load(): Promise<void> {
    const { dataDirectory } = this.#parts
    await mkdir(join(dataDirectory, 'computes'), { recursive: true }).catch((error: unknown) => {
      throw diskError(error, `use data directory "${dataDirectory}"`)
    })
    await realDisk.removeLeftovers(dataDirectory)
    const text = await readFile(this.#file(), 'utf8').catch((error: unknown) => {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
      throw error
    })
    if (text === undefined) return
    let specs: CheckedSpec[]
    try {
      const { computes, users = {} } = JSON.parse(text) as {
        computes: string[]
        users?: Record<string, number>
      }
      specs = computes.map(decodeSpec)
      for (const [timelineId, uid] of Object.entries(users)) this.#users.set(timelineId, Number(uid))
    } catch (cause) {
      throw refuse('bad_file', `file "${this.#file()}" is malformed`, {
        detail: describeError(cause),
        hint: 'Remove it: the control plane tells again what is wanted.',
        cause,
      })
    }
    for (const spec of specs) this.#supervise(spec)
  }

  async ensure(wanted: ComputeSpec | undefined, configuration?: Configuration): Promise<void> {
    const spec = checkSpec(wanted)
    const { timelineId } = spec.timeline
    if (this.#parts.binaries[spec.postgresMajor] === undefined) {
      throw refuse('precondition', `this host has no Postgres ${spec.postgresMajor}`, {
        hint: `Start it with --postgres-bin-${spec.postgresMajor} DIR.`,
      })
    }
    // Before the compute begins: it is what its Postgres is told.
    if (configuration !== undefined) await takePublished(this.#files(timelineId), configuration)
    const hosted = this.#computes.get(timelineId)
    if (hosted === undefined) {
      // Durable before anything runs as it.
      if (this.#userOf(timelineId) !== undefined) await this.#store()
      // Somebody may have asked for it meanwhile, for a newer one perhaps.
      if (this.#computes.has(timelineId)) return this.ensure(wanted)
      this.#supervise(spec)
      return this.#store()
    }
    if (spec.specGeneration < hosted.spec.specGeneration) {
      throw refuse(
        'stale',
        `spec generation ${spec.specGeneration} is older than ${hosted.spec.specGeneration}`,
      )
    }
    if (spec.specGeneration === hosted.spec.specGeneration && !hosted.isFenced) return
    // The running Postgres goes on as it is; its next life, in this process or a new one, takes the new spec.
    hosted.spec = spec
    if (hosted.child?.connected === true) hosted.child.send({ spec: encodeSpec(spec) })
    if (hosted.isFenced) this.#supervise(spec, true)
    return this.#store()
  }

  /** Whoever asks while it is under way waits for the same end. */
  remove(timelineId: string): Promise<void> {
    const underWay = this.#removing.get(timelineId)
    if (underWay !== undefined) return underWay
    const removal = this.#remove(timelineId).finally(() => this.#removing.delete(timelineId))
    this.#removing.set(timelineId, removal)
    return removal
  }

  async #remove(timelineId: string): Promise<void> {
    const hosted = this.#computes.get(timelineId)
    if (hosted !== undefined) {
      this.#computes.delete(timelineId)
      await this.#store()
      await this.#end(hosted)
    }
    // Without one too: a crash may have come between.
    const uid = this.#users.get(timelineId)
    if (uid !== undefined) await endUser(uid, this.#parts.clock)
    await rm(this.#root(timelineId), { recursive: true, force: true })
    // Nobody has the number again before nothing of it is left.
    if (this.#users.delete(timelineId)) await this.#store()
  }

  list(): Promise<HostedCompute[]> {
    const all = [...this.#computes.values()].map(async ({ spec, child, address, starts }) => {
      const kept = await readKeptIfWhole(this.#files(spec.timeline.timelineId))
      return {
        timeline: spec.timeline,
        pid: child?.pid ?? 0,
        address,
        starts,
        configurationVersion: kept === undefined ? undefined : toMessage(kept).version,
      }
    })
    return Promise.all(all)
  }

  /** How many there are in each state. */
  states(): Readonly<Record<'running' | 'fenced' | 'restarting', number>> {
    const counts = { running: 0, fenced: 0, restarting: 0 }
    for (const { child, isFenced } of this.#computes.values())
      counts[isFenced ? 'fenced' : child === undefined ? 'restarting' : 'running']++
    return counts
  }
  /** Where the computes that run serve /metrics, on loopback. */
  metricsPorts(): readonly number[] {
    return [...this.#computes.values()].map(({ metricsPort }) => metricsPort).filter((port) => port !== 0)
  }

  /** Ends every compute cleanly. */
  async stop(): Promise<void> {
    await Promise.all([...this.#computes.values()].map((hosted) => this.#end(hosted)))
  }

  /** Undefined where Postgres has this process's user. */
  #userOf(timelineId: string): number | undefined {
    const { users } = this.#parts
    if (users === undefined) return undefined
    const known = this.#users.get(timelineId)
    if (known !== undefined) return known
    const taken = new Set([...users.named, ...this.#users.values()])
    const uid = chooseUser(this.#root(timelineId), users.range, taken)
    this.#users.set(timelineId, uid)
    return uid
  }

  #file(): string {
    return join(this.#parts.dataDirectory, 'computes.json')
  }
  #root(timelineId: string): string {
    return join(this.#parts.dataDirectory, 'computes', timelineId)
  }
  #files(timelineId: string): ComputeFiles {
    return hostFiles(this.#root(timelineId))
  }

  /** One write at a time: the last one made is the last one stored. */
  #store(): Promise<void> {
    return this.#writes.run(() => this.#write())
  }

  async #write(): Promise<void> {
    const computes = [...this.#computes.values()].map(({ spec }) => encodeSpec(spec))
    const text = JSON.stringify({ version: 1, computes, users: Object.fromEntries(this.#users) })
    await realDisk.durableReplace(this.#file(), Buffer.from(`${text}\n`))
  }

  #supervise(spec: CheckedSpec, isWantedAnew = false): void {
    const hosted: Hosted = {
      spec,
      child: undefined,
      address: '',
      metricsPort: 0,
      starts: 0,
      stop: new AbortController(),
      supervision: Promise.resolve(),
      isFenced: false,
      isWantedAnew,
    }
    this.#computes.set(spec.timeline.timelineId, hosted)
    hosted.supervision = this.#keepRunning(hosted)
  }

  async #keepRunning(hosted: Hosted): Promise<void> {
    const { clock, log } = this.#parts
    const { timelineId } = hosted.spec.timeline
    let pauseMs = RESTART_MIN_MS
    while (!hosted.stop.signal.aborted) {
      const startedMs = clock.nowMs()
      const how = await this.#runOnce(hosted)
      if (hosted.stop.signal.aborted) return
      if (how === EXIT_FENCED) {
        log.warn('compute_fenced', { timeline: timelineId })
        hosted.isFenced = true
        return
      }
      log.warn('compute_ended', { timeline: timelineId, how })
      pauseMs = clock.nowMs() - startedMs > LASTED_MS ? RESTART_MIN_MS : pauseMs
      await clock.sleep(pauseMs, hosted.stop.signal).catch(() => undefined)
      pauseMs = Math.min(pauseMs * 2, RESTART_MAX_MS)
    }
  }

  /** One life of a compute's process: its exit code, or the signal that ended it. */
  async #runOnce(hosted: Hosted): Promise<number | string> {
    const { nodeId, binaries, contactTimeoutMs, adoptionGraceMs, hasMetrics, logLevel } = this.#parts
    const { spec } = hosted
    const uid = this.#userOf(spec.timeline.timelineId)
    const args = [
      'run',
      '--node-id',
      nodeId,
      '--root',
      this.#root(spec.timeline.timelineId),
      '--bin',
      binaries[spec.postgresMajor] as string,
      '--wanted-anew',
      hosted.isWantedAnew ? 'yes' : 'no',
      '--contact-timeout-ms',
      String(contactTimeoutMs),
      '--adoption-grace-ms',
      String(adoptionGraceMs),
      '--log-level',
      logLevel,
      ...(uid === undefined ? [] : ['--postgres-uid', String(uid)]),
      ...(hasMetrics ? ['--metrics-listen', '127.0.0.1:0'] : []),
    ]
    const child = fork(fileURLToPath(new URL('../main.ts', import.meta.url)), args, {
      // Everybody on this machine may read a command line, and other tenants' superusers are on it.
      env: {
        ...this.#parts.environment,
        [SPEC_VARIABLE]: encodeSpec(spec),
        // A restart that is to adopt a Postgres has no second for compiling.
        [COMPILE_CACHE_VARIABLE]: join(this.#parts.dataDirectory, 'compile-cache'),
      },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    hosted.child = child
    hosted.starts++
    const watch = this.#watch(child, hosted)
    child.on('message', (message) => {
      watch.heard()
      if (typeof message === 'object' && message !== null && 'address' in message) {
        hosted.address = String(message.address)
        hosted.metricsPort = 'metricsPort' in message ? Number(message.metricsPort) : 0
        hosted.isWantedAnew = false
      }
    })
    const how = await new Promise<number | string>((resolve) => {
      child.once('error', (error) => resolve(describeError(error)))
      child.once('exit', (code, signal) => resolve(signal ?? code ?? 'unknown'))
    })
    await watch.stop()
    hosted.child = undefined
    hosted.address = ''
    hosted.metricsPort = 0
    return how
  }

  /**
   * I2: a compute that is frozen (stopped, or stuck) commits nothing, but its Postgres goes on serving reads that may be
   * stale. It is killed, and so is its Postgres. Looks are counted, not time: a host that was itself frozen
   * does not blame its computes.
   */
  #watch(child: ChildProcess, { spec }: Hosted): { heard(): void; stop(): Promise<void> } {
    const { clock, log, contactTimeoutMs } = this.#parts
    let silentLooks = 0
    let ending = Promise.resolve()
    const look = (): void => {
      silentLooks++
      if (silentLooks * ALIVE_MS > contactTimeoutMs) {
        const { timelineId } = spec.timeline
        log.warn('compute_frozen', { timeline: timelineId, silentMs: silentLooks * ALIVE_MS })
        child.kill('SIGKILL')
        // It has had no contact for long, and is not to outlive its proxy: no grace.
        ending = endOldPostgres({ files: this.#files(timelineId), clock, log }).catch((error: unknown) =>
          log.warn('postgres_not_ended', { timeline: timelineId, problem: describeError(error) }),
        )
      }
      timer = clock.setTimer(ALIVE_MS, look)
    }
    let timer = clock.setTimer(ALIVE_MS, look)
    return {
      heard: () => {
        silentLooks = 0
      },
      stop: () => {
        timer.cancel()
        return ending
      },
    }
  }

  async #end(hosted: Hosted): Promise<void> {
    hosted.stop.abort()
    const { child } = hosted
    child?.kill('SIGTERM')
    const timer = this.#parts.clock.setTimer(STOP_GRACE_MS, () => child?.kill('SIGKILL'))
    await hosted.supervision
    timer.cancel()
  }
}

/** What the service asks of whoever has computes. */
export interface ComputeHosting {
  ensure(spec: ComputeSpec | undefined, configuration?: Configuration): Promise<void>
  remove(timelineId: string): Promise<void>
  list(): Promise<HostedCompute[]>
}

export function hostService(host: ComputeHosting): RpcService {
  return service<ComputeHostServiceServer>(ComputeHostServiceService, {
    ensureCompute: unary(async ({ spec, configuration }) => {
      await host.ensure(spec, configuration)
      return {}
    }),
    removeCompute: unary(async ({ timeline }) => {
      if (timeline === undefined) throw refuse('bad_argument', 'which timeline?')
      await host.remove(parseTimelineId(timeline.timelineId))
      return {}
    }),
    listComputes: unary(async () => ({ computes: await host.list() })),
  })
}
