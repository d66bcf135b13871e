/** A broker over any transport: announcements that repeat themselves and watches that find their way back. */
import { UnderstoryError, fail } from '@understory/base'
import { type Clock, type Log, type Rng, type Timer, backoffMs } from '@understory/env'
import type { AnnouncedEntry, Announcement, Broker, BrokerChange } from './broker.ts'
import { TTL_DEFAULT_MS, checkKey, checkPrefix, checkTtl, encodeValue } from './broker.ts'
import { ChangeFeed } from './change-feed.ts'
import type { Transport } from './transport.ts'

export interface BrokerSeams {
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

const RETRY_MS_MAX = 1_000

export class BrokerLink implements Broker {
  readonly description: string
  readonly #transport: Transport
  readonly #seams: BrokerSeams
  readonly #kept = new Map<string, KeptKey>()
  readonly #closing = new AbortController()
  readonly #reach: Reachability

  constructor(transport: Transport, seams: BrokerSeams) {
    this.description = transport.description
    this.#transport = transport
    this.#seams = seams
    this.#reach = new Reachability(seams.log, transport.description)
    transport.onReturn(() => {
      for (const kept of this.#kept.values()) void kept.repeat()
    })
  }

  get isAway(): boolean {
    return this.#reach.isAway
  }

  async announce(key: string, value: unknown, ttlMs: number = TTL_DEFAULT_MS): Promise<Announcement> {
    checkKey(key)
    checkTtl(ttlMs)
    const text = encodeValue(key, value)
    if (this.#closing.signal.aborted) throw fail('cancelled', 'broker link is closed')
    if (this.#kept.has(key))
      throw fail('already_exists', `broker key "${key}" is announced already by this process`)
    const kept = new KeptKey(key, text, ttlMs, this.#transport, this.#seams.clock, this.#reach)
    this.#kept.set(key, kept)
    await kept.repeat()
    return {
      key,
      update: (next) => kept.update(encodeValue(key, next)),
      stop: async () => {
        if (this.#kept.get(key) === kept) this.#kept.delete(key)
        await kept.stop()
      },
    }
  }

  async list(prefix: string): Promise<AnnouncedEntry[]> {
    checkPrefix(prefix)
    const entries = await this.#transport.list(prefix)
    return [...entries]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, text]) => ({ key, value: JSON.parse(text) }))
  }

  async *watch(prefix: string, signal: AbortSignal): AsyncGenerator<BrokerChange, void, void> {
    checkPrefix(prefix)
    const left = new AbortController()
    const ended = AbortSignal.any([signal, left.signal, this.#closing.signal])
    const feed = new ChangeFeed()
    const following = this.#follow(prefix, ended, feed)
    try {
      for await (const item of feed.read(ended)) {
        if (item.kind === 'announced')
          yield { kind: 'announced', key: item.key, value: JSON.parse(item.text) }
        else if (item.kind === 'gone') yield item
      }
    } finally {
      left.abort()
      await following
    }
  }

  async close(): Promise<void> {
    this.#closing.abort()
    await Promise.all([...this.#kept.values()].map((kept) => kept.stop()))
    this.#kept.clear()
    await this.#transport.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Follows again and again, until the signal fires. */
  async #follow(prefix: string, signal: AbortSignal, feed: ChangeFeed): Promise<void> {
    const { clock, rng } = this.#seams
    for (let failures = 0; !signal.aborted;) {
      const startedMs = clock.nowMs()
      try {
        await this.#transport.follow(prefix, signal, feed)
      } catch (error) {
        if (!(error instanceof UnderstoryError)) throw error
        if (signal.aborted) return
        this.#reach.failed(error)
        failures = clock.nowMs() - startedMs > RETRY_MS_MAX ? 1 : failures + 1
        const pauseMs = backoffMs(rng, failures, { baseMs: 50, pauseMsMax: RETRY_MS_MAX })
        await clock.sleep(pauseMs, signal).catch(() => undefined)
      }
    }
  }
}

/** Says once that the broker is away and once that it is back. */
class Reachability {
  readonly #log: Log
  readonly #broker: string
  #isAway = false

  constructor(log: Log, broker: string) {
    this.#log = log
    this.#broker = broker
  }

  get isAway(): boolean {
    return this.#isAway
  }

  failed(error: unknown): void {
    if (!this.#isAway) this.#log.warn('broker_away', { broker: this.#broker, error })
    this.#isAway = true
  }

  answered(): void {
    if (this.#isAway) this.#log.info('broker_back', { broker: this.#broker })
    this.#isAway = false
  }
}

/** One announced key. Tries never overlap, so an old value cannot arrive after a newer one. */
class KeptKey {
  readonly #key: string
  readonly #ttlMs: number
  readonly #transport: Transport
  readonly #clock: Clock
  readonly #reach: Reachability
  #text: string
  #timer: Timer | undefined
  #trying: Promise<void> = Promise.resolve()
  #isStopped = false

  constructor(
    key: string,
    text: string,
    ttlMs: number,
    transport: Transport,
    clock: Clock,
    reach: Reachability,
  ) {
    this.#key = key
    this.#text = text
    this.#ttlMs = ttlMs
    this.#transport = transport
    this.#clock = clock
    this.#reach = reach
  }

  update(text: string): Promise<void> {
    this.#text = text
    return this.repeat()
  }

  repeat(): Promise<void> {
    this.#trying = this.#trying.then(() => this.#tryOnce())
    return this.#trying
  }

  async stop(): Promise<void> {
    if (this.#isStopped) return
    this.#isStopped = true
    this.#timer?.cancel()
    await this.#trying
    try {
      await this.#transport.remove(this.#key)
    } catch (error) {
      this.#reach.failed(error)
    }
  }

  async #tryOnce(): Promise<void> {
    if (this.#isStopped) return
    this.#timer?.cancel()
    let pauseMs = this.#ttlMs / 3
    try {
      await this.#transport.set(this.#key, this.#text, this.#ttlMs)
      this.#reach.answered()
    } catch (error) {
      if (!(error instanceof UnderstoryError)) throw error
      this.#reach.failed(error)
      pauseMs = Math.min(pauseMs, RETRY_MS_MAX)
    }
    if (!this.#isStopped) this.#timer = this.#clock.setTimer(pauseMs, () => void this.repeat())
  }
}
