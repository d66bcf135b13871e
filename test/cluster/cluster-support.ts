/**
 * The fixture of the whole-cluster tests: a cluster of real processes with one tenant, a small load whose client keeps
 * a ledger, and what is asked of every cluster in the end. Conditions are polled; nothing sleeps for a time.
 */
import { randomUUID } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { lsnFromBigint, parseLsn, present, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { Ledger, checkLedger, loadTpcb, newProgress, runWorkload, tpcb } from '@understory/bench/workloads'
import type { LedgerCheck, RunProgress, RunStats } from '@understory/bench/workloads'
import {
  PLAIN_CLIENT,
  ComputeState,
  PageserverServiceClient,
  callUnary,
  createClient as createRpcClient,
} from '@understory/rpc'
import type {
  GetComputeStatusResponse,
  GetTimelineResponse,
  ShardStatus,
  VerifyResult,
} from '@understory/rpc'
import { createClient } from '@understory/sdk'
import type { UnderstoryClient } from '@understory/sdk'
import {
  TENANT_PASSWORD,
  startCluster,
  startProcess,
  temporaryDirectory,
  tenantLogin,
} from '@understory/testcontainers'
import type {
  Cluster,
  ClusterNode,
  ClusterOptions,
  ExitStatus,
  PostgresMajor,
} from '@understory/testcontainers'
import pg from 'pg'
import { afterEach, expect } from 'vitest'

const ROOT = resolve(import.meta.dirname, '..', '..')
const FAILURES = join(ROOT, '.understory', 'failures')
const REPORTED_LINES_MAX = 20
const POLL_MS = 20
/** Far above what anything takes on an idle machine: it ends a test that hangs, and measures nothing. */
const WAIT_MS = 120_000
const CLIENTS_COUNT = 4

export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  const deadlineMs = performance.now() + WAIT_MS
  for (;;) {
    const value = await probe()
    if (value !== undefined) return value
    if (performance.now() > deadlineMs) throw fail('timeout', `waited ${WAIT_MS / 1_000} s for ${what}`)
    await new Promise((go) => setTimeout(go, POLL_MS))
  }
}

export interface RoadOptions extends Omit<ClusterOptions, 'dataDirectory'> {
  readonly major?: PostgresMajor
  readonly imageThresholdRecords?: number
  readonly settings?: Readonly<Record<string, string>>
}

/** Of this test file; also those that have ended. */
const started = new Set<Road>()
afterEach(async ({ task }) => {
  if (task.result?.state === 'fail') for (const road of started) await road.reportLogs(task.name)
})

/** Starts a cluster in a folder of its own, with the tenant `road`. */
export async function startRoad(options: RoadOptions = {}): Promise<Road> {
  const { major = 17, imageThresholdRecords, settings = {}, ...clusterOptions } = options
  const folder = await temporaryDirectory({ prefix: 'cluster' })
  const road = new Road(folder, {
    majors: [major],
    ...clusterOptions,
    dataDirectory: join(folder.path, 'data'),
  })
  started.add(road)
  try {
    await road.start()
    await road.createTenant(road.tenant, major, settings, imageThresholdRecords)
    return road
  } catch (error) {
    await road[Symbol.asyncDispose]()
    throw error
  }
}

export class Road implements AsyncDisposable {
  readonly tenant = 'road'
  /** For files of the test itself. */
  readonly folder: string
  readonly #folder: AsyncDisposable
  readonly #options: ClusterOptions
  #cluster: Cluster | undefined
  #stopped: Cluster | undefined

  constructor(folder: AsyncDisposable & { readonly path: string }, options: ClusterOptions) {
    this.folder = folder.path
    this.#folder = folder
    this.#options = options
  }

