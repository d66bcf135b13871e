/**
 * A whole local cluster of real processes: safekeepers, pageservers, a compute host and the control plane, each on its
 * own port and in its own folder below one data directory. The facts needed to start the same cluster again (its ports)
 * is in `cluster.json` there; everything else is the processes' own.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describeError, fail } from '@understory/base'
import { checkReachable, unprivilegedUser } from '@understory/env'
import { appCommand } from './app-command.ts'
import type { AppName } from './app-command.ts'
import { freePort } from './port.ts'
import { postgresBinaries } from './postgres-binaries.ts'
import type { PostgresMajor } from './postgres-binaries.ts'
import { startProcess } from './process.ts'
import type { ProcessOptions, RunningProcess } from './process.ts'

const READY = /"event":"started"/
const READY_TIMEOUT_MS = 30_000

export interface ClusterOptions {
  /** Absolute; made if it is not there. An unprivileged user must be able to traverse its parents. */
  readonly dataDirectory: string
  /** 3 by default. */
  readonly safekeepers?: number
  /** 2 by default. */
  readonly pageservers?: number
  /** The control plane's port in a new data directory, if it is free; any free one by default. */
  readonly apiPort?: number
  /** A directory below the data directory by default. */
  readonly objectStore?: string
  /** Embedded in the control plane by default. */
  readonly broker?: string
  /** Versions whose binaries the compute host gets; 17 by default. */
  readonly majors?: readonly PostgresMajor[]
  /** More environment for every process, such as credentials of the object store. */
  readonly environment?: Readonly<Record<string, string>>
  /** More flags of one kind of app, such as `{ pageserver: ['--log-level', 'debug'] }`. */
  readonly flags?: Readonly<Partial<Record<AppName, readonly string[]>>>
  /** The signal that nodes get when this process is killed; SIGTERM by default. */
  readonly parentDeathSignal?: NodeJS.Signals
  /** Root of the checkout whose programs are run at first; this one by default. */
  readonly root?: string
  /** How single nodes are run otherwise, by node id. */
  readonly plan?: (nodeId: string) => NodePlan
}

/** The settings of one node. */
export interface NodePlan {
  /** The address it listens on; 127.0.0.1 by default. */
  readonly host?: string
  readonly flags?: readonly string[]
  /** A command that runs it, such as `['nsenter', '--net=…']`. It must end in exec, not in a child. */
  readonly under?: readonly string[]
}

/** A process of the cluster that can be killed and started again on the same files and port. */
export interface ClusterNode {
  readonly nodeId: string
  readonly address: string
  readonly dataDirectory: string
  readonly pid: number
  /** SIGKILL, and waits until it is gone. */
  kill(): Promise<void>
  /** SIGTERM, and waits until it is gone. */
  stop(): Promise<void>
  /** After `kill` or `stop`; `environment` is added to this start's only. */
  start(environment?: Readonly<Record<string, string>>): Promise<void>
  /** A clean stop and a start with the program of the checkout at `root`, which it keeps for its next starts. */
  changeProgram(root: string | undefined): Promise<void>
  /** Starts it under that command, which may fork, and kills it after so long, in any state. */
  startAndKill(afterMs: number, under: readonly string[]): Promise<void>
  /** The last 64 KiB of its log, also after its end. */
  log(): string
}

export interface Cluster extends AsyncDisposable {
  /** host:port of the control plane. */
  readonly endpoint: string
  readonly metricsUrl: string
  readonly objectStore: string
  readonly safekeepers: readonly ClusterNode[]
  readonly pageservers: readonly ClusterNode[]
  readonly computeHost: ClusterNode
  readonly controlPlane: ClusterNode
  /** Ends every process: the compute cleanly first, the rest after it. */
  stop(): Promise<void>
}

/** Ports by node id; `control-plane-metrics` is one more. */
type Ports = Readonly<Record<string, number>>

class Node implements ClusterNode {
  readonly nodeId: string
  readonly address: string
  readonly dataDirectory: string
  readonly #app: AppName
  readonly #args: readonly string[]
  readonly #under: readonly string[]
  readonly #parentDeathSignal: NodeJS.Signals
  readonly #environment: Readonly<Record<string, string>>
  #process: RunningProcess | undefined
  /** The one before, for its log. */
  #ended: RunningProcess | undefined
  /** Of the checkout whose program it runs; undefined = this one. */
  #root: string | undefined

