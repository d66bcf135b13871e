/**
 * The object store of this safekeeper, and what is known of it: nothing is stored, and so nothing trimmed, before the
 * store is known to keep what two writers rely on. The work for each timeline is a child of its replica
 * (timeline-offload.ts).
 */
import { Loop, ProblemReport, Semaphore } from '@understory/actor'
import { isErrorCode } from '@understory/base'
import type { Clock, Log, Rng } from '@understory/env'
import { probeConditionalPut } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import type { TimelineRef } from '@understory/rpc'
import type { SafekeeperObserver } from '../telemetry/safekeeper-observer.ts'
import { ChunkCache, RemoteWal } from '../timeline/remote-wal.ts'
import type { ChildFactory } from '../timeline/replica.ts'
import { TimelineOffload } from './timeline-offload.ts'
import type { OffloadSettings } from './timeline-offload.ts'

const RETRY_MS = 5_000
/** Segments that are read, decoded and sent at once, of all timelines: each is in memory as a whole. */
const TRANSFERS_MAX = 4

export interface OffloaderParts {
  readonly store: ObjectStore
  /** Of this safekeeper. */
  readonly nodeId: string
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  readonly settings: OffloadSettings
  readonly observer?: SafekeeperObserver | undefined
  /** Between two looks at a timeline; 1,000 by default. */
  readonly roundMs?: number
}

export class Offloader {
  readonly #parts: OffloaderParts
  readonly #cache = new ChunkCache()
  readonly #transfers = new Semaphore(TRANSFERS_MAX)
  readonly #probing: Loop
  readonly #storeAway: ProblemReport
  readonly #storeUnfit: ProblemReport
  #isReady = false

  constructor(parts: OffloaderParts) {
    const { clock, rng, log } = parts
    this.#parts = parts
    this.#storeAway = new ProblemReport({ clock, log, event: 'object_store_not_ready' })
    this.#storeUnfit = new ProblemReport({ clock, log, event: 'object_store_unfit', level: 'error' })
    this.#probing = new Loop({
      clock,
      rng,
      pauseMs: RETRY_MS,
      problems: new ProblemReport({ clock, log, event: 'object_store_probe_failed' }),
      round: () => this.#probe(),
    })
  }

  /** A timeline's WAL in the store, as many readers share it. */
  readonly remoteOf = (ref: TimelineRef): RemoteWal => new RemoteWal(this.#parts.store, ref, this.#cache)

  /** The same for a caller that has to see it as it is: nothing read before is remembered. */
  readonly freshRemoteOf = (ref: TimelineRef): RemoteWal =>
    new RemoteWal(this.#parts.store, ref, new ChunkCache())

  /** The child for each replica. */
  readonly factory: ChildFactory = (replica) => {
    const { nodeId, clock, rng, settings, observer, roundMs } = this.#parts
    const remote = this.remoteOf(replica.ref)
    const isStoreReady = (): boolean => this.#isReady
    const transfers = this.#transfers
    const parts = { remote, nodeId, clock, rng, settings, observer, isStoreReady, transfers, roundMs }
    return { name: 'offload', child: new TimelineOffload(replica, parts) }
  }

  start(): void {
    this.#probing.start()
  }

  stop(): Promise<void> {
    return this.#probing.stop()
  }

  async #probe(): Promise<'end' | void> {
    const { store, rng, log } = this.#parts
    const fields = { store: store.description }
    try {
      await probeConditionalPut(store, rng)
    } catch (error) {
      // A store that is not there yet, as in a new installation, comes by itself; an unfit one has to be replaced.
      const problems = isErrorCode(error, 'unsupported') ? this.#storeUnfit : this.#storeAway
      problems.report(error, fields)
      return
    }
    const wasAway = this.#storeAway.clear()
    if (this.#storeUnfit.clear() || wasAway) log.info('object_store_ready', fields)
    this.#isReady = true
    return 'end'
  }
}
