/**
 * Which of several control planes over one store acts: `control/lead.json`, changed by compare-and-swap.
 *
 * - Taking the lead raises the epoch. Every document carries the epoch of its last writer, and is not written under a
 *   lower one (tenant-store.ts): that, and not the clock, keeps a control plane that was overtaken from changing anything.
 *   The lease only decides when another may take over.
 * - Clocks are not compared with each other: a candidate watches the record, and takes over where it did not change
 *   for a whole lease by its own clock. A record of its own node is its predecessor's, and a released one
 *   has no holder: these need no waiting.
 *
 *   waiting --(free, or silent for a lease)--> leading --(the record is another's)--> lost
 */
import { Loop, ProblemReport } from '@understory/actor'
import { describeError, hexId, fail } from '@understory/base'
import { isRetryable, throwIfCancelled } from '@understory/env'
import type { Clock, Log, Rng } from '@understory/env'
import { getIfPresent } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { LEADER_KEY } from '@understory/protocol'
import { z } from 'zod'

/** Renewals, and looks at another's, in a lease. */
const RENEWALS_PER_LEASE = 5

const record = z.object({
  version: z.literal(1),
  epoch: z.number().int().positive(),
  nodeId: z.string(),
  /** Of the process: it distinguishes two of one node. */
  nonce: z.string(),
  /** Grows while its process lives. */
  renewals: z.number().int().nonnegative(),
  /** It has no holder. */
  released: z.boolean(),
})
type LeaseRecord = z.infer<typeof record>

interface Found {
  readonly record: LeaseRecord
  readonly etag: string
}

/** The part that the documents need: the lead under which they are written. */
export interface Leadership {
  /** Grows with each lead. Errors: `unavailable` where this control plane does not lead. */
  readonly epoch: number
  /** Errors: `unavailable` where this control plane does not lead. */
  requireHeld(): void
}

export interface LeaderLeaseParts {
  readonly store: ObjectStore
  readonly nodeId: string
  readonly leaseMs: number
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

export class LeaderLease implements Leadership {
  /** Resolves with a reason when another has taken it. */
  readonly lost: Promise<string>
  readonly #lost = Promise.withResolvers<string>()
  readonly #parts: LeaderLeaseParts
  readonly #nonce: string
  #own: Found | undefined
  #holder = ''
  /** Another's record, and since when it is as it is. */
  #seen: { readonly etag: string; readonly sinceMs: number } | undefined
  /** When another was last seen to renew its lead; it may have died since. */
  #othersRenewalMs = -Infinity
  readonly #renewals: Loop

  constructor(parts: LeaderLeaseParts) {
    this.#parts = parts
    this.#nonce = hexId(parts.rng.bytes(16))
    this.lost = this.#lost.promise
    const { clock, rng, log, leaseMs } = parts
    const pauseMs = leaseMs / RENEWALS_PER_LEASE
    this.#renewals = new Loop({
      clock,
      rng,
      pauseMs,
      firstAfterMs: pauseMs,
      backoff: { baseMs: pauseMs, pauseMsMax: pauseMs },
      // A store that is away is away for the others too: whose lead it is shows when it is back.
      problems: new ProblemReport({ clock, log, event: 'leadership_not_renewed' }),
      round: async () => (this.#own === undefined ? 'end' : this.#renewOnce(this.#own)),
    })
  }

  get isHeld(): boolean {
    return this.#own !== undefined
  }

  /** Whether another leads, as far as is known: it has renewed its lead within a lease. */
  get isStandby(): boolean {
    return !this.isHeld && this.#parts.clock.nowMs() - this.#othersRenewalMs <= this.#parts.leaseMs
  }

  get epoch(): number {
    return this.#held().record.epoch
  }

  requireHeld(): void {
    this.#held()
  }

  #held(): Found {
    if (this.#own !== undefined) return this.#own
    const holder = this.#holder === '' ? 'another' : `"${this.#holder}"`
    throw fail('unavailable', `control plane "${this.#parts.nodeId}" does not lead, ${holder} does`, {
      hint: 'Ask the one that leads, or wait until this one takes over.',
    })
  }