  constructor(
    app: AppName,
    nodeId: string,
    address: string,
    dataDirectory: string,
    command: {
      readonly under: readonly string[]
      readonly args: readonly string[]
      readonly parentDeathSignal: NodeJS.Signals
    },
    environment: Readonly<Record<string, string>>,
    root: string | undefined,
  ) {
    this.nodeId = nodeId
    this.address = address
    this.dataDirectory = dataDirectory
    this.#app = app
    this.#args = command.args
    this.#under = command.under
    this.#parentDeathSignal = command.parentDeathSignal
    this.#environment = environment
    this.#root = root
  }

  get pid(): number {
    return this.#process?.pid ?? 0
  }

  log(): string {
    return (this.#process ?? this.#ended)?.output() ?? ''
  }

  async start(environment: Readonly<Record<string, string>> = {}): Promise<void> {
    await mkdir(this.dataDirectory, { recursive: true })
    const options = await this.#options(environment, [])
    this.#process = await startProcess({ ...options, ready: READY, readyTimeoutMs: READY_TIMEOUT_MS })
  }

  async startAndKill(afterMs: number, under: readonly string[]): Promise<void> {
    const started = await startProcess(await this.#options({}, under))
    await delay(afterMs)
    started.kill('SIGKILL')
    await started.exited
  }

  async #options(
    environment: Readonly<Record<string, string>>,
    under: readonly string[],
  ): Promise<ProcessOptions> {
    const whole = [...this.#under, ...under, ...(await appCommand(this.#app, this.#root)), ...this.#args]
    return {
      name: this.nodeId,
      command: whole[0] as string,
      args: whole.slice(1),
      env: { ...this.#environment, ...environment },
      stopTimeoutMs: 90_000,
      parentDeathSignal: this.#parentDeathSignal,
    }
  }

  async changeProgram(root: string | undefined): Promise<void> {
    await this.stop()
    this.#root = root
    await this.start()
  }

  async kill(): Promise<void> {
    this.#process?.kill('SIGKILL')
    await this.#process?.exited
    this.#forget()
  }

  async stop(): Promise<void> {
    await this.#process?.stop()
    this.#forget()
  }

  #forget(): void {
    this.#ended = this.#process ?? this.#ended
    this.#process = undefined
  }
}

/** Starts the cluster, or the same one again. Errors: `precondition` (port, rights), or what a process said. */
export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  const { dataDirectory } = options
  const safekeeperIds = numbered('safekeeper', options.safekeepers ?? 3)
  const pageserverIds = numbered('pageserver', options.pageservers ?? 2)
  const nodeIds = [
    ...safekeeperIds,
    ...pageserverIds,
    'compute-host-1',
    'control-plane-1',
    'control-plane-metrics',
  ]
  const ports = await portsOf(dataDirectory, nodeIds, options.apiPort)
  const port = (nodeId: string): number => ports[nodeId] as number
  const objectStore = options.objectStore ?? join(dataDirectory, 'objects')
  const planOf = (nodeId: string): NodePlan => options.plan?.(nodeId) ?? {}
  const addressOf = (nodeId: string): string => `${planOf(nodeId).host ?? '127.0.0.1'}:${port(nodeId)}`
  const endpoint = addressOf('control-plane-1')
  const broker = options.broker ?? `grpc://${endpoint}`
  const environment = options.environment ?? {}

  const node = (app: AppName, nodeId: string, args: readonly string[]): Node => {
    const directory = join(dataDirectory, nodeId)
    const address = addressOf(nodeId)
    const { flags = [], under = [] } = planOf(nodeId)
    const all = [...args, '--node-id', nodeId, '--listen', address, ...(options.flags?.[app] ?? []), ...flags]
    const command = { under, args: all, parentDeathSignal: options.parentDeathSignal ?? 'SIGTERM' } as const
    return new Node(app, nodeId, address, directory, command, environment, options.root)
  }
  const stored = (nodeId: string): string[] => ['--data-dir', join(dataDirectory, nodeId), '--broker', broker]

  const controlPlane = node('control-plane', 'control-plane-1', [
    '--object-store',
    objectStore,
    '--broker',
    options.broker ?? 'embedded',
    '--metrics-listen',
    `127.0.0.1:${port('control-plane-metrics')}`,
  ])
  const safekeepers = safekeeperIds.map((id) =>
    node('safekeeper', id, [...stored(id), '--object-store', objectStore]),
  )
  const pageservers = pageserverIds.map((id) =>
    node('pageserver', id, [...stored(id), '--object-store', objectStore]),
  )
  const binaries = await Promise.all((options.majors ?? [17]).map((major) => postgresBinaries(major)))
  checkReachable(dataDirectory, unprivilegedUser(), 'the data directory')
  const computeHost = node('compute-proxy', 'compute-host-1', [
    'host',
    ...stored('compute-host-1'),
    ...binaries.flatMap(({ major, bin }) => [`--postgres-bin-${major}`, bin]),
  ])

  const started: Node[] = []
  // The compute first: its shutdown checkpoint still needs a quorum, and the control plane, ended last, starts nothing
  // again.
  const stopAll = async (): Promise<void> => {
    const problems: unknown[] = []
    for (const group of [[controlPlane], [computeHost], pageservers, safekeepers]) {
      const results = await Promise.allSettled(
        group.filter((item) => started.includes(item)).map((item) => item.stop()),
      )
      problems.push(
        ...results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : [])),
      )
    }
    if (problems.length > 0) {
      throw fail('unavailable', `could not stop everything: ${problems.map(describeError).join('; ')}`)
    }
  }
  try {
    for (const group of [[controlPlane], safekeepers, pageservers, [computeHost]]) {
      started.push(...group)
      await Promise.all(group.map((item) => item.start()))
    }
  } catch (error) {
    await stopAll()
    throw error
  }
  return {
    endpoint,
    metricsUrl: `http://127.0.0.1:${port('control-plane-metrics')}/metrics`,
    objectStore,
    safekeepers,
    pageservers,
    computeHost,
    controlPlane,
    stop: stopAll,
    [Symbol.asyncDispose]: stopAll,
  }
}

