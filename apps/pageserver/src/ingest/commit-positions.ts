/**
 * What the members of every followed timeline have committed, asked once a second: one call a safekeeper for all shards
 * of this process together, so that a thousand idle timelines cost no more than a few messages.
 */
import { Loop, ProblemReport } from '@understory/actor'
import { LSN_ZERO, UnderstoryError } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Env } from '@understory/env'
import { safekeeperClient } from '@understory/protocol/clients'
import type { SafekeeperClient } from '@understory/protocol/clients'
import type { ClientContext, TimelineRef } from '@understory/rpc'

const ROUND_MS = 1_000
const DEADLINE_MS = 2_000

/** Commit position by address; a safekeeper that did not answer, or does not serve the timeline, is missing. */
export type Positions = ReadonlyMap<string, Lsn>

export interface PositionWatcher {
  readonly timeline: TimelineRef
  /** Addresses of the members as they are known now. */
  readonly safekeepers: readonly string[]
  /** Called once a round. */
  take(positions: Positions): void
}

export class CommitPositions {
  readonly #env: Pick<Env, 'clock' | 'rng' | 'log'>
  readonly #rpc: ClientContext
  readonly #watchers = new Set<PositionWatcher>()
  readonly #clients = new Map<string, SafekeeperClient>()
  #loop: Loop | undefined

  constructor(env: Pick<Env, 'clock' | 'rng' | 'log'>, rpc: ClientContext) {
    this.#env = env
    this.#rpc = rpc
  }

  /** Returns the function that ends the watch. Nothing runs without a watcher. */
  watch(watcher: PositionWatcher): () => void {
    this.#watchers.add(watcher)
    if (this.#loop === undefined) {
      this.#loop = this.#rounds()
      this.#loop.start()
    }
    return () => {
      this.#watchers.delete(watcher)
      if (this.#watchers.size > 0) return
      const ended = this.#loop?.stop()
      this.#loop = undefined
      void ended?.then(() => this.#closeAll())
    }
  }

  #rounds(): Loop {
    const { clock, rng, log } = this.#env
    return new Loop({
      clock,
      rng,
      firstAfterMs: ROUND_MS,
      pauseMs: ROUND_MS,
      problems: new ProblemReport({ clock, log, event: 'commit_positions_failed' }),
      round: (stop) => this.#round(stop),
    })
  }

  #closeAll(): void {
    if (this.#loop !== undefined) return
    for (const client of this.#clients.values()) client.close()
    this.#clients.clear()
  }

  async #round(signal: AbortSignal): Promise<void> {
    const timelinesOf = new Map<string, Map<string, TimelineRef>>()
    for (const { timeline, safekeepers } of this.#watchers) {
      for (const address of safekeepers) {
        const timelines = timelinesOf.get(address) ?? new Map<string, TimelineRef>()
        timelinesOf.set(address, timelines.set(timeline.timelineId, timeline))
      }
    }
    this.#closeUnused(timelinesOf)
    const answers = new Map(
      await Promise.all(
        [...timelinesOf].map(
          async ([address, timelines]) =>
            [address, await this.#ask(address, [...timelines.values()], signal)] as const,
        ),
      ),
    )
    if (signal.aborted) return
    for (const watcher of this.#watchers) {
      const positions = new Map<string, Lsn>()
      for (const address of watcher.safekeepers) {
        const lsn = answers.get(address)?.get(watcher.timeline.timelineId)
        if (lsn !== undefined && lsn > LSN_ZERO) positions.set(address, lsn)
      }
      watcher.take(positions)
    }
  }

  /** By timeline id; nothing where it does not answer, which its subscribers learn by themselves. */
  async #ask(
    address: string,
    timelines: readonly TimelineRef[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, Lsn>> {
    const client = this.#clients.get(address) ?? safekeeperClient(this.#rpc, address)
    this.#clients.set(address, client)
    try {
      const positions = await client.commitPositions(timelines, { deadlineMs: DEADLINE_MS, signal })
      return new Map(timelines.map(({ timelineId }, i) => [timelineId, positions[i] ?? LSN_ZERO]))
    } catch (error) {
      if (error instanceof UnderstoryError) return new Map()
      throw error
    }
  }

  #closeUnused(used: ReadonlyMap<string, unknown>): void {
    for (const [address, client] of this.#clients) {
      if (used.has(address)) continue
      client.close()
      this.#clients.delete(address)
    }
  }
}
