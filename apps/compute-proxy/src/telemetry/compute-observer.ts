/** Measures one compute: its quorum on the way of commits, the rest at each collection. */
import { bytesBetween } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { ElectionKind } from '@understory/consensus'
import type { TimelineRef } from '@understory/rpc'
import { PendingDurations } from '@understory/telemetry'
import type { Telemetry } from '@understory/telemetry'
import type { IngestLag } from '../wal-proposer/ingest-lag.ts'
import { CommitTraces } from '../wal-proposer/commit-trace.ts'
import { COMPUTE_PHASES } from './metrics.ts'
import type { ComputePhase, METRICS } from './metrics.ts'
import type { DriverObserver } from '@understory/consensus/driver'

/** Safekeepers answer heartbeats of one second. */
const CONNECTED_MS_MAX = 3_000

export type ComputeTelemetry = Telemetry<typeof METRICS>

const LOSSES = {
  fenced: 'fenced',
  superseded: 'superseded',
  staleMembership: 'stale_membership',
  noContact: 'no_contact',
} as const

/** The part of a compute's state that is observed at each collection. */
export interface ObservedCompute {
  readonly state: ComputePhase
  readonly ingestLag: IngestLag | undefined
}

interface Peer {
  /** Undefined until it is heard. */
  flushLsn: Lsn | undefined
  heardMs: number
}

export class ComputeObserver implements DriverObserver {
  readonly #metrics: ComputeTelemetry['metrics']
  readonly #labels: { readonly tenant: string; readonly timeline: string }
  readonly #received
  readonly #committed
  readonly #commitDuration
  readonly #pending = new PendingDurations()
  readonly #traces: CommitTraces | undefined
  readonly #peers = new Map<string, Peer>()
  #receivedMs = 0
  #decidedMs = 0
  #endLsn = 0 as Lsn
  #commitLsn = 0 as Lsn
  #term = 0

  /** `state` is called at each collection. */
  constructor(
    telemetry: Pick<ComputeTelemetry, 'metrics' | 'meter' | 'traces'>,
    timeline: TimelineRef,
    state: () => ObservedCompute,
  ) {
    const { metrics, meter, traces } = telemetry
    this.#metrics = metrics
    this.#labels = { tenant: timeline.tenantId, timeline: timeline.timelineId }
    this.#received = metrics.walReceived.of(this.#labels)
    this.#committed = metrics.walCommitted.of(this.#labels)
    this.#commitDuration = metrics.commitDuration.of({})
    this.#traces = traces === undefined ? undefined : new CommitTraces(traces, this.#labels)
    meter.onCollect(() => this.#collect(state()))
  }

  received(): void {
    this.#receivedMs = performance.now()
  }

  pushed(endLsn: Lsn, bytes: number): void {
    this.#endLsn = endLsn
    this.#received.add(bytes)
    this.#pending.begin(endLsn, this.#receivedMs)
    this.#traces?.pushed(endLsn, bytes, this.#receivedMs)
  }

  sending(to: string, endLsn: Lsn): string {
    return this.#traces?.sending(to, endLsn) ?? ''
  }

  acknowledged(from: string, flushLsn: Lsn, nowMs: number): void {
    const peer = this.#peers.get(from)
    if (peer === undefined) this.#peers.set(from, { flushLsn, heardMs: nowMs })
    else {
      peer.flushLsn = flushLsn
      peer.heardMs = nowMs
    }
    this.#traces?.acknowledged(from, flushLsn)
  }

  decided(): void {
    this.#decidedMs = performance.now()
  }

  committed(lsn: Lsn): void {
    if (this.#commitLsn !== 0) this.#committed.add(bytesBetween(this.#commitLsn, lsn))
    this.#commitLsn = lsn
    if (lsn > this.#endLsn) this.#endLsn = lsn
    this.#pending.settle(lsn, this.#decidedMs, this.#commitDuration)
    this.#traces?.committed(lsn, this.#decidedMs)
  }

  elected(term: number, kind: ElectionKind, startLsn: Lsn): void {
    this.#metrics.elections.of({ ...this.#labels, kind }).add(1)
    this.#term = term
    // WAL that was handed to another candidacy is not waited for any more.
    this.#pending.clear()
    this.#traces?.end('superseded')
    this.#endLsn = startLsn
    this.#commitLsn = startLsn
  }

  begins(members: readonly string[]): void {
    for (const name of this.#peers.keys()) if (!members.includes(name)) this.#peers.delete(name)
    // A safekeeper that never answers is reported as well.
    for (const name of members)
      if (!this.#peers.has(name)) this.#peers.set(name, { flushLsn: undefined, heardMs: -Infinity })
  }

  membershipChanged(members: readonly string[]): void {
    this.#metrics.membershipChanges.of(this.#labels).add(1)
    this.begins(members)
  }

  lost(reason: keyof typeof LOSSES): void {
    this.#metrics.leadsLost.of({ ...this.#labels, reason: LOSSES[reason] }).add(1)
    this.#traces?.end(LOSSES[reason])
  }

  /** SQL is served after so long. */
  opened(kind: 'bootstrap' | 'rebuild' | 'adopt', tookMs: number): void {
    this.#metrics.startDuration.of({ kind }).recordMs(tookMs)
  }

  #collect({ state, ingestLag }: ObservedCompute): void {
    const { phase, quorumLag, safekeeperLag, safekeeperConnected, term } = this.#metrics
    const labels = this.#labels
    for (const name of COMPUTE_PHASES) phase.observe({ ...labels, phase: name }, name === state ? 1 : 0)
    if (ingestLag !== undefined) this.#collectLag(ingestLag)
    if (this.#term === 0) return
    term.observe(labels, this.#term)
    quorumLag.observe(labels, Math.max(0, this.#endLsn - this.#commitLsn))
    const nowMs = performance.now()
    for (const [safekeeper, { flushLsn, heardMs }] of this.#peers) {
      if (flushLsn !== undefined)
        safekeeperLag.observe({ ...labels, safekeeper }, Math.max(0, this.#endLsn - flushLsn))
      const isConnected = nowMs - heardMs < CONNECTED_MS_MAX
      safekeeperConnected.observe({ ...labels, safekeeper }, isConnected ? 1 : 0)
    }
  }

  #collectLag({ shardsBytes, walBytesPerS, heldMs }: IngestLag): void {
    const { ingestLag, ingestLagUnknown, walRateLimit, commitHeld } = this.#metrics
    const labels = this.#labels
    for (const [number, bytes] of shardsBytes.entries())
      if (bytes !== undefined) ingestLag.observe({ ...labels, shard: String(number) }, bytes)
    ingestLagUnknown.observe(labels, shardsBytes.filter((bytes) => bytes === undefined).length)
    if (walBytesPerS < Infinity) walRateLimit.observe(labels, walBytesPerS)
    commitHeld.observe(labels, heldMs / 1_000)
  }
}
