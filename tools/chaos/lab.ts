/**
 * A cluster on which faults can be done: safekeepers and pageservers in network namespaces of their own, a proxy before
 * each safekeeper, one safekeeper's files and one pageserver's on a tmpfs each. Where a right or a program is missing,
 * `missing` says which, and the faults that need it are left out.
 */
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describeError, present, fail } from '@understory/base'
import {
  PLAIN_CLIENT,
  ComputeState,
  PageserverServiceClient,
  SafekeeperServiceClient,
  callUnary,
  createClient as createRpcClient,
} from '@understory/rpc'
import type { GetWalStatusResponse, ShardStatus, TimelineRef } from '@understory/rpc'
import { createClient } from '@understory/sdk'
import type { UnderstoryClient } from '@understory/sdk'
import {
  PrivateNetwork,
  TENANT_PASSWORD,
  TcpProxy,
  findProgram,
  redisMissing,
  runCommand,
  startCluster,
  startRedis,
  temporaryDirectory,
  tenantLogin,
} from '@understory/testcontainers'
import type { Cluster, ClusterNode, NodePlan, PostgresMajor, RedisServer } from '@understory/testcontainers'
import pg from 'pg'

export const TENANT = 'chaos'
/** Nodes with a disk of their own. */
export const SMALL_DISK_NODES = { safekeeper: 'safekeeper-3', pageserver: 'pageserver-2' } as const
const NODES = ['safekeeper-1', 'safekeeper-2', 'safekeeper-3', 'pageserver-1', 'pageserver-2'] as const
const DISK_MIB = 6_144
const POLL_MS = 50
const START_TIMEOUT_MS = 180_000

/** The tools that a fault may need beyond processes and signals. */
export type Need = 'network' | 'mount' | 'strace' | 'faketime' | 'redis' | 'chattr'

export interface Missing {
  readonly need: Need
  readonly why: string
}

export interface LabOptions {
  readonly major: PostgresMajor
  /** Whether this process is in private namespaces. */
  readonly isPrivate: boolean
}

interface LabParts {
  readonly cluster: Cluster
  readonly network: PrivateNetwork | undefined
  readonly proxies: ReadonlyMap<string, TcpProxy>
  readonly missing: readonly Missing[]
  readonly folder: string
  readonly faketime: string | undefined
  readonly redis: RedisServer | undefined
  readonly client: UnderstoryClient
  readonly connectionString: string
  readonly timeline: TimelineRef
  readonly resources: AsyncDisposableStack
}

export async function startLab({ major, isPrivate }: LabOptions): Promise<Lab> {
  await using resources = new AsyncDisposableStack()
  const folder = resources.use(await temporaryDirectory({ prefix: 'chaos' })).path
  const missing: Missing[] = []
  const network = isPrivate ? await PrivateNetwork.make() : undefined
  if (network === undefined) {
    const why = 'not in private namespaces'
    missing.push({ need: 'network', why }, { need: 'mount', why })
  }
  if ((await findProgram('strace')) === undefined) missing.push({ need: 'strace', why: 'no strace in PATH' })
  const noChattr = await chattrMissing(folder)
  if (noChattr !== undefined) missing.push({ need: 'chattr', why: noChattr })
  const faketime = await findFaketime()
  if (faketime === undefined) missing.push({ need: 'faketime', why: 'libfaketime is not installed' })
  const noRedis = await redisMissing()
  if (noRedis !== undefined) missing.push({ need: 'redis', why: noRedis })
  const redis = noRedis === undefined ? resources.use(await startRedis()) : undefined

  const plans = new Map<string, NodePlan>()
  const proxies = new Map<string, TcpProxy>()
  for (const node of NODES) {
    const plan: NodePlan = network === undefined ? {} : await network.addNode(node)
    if (!node.startsWith('safekeeper')) {
      plans.set(node, plan)
      continue
    }
    const proxy = resources.use(
      await TcpProxy.start({ target: 'nowhere:1', ...(network === undefined ? {} : { host: network.host }) }),
    )
    proxies.set(node, proxy)
    plans.set(node, { ...plan, flags: ['--advertise', proxy.address] })
  }
  // These two share a machine: the control plane calls a compute on its loopback address.
  for (const node of ['compute-host-1', 'control-plane-1'])
    if (network !== undefined) plans.set(node, { host: network.host })

  const broker = redis === undefined ? undefined : await reachable(redis, network, resources)
  const dataDirectory = join(folder, 'data')
  if (network !== undefined)
    for (const node of Object.values(SMALL_DISK_NODES)) await mountDisk(join(dataDirectory, node), resources)
  const cluster = resources.use(
    await startCluster({
      dataDirectory,
      majors: [major],
      ...(broker === undefined ? {} : { broker }),
      plan: (node) => plans.get(node) ?? {},
      // A network of its own has no other programs in it.
      environment: network === undefined ? {} : { UNDERSTORY_INSECURE: 'yes' },
      // A process that is paused just then would never get SIGTERM.
      parentDeathSignal: 'SIGKILL',
    }),
  )
  for (const node of cluster.safekeepers) present(proxies.get(node.nodeId), 'proxy').target = node.address
  const client = resources.use(createClient({ endpoint: cluster.endpoint }))
  await client.createTenant({
    name: TENANT,
    postgresMajor: major,
    password: TENANT_PASSWORD,
    settings: { shared_buffers: '32MB', checkpoint_timeout: '30s' },
  })
  const connectionString = tenantLogin(await client.waitForSql(TENANT, { timeoutMs: START_TIMEOUT_MS }))
  const { timeline } = await client.getTimeline(TENANT)
  return new Lab({
    cluster,
    network,
    proxies,
    missing,
    folder,
    faketime,
    redis,
    client,
    connectionString,
    timeline: present(timeline?.timeline, 'timeline'),
    resources: resources.move(),
  })
}