  get cluster(): Cluster {
    return present(this.#cluster, 'cluster')
  }
  get client(): UnderstoryClient {
    return createClient({ endpoint: this.cluster.endpoint })
  }

  async start(): Promise<void> {
    this.#cluster = await startCluster(this.#options)
  }
  async stop(): Promise<void> {
    const cluster = this.#cluster
    this.#stopped = cluster
    this.#cluster = undefined
    await cluster?.stop()
  }

  /**
   * After a failure, when the cluster may be gone: the logs into files, and what was wrong in them to standard error.
   */
  async reportLogs(testName: string): Promise<void> {
    const cluster = this.#cluster ?? this.#stopped
    if (cluster === undefined) return
    const folder = join(FAILURES, testName.replaceAll(/[^\w-]+/g, '-').slice(0, 80))
    await mkdir(folder, { recursive: true })
    const { controlPlane, computeHost, safekeepers, pageservers } = cluster
    for (const node of [controlPlane, computeHost, ...safekeepers, ...pageservers]) {
      const lines = node.log().split('\n')
      await writeFile(join(folder, `${node.nodeId}.log`), lines.join('\n'))
      const wrong = lines.filter((line) => /"level":"(warn|error)"/.test(line)).slice(-REPORTED_LINES_MAX)
      process.stderr.write([`${node.nodeId}: ${folder}`, ...wrong, ''].join('\n'))
    }
  }
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.stop()
    } finally {
      await this.#folder[Symbol.asyncDispose]()
    }
  }

  async createTenant(
    name: string,
    major: PostgresMajor,
    settings: Readonly<Record<string, string>> = {},
    imageThresholdRecords?: number,
  ): Promise<void> {
    await this.client.createTenant({
      name,
      postgresMajor: major,
      password: TENANT_PASSWORD,
      settings: { shared_buffers: '32MB', ...settings },
      ...(imageThresholdRecords === undefined ? {} : { imageThresholdRecords }),
    })
    await this.client.waitForSql(name, { timeoutMs: WAIT_MS })
  }

  /** Waits until the broker knows every process: what it forgot is announced again. */
  async allNodesKnown(): Promise<void> {
    const { safekeepers, pageservers, computeHost, controlPlane } = this.cluster
    const wanted = [...safekeepers, ...pageservers, computeHost, controlPlane]
      .map(({ nodeId }) => nodeId)
      .toSorted()
    await until('all nodes to be known', async () => {
      const known = (await this.client.listNodes()).map(({ nodeId }) => nodeId).toSorted()
      return known.join() === wanted.join() ? true : undefined
    })
  }

  async connectionString(tenant = this.tenant): Promise<string> {
    return tenantLogin(await this.client.waitForSql(tenant, { timeoutMs: WAIT_MS }))
  }

  async withClient<T>(use: (client: pg.Client) => Promise<T>, tenant = this.tenant): Promise<T> {
    const client = new pg.Client({ connectionString: await this.connectionString(tenant) })
    client.on('error', () => undefined)
    await client.connect()
    try {
      return await use(client)
    } finally {
      await client.end()
    }
  }
  query(sql: string, tenant = this.tenant): Promise<Record<string, unknown>[]> {
    return this.withClient(async (client) => (await client.query<Record<string, unknown>>(sql)).rows, tenant)
  }
  /** Everything that was acknowledged lies before it. */
  async flushLsn(tenant = this.tenant): Promise<Lsn> {
    const [row] = await this.query('select pg_current_wal_flush_lsn() as lsn', tenant)
    return parseLsn(String(row?.['lsn']))
  }

  timeline(tenant = this.tenant): Promise<GetTimelineResponse> {
    return this.client.getTimeline(tenant)
  }
  runningCompute(tenant = this.tenant): Promise<GetComputeStatusResponse> {
    return until('the compute to run', async () => {
      const { compute } = await this.timeline(tenant)
      return compute?.state === ComputeState.COMPUTE_STATE_RUNNING ? compute : undefined
    })
  }
  async pageserverOf(shard: number, tenant = this.tenant): Promise<ClusterNode> {
    const { spec } = await this.timeline(tenant)
    const address = spec?.pageservers[shard]
    return present(
      this.cluster.pageservers.find((node) => node.address === address),
      `pageserver ${address}`,
    )
  }

  /** The reports of the pageservers themselves, by shard. */
  async shards(tenant = this.tenant): Promise<ShardStatus[]> {
    const { spec, timeline } = await this.timeline(tenant)
    const addresses = spec?.pageservers ?? []
    return Promise.all(
      addresses.map(async (address, number) => {
        const client = createRpcClient(PLAIN_CLIENT, PageserverServiceClient, address)
        try {
          const { shards } = await callUnary(client.getShardStatus.bind(client), {
            timeline: timeline?.timeline,
          })
          return present(
            shards.find(({ shard }) => shard?.number === number),
            `shard ${number} at ${address}`,
          )
        } finally {
          client.close()
        }
      }),
    )
  }
  /** Waits until every shard has everything that Postgres has flushed. */
  async ingested(tenant = this.tenant): Promise<ShardStatus[]> {
    const lsn = await this.flushLsn(tenant)
    return until('the shards to ingest the WAL', async () => {
      const shards = await this.shards(tenant).catch(() => [])
      expect(shards.map(({ failure }) => failure).filter((failure) => failure !== '')).toEqual([])
      return shards.length > 0 && shards.every(({ ingestedLsn }) => lsnFromBigint(ingestedLsn) >= lsn)
        ? shards
        : undefined
    })
  }
  /** Makes what is in memory durable in the object store. */
  async flushShards(tenant = this.tenant): Promise<void> {
    await this.ingested(tenant)
    const { spec, timeline } = await this.timeline(tenant)
    for (const { shard } of await this.shards(tenant)) {
      const client = createRpcClient(
        PLAIN_CLIENT,
        PageserverServiceClient,
        spec?.pageservers[shard?.number ?? 0] ?? '',
      )
      try {
        await callUnary(client.flushShard.bind(client), { timeline: timeline?.timeline, shard })
      } finally {
        client.close()
      }
    }
  }

  verify(tenant = this.tenant): Promise<VerifyResult> {
    return this.client.verifyTimeline(tenant)
  }
  /** Storage has what Postgres has, and something was looked at. */
  async expectVerified(tenant = this.tenant): Promise<VerifyResult> {
    const result = await this.verify(tenant)
    expect(result.differences).toEqual([])
    expect(result.differing).toBe(0n)
    expect(result.pagesIndependent + result.pagesFromStorage).toBeGreaterThan(100n)
    return result
  }

  async loadTpcb(scale = 1): Promise<void> {
    await loadTpcb({ connectionString: await this.connectionString(), scale })
  }

  /** Runs the TPC-B-like load around `during`, continues until it works again, and accounts for every commit. */
  async underLoad(during: (load: Load) => Promise<void>): Promise<{ stats: RunStats; check: LedgerCheck }> {
    const path = join(this.folder, `${randomUUID()}.ledger`)
    const load = new Load(await this.connectionString(), path)
    let stats: RunStats
    try {
      await load.moreCommits(50)
      await during(load)
      await load.moreCommits(50)
    } finally {
      stats = await load.end()
    }
    const check = await this.withClient((client) => checkLedger(client, path))
    expect(check).toMatchObject({ lostCommits: 0, ghostCommits: 0, examples: { lost: [], ghosts: [] } })
    expect(check.acknowledged).toBeGreaterThanOrEqual(100)
    return { stats, check }
  }
}

