/**
 * The embedded broker's core: announcements in this process's memory, each with its time. The control plane keeps one
 * and serves it to others (service.ts).
 */
import { fail } from '@understory/base'
import type { Clock, Timer } from '@understory/env'
import { type BrokerSeams, BrokerLink } from './link.ts'
import type { ChangeSink, Transport } from './transport.ts'

/** More announcements than any cluster has: something runs wild. */
const ENTRIES_COUNT_MAX = 100_000

interface Entry {
  readonly text: string
  readonly timer: Timer
}

interface Follower {
  readonly prefix: string
  readonly sink: ChangeSink
}

export class MemoryTransport implements Transport {
  readonly description = 'embedded'
  readonly #clock: Clock
  readonly #entries = new Map<string, Entry>()
  readonly #followers = new Set<Follower>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  async set(key: string, text: string, ttlMs: number): Promise<void> {
    if (!this.#entries.has(key) && this.#entries.size >= ENTRIES_COUNT_MAX) {
      throw fail('unavailable', `broker holds ${ENTRIES_COUNT_MAX} announcements already`)
    }
    this.#entries.get(key)?.timer.cancel()
    this.#entries.set(key, { text, timer: this.#clock.setTimer(ttlMs, () => this.#drop(key)) })
    for (const { prefix, sink } of this.#followers) if (key.startsWith(prefix)) sink.announced(key, text)
  }

  async remove(key: string): Promise<void> {
    this.#drop(key)
  }

  async list(prefix: string): Promise<Map<string, string>> {
    return this.#living(prefix)
  }

  async follow(prefix: string, signal: AbortSignal, sink: ChangeSink): Promise<void> {
    if (signal.aborted) return
    const follower = { prefix, sink }
    this.#followers.add(follower)
    sink.snapshot(this.#living(prefix))
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
    this.#followers.delete(follower)
  }

  onReturn(): void {
    // It is never away.
  }

  async close(): Promise<void> {
    // Other links may use it; keys that are not repeated expire.
  }

  #living(prefix: string): Map<string, string> {
    const living = new Map<string, string>()
    for (const [key, { text }] of this.#entries) if (key.startsWith(prefix)) living.set(key, text)
    return living
  }

  #drop(key: string): void {
    const entry = this.#entries.get(key)
    if (entry === undefined) return
    entry.timer.cancel()
    this.#entries.delete(key)
    for (const { prefix, sink } of this.#followers) if (key.startsWith(prefix)) sink.gone(key)
  }
}

/** A broker that lives in this process and can be served to others. */
export class MemoryBroker extends BrokerLink {
  /** What `brokerService` serves. */
  readonly transport: MemoryTransport

  constructor(seams: BrokerSeams) {
    const transport = new MemoryTransport(seams.clock)
    super(transport, seams)
    this.transport = transport
  }
}

export function memoryBroker(seams: BrokerSeams): MemoryBroker {
  return new MemoryBroker(seams)
}