/** The address of Redis for nodes in namespaces of their own. */
async function reachable(
  redis: RedisServer,
  network: PrivateNetwork | undefined,
  resources: AsyncDisposableStack,
): Promise<string> {
  if (network === undefined) return redis.url
  const target = `127.0.0.1:${redis.port}`
  const proxy = resources.use(await TcpProxy.start({ target, host: network.host }))
  return `redis://${proxy.address}`
}

async function mountDisk(path: string, resources: AsyncDisposableStack): Promise<void> {
  await mkdir(path, { recursive: true })
  const size = `size=${DISK_MIB}m`
  await runCommand({ name: 'mount', command: 'mount', args: ['-t', 'tmpfs', '-o', size, 'none', path] })
  resources.defer(async () => void (await runCommand({ name: 'umount', command: 'umount', args: [path] })))
}

/** Makes a folder immutable, or no longer. */
export async function setImmutable(path: string, isImmutable: boolean): Promise<void> {
  await runCommand({ name: 'chattr', command: 'chattr', args: [isImmutable ? '+i' : '-i', path] })
}

/** Why no folder below `path` can be made immutable, or undefined where it can. */
async function chattrMissing(path: string): Promise<string | undefined> {
  if ((await findProgram('chattr')) === undefined) return 'no chattr in PATH'
  const probe = join(path, 'immutable')
  await mkdir(probe)
  try {
    await setImmutable(probe, true)
    await setImmutable(probe, false)
    return undefined
  } catch (error) {
    return describeError(error)
  }
}

async function findFaketime(): Promise<string | undefined> {
  for (const root of ['/usr/lib', '/usr/lib64', '/usr/lib/x86_64-linux-gnu', '/usr/local/lib']) {
    const names: readonly string[] = await readdir(join(root, 'faketime')).catch(() => [])
    if (names.includes('libfaketimeMT.so.1')) return join(root, 'faketime', 'libfaketimeMT.so.1')
  }
  return undefined
}

export class Lab implements AsyncDisposable {
  readonly cluster: Cluster
  readonly missing: readonly Missing[]
  readonly folder: string
  readonly faketime: string | undefined
  readonly client: UnderstoryClient
  readonly connectionString: string
  readonly #parts: LabParts

  constructor(parts: LabParts) {
    this.#parts = parts
    this.cluster = parts.cluster
    this.missing = parts.missing
    this.folder = parts.folder
    this.faketime = parts.faketime
    this.client = parts.client
    this.connectionString = parts.connectionString
  }

