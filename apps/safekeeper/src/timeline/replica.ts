/**
 * This safekeeper's replica of one timeline: the timeline while it is open, the reason while it is closed, and the
 * children that work for it beside the WAL (offload, scrub, reopening, recovery). A child lives as long as the replica
 * and looks again after each change of it; the end of the replica stops them all.
 *
 * Replicas are opened and closed by timelines.ts, one at a time.
 */
import { Supervisor } from '@understory/actor'
import type { Child, Loop } from '@understory/actor'
import { fail } from '@understory/base'
import type { AcceptorControl } from '@understory/consensus'
import type { Clock, Log, Rng } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { TimelineRef } from '@understory/rpc'
import type { Timeline } from './timeline.ts'

export type ReplicaState =
  /** Not here: it was never made, or a recovery is about to make it. */
  | { readonly kind: 'absent' }
  | { readonly kind: 'open'; readonly timeline: Timeline }
  /** It could not be opened, or was closed: requests fail with the reason, other timelines are not concerned. */
  | { readonly kind: 'closed'; readonly failure: unknown }

/** The services of the registry of all timelines for one of them. */
export interface ReplicaControl {
  create(identity: PostgresIdentity, control: AcceptorControl): Promise<void>
  close(why: Error): Promise<void>
  reopen(): Promise<void>
}

export interface ReplicaParts {
  readonly ref: TimelineRef
  readonly folder: string
  readonly clock: Clock
  readonly rng: Rng
  /** Bound to the timeline. */
  readonly log: Log
  readonly control: ReplicaControl
}

/** Makes a child of a replica; its name is for logs. */
export type ChildFactory = (replica: Replica) => { readonly name: string; readonly child: Child }

export class Replica {
  readonly #parts: ReplicaParts
  readonly #children: Supervisor
  readonly #listeners = new Set<() => void>()
  #state: ReplicaState = { kind: 'absent' }
  #isEnding = false
  #damageCount = 0

  constructor(parts: ReplicaParts) {
    const { clock, rng, log } = parts
    this.#parts = parts
    this.#children = new Supervisor({ clock, rng, log })
  }

  get ref(): TimelineRef {
    return this.#parts.ref
  }
  get folder(): string {
    return this.#parts.folder
  }
  /** Bound to the timeline. */
  get log(): Log {
    return this.#parts.log
  }
  get state(): ReplicaState {
    return this.#state
  }
  /** Undefined unless it is open. */
  get timeline(): Timeline | undefined {
    return this.#state.kind === 'open' ? this.#state.timeline : undefined
  }
  /** Why it takes no WAL, or is not open; undefined where it does or is not here. */
  get failure(): unknown {
    if (this.#state.kind === 'open') return this.#state.timeline.failure
    return this.#state.kind === 'closed' ? this.#state.failure : undefined
  }
  /** How often damage was reported: a child that looks after it compares. */
  get damageCount(): number {
    return this.#damageCount
  }

  /**
   * Called back after each change of the state, a failure of the timeline, or a report of damage; returns how to stop
   * that.
   */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** The registry alone changes the state. */
  become(state: ReplicaState): void {
    this.#state = state
    this.notify()
  }

  notify(): void {
    for (const listener of this.#listeners) listener()
  }

  /** A reader met damage in what is committed. */
  reportDamage(): void {
    this.#damageCount++
    this.notify()
  }

  /** Makes it, where it is absent. */
  create(identity: PostgresIdentity, control: AcceptorControl): Promise<void> {
    return this.#parts.control.create(identity, control)
  }

  /** Requests fail with `why` until `reopen`. */
  close(why: Error): Promise<void> {
    return this.#parts.control.close(why)
  }

  /** From what is on the disk. Error: why it could not be opened. */
  reopen(): Promise<void> {
    return this.#parts.control.reopen()
  }

  // Children.

  /** Errors: `unavailable` where it is being deleted. */
  start<T extends Child>(name: string, child: T): T {
    if (this.#isEnding) {
      throw fail('unavailable', `timeline ${this.ref.timelineId} is being deleted on this safekeeper`)
    }
    this.#children.start(name, child)
    return child
  }

  /** The child of a class; undefined where none was started. */
  find<T extends Child>(type: abstract new (...parts: never) => T): T | undefined {
    return this.#children.find(type)
  }

  /** Resolves once no child works any more. None is started after it, unless `resume`. */
  async end(): Promise<void> {
    this.#isEnding = true
    await this.#children.stopAll()
  }

  /** It stays after all. */
  resume(): void {
    this.#isEnding = false
  }
}

/** A child that works in rounds, and begins the next at once after a change of the replica. */
export function runRounds(replica: Replica, loop: Loop): (stop: AbortSignal) => Promise<void> {
  return async (stop) => {
    const ignoreChanges = replica.onChange(() => loop.wake())
    loop.start()
    const stopping = new Promise<void>((resolve) => {
      if (stop.aborted) resolve()
      else stop.addEventListener('abort', () => resolve(), { once: true })
    })
    await Promise.race([stopping, loop.ended])
    ignoreChanges()
    await loop.stop()
  }
}
