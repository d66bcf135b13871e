/**
 * How far the shards of a timeline are behind its committed WAL, as their pageservers answer, and the rate of WAL that
 * follows from it: the shard that is furthest behind decides.
 *
 * A shard that is not known to be behind slows no commit: one that does not answer, has stopped, or is loading yet is
 * reported, and that is all. So is one whose last answer is older than REPORT_MS_MAX.
 */
import { Loop, ProblemReport } from '@understory/actor'
import { UnderstoryError, describeError, lsnFromBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock, Log, Rng } from '@understory/env'
import type { CheckedSpec } from '@understory/protocol'
import type { PageserverClient } from '@understory/protocol/clients'
import type { ShardStatus } from '@understory/rpc'
import type { AnswerBrake } from './answer-brake.ts'
import { walRateMax } from './wal-rate.ts'

const ROUND_MS = 500
const DEADLINE_MS = 2_000
/** A pageserver that is busy may be late; what is older says nothing of now. */
const REPORT_MS_MAX = 5_000

export interface IngestLag {
  readonly limitBytes: number
  /** Of each shard, by its number; undefined where it is not known. */
  readonly shardsBytes: readonly (number | undefined)[]
  /** The largest that is known; 0 where none is. */
  readonly bytes: number
  /** Bytes of WAL a second to which commits are slowed; `Infinity` where they are not. */
  readonly walBytesPerS: number
  /** For so long the answer to the oldest commit is held. */
  readonly heldMs: number
  readonly heldBytes: number
}

export interface IngestLagParts {
  readonly connect: (address: string) => Pick<PageserverClient, 'shards' | 'close'>
  /** The newest. */
  readonly spec: () => Pick<CheckedSpec, 'timeline' | 'pageservers'>
  readonly commitLsn: () => Lsn
  readonly brake: Pick<AnswerBrake, 'limit' | 'heldMs' | 'heldBytes'>
  readonly limitBytes: number
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

interface Report {
  readonly ingestedLsn: Lsn
  /** As of the answer. */
  readonly lagBytes: number
  atMs: number
}

export class IngestLagWatch {
  readonly #parts: IngestLagParts
  readonly #clients = new Map<string, Pick<PageserverClient, 'shards' | 'close'>>()
  readonly #asked = new Map<string, Promise<void>>()
  readonly #reports = new Map<number, Report>()
  readonly #unknown: ProblemReport
  readonly #loop: Loop
  readonly #startedMs: number
  /** As last decided on. */
  #shardsBytes: readonly (number | undefined)[] = []
  #walBytesPerS = Infinity
  #slowedMs: number | undefined

  constructor(parts: IngestLagParts) {
    const { clock, rng, log } = parts
    this.#parts = parts
    this.#startedMs = clock.nowMs()
    this.#unknown = new ProblemReport({ clock, log, event: 'ingest_lag_unknown' })
    const problems = new ProblemReport({ clock, log, event: 'ingest_lag_not_watched' })
    const round = async (stop: AbortSignal): Promise<void> => this.#round(stop)
    this.#loop = new Loop({ clock, rng, round, pauseMs: ROUND_MS, problems })
  }

  get view(): IngestLag {
    const { limitBytes, brake } = this.#parts
    const { heldMs, heldBytes } = brake
    const shardsBytes = this.#shardsBytes
    return {
      limitBytes,
      shardsBytes,
      bytes: largest(shardsBytes),
      walBytesPerS: this.#walBytesPerS,
      heldMs,
      heldBytes,
    }
  }

  start(): void {
    this.#loop.start()
  }

