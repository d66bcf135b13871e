/** The acts of the demonstration, one after the other on one cluster. */
import { join } from 'node:path'
import { lsnFromBigint, parseLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { ComputeState } from '@understory/rpc'
import type { GetComputeStatusResponse, GetTimelineResponse } from '@understory/rpc'
import type { OptionValues } from '@understory/env'
import type { UnderstoryClient } from '@understory/sdk'
import type { Cluster, ClusterNode } from '@understory/testcontainers'
import pg from 'pg'
import {
  Ledger,
  checkLedger,
  checkTpcb,
  checkTpcc,
  loadTpcb,
  loadTpcc,
  newProgress,
  runWorkload,
  tpcb,
  tpcc,
} from '../workloads/index.ts'
import type { LedgerCheck, RunProgress, RunStats, Workload } from '../workloads/index.ts'
import type { DEMO_OPTIONS } from './options.ts'
import type { DemoReport, PhaseFigures, VerifyFigures } from './report.ts'
import { Sampler, sampledRelations } from './sampler.ts'
import type { ShardAddress } from './sampler.ts'

const POLL_MS = 20
const WAIT_MS = 180_000
/** Transactions that have to go through after an event before the load is ended. */
const COMMITS_AFTER_EVENT = 500

export interface DemoParts {
  readonly cluster: Cluster
  readonly client: UnderstoryClient
  readonly tenant: string
  readonly connectionString: string
  readonly values: OptionValues<typeof DEMO_OPTIONS>
  /** Where the clients keep their ledgers. */
  readonly ledgerDirectory: string
  readonly say: (line: string) => void
  readonly signal: AbortSignal
}

type Figures = Omit<DemoReport, 'postgresVersion' | 'settings' | 'machine' | 'tookMs'>

/** A workload that runs in the background until `end`. */
interface Load {
  readonly progress: RunProgress
  end(): Promise<RunStats>
}

export class Demo {
  readonly #parts: DemoParts

  constructor(parts: DemoParts) {
    this.#parts = parts
  }

  postgresVersion(): Promise<string> {
    return this.#query('show server_version').then(([row]) => String(row?.['server_version']))
  }

  async run(): Promise<Figures> {
    const { values, connectionString, say } = this.#parts
    const phases: PhaseFigures[] = []
    const verify: VerifyFigures[] = []
    say(`loading TPC-C with ${values.warehouses} warehouses and pgbench's tables at scale ${values.scale}`)
    await loadTpcc({ connectionString, warehouses: values.warehouses })
    await loadTpcb({ connectionString, scale: values.scale })

    phases.push(await this.#phase(tpcc, 'on'), await this.#phase(tpcb, 'on'))
    const toOff = await this.#switchUnderLoad(tpcc, 'off')
    phases.push(await this.#phase(tpcc, 'off'), await this.#phase(tpcb, 'off'))
    verify.push(await this.#verify('after the load'))
    const safekeeperLoss = await this.#loseSafekeeper()
    const computeLoss = await this.#loseCompute()
    verify.push(await this.#verify('after the losses'))
    const toOn = await this.#switchUnderLoad(tpcb, 'on')
    return {
      phases,
      verify,
      safekeeperLoss,
      computeLoss,
      switch: {
        toOffMs: toOff.tookMs,
        toOnMs: toOn.tookMs,
        connectionsLost: toOff.connectionsLost + toOn.connectionsLost,
        restarts: toOff.restarts + toOn.restarts,
      },
      consistencyViolations: await this.#consistencyViolations(),
    }
  }

  /**
   * One load phase, from a checkpoint on: the WAL that its transactions made, and the work of the storage during it.
   */
  async #phase(workload: Workload, fpw: 'on' | 'off'): Promise<PhaseFigures> {
    const { values, connectionString, say } = this.#parts
    say(`${workload.name} with full_page_writes ${fpw}, ${values.seconds} s`)
    const sampler = await this.#sampler()
    const checkpointsBefore = await this.#checkpoints()
    const startLsn = await this.#insertLsn()
    // Every phase begins with a checkpoint, after which each page's first change would be logged as an image.
    await this.#query('checkpoint')
    const imagesBefore = await this.#walImages(sampler, startLsn)
    await sampler.start()
    const stats = await runWorkload(workload, {
      connectionString,
      clients: values.clients,
      durationMs: values.seconds * 1_000,
      signal: this.#parts.signal,
    })
    const endLsn = await this.#insertLsn()
    const imagesAfter = await this.#walImages(sampler, endLsn)
    const sampled = await sampler.stop()
    const checkpoints = (await this.#checkpoints()) - checkpointsBefore
    if (this.#parts.signal.aborted) throw this.#parts.signal.reason
    if (stats.committed === 0) throw fail('unavailable', `no transaction of ${workload.name} was committed`)
    return {
      workload: workload.name,
      fpw,
      nopm: stats.nopm,
      tps: stats.tps,
      transactions: stats.committed,
      walBytesPerTransaction: Math.round((endLsn - startLsn) / stats.committed),
      fullPageImagesInWal: imagesAfter - imagesBefore,
      latencyP50Ms: stats.latencyMs.p50,
      latencyP99Ms: stats.latencyMs.p99,
      ...sampled,
      checkpoints,
    }
  }

  /** Checkpoints begun so far: requested and timed. */
  async #checkpoints(): Promise<number> {
    const sql =
      this.#parts.values.pg === '16'
        ? 'select checkpoints_timed + checkpoints_req as count from pg_stat_bgwriter'
        : 'select num_timed + num_requested as count from pg_stat_checkpointer'
    const [row] = await this.#query(sql)
    return Number(row?.['count'])
  }

  /** Images to be applied that the shards took from the WAL up to `lsn`. */
  async #walImages(sampler: Sampler, lsn: Lsn): Promise<number> {
    return this.#until('the shards to ingest the WAL', async () => {
      const statuses = await sampler.statuses()
      const stopped = statuses.find(({ failure }) => failure !== '')
      if (stopped !== undefined)
        throw fail('unavailable', `shard ${stopped.shard?.number} has stopped: ${stopped.failure}`)
      if (statuses.some(({ ingestedLsn }) => lsnFromBigint(ingestedLsn) < lsn)) return undefined
      return statuses.reduce((sum, { walImages }) => sum + Number(walImages), 0)
    })
  }

  async #switchUnderLoad(
    workload: Workload,
    wanted: 'on' | 'off',
  ): Promise<{ tookMs: number; connectionsLost: number; restarts: number }> {
    const { client, tenant, say } = this.#parts
    const startsBefore = (await this.#runningCompute()).postgresStarts
    const load = await this.#startLoad(workload)
    say(`switching full_page_writes ${wanted} under load`)
    await client.switchFullPageWrites(tenant, wanted)
    const view = await client.waitForFullPageWrites(tenant, { signal: this.#parts.signal })
    for (const step of view.steps) say(`  ${step.name} ${step.tookMs} ms`)
    await this.#moreCommits(load, COMMITS_AFTER_EVENT)
    const { connectionsLost } = await load.end()
    return {
      tookMs: view.tookMs,
      connectionsLost,
      restarts: (await this.#runningCompute()).postgresStarts - startsBefore,
    }
  }

  async #loseSafekeeper(): Promise<Figures['safekeeperLoss']> {
    const { cluster, say } = this.#parts
    const path = join(this.#parts.ledgerDirectory, 'safekeeper-loss.ledger')
    const load = await this.#startLoad(tpcb, path)
    const victim = cluster.safekeepers[0] as ClusterNode
    say(`killing ${victim.nodeId} under load`)
    await victim.kill()
    const before = load.progress.committed
    await this.#moreCommits(load, 2 * COMMITS_AFTER_EVENT)
    const commitsDuring = load.progress.committed - before
    await victim.start()
    await this.#moreCommits(load, COMMITS_AFTER_EVENT)
    await load.end()
    const { lostCommits, ghostCommits } = await this.#checkLedger(path)
    return { commitsDuring, lostCommits: lostCommits + ghostCommits }
  }

  /** Postgres and its proxy get SIGKILL at once; clients connect again by themselves. */
  async #loseCompute(): Promise<Figures['computeLoss']> {
    const path = join(this.#parts.ledgerDirectory, 'compute-loss.ledger')
    const load = await this.#startLoad(tpcc, path)
    const { pid, postmasterPid } = await this.#runningCompute()
    this.#parts.say(`killing Postgres (${postmasterPid}) and its compute-proxy (${pid}) under load`)
    const killedMs = performance.now()
    process.kill(pid, 'SIGKILL')
    process.kill(postmasterPid, 'SIGKILL')
    await this.#until('every client to lose its connection', async () =>
      load.progress.clientsConnected === 0 ? true : undefined,
    )
    const before = load.progress.committed
    await this.#until('the compute to be rebuilt', async () =>
      load.progress.committed > before ? true : undefined,
    )
    const rebuildMs = Math.round(performance.now() - killedMs)
    await this.#moreCommits(load, COMMITS_AFTER_EVENT)
    await load.end()
    const { lostCommits, ghostCommits } = await this.#checkLedger(path)
    return { rebuildMs, lostCommits, ghostCommits }
  }

  async #verify(when: string): Promise<VerifyFigures> {
    const { client, tenant, say, signal } = this.#parts
    say(`verifying every page ${when}`)
    const startedMs = performance.now()
    const result = await client.verifyTimeline(tenant, 'main', { signal })
    for (const difference of result.differences) say(`  ${difference}`)
    return {
      when,
      pagesIndependent: Number(result.pagesIndependent),
      pagesFromStorage: Number(result.pagesFromStorage),
      excluded: Number(result.excluded),
      differing: Number(result.differing),
      tookMs: Math.round(performance.now() - startedMs),
    }
  }

  async #startLoad(workload: Workload, ledgerPath?: string): Promise<Load> {
    const { connectionString, values, signal } = this.#parts
    const stop = new AbortController()
    const progress = newProgress()
    const ledger = ledgerPath === undefined ? undefined : new Ledger(ledgerPath)
    const running = runWorkload(workload, {
      connectionString,
      clients: values.clients,
      progress,
      signal: AbortSignal.any([stop.signal, signal]),
      ...(ledger === undefined ? {} : { ledger }),
    })
    // Its failure is thrown by `end`; until then it must not count as unhandled.
    running.catch(() => undefined)
    const load: Load = {
      progress,
      end: async () => {
        stop.abort()
        const stats = await running
        ledger?.close()
        return stats
      },
    }
    await this.#moreCommits(load, COMMITS_AFTER_EVENT)
    return load
  }

  async #moreCommits(load: Load, count: number): Promise<void> {
    const goal = load.progress.committed + count
    await this.#until(`${count} more transactions`, async () =>
      load.progress.committed >= goal ? true : undefined,
    )
  }

  async #checkLedger(path: string): Promise<LedgerCheck> {
    return this.#withClient((client) => checkLedger(client, path))
  }

  async #consistencyViolations(): Promise<number> {
    const checks = await this.#withClient(async (client) => [
      ...(await checkTpcc(client)),
      ...(await checkTpcb(client)),
    ])
    for (const { name, example, violationsCount } of checks) {
      if (violationsCount > 0) this.#parts.say(`  violated: ${name}: ${example}`)
    }
    return checks.reduce((sum, { violationsCount }) => sum + violationsCount, 0)
  }

  async #sampler(): Promise<Sampler> {
    const { spec, timeline } = await this.#timeline()
    const ref = timeline?.timeline
    if (spec === undefined || ref === undefined) throw fail('unavailable', 'the timeline has no placement')
    const shards = spec.pageservers.map((address, number): ShardAddress => ({
      address,
      shard: { number, count: spec.pageservers.length, stripeBlocks: spec.stripeBlocks },
    }))
    return new Sampler(ref, shards, await this.#withClient(sampledRelations))
  }

  async #insertLsn(): Promise<Lsn> {
    // Flushed, so that it reaches the storage even if nothing is written after it.
    const [row] = await this.#query('select pg_current_wal_flush_lsn() as lsn')
    return parseLsn(String(row?.['lsn']))
  }

  #timeline(): Promise<GetTimelineResponse> {
    return this.#parts.client.getTimeline(this.#parts.tenant)
  }

  #runningCompute(): Promise<GetComputeStatusResponse> {
    return this.#until('the compute to run', async () => {
      const { compute } = await this.#timeline()
      return compute?.state === ComputeState.COMPUTE_STATE_RUNNING ? compute : undefined
    })
  }

  async #query(sql: string): Promise<Record<string, unknown>[]> {
    return this.#withClient(async (client) => (await client.query<Record<string, unknown>>(sql)).rows)
  }

  async #withClient<T>(use: (client: pg.Client) => Promise<T>): Promise<T> {
    const client = new pg.Client({ connectionString: this.#parts.connectionString })
    client.on('error', () => undefined)
    await client.connect()
    try {
      return await use(client)
    } finally {
      await client.end()
    }
  }

  async #until<T>(what: string, probe: () => Promise<T | undefined>): Promise<T> {
    const untilMs = performance.now() + WAIT_MS
    for (;;) {
      const value = await probe()
      if (value !== undefined) return value
      if (this.#parts.signal.aborted) throw this.#parts.signal.reason
      if (performance.now() > untilMs) throw fail('timeout', `waited ${WAIT_MS / 1_000} s for ${what}`)
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
  }
}
