/**
 * Addresses and positions of the nodes: soft state that its owners repeat. A key lives as long as it is announced again
 * within its time; losing the broker loses nothing that does not come back by itself. Decisions that must be right
 * never rest on it: it says where to ask.
 *
 * Keys are words joined by `/`, such as `node/pageserver-1`; values are JSON of up to 64 KiB.
 */
import { fail } from '@understory/base'

export interface AnnouncedEntry {
  readonly key: string
  /** As parsed from JSON: check its shape. */
  readonly value: unknown
}

export type BrokerChange =
  /** New, or with another value. */
  | ({ readonly kind: 'announced' } & AnnouncedEntry)
  /** Withdrawn, or not repeated in time. */
  | { readonly kind: 'gone'; readonly key: string }

/** A key that is kept alive until `stop`, through broker restarts and losses. */
export interface Announcement {
  readonly key: string
  /** Announces another value from now on; a broker that cannot be reached learns of it later. */
  update(value: unknown): Promise<void>
  /** Withdraws it; a broker that cannot be reached forgets it when its time is over. */
  stop(): Promise<void>
}

export const TTL_DEFAULT_MS = 10_000

export interface Broker extends AsyncDisposable {
  /** For people, without secrets. */
  readonly description: string
  /** True from the first failed try until an announcement reaches the broker again. */
  readonly isAway: boolean
  /**
   * Announces the key at once and again every third of `ttlMs`. Resolves after the first try, whether or not the broker
   * could be reached: the tries continue.
   */
  announce(key: string, value: unknown, ttlMs?: number): Promise<Announcement>
  /** The living entries whose keys begin with `prefix`, by key. Rejects `unavailable`. */
  list(prefix: string): Promise<AnnouncedEntry[]>
  /**
   * First what is there, then each change, of several to one key the last; ends when the signal fires. While the broker
   * is away nothing changes; afterwards the difference is reported.
   */
  watch(prefix: string, signal: AbortSignal): AsyncGenerator<BrokerChange, void, void>
  /** Withdraws this broker's announcements and ends its watches. */
  close(): Promise<void>
}

export const KEY_LENGTH_MAX = 300
export const VALUE_BYTES_MAX = 64 * 1024
const TTL_MS_MIN = 50
const TTL_MS_MAX = 3_600_000
const KEY = /^[A-Za-z0-9_.:-]+(\/[A-Za-z0-9_.:-]+)*$/
const PREFIX = /^[A-Za-z0-9_.:/-]*$/

export function checkKey(key: string): void {
  if (key.length <= KEY_LENGTH_MAX && KEY.test(key)) return
  throw fail('bad_argument', `broker key ${JSON.stringify(key)} is not valid`, {
    hint: 'Keys are words of letters, digits, "_", ".", ":" and "-", joined by "/".',
  })
}

export function checkPrefix(prefix: string): void {
  if (prefix.length > KEY_LENGTH_MAX || !PREFIX.test(prefix)) {
    throw fail('bad_argument', `broker prefix ${JSON.stringify(prefix)} is not valid`)
  }
}

export function checkTtl(ttlMs: number): void {
  if (Number.isInteger(ttlMs) && ttlMs >= TTL_MS_MIN && ttlMs <= TTL_MS_MAX) return
  throw fail('bad_argument', `time to live of ${ttlMs} ms is not within ${TTL_MS_MIN} to ${TTL_MS_MAX}`)
}

/** The value's JSON. */
export function encodeValue(key: string, value: unknown): string {
  const text = JSON.stringify(value) as string | undefined
  if (text === undefined) throw fail('bad_argument', `value of broker key "${key}" is not JSON`)
  checkSize(key, text)
  return text
}

/** Throws unless the text is JSON of a size that may be announced. */
export function checkText(key: string, text: string): void {
  checkSize(key, text)
  try {
    JSON.parse(text)
  } catch (cause) {
    throw fail('bad_argument', `value of broker key "${key}" is not JSON`, { cause })
  }
}

function checkSize(key: string, text: string): void {
  if (text.length > VALUE_BYTES_MAX) throw fail('bad_argument', `value of broker key "${key}" is too large`)
}