  /**
   * Waits until the lead can be taken, takes it, and keeps it; a store that is away is waited for. Rejects `cancelled`
   * when the signal fires.
   */
  async acquire(signal: AbortSignal): Promise<void> {
    const { clock, leaseMs, log } = this.#parts
    const problems = new ProblemReport({ clock, log, event: 'leadership_skipped' })
    for (;;) {
      throwIfCancelled(signal)
      try {
        if (await this.#tryToTake(signal)) return
        problems.clear()
      } catch (error) {
        if (!isRetryable(error)) throw error
        // Whether another has renewed its lead in the meantime was not seen.
        this.#seen = undefined
        problems.report(error)
      }
      await clock.sleep(leaseMs / RENEWALS_PER_LEASE, signal)
    }
  }

  /** False where another has it. */
  async #tryToTake(signal: AbortSignal): Promise<boolean> {
    const { clock, leaseMs, nodeId, log } = this.#parts
    for (;;) {
      const found = await this.#read(signal)
      const nowMs = clock.nowMs()
      const isFree = found === undefined || found.record.released || found.record.nodeId === nodeId
      if (!isFree && found.etag !== this.#seen?.etag) {
        if (this.#seen === undefined) log.info('waiting_for_leadership', { holder: found.record.nodeId })
        // The record that is found first may be old.
        else this.#othersRenewalMs = nowMs
        this.#seen = { etag: found.etag, sinceMs: nowMs }
        this.#holder = found.record.nodeId
        return false
      }
      if (!isFree && nowMs - (this.#seen?.sinceMs ?? nowMs) <= leaseMs) return false
      if (await this.#take(found)) return true
    }
  }

  /** Releases it, so that the next one need not wait. */
  async release(): Promise<void> {
    await this.#renewals.stop()
    const own = this.#own
    this.#own = undefined
    if (own === undefined) return
    await this.#write({ ...own.record, released: true }, own.etag).catch((error: unknown) => {
      // Others take over after a lease all the same.
      this.#parts.log.warn('leadership_not_released', { problem: describeError(error) })
    })
  }

  async #take(found: Found | undefined): Promise<boolean> {
    const { nodeId, log } = this.#parts
    const epoch = (found?.record.epoch ?? 0) + 1
    const next = { version: 1, epoch, nodeId, nonce: this.#nonce, renewals: 0, released: false } as const
    const etag = await this.#write(next, found?.etag)
    if (etag === undefined) return false
    this.#own = { record: next, etag }
    log.info('leadership_acquired', { epoch, before: found?.record.nodeId })
    this.#renewals.start()
    return true
  }

  async #renewOnce(own: Found): Promise<void> {
    const next = { ...own.record, renewals: own.record.renewals + 1 }
    const etag = await this.#write(next, own.etag)
    if (etag !== undefined) {
      this.#own = { record: next, etag }
      return
    }
    const found = await this.#read()
    if (found !== undefined && found.record.nonce === this.#nonce) {
      this.#own = found
      return
    }
    this.#own = undefined
    this.#holder = found?.record.nodeId ?? ''
    this.#lost.resolve(`control plane "${this.#holder}" has taken the lead with epoch ${found?.record.epoch}`)
  }

  /** The new etag, or undefined where another writer was faster. */
  async #write(value: LeaseRecord, over: string | undefined): Promise<string | undefined> {
    const bytes = Buffer.from(`${JSON.stringify(value, undefined, 1)}\n`)
    const { store } = this.#parts
    const result =
      over === undefined
        ? await store.putIfAbsent(LEADER_KEY, bytes)
        : await store.putIfMatch(LEADER_KEY, over, bytes)
    return result.kind === 'stored' ? result.etag : undefined
  }

  async #read(signal?: AbortSignal): Promise<Found | undefined> {
    const found = await getIfPresent(this.#parts.store, LEADER_KEY, { signal })
    if (found === undefined) return undefined
    try {
      return { record: record.parse(JSON.parse(Buffer.from(found.bytes).toString())), etag: found.etag }
    } catch (cause) {
      throw fail('bad_file', `lead record "${LEADER_KEY}" is not what this version writes`, {
        detail: describeError(cause),
        hint: 'Stop every control plane, then remove the object.',
        cause,
      })
    }
  }
}
