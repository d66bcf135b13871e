/**
 * Objects by key: whole on write, whole or by range on read, replaced by compare-and-swap where two writers may meet.
 * A write that returned is durable and seen by every reader; one that failed with `unavailable`, `timeout` or
 * `cancelled` may have happened or not.
 *
 * Errors: `not_found`, `unavailable` (after bounded tries), `timeout`, `cancelled`, `denied` (credentials, rights),
 * `bad_argument` (key), `precondition` (bucket or folder is not as it must be), `disk_full`, `disk_failed`.
 */
import { fail } from '@understory/base'

export interface CallOptions {
  readonly signal?: AbortSignal | undefined
  /** For the whole call, tries included. */
  readonly deadlineMs?: number
}

export interface StoredObject {
  readonly bytes: Uint8Array<ArrayBuffer>
  /** Names this content for `putIfMatch`; equal contents may have equal etags. */
  readonly etag: string
}

export interface ListedObject {
  readonly key: string
  readonly sizeBytes: number
  /** Milliseconds since 1970 by the store's clock. */
  readonly modifiedMs: number
}

export interface ObjectHead extends ListedObject {
  readonly etag: string
}

/**
 * The outcome of a conditional write. After a lost answer the content shows who won, so two writers must never write
 * the same bytes and both believe to be alone: put a name or a nonce of the writer in.
 */
export type ConditionalPut =
  | { readonly kind: 'stored'; readonly etag: string }
  | { readonly kind: 'conflict' }

export interface ObjectStore extends AsyncDisposable {
  /** For people, without secrets: `s3://bucket/prefix`, a folder's path, `memory`. */
  readonly description: string
  /** Rejects `not_found`. */
  get(key: string, options?: CallOptions): Promise<StoredObject>
  /** The bytes from `startOffset` up to, not including, `endOffset`; rejects `out_of_range` if some are not there. */
  getRange(
    key: string,
    startOffset: number,
    endOffset: number,
    options?: CallOptions,
  ): Promise<Uint8Array<ArrayBuffer>>
  /** Makes or replaces it; returns the etag. */
  put(key: string, bytes: Uint8Array, options?: CallOptions): Promise<string>
  /** Stores only where nothing is. At most 64 MiB. */
  putIfAbsent(key: string, bytes: Uint8Array, options?: CallOptions): Promise<ConditionalPut>
  /** Stores only over the content that `etag` names; conflicts also where nothing is. At most 64 MiB. */
  putIfMatch(key: string, etag: string, bytes: Uint8Array, options?: CallOptions): Promise<ConditionalPut>
  /** Undefined where nothing is. */
  head(key: string, options?: CallOptions): Promise<ObjectHead | undefined>
  /** Every object whose key begins with `prefix`, in the byte order of the keys. The deadline is for each page. */
  list(prefix: string, options?: CallOptions): AsyncIterable<ListedObject>
  /** Absent keys are fine. Not atomic: after a failure some may be gone. */
  delete(keys: readonly string[], options?: CallOptions): Promise<void>
  close(): Promise<void>
}

export const CONDITIONAL_PUT_BYTES_MAX = 64 * 1024 * 1024
const KEY_BYTES_MAX = 900
const SEGMENT_BYTES_MAX = 200
const SEGMENT = /^[A-Za-z0-9!_*'()=+@,:~-][A-Za-z0-9!_.*'()=+@,:~-]*$/

/**
 * Keys are segments joined by `/`. None begins with a dot, so no key leaves its folder or meets a name that a backend
 * keeps for itself; none is also a folder of other keys.
 */
export function checkKey(key: string): string {
  const segments = key.split('/')
  const isValid =
    key.length <= KEY_BYTES_MAX &&
    segments.every((segment) => segment.length <= SEGMENT_BYTES_MAX && SEGMENT.test(segment))
  if (isValid) return key
  throw fail('bad_argument', `object key ${JSON.stringify(key)} is not valid`, {
    hint: 'Keys are segments of letters, digits and some punctuation, joined by "/"; none begins with a dot.',
  })
}

/** The beginning of a key: empty, or what `checkKey` would take but for its end. */
export function checkPrefix(prefix: string): string {
  if (prefix !== '') checkKey(prefix.endsWith('/') ? prefix.slice(0, -1) : prefix)
  return prefix
}

export function checkConditionalSize(key: string, bytes: Uint8Array): void {
  if (bytes.length <= CONDITIONAL_PUT_BYTES_MAX) return
  throw fail('bad_argument', `object "${key}" of ${bytes.length} bytes is too large for a conditional write`)
}

export function notFound(key: string, store: string): Error {
  return fail('not_found', `object "${key}" does not exist in ${store}`)
}

export function outOfRange(key: string, startOffset: number, endOffset: number): Error {
  return fail('out_of_range', `object "${key}" does not have all bytes from ${startOffset} to ${endOffset}`)
}

export function checkRange(key: string, startOffset: number, endOffset: number): void {
  const isValid =
    Number.isSafeInteger(startOffset) &&
    Number.isSafeInteger(endOffset) &&
    startOffset >= 0 &&
    endOffset >= startOffset
  if (!isValid)
    throw fail('bad_argument', `range ${startOffset} to ${endOffset} of object "${key}" is not valid`)
}

/** The object, or undefined where nothing is. */
export async function getIfPresent(
  store: ObjectStore,
  key: string,
  options?: CallOptions,
): Promise<StoredObject | undefined> {
  try {
    return await store.get(key, options)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'not_found') return undefined
    throw error
  }
}
