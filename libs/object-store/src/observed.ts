/**
 * A store whose operations are reported to an observer: how long each took, whether it failed, how many bytes went
 * which way.
 */
import { isErrorCode } from '@understory/base'
import type { Clock } from '@understory/env'
import type { ListedObject, ObjectStore } from './store.ts'

export type StoreOperation =
  | 'get'
  | 'get_range'
  | 'put'
  | 'put_if_absent'
  | 'put_if_match'
  | 'head'
  | 'list'
  | 'delete'

export interface StoreObserver {
  /** `error` is undefined where it did not fail; that something is not there is an answer. */
  ended(operation: StoreOperation, durationMs: number, error: unknown): void
  moved(direction: 'read' | 'write', bytes: number): void
}

/** Returns the store itself where there is no observer. */
export function observeStore(
  store: ObjectStore,
  observer: StoreObserver | undefined,
  clock: Clock,
): ObjectStore {
  if (observer === undefined) return store
  const timed = async <T>(operation: StoreOperation, work: Promise<T>): Promise<T> => {
    const startMs = clock.nowMs()
    try {
      const result = await work
      observer.ended(operation, clock.nowMs() - startMs, undefined)
      return result
    } catch (error) {
      observer.ended(operation, clock.nowMs() - startMs, failureOf(error))
      throw error
    }
  }
  const written = async <T>(operation: StoreOperation, bytes: Uint8Array, work: Promise<T>): Promise<T> => {
    const result = await timed(operation, work)
    observer.moved('write', bytes.length)
    return result
  }
  return {
    description: store.description,
    get: async (key, options) => {
      const found = await timed('get', store.get(key, options))
      observer.moved('read', found.bytes.length)
      return found
    },
    getRange: async (key, startOffset, endOffset, options) => {
      const bytes = await timed('get_range', store.getRange(key, startOffset, endOffset, options))
      observer.moved('read', bytes.length)
      return bytes
    },
    put: (key, bytes, options) => written('put', bytes, store.put(key, bytes, options)),
    putIfAbsent: (key, bytes, options) =>
      written('put_if_absent', bytes, store.putIfAbsent(key, bytes, options)),
    putIfMatch: (key, etag, bytes, options) =>
      written('put_if_match', bytes, store.putIfMatch(key, etag, bytes, options)),
    head: (key, options) => timed('head', store.head(key, options)),
    list: (prefix, options) => timedList(store.list(prefix, options), observer, clock),
    delete: (keys, options) => timed('delete', store.delete(keys, options)),
    close: () => store.close(),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  }
}

const failureOf = (error: unknown): unknown => (isErrorCode(error, 'not_found') ? undefined : error)

/** The time that the store took for all pages, without what the reader did in between. */
async function* timedList(
  list: AsyncIterable<ListedObject>,
  observer: StoreObserver,
  clock: Clock,
): AsyncGenerator<ListedObject, void, void> {
  const iterator = list[Symbol.asyncIterator]()
  let durationMs = 0
  let failure: unknown
  try {
    while (true) {
      const startMs = clock.nowMs()
      const next = await iterator.next().finally(() => {
        durationMs += clock.nowMs() - startMs
      })
      if (next.done === true) return
      yield next.value
    }
  } catch (error) {
    failure = failureOf(error)
    throw error
  } finally {
    observer.ended('list', durationMs, failure)
    await iterator.return?.()
  }
}
