/**
 * A host of computes: keeps the wanted ones running, each as a process of its own. Their specs lie in
 * `computes.json`, so a host that died starts them again; a compute that ended by itself is started again unless it
 * was fenced, because then another host has its timeline.
 */
import { mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Mailbox } from '@understory/actor'
import { describeError, parseTimelineId, fail } from '@understory/base'
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
import { readKeptIfWhole, takePublished, toMessage } from '../postgres/configuration-store.ts'
import { hostFiles } from '../postgres/layout.ts'
import type { ComputeFiles } from '../postgres/layout.ts'
import { endOldPostgres } from '../postgres/postgres.ts'
import { ComputeProcess } from './compute-process.ts'
import { Spares } from './spares.ts'

/** As Node.js reads it: its folder is this host's alone to write to. */
const COMPILE_CACHE_VARIABLE = 'NODE_COMPILE_CACHE'
export interface HostParts {
  readonly nodeId: string
  /** As the kernel names it, without symbolic links. */
  readonly dataDirectory: string
  /** Folder of the binaries by major version. */
  readonly binaries: Readonly<Partial<Record<number, string>>>
  readonly contactTimeoutMs: number
  readonly ingestLagLimitMib: number
  /** For so long a Postgres outlives its compute-proxy. */
  readonly adoptionGraceMs: number
  /** Whether computes serve /metrics to this host, which shows them as its own. */
  readonly hasMetrics: boolean
  readonly logLevel: string
  /** Of this process: computes have all of it. */
  readonly environment: NodeJS.ProcessEnv
  /** Where it is root: the range of computes' users, and the users that have a name. */
  readonly users: { readonly range: UserRange; readonly named: ReadonlySet<number> } | undefined
  readonly clock: Clock
  readonly log: Log
}

export class Host implements ComputeHosting {
  readonly #parts: HostParts
  readonly #spares: Spares
  readonly #removing = new Map<string, Promise<void>>()
  readonly #computes = new Map<string, ComputeProcess>()
  /** By timeline: also of those that are being removed. */
  readonly #users = new Map<string, number>()
  readonly #writes = new Mailbox({ name: 'computes' })

  constructor(parts: HostParts) {
    this.#parts = parts
    const { dataDirectory, environment, clock, log } = parts
    // A restart that is to adopt a Postgres has no second for compiling.
    const cache = { [COMPILE_CACHE_VARIABLE]: join(dataDirectory, 'compile-cache') }
    this.#spares = new Spares({ ...environment, ...cache }, clock, log)
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
      throw fail('bad_file', `file "${this.#file()}" is malformed`, {
        detail: describeError(cause),
        hint: 'Remove it: the control plane sends the wanted computes again.',
        cause,
      })
    }
    for (const spec of specs) this.#supervise(spec)
  }

  async ensure(wanted: ComputeSpec | undefined, configuration?: Configuration): Promise<void> {
    const spec = checkSpec(wanted)
    const { timelineId } = spec.timeline
    if (this.#parts.binaries[spec.postgresMajor] === undefined) {
      throw fail('precondition', `this host has no Postgres ${spec.postgresMajor}`, {
        hint: `Start it with --postgres-bin-${spec.postgresMajor} DIR.`,
      })
    }
    // Before the compute begins: its Postgres starts with it.
    if (configuration !== undefined) await takePublished(this.#files(timelineId), configuration)
    const hosted = this.#computes.get(timelineId)
    if (hosted === undefined) {
      // Durable before anything runs as it.
      if (this.#userOf(timelineId) !== undefined) await this.#store()
      // Another call may have asked for it since then, for a newer one perhaps.
      if (this.#computes.has(timelineId)) return this.ensure(wanted)
      this.#supervise(spec)
      return this.#store()
    }
    if (spec.specGeneration < hosted.spec.specGeneration) {
      throw fail(
        'stale',
        `spec generation ${spec.specGeneration} is older than ${hosted.spec.specGeneration}`,
      )
    }
    const isFenced = hosted.state === 'fenced'
    if (spec.specGeneration === hosted.spec.specGeneration && !isFenced) return
    hosted.updateSpec(spec)
    if (isFenced) this.#supervise(spec, true)
    return this.#store()
  }

  /** Calls while it is under way wait for the same end. */
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
      await hosted.end()
    }
    // Without one too: a crash may have come between. A proxy that was killed leaves its Postgres for a grace.
    const { clock, log } = this.#parts
    await endOldPostgres({ files: this.#files(timelineId), clock, log })
    const uid = this.#users.get(timelineId)
    if (uid !== undefined) await endUser(uid, clock)
    await rm(this.#root(timelineId), { recursive: true, force: true })
    // The number is not given out again before nothing of it is left.
    if (this.#users.delete(timelineId)) await this.#store()
  }

  list(): Promise<HostedCompute[]> {
    const all = [...this.#computes.values()].map(async ({ spec, pid, address, starts }) => {
      const kept = await readKeptIfWhole(this.#files(spec.timeline.timelineId))
      return {
        timeline: spec.timeline,
        pid,
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
    for (const { state } of this.#computes.values()) counts[state]++
    return counts
  }
  /** Where the computes that run serve /metrics, on loopback. */
  metricsPorts(): readonly number[] {
    return [...this.#computes.values()].map(({ metricsPort }) => metricsPort).filter((port) => port !== 0)
  }

  /** Ends every compute cleanly. */
  async stop(): Promise<void> {
    this.#spares.end()
    await Promise.all([...this.#computes.values()].map((hosted) => hosted.end()))
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

  #supervise(spec: CheckedSpec, restartsAfterFencing = false): void {
    const { timelineId } = spec.timeline
    const { nodeId, binaries, contactTimeoutMs, ingestLagLimitMib, adoptionGraceMs, hasMetrics, logLevel } =
      this.#parts
    const uid = this.#userOf(timelineId)
    const options = {
      'node-id': nodeId,
      root: this.#root(timelineId),
      bin: binaries[spec.postgresMajor] as string,
      'contact-timeout-ms': String(contactTimeoutMs),
      'ingest-lag-limit-mib': String(ingestLagLimitMib),
      'adoption-grace-ms': String(adoptionGraceMs),
      'log-level': logLevel,
      ...(uid === undefined ? {} : { 'postgres-uid': String(uid) }),
      ...(hasMetrics ? { 'metrics-listen': '127.0.0.1:0' } : {}),
    }
    const argv = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value])
    const { clock, log } = this.#parts
    const parts = { files: this.#files(timelineId), contactTimeoutMs, argv, spares: this.#spares, clock, log }
    this.#computes.set(timelineId, new ComputeProcess(parts, spec, restartsAfterFencing))
  }
}

/** The operations that the service needs of an owner of computes. */
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
      if (timeline === undefined) throw fail('bad_argument', 'which timeline?')
      await host.remove(parseTimelineId(timeline.timelineId))
      return {}
    }),
    listComputes: unary(async () => ({ computes: await host.list() })),
  })
}
