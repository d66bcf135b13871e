/**
 * Runs a workload with a number of clients for a time or until it is stopped, through all faults of the
 * server.
 *
 * A client whose connection is lost connects again as soon as the server takes it; what it had on its way is
 * failed, or unknown if its COMMIT was. Deadlocks and serialization failures are tried again with new input.
 * Any other error is the workload's or the server's fault and ends the run.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { assert, present } from '@understory/base'
import pg from 'pg'
import { isConnectionLoss, isRetryable } from './connection-loss.ts'
import { Histogram } from './histogram.ts'
import { LEDGER_INSERT, type Ledger, type LedgerClient, createLedgerTable } from './ledger.ts'
import { Random } from './random.ts'
import { Session } from './session.ts'
import type { Workload, WorkloadClient, WorkloadRun } from './workload.ts'

export interface RunOptions {
  readonly connectionString: string
  readonly clients: number
  /** The run ends after this time, or when `signal` aborts; at least one of the two is given. */
  readonly durationMs?: number
  readonly signal?: AbortSignal
  readonly seed?: number
  /** How long transactions that are on their way at the end may take before their connections are cut. */
  readonly drainTimeoutMs?: number
  /** Writes a ledger row in every writing transaction, and each outcome into its file. */
  readonly ledger?: Ledger
  /** Counts as they change, for a display. */
  readonly progress?: RunProgress
  readonly onReconnect?: (event: { readonly client: number; readonly downMs: number }) => void
}

export interface RunProgress {
  /** Transaction commits that the server acknowledged. */
  committed: number
  /** Of these, the workload's headline transaction. */
  headline: number
  connectionsLost: number
  clientsConnected: number
}

export function newProgress(): RunProgress {
  return { committed: 0, headline: 0, connectionsLost: 0, clientsConnected: 0 }
}

export interface Latency {
  readonly p50: number
  readonly p95: number
  readonly p99: number
}

export interface TransactionStats {
  readonly committed: number
  /** Rolled back by the workload itself. */
  readonly rolledBack: number
  readonly latencyMs: Latency
}

export interface RunStats {
  readonly workload: Workload['name']
  readonly clients: number
  readonly seconds: number
  readonly committed: number
  readonly tps: number
  /** New-Order transactions committed per minute; null for other workloads. */
  readonly nopm: number | null
  readonly transactions: Readonly<Record<string, TransactionStats>>
  readonly latencyMs: Latency
  /** Deadlocks and serialization failures. */
  readonly retries: number
  readonly connectionsLost: number
  /** Writing attempts whose COMMIT was on its way when the connection was lost. */
  readonly unknownOutcomes: number
  /** User and system time of this process, for each transaction. */
  readonly clientCpuUsPerTransaction: number
}

/** A server that is gone without a word must not keep a run from ending. */
const DRAIN_TIMEOUT_MS = 30_000
const BACKOFF_MIN_MS = 10
const BACKOFF_MAX_MS = 200

/** Resolves with the figures when every client has ended; rejects if the workload could not be run. */
export async function runWorkload(workload: Workload, options: RunOptions): Promise<RunStats> {
  const { clients: clientsCount, seed = 1, progress = newProgress() } = options
  assert(
    options.durationMs !== undefined || options.signal !== undefined,
    () => 'a run needs a duration or a signal',
  )
  const run = await prepareRun(workload, options)
  const stop = new AbortController()
  const onAbort = () => stop.abort()
  options.signal?.addEventListener('abort', onAbort)
  if (options.signal?.aborted === true) stop.abort()
  const clients = Array.from(
    { length: clientsCount },
    (_, i) => new Client(workload, run.client(i, new Random(seed, i)), i, options, progress, stop.signal),
  )
  const cpuBefore = process.cpuUsage()
  const startedMs = performance.now()
  const timer = options.durationMs === undefined ? undefined : setTimeout(onAbort, options.durationMs)
  let drainTimer: NodeJS.Timeout | undefined
  stop.signal.addEventListener(
    'abort',
    () => {
      drainTimer = setTimeout(
        () => clients.forEach((client) => client.cut()),
        options.drainTimeoutMs ?? DRAIN_TIMEOUT_MS,
      )
    },
    { once: true },
  )
  try {
    const results = await Promise.allSettled(
      clients.map((client) =>
        client.work().catch((error: unknown) => {
          stop.abort()
          throw error
        }),
      ),
    )
    const elapsedMs = performance.now() - startedMs
    const cpu = process.cpuUsage(cpuBefore)
    const failure = results.find((result) => result.status === 'rejected')
    if (failure !== undefined) throw failure.reason
    return summarize(workload, clients, elapsedMs, cpu.user + cpu.system)
  } finally {
    clearTimeout(timer)
    clearTimeout(drainTimer)
    options.signal?.removeEventListener('abort', onAbort)
  }
}

