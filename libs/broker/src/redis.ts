/**
 * A broker in Redis: each announcement a key with a time to live, each change also a message. Messages make watches
 * fast; what they miss (keys that ran out, a Redis that restarted or was emptied) a scan finds, every second.
 */
import { describeError, fail } from '@understory/base'
import type { Clock } from '@understory/env'
import { Redis } from 'ioredis'
import type { ChangeSink, Transport } from './transport.ts'

const SCAN_INTERVAL_MS = 1_000
const SCAN_BATCH_COUNT = 500
const COMMAND_MS_MAX = 3_000
const CONNECT_MS_MAX = 3_000
const RECONNECT_MS_MAX = 1_000

/** A message of the channel; no text means gone. */
interface Message {
  readonly key: string
  readonly text?: string
}

const REFUSED = /^(NOAUTH|WRONGPASS|NOPERM)/

export class RedisTransport implements Transport {
  readonly description: string
  /** The prefix of every key. */
  readonly #space: string
  /** No database of its own divides channels, so their names do. */
  readonly #channel: string
  readonly #clock: Clock
  readonly #redis: Redis
  readonly #returnCallbacks: (() => void)[] = []
  #connectionError: string | undefined

  /**
   * `url`: redis:// or rediss://, which may contain a user and a password. `prefix`: of keys and channels; those who
   * have the same see each other.
   */
  constructor(url: URL, prefix: string, clock: Clock) {
    this.description = `${url.protocol}//${url.host}${url.pathname}`
    this.#space = `${prefix}:announce:`
    this.#channel = `${prefix}:announcements`
    this.#clock = clock
    this.#redis = new Redis(url.href, {
      lazyConnect: true,
      connectTimeout: CONNECT_MS_MAX,
      commandTimeout: COMMAND_MS_MAX,
      // A command fails soon instead of waiting for a Redis that is away: the announcer tries again.
      maxRetriesPerRequest: 1,
      retryStrategy: (attempt) => Math.min(RECONNECT_MS_MAX, 50 * 2 ** attempt),
    })
    // Commands report their failures, with less than this about the cause of a lost connection.
    this.#redis.on('error', (error) => {
      this.#connectionError = describeError(error)
    })
    let isFirst = true
    this.#redis.on('ready', () => {
      this.#connectionError = undefined
      if (!isFirst) for (const callback of this.#returnCallbacks) callback()
      isFirst = false
    })
  }

  set(key: string, text: string, ttlMs: number): Promise<void> {
    return this.#attempt(async () => {
      const message = JSON.stringify({ key, text } satisfies Message)
      await this.#all(
        this.#redis
          .multi()
          .set(this.#space + key, text, 'PX', ttlMs)
          .publish(this.#channel, message),
      )
    })
  }

  remove(key: string): Promise<void> {
    return this.#attempt(async () => {
      const message = JSON.stringify({ key } satisfies Message)
      await this.#all(
        this.#redis
          .multi()
          .del(this.#space + key)
          .publish(this.#channel, message),
      )
    })
  }

  list(prefix: string): Promise<Map<string, string>> {
    return this.#attempt(async () => {
      const entries = new Map<string, string>()
      let cursor = '0'
      do {
        const [next, names] = await this.#redis.scan(
          cursor,
          'MATCH',
          `${this.#space}${prefix}*`,
          'COUNT',
          SCAN_BATCH_COUNT,
        )
        const texts = names.length === 0 ? [] : await this.#redis.mget(names)
        names.forEach((name, index) => {
          const text = texts[index]
          if (isJson(text)) entries.set(name.slice(this.#space.length), text)
        })
        cursor = next
      } while (cursor !== '0')
      return entries
    })
  }

  async follow(prefix: string, signal: AbortSignal, sink: ChangeSink): Promise<void> {
    // A connection that listens to a channel can do nothing else.
    const listener = this.#redis.duplicate({ lazyConnect: true })
    listener.on('error', () => undefined)
    /** The values in messages that came during a scan: newer than those that the scan saw. */
    const heard = new Map<string, string | undefined>()
    listener.on('message', (_channel, packed) => {
      const message = parseMessage(packed)
      if (message === undefined || !message.key.startsWith(prefix)) return
      heard.set(message.key, message.text)
      if (message.text === undefined) sink.gone(message.key)
      else sink.announced(message.key, message.text)
    })
    try {
      await this.#attempt(() => listener.subscribe(this.#channel))
      while (!signal.aborted) {
        heard.clear()
        const entries = await this.list(prefix)
        for (const [key, text] of heard) {
          if (text === undefined) entries.delete(key)
          else entries.set(key, text)
        }
        sink.snapshot(entries)
        await this.#clock.sleep(SCAN_INTERVAL_MS, signal).catch(() => undefined)
      }
    } finally {
      listener.disconnect()
    }
  }

  onReturn(callback: () => void): void {
    this.#returnCallbacks.push(callback)
  }

  async close(): Promise<void> {
    this.#redis.disconnect()
  }

  async #all(commands: ReturnType<Redis['multi']>): Promise<void> {
    for (const [error] of (await commands.exec()) ?? []) if (error !== null) throw error
  }

  async #attempt<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (cause) {
      const said = describeError(cause)
      // A command that found no connection does not know why there is none.
      const detail = REFUSED.test(said) ? said : (this.#connectionError ?? said)
      if (REFUSED.test(detail)) {
        throw fail('denied', `broker ${this.description} does not accept these credentials`, {
          detail,
          hint: 'Check user and password in its URL, which has "/" as %2F and "@" as %40.',
          cause,
        })
      }
      throw fail('unavailable', `broker ${this.description} is not reachable`, { detail, cause })
    }
  }
}

/** Other programs may write below our names: a value that is not JSON is not ours. */
function isJson(text: string | null | undefined): text is string {
  if (text === null || text === undefined) return false
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

function parseMessage(packed: string): Message | undefined {
  if (!isJson(packed)) return undefined
  const { key, text } = (JSON.parse(packed) ?? {}) as { key?: unknown; text?: unknown }
  if (typeof key !== 'string') return undefined
  if (text === undefined) return { key }
  return typeof text === 'string' && isJson(text) ? { key, text } : undefined
}