  get network(): PrivateNetwork {
    return present(this.#parts.network, 'network')
  }

  get redis(): RedisServer {
    return present(this.#parts.redis, 'Redis')
  }

  /** Where a safekeeper has the WAL. */
  timelineFolder({ dataDirectory }: ClusterNode): string {
    const { tenantId, timelineId } = this.#parts.timeline
    return join(dataDirectory, 'timelines', tenantId, timelineId)
  }

  proxy(node: ClusterNode): TcpProxy {
    return present(this.#parts.proxies.get(node.nodeId), `proxy of ${node.nodeId}`)
  }

  /** Process ids of the running compute. */
  async compute(): Promise<{ readonly proxyPid: number; readonly postmasterPid: number }> {
    return until('the compute to run', 60_000, async () => {
      const { compute } = await this.client.getTimeline(TENANT)
      return compute?.state === ComputeState.COMPUTE_STATE_RUNNING && compute.postmasterPid > 0
        ? { proxyPid: compute.pid, postmasterPid: compute.postmasterPid }
        : undefined
    })
  }

  async walStatus(node: ClusterNode): Promise<GetWalStatusResponse> {
    const client = createRpcClient(PLAIN_CLIENT, SafekeeperServiceClient, node.address)
    try {
      const options = { deadlineMs: 2_000 }
      return await callUnary(client.getWalStatus.bind(client), { timeline: this.#parts.timeline }, options)
    } finally {
      client.close()
    }
  }

  /** Waits until everything is as before: every safekeeper and shard as far as the furthest safekeeper was just now. */
  async recovered(timeoutMs: number): Promise<void> {
    let goal: bigint | undefined
    await until('every node to be as before', timeoutMs, async () => {
      await this.compute()
      const statuses = await Promise.all(this.cluster.safekeepers.map((node) => this.walStatus(node)))
      const failed = statuses.find(({ failure }) => failure !== '')
      if (failed !== undefined) throw fail('unavailable', `${failed.nodeId}: ${failed.failure}`)
      goal ??= statuses.map(({ flushLsn }) => flushLsn).reduce((a, b) => (a > b ? a : b))
      const far = goal
      const shards = await this.#shards()
      const broken = shards.find(({ failure, stall }) => failure !== '' || stall !== '')
      if (broken !== undefined)
        throw fail('unavailable', `shard ${broken.shard?.number}: ${broken.failure || broken.stall}`)
      return statuses.every(({ flushLsn }) => flushLsn >= far) &&
        shards.every(({ ingestedLsn }) => ingestedLsn >= far)
        ? true
        : undefined
    })
  }

  /**
   * Asks the shards on a node for layers of all that they have; returns what a shard said that could not, or undefined.
   */
  async flush(node: ClusterNode): Promise<string | undefined> {
    const client = createRpcClient(PLAIN_CLIENT, PageserverServiceClient, node.address)
    try {
      const { timeline } = this.#parts
      const status = { deadlineMs: 2_000 }
      const { shards } = await callUnary(client.getShardStatus.bind(client), { timeline }, status)
      const flushes = shards.map(({ shard }) =>
        callUnary(client.flushShard.bind(client), { timeline, shard }, { deadlineMs: 10_000 }),
      )
      const results = await Promise.allSettled(flushes)
      const failed = results.find((result) => result.status === 'rejected')
      return failed === undefined ? undefined : describeError(failed.reason)
    } finally {
      client.close()
    }
  }

  async #shards(): Promise<ShardStatus[]> {
    const { spec } = await this.client.getTimeline(TENANT)
    const perShard = (spec?.pageservers ?? []).map(async (address, number) => {
      const client = createRpcClient(PLAIN_CLIENT, PageserverServiceClient, address)
      try {
        const request = { timeline: this.#parts.timeline }
        const options = { deadlineMs: 2_000 }
        const { shards } = await callUnary(client.getShardStatus.bind(client), request, options)
        return shards.filter(({ shard }) => shard?.number === number)
      } finally {
        client.close()
      }
    })
    return (await Promise.all(perShard)).flat()
  }

  async withSql<T>(use: (client: pg.Client) => Promise<T>): Promise<T> {
    const connect = async (): Promise<pg.Client> => {
      const client = new pg.Client({
        connectionString: this.connectionString,
        connectionTimeoutMillis: 3_000,
      })
      client.on('error', () => undefined)
      try {
        await client.connect()
        return client
      } catch (error) {
        void client.end().catch(() => undefined)
        throw error
      }
    }
    const client = await until('Postgres to take a connection', 60_000, connect)
    try {
      return await use(client)
    } finally {
      await client.end().catch(() => undefined)
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#parts.resources.disposeAsync()
  }
}

/** Polls; the last error of `probe` is reported if the time runs out. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  probe: () => Promise<T | undefined>,
): Promise<T> {
  const deadlineMs = performance.now() + timeoutMs
  let trouble: unknown
  for (;;) {
    try {
      const value = await probe()
      if (value !== undefined) return value
      trouble = undefined
    } catch (error) {
      trouble = error
    }
    if (performance.now() > deadlineMs) {
      const detail = trouble === undefined ? {} : { detail: describeError(trouble), cause: trouble }
      throw fail('timeout', `waited ${Math.round(timeoutMs / 1_000)} s for ${what}`, detail)
    }
    await delay(POLL_MS)
  }
}