async function prepareRun(
  workload: Workload,
  { connectionString, ledger }: RunOptions,
): Promise<WorkloadRun> {
  const client = new pg.Client({ connectionString })
  client.on('error', () => undefined)
  await client.connect()
  try {
    if (ledger !== undefined) await createLedgerTable(client)
    return await workload.prepare(client)
  } finally {
    await client.end()
  }
}

class Client {
  readonly committedCounts: Uint32Array
  readonly rolledBackCounts: Uint32Array
  readonly latencies: readonly Histogram[]
  retriesCount = 0
  connectionsLostCount = 0
  unknownOutcomesCount = 0
  readonly #workload: Workload
  readonly #terminal: WorkloadClient
  readonly #index: number
  readonly #options: RunOptions
  readonly #progress: RunProgress
  readonly #stop: AbortSignal
  readonly #ledger: LedgerClient | undefined
  #session: Session | undefined
  /** Whether the attempt that is on its way writes: only then does it matter what became of it. */
  #isWriting = false
  /** Its sequence in the ledger. */
  #sequence = 0

  constructor(
    workload: Workload,
    terminal: WorkloadClient,
    index: number,
    options: RunOptions,
    progress: RunProgress,
    stop: AbortSignal,
  ) {
    this.#workload = workload
    this.#terminal = terminal
    this.#index = index
    this.#options = options
    this.#progress = progress
    this.#stop = stop
    this.#ledger = options.ledger?.addClient()
    const { length } = workload.transactions
    this.committedCounts = new Uint32Array(length)
    this.rolledBackCounts = new Uint32Array(length)
    this.latencies = Array.from({ length }, () => new Histogram())
  }

  /** Drops the connection. */
  cut(): void {
    this.#session?.destroy()
  }

  async work(): Promise<void> {
    let lostAtMs: number | undefined
    try {
      while (!this.#stop.aborted) {
        const session = await this.#connect()
        if (session === undefined) break
        this.#session = session
        this.#progress.clientsConnected++
        if (lostAtMs !== undefined) {
          this.#options.onReconnect?.({ client: this.#index, downMs: performance.now() - lostAtMs })
        }
        try {
          await this.#workUntilLost(session)
        } finally {
          this.#progress.clientsConnected--
        }
        if (!session.lost) break
        lostAtMs = performance.now()
        this.connectionsLostCount++
        this.#progress.connectionsLost++
        session.destroy()
      }
    } finally {
      await this.#session?.close()
    }
  }

