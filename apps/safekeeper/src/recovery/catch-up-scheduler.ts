/**
 * Begins the catch-ups of this safekeeper's replicas (catch-up.ts is one of them), each a child of its replica, a few
 * at a time: when the control plane asks a new member for it (`pull`), and when an elected proposer comes to a log that
 * is far behind (`beforeLeading`): answered before that, it would have to read the WAL from another safekeeper and send
 * it on.
 */
import { Semaphore } from '@understory/actor'
import { parseTenantId, parseTimelineId, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import { everyMember } from '@understory/protocol'
import type { Member } from '@understory/protocol'
import type { ClientContext, TimelineRef } from '@understory/rpc'
import type { RemoteWal } from '../timeline/remote-wal.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { Timelines } from '../timeline/timelines.ts'
import { CatchUp } from './catch-up.ts'
import type { CatchUpProgress } from './catch-up.ts'
import { PeerSource } from './peer-source.ts'
import type { WalSource } from './recovery.ts'
import { StoredSource } from './stored-wal.ts'
import type { StoredEnd } from './stored-wal.ts'

/** About the size of a proposer's own buffer: up to so much it can send by itself. */
const BEHIND_BYTES_MAX = 16 * 1024 * 1024
/** Catch-ups that run at once: where a safekeeper was lost, all its timelines come to others in the same moment. */
const RUNNING_MAX = 4

export interface CatchUpSchedulerParts {
  readonly timelines: Timelines
  /** The context for calls to peers. */
  readonly rpc: ClientContext
  /** Of this safekeeper. */
  readonly nodeId: string
  readonly clock: Clock
  /** A timeline's WAL in the object store, where there is one. */
  readonly remoteOf?: ((ref: TimelineRef) => RemoteWal) | undefined
}

export const noObjectStore = (): Error =>
  fail('precondition', 'this safekeeper has no object store', { hint: 'Start it with --object-store.' })

export class CatchUpScheduler {
  readonly #parts: CatchUpSchedulerParts
  readonly #turns = new Semaphore(RUNNING_MAX)

  constructor(parts: CatchUpSchedulerParts) {
    this.#parts = parts
  }

  /**
   * Begins one, or reports how far the running one is. With `stored` it is from the object store. Error: refused
   * `precondition` where there is none, `unavailable` where the timeline is being deleted.
   */
  pull(ref: TimelineRef, donors: readonly Member[], stored?: StoredEnd): CatchUpProgress {
    parseTenantId(ref.tenantId)
    parseTimelineId(ref.timelineId)
    const catchUp = this.#of(ref)
    catchUp.begin(() => (stored === undefined ? this.#peers(ref, donors) : [this.#stored(ref, stored)]))
    return catchUp.progress
  }

  /** Resolves when the timeline is near `commitLsn`, or when peers cannot bring it there: then the proposer has to. */
  async beforeLeading(
    timeline: Timeline,
    ref: TimelineRef,
    commitLsn: Lsn,
    signal: AbortSignal,
  ): Promise<void> {
    const { membership } = timeline
    if (membership === undefined || commitLsn - timeline.state.flushLsn <= BEHIND_BYTES_MAX) return
    const catchUp = this.#of(ref)
    catchUp.beginNow(() => this.#peers(ref, everyMember(membership)))
    const gone = Promise.withResolvers<void>()
    const onAbort = (): void => gone.resolve()
    signal.addEventListener('abort', onAbort, { once: true })
    await Promise.race([catchUp.ended, gone.promise])
    signal.removeEventListener('abort', onAbort)
  }

  #of(ref: TimelineRef): CatchUp {
    const { timelines, clock } = this.#parts
    const replica = timelines.replicaOf(ref)
    const forget = timelines.forget.bind(timelines)
    return (
      replica.find(CatchUp) ??
      replica.start('catch-up', new CatchUp(replica, { clock, turns: this.#turns, forget }))
    )
  }

  #peers(ref: TimelineRef, donors: readonly Member[]): readonly WalSource[] {
    return donors
      .filter(({ nodeId }) => nodeId !== this.#parts.nodeId)
      .map((donor) => new PeerSource(this.#parts.rpc, donor, ref))
  }

  #stored(ref: TimelineRef, end: StoredEnd): WalSource {
    const remote = this.#parts.remoteOf?.(ref)
    if (remote !== undefined) return new StoredSource(remote, end)
    throw noObjectStore()
  }
}