/** SIGKILL for Postgres and its proxy at once, as when their machine is lost; resolves when every client knows. */
export async function loseCompute(road: Road, load: Load): Promise<void> {
  const { pid, postmasterPid } = await road.runningCompute()
  process.kill(pid, 'SIGKILL')
  process.kill(postmasterPid, 'SIGKILL')
  await load.disconnected()
}

/** A load that runs until it is ended, through all faults of the server. */
export class Load {
  readonly progress: RunProgress = newProgress()
  readonly #stop = new AbortController()
  readonly #running: Promise<RunStats>
  #failure: Error | undefined

  constructor(connectionString: string, ledgerPath: string) {
    const ledger = new Ledger(ledgerPath)
    this.#running = runWorkload(tpcb, {
      connectionString,
      clients: CLIENTS_COUNT,
      progress: this.progress,
      signal: this.#stop.signal,
      ledger,
    }).finally(() => ledger.close())
    this.#running.catch((cause: unknown) => {
      this.#failure = cause instanceof Error ? cause : new Error(String(cause), { cause })
    })
  }

  async moreCommits(count: number): Promise<void> {
    const goal = this.progress.committed + count
    await until(`${count} more commits`, () => {
      if (this.#failure !== undefined) throw this.#failure
      return this.progress.committed >= goal ? true : undefined
    })
  }
  /** Waits until every client has lost its connection. */
  async disconnected(): Promise<void> {
    await until('every client to lose its connection', () =>
      this.progress.clientsConnected === 0 ? true : undefined,
    )
  }
  end(): Promise<RunStats> {
    this.#stop.abort()
    return this.#running
  }
}

export interface ProgramResult extends ExitStatus {
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program of ours, such as `apps/cli/src/main.ts`, to its end. */
export async function runProgram(
  path: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<ProgramResult> {
  const program = await startProcess({
    name: path,
    command: process.execPath,
    args: ['--disable-warning=ExperimentalWarning', join(ROOT, path), ...args],
    env,
  })
  const timer = setTimeout(() => program.kill('SIGKILL'), WAIT_MS)
  const status = await program.exited
  clearTimeout(timer)
  return { ...status, stdout: program.stdout(), stderr: program.stderr() }
}

/** `understory …` against the cluster. */
export const runCli = (cluster: Cluster, ...args: string[]): Promise<ProgramResult> =>
  runProgram('apps/cli/src/main.ts', ['--endpoint', cluster.endpoint, ...args])