  /** Tries until the server takes the connection; undefined when the run is over before that. */
  async #connect(): Promise<Session | undefined> {
    const statements =
      this.#ledger === undefined ? this.#workload.statements : [...this.#workload.statements, LEDGER_INSERT]
    let backoffMs = BACKOFF_MIN_MS
    for (;;) {
      try {
        return await Session.open(this.#options.connectionString, statements)
      } catch (error) {
        if (!isConnectionLoss(error)) throw error
      }
      if (this.#stop.aborted) return undefined
      await delay(backoffMs, undefined, { signal: this.#stop }).catch(() => undefined)
      if (this.#stop.aborted) return undefined
      backoffMs = Math.min(backoffMs * 2, BACKOFF_MAX_MS)
    }
  }

  async #workUntilLost(session: Session): Promise<void> {
    const terminal = this.#terminal
    const progress = this.#progress
    const mark = () => this.#mark()
    while (!this.#stop.aborted && !session.lost) {
      const transaction = terminal.draw()
      const startedMs = performance.now()
      try {
        const outcome = await terminal.run(transaction, session, mark)
        if (outcome === 'committed' && session.commitOutcome === 'committed') {
          this.#settle('acknowledged')
          ;(this.latencies[transaction] as Histogram).add(performance.now() - startedMs)
          this.committedCounts[transaction] = (this.committedCounts[transaction] as number) + 1
          progress.committed++
          if (transaction === this.#workload.headline) progress.headline++
        } else if (outcome === 'rolledBack') {
          this.#settle('failed')
          this.rolledBackCounts[transaction] = (this.rolledBackCounts[transaction] as number) + 1
        } else {
          this.#settle('unknown')
        }
      } catch (error) {
        await this.#recover(session, error)
      }
    }
  }

  /** Settles the attempt that failed; throws what is neither a lost connection nor worth another try. */
  async #recover(session: Session, error: unknown): Promise<void> {
    if (session.commitOutcome === 'none') {
      this.#settle('failed')
    } else if (session.commitOutcome === 'committed') {
      // Said to be committed just before the connection was lost.
      this.#settle('acknowledged')
    } else {
      this.#settle('unknown')
    }
    if (isConnectionLoss(error)) return
    if (!isRetryable(error)) throw error
    this.retriesCount++
    try {
      await session.rollback()
    } catch (rollbackError) {
      if (!isConnectionLoss(rollbackError)) throw rollbackError
    }
  }

  #mark(): void {
    this.#isWriting = true
    if (this.#ledger === undefined) return
    this.#sequence = this.#ledger.begin()
    present(this.#session, 'session').add(LEDGER_INSERT, this.#ledger.clientId, this.#sequence)
  }

  #settle(outcome: 'acknowledged' | 'unknown' | 'failed'): void {
    if (!this.#isWriting) return
    this.#isWriting = false
    if (outcome === 'unknown') this.unknownOutcomesCount++
    this.#ledger?.[outcome](this.#sequence)
  }
}

function summarize(
  workload: Workload,
  clients: readonly Client[],
  elapsedMs: number,
  cpuUs: number,
): RunStats {
  const seconds = elapsedMs / 1000
  const sum = (count: (client: Client) => number) =>
    clients.reduce((total, client) => total + count(client), 0)
  const all = new Histogram()
  const transactions: Record<string, TransactionStats> = {}
  workload.transactions.forEach((name, i) => {
    const latency = new Histogram()
    for (const client of clients) latency.merge(client.latencies[i] as Histogram)
    all.merge(latency)
    transactions[name] = {
      committed: sum((client) => client.committedCounts[i] as number),
      rolledBack: sum((client) => client.rolledBackCounts[i] as number),
      latencyMs: latencyOf(latency),
    }
  })
  const committed = all.count
  const headline = workload.headline === undefined ? undefined : workload.transactions[workload.headline]
  return {
    workload: workload.name,
    clients: clients.length,
    seconds: Math.round(seconds * 1_000) / 1_000,
    committed,
    tps: round(committed / seconds),
    nopm: headline === undefined ? null : round(((transactions[headline]?.committed ?? 0) * 60) / seconds),
    transactions,
    latencyMs: latencyOf(all),
    retries: sum((client) => client.retriesCount),
    connectionsLost: sum((client) => client.connectionsLostCount),
    unknownOutcomes: sum((client) => client.unknownOutcomesCount),
    clientCpuUsPerTransaction: committed === 0 ? 0 : round(cpuUs / committed),
  }
}

function latencyOf(histogram: Histogram): Latency {
  return { p50: histogram.quantileMs(0.5), p95: histogram.quantileMs(0.95), p99: histogram.quantileMs(0.99) }
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
