/**
 * The trace of one transaction's WAL: from its receipt to the reply to Postgres. One at a time is followed: the WAL of
 * one message from Postgres, as all safekeepers get it.
 *
 *   commit                     WAL received until it is reported to Postgres
 *     receive                  finding the ends of its records, handing it in
 *     append safekeeper-1      sent until that safekeeper has flushed it; its own spans hang below
 *     append …
 *     quorum                   handed in until a majority has flushed it
 *     standby reply            reporting it to Postgres
 */
import { formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Span, Traces } from '@understory/telemetry'

/** A commit that takes longer than this is recorded as it is then. */
const FOLLOWED_MS_MAX = 30_000

interface Followed {
  readonly root: Span
  readonly quorum: Span
  readonly endLsn: Lsn
  readonly startMs: number
  readonly appends: Map<string, Span>
  isCommitted: boolean
}

export class CommitTraces {
  readonly #traces: Traces
  readonly #attributes: Readonly<Record<string, string>>
  #followed: Followed | undefined

  constructor(traces: Traces, attributes: Readonly<Record<string, string>>) {
    this.#traces = traces
    this.#attributes = attributes
  }

  pushed(endLsn: Lsn, bytes: number, receivedMs: number): void {
    const before = this.#followed
    if (before !== undefined) {
      if (receivedMs - before.startMs < FOLLOWED_MS_MAX) return
      this.end('timeout')
    }
    const root = this.#traces.root('commit', { startMs: receivedMs })
    if (root === undefined) return
    root.set({ ...this.#attributes, lsn: formatLsn(endLsn), 'wal.bytes': bytes })
    const nowMs = performance.now()
    root.child('receive', { startMs: receivedMs }).end(undefined, nowMs)
    const quorum = root.child('quorum', { startMs: nowMs })
    this.#followed = { root, quorum, endLsn, startMs: nowMs, appends: new Map(), isCommitted: false }
  }

  /** The context for the append that brings the end of what is followed to `to`. */
  sending(to: string, endLsn: Lsn): string {
    const followed = this.#followed
    if (followed === undefined || endLsn < followed.endLsn || followed.appends.has(to)) return ''
    const append = followed.root.child(`append ${to}`, { kind: 'client', attributes: { safekeeper: to } })
    followed.appends.set(to, append)
    return append.traceparent
  }

  acknowledged(from: string, flushLsn: Lsn): void {
    const followed = this.#followed
    if (followed === undefined || flushLsn < followed.endLsn) return
    followed.appends.get(from)?.end()
    followed.appends.delete(from)
    // Safekeepers slower than the majority are waited for until the next commit is followed.
    if (followed.isCommitted && followed.appends.size === 0) this.#followed = undefined
  }

  committed(lsn: Lsn, decidedMs: number): void {
    const followed = this.#followed
    if (followed === undefined || followed.isCommitted || lsn < followed.endLsn) return
    const nowMs = performance.now()
    followed.isCommitted = true
    followed.quorum.end(undefined, decidedMs)
    followed.root.child('standby reply', { startMs: decidedMs }).end(undefined, nowMs)
    followed.root.end(undefined, nowMs)
    if (followed.appends.size === 0) this.#followed = undefined
  }

  /** The followed commit gets no further. */
  end(reason: string): void {
    const followed = this.#followed
    this.#followed = undefined
    if (followed === undefined) return
    for (const append of followed.appends.values()) append.end(reason)
    if (followed.isCommitted) return
    followed.quorum.end(reason)
    followed.root.end(reason)
  }
}