  /** Nothing is slowed from now on; resolves once no pageserver is asked any more. */
  async stop(): Promise<void> {
    const stopped = this.#loop.stop()
    this.#slow(0)
    await stopped
    await Promise.all(this.#asked.values())
    for (const client of this.#clients.values()) client.close()
    this.#clients.clear()
  }

  #round(stop: AbortSignal): void {
    const { pageservers } = this.#parts.spec()
    if (!this.#isAllIngested(pageservers)) this.#askAll(pageservers, stop)
    this.#decide()
  }

  /** There is nothing to ask an idle timeline's pageservers. */
  #isAllIngested(pageservers: readonly string[]): boolean {
    const { commitLsn, clock } = this.#parts
    const committedLsn = commitLsn()
    const reports = pageservers.map((_, number) => this.#reports.get(number))
    if (!reports.every((report) => report !== undefined && report.ingestedLsn >= committedLsn)) return false
    for (const report of this.#reports.values()) report.atMs = clock.nowMs()
    return true
  }

  /** Once each; one that takes its time is not waited for by the others. */
  #askAll(pageservers: readonly string[], stop: AbortSignal): void {
    for (const [address, client] of this.#clients) {
      if (pageservers.includes(address) || this.#asked.has(address)) continue
      client.close()
      this.#clients.delete(address)
    }
    for (const address of new Set(pageservers)) {
      if (this.#asked.has(address)) continue
      const asked = this.#ask(address, stop).finally(() => this.#asked.delete(address))
      this.#asked.set(address, asked)
    }
  }

  async #ask(address: string, signal: AbortSignal): Promise<void> {
    const { connect, spec, log } = this.#parts
    const client = this.#clients.get(address) ?? connect(address)
    this.#clients.set(address, client)
    try {
      const answers = await client.shards(spec().timeline, { deadlineMs: DEADLINE_MS, signal })
      if (signal.aborted) return
      for (const [number, place] of spec().pageservers.entries())
        if (place === address) this.#note(number, answers)
      this.#decide()
    } catch (error) {
      if (!(error instanceof UnderstoryError)) throw error
      log.debug('ingest_lag_not_answered', { address, problem: describeError(error) })
    }
  }

  #note(number: number, answers: readonly ShardStatus[]): void {
    const { commitLsn, clock } = this.#parts
    const found = answers.find(({ shard }) => shard?.number === number)
    // To wait for one that has stopped would not make it continue.
    if (found === undefined || found.failure !== '' || found.loading || found.ingestedLsn === 0n) return
    const ingestedLsn = lsnFromBigint(found.ingestedLsn)
    this.#reports.set(number, {
      ingestedLsn,
      lagBytes: Math.max(0, commitLsn() - ingestedLsn),
      atMs: clock.nowMs(),
    })
  }

  #known(): (number | undefined)[] {
    const { spec, clock } = this.#parts
    const fromMs = clock.nowMs() - REPORT_MS_MAX
    return spec().pageservers.map((_, number) => {
      const report = this.#reports.get(number)
      return report === undefined || report.atMs < fromMs ? undefined : report.lagBytes
    })
  }

  #decide(): void {
    this.#shardsBytes = this.#known()
    this.#slow(largest(this.#shardsBytes))
    this.#reportUnknown()
  }

  #slow(lagBytes: number): void {
    const { brake, limitBytes, clock, log } = this.#parts
    const walBytesPerS = walRateMax(lagBytes, limitBytes)
    const wasSlowed = this.#walBytesPerS < Infinity
    this.#walBytesPerS = walBytesPerS
    brake.limit(walBytesPerS)
    if (walBytesPerS < Infinity === wasSlowed) return
    if (!wasSlowed) {
      this.#slowedMs = clock.nowMs()
      return log.info('commits_slowed', { lagBytes, limitBytes })
    }
    log.info('commits_not_slowed', { lagBytes, tookMs: Math.round(clock.nowMs() - (this.#slowedMs ?? 0)) })
  }

  #reportUnknown(): void {
    if (this.#parts.clock.nowMs() - this.#startedMs < REPORT_MS_MAX) return
    const shardsBytes = this.#shardsBytes
    const unknown = [...shardsBytes.keys()].filter((number) => shardsBytes[number] === undefined)
    if (unknown.length === 0) this.#unknown.clear()
    else this.#unknown.report(`no lag is known of shard ${unknown.join(', ')}: it slows no commit`)
  }
}

const largest = (shardsBytes: readonly (number | undefined)[]): number =>
  Math.max(0, ...shardsBytes.filter((bytes) => bytes !== undefined))
