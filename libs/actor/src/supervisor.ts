/**
 * Children by name: started, restarted by policy, put to rest where idle, and stopped in reverse order of their start.
 */
import { assert, describeError } from '@understory/base'
import { backoffMs } from '@understory/env'
import type { BackoffOptions, Clock, Log, Rng } from '@understory/env'

export interface Child {
  /** Works until it is done or `stop` fires. */
  readonly run?: (stop: AbortSignal) => Promise<void>
  /** After a failure of `run`: `never` again, again after growing pauses, or the supervisor fails with it. */
  readonly restart?: 'never' | 'backoff' | 'escalate'
  /** Gives back what it holds; called once after each time that it was used and then not for `idleMs`. */
  readonly rest?: () => Promise<void> | void
  /** Releases everything; `run` has ended by then. */
  readonly close?: () => Promise<void> | void
}

export interface SupervisorOptions {
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  readonly backoff?: BackoffOptions
  /** Milliseconds without use after which a child rests. */
  readonly idleMs?: number
}

interface Entry {
  readonly child: Child
  readonly stop: AbortController
  running: Promise<void>
  usedMs: number
  isResting: boolean
}

const IDLE_MS = 5_000

export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #children = new Map<string, Entry>()
  readonly #failed = Promise.withResolvers<never>()

  constructor(options: SupervisorOptions) {
    this.#options = options
    this.#failed.promise.catch(() => undefined)
  }

  /** Rejects with the first failure that escalates. */
  get failed(): Promise<never> {
    return this.#failed.promise
  }
  get names(): readonly string[] {
    return [...this.#children.keys()]
  }

  /** No other child has this name. */
  start(name: string, child: Child): void {
    assert(!this.#children.has(name), () => `"${name}" has been started already`)
    const entry: Entry = {
      child,
      stop: new AbortController(),
      running: Promise.resolve(),
      usedMs: this.#options.clock.nowMs(),
      isResting: child.rest === undefined,
    }
    this.#children.set(name, entry)
    entry.running = this.#run(name, entry)
  }

  /** The first child of a class; undefined where there is none. */
  find<T extends Child>(type: abstract new (...parts: never) => T): T | undefined {
    for (const { child } of this.#children.values()) if (child instanceof type) return child
    return undefined
  }

  /** It was used: it rests `idleMs` from now at the earliest. */
  touch(name: string): void {
    const entry = this.#children.get(name)
    if (entry === undefined) return
    entry.usedMs = this.#options.clock.nowMs()
    entry.isResting = entry.child.rest === undefined
  }

  /** Puts to rest what was not used for long. Errors of one are logged. */
  async restIdle(): Promise<void> {
    const { clock, log, idleMs = IDLE_MS } = this.#options
    for (const [name, entry] of this.#children) {
      if (entry.isResting || clock.nowMs() - entry.usedMs < idleMs) continue
      entry.isResting = true
      try {
        await entry.child.rest?.()
      } catch (error) {
        log.warn('rest_failed', { child: name, problem: describeError(error) })
      }
    }
  }

  /** Ends one child, if it is there. Error: of its `close`. */
  async stop(name: string): Promise<void> {
    const entry = this.#children.get(name)
    if (entry === undefined) return
    entry.stop.abort()
    await entry.running
    await entry.child.close?.()
    if (this.#children.get(name) === entry) this.#children.delete(name)
  }

  /** Ends all, the last started first. Error: the first of any `close`, once all have ended. */
  async stopAll(): Promise<void> {
    const problems: unknown[] = []
    for (const name of this.names.toReversed()) {
      await this.stop(name).catch((error: unknown) => problems.push(error))
    }
    if (problems.length > 0) throw problems[0]
  }

  async #run(name: string, { child, stop }: Entry): Promise<void> {
    const { clock, rng, log, backoff } = this.#options
    const { run, restart = 'never' } = child
    for (let failures = 1; run !== undefined && !stop.signal.aborted; failures++) {
      try {
        return await run(stop.signal)
      } catch (error) {
        if (stop.signal.aborted) return
        log.error('child_failed', { child: name, restart, problem: describeError(error) })
        if (restart === 'escalate') this.#failed.reject(error)
        if (restart !== 'backoff') return
      }
      await clock.sleep(backoffMs(rng, failures, backoff), stop.signal).catch(() => undefined)
    }
  }
}