const numbered = (kind: string, count: number): string[] =>
  Array.from({ length: count }, (_, i) => `${kind}-${i + 1}`)

/** Ports stay the same for a data directory: computes and clients find everything where it was. */
async function portsOf(
  dataDirectory: string,
  nodeIds: readonly string[],
  apiPort: number | undefined,
): Promise<Ports> {
  const file = join(dataDirectory, 'cluster.json')
  const ports: Record<string, number> = { ...(await readPorts(dataDirectory, file)) }
  if (ports['control-plane-1'] === undefined && apiPort !== undefined && (await isFree(apiPort)))
    ports['control-plane-1'] = apiPort
  for (const nodeId of nodeIds) {
    if (ports[nodeId] === undefined) ports[nodeId] = await unusedPort(Object.values(ports))
    else if (!(await isFree(ports[nodeId]))) {
      throw fail('precondition', `port ${ports[nodeId]} of ${nodeId} is in use`, {
        hint: `Stop what is using it (perhaps this cluster runs already), or give ${nodeId} another port in ${file}.`,
      })
    }
  }
  await writeFile(`${file}.new`, `${JSON.stringify({ version: 1, ports }, undefined, 2)}\n`)
  await rename(`${file}.new`, file)
  return ports
}

async function readPorts(dataDirectory: string, file: string): Promise<Ports> {
  try {
    await mkdir(dataDirectory, { recursive: true })
    const { ports } = JSON.parse(await readFile(file, 'utf8')) as { ports: Ports }
    return ports
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return {}
    throw fail('precondition', `could not read the data directory "${dataDirectory}"`, {
      detail: describeError(cause),
      hint: 'Give another one with --data-dir, or correct its rights.',
      cause,
    })
  }
}

async function unusedPort(taken: readonly number[]): Promise<number> {
  for (;;) {
    const port = await freePort()
    if (!taken.includes(port)) return port
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolvePromise) => {
    const probe = createServer()
    probe.once('error', () => resolvePromise(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolvePromise(true)))
  })
}
