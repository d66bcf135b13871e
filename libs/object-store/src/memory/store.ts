/** Objects in this process's memory: for tests and the simulation. Every call takes effect at once, in one step. */
import { throwIfCancelled } from '@understory/env'
import { contentEtag } from '../etag.ts'
import { checkConditionalSize, checkKey, checkPrefix, checkRange, notFound, outOfRange } from '../store.ts'
import type {
  CallOptions,
  ConditionalPut,
  ListedObject,
  ObjectHead,
  ObjectStore,
  StoredObject,
} from '../store.ts'

interface Entry {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly etag: string
  readonly modifiedMs: number
}

/** `wallMs` dates the objects. */
export function memoryObjectStore(wallMs: () => number = () => 0): ObjectStore {
  return new MemoryStore(wallMs)
}

class MemoryStore implements ObjectStore {
  readonly description = 'memory'
  readonly #entries = new Map<string, Entry>()
  readonly #wallMs: () => number

  constructor(wallMs: () => number) {
    this.#wallMs = wallMs
  }

  async get(key: string, options?: CallOptions): Promise<StoredObject> {
    const { bytes, etag } = this.#find(key, options)
    return { bytes: bytes.slice(), etag }
  }

  async getRange(
    key: string,
    startOffset: number,
    endOffset: number,
    options?: CallOptions,
  ): Promise<Uint8Array<ArrayBuffer>> {
    checkRange(key, startOffset, endOffset)
    const { bytes } = this.#find(key, options)
    if (endOffset > bytes.length) throw outOfRange(key, startOffset, endOffset)
    return bytes.slice(startOffset, endOffset)
  }

  async put(key: string, bytes: Uint8Array, options?: CallOptions): Promise<string> {
    this.#check(key, options)
    return this.#set(key, bytes)
  }

  async putIfAbsent(key: string, bytes: Uint8Array, options?: CallOptions): Promise<ConditionalPut> {
    this.#check(key, options)
    checkConditionalSize(key, bytes)
    return this.#entries.has(key) ? { kind: 'conflict' } : { kind: 'stored', etag: this.#set(key, bytes) }
  }

  async putIfMatch(
    key: string,
    etag: string,
    bytes: Uint8Array,
    options?: CallOptions,
  ): Promise<ConditionalPut> {
    this.#check(key, options)
    checkConditionalSize(key, bytes)
    const isMatch = this.#entries.get(key)?.etag === etag
    return isMatch ? { kind: 'stored', etag: this.#set(key, bytes) } : { kind: 'conflict' }
  }

  async head(key: string, options?: CallOptions): Promise<ObjectHead | undefined> {
    this.#check(key, options)
    const entry = this.#entries.get(key)
    if (entry === undefined) return undefined
    return { key, sizeBytes: entry.bytes.length, modifiedMs: entry.modifiedMs, etag: entry.etag }
  }

  async *list(prefix: string, options?: CallOptions): AsyncGenerator<ListedObject, void, void> {
    checkPrefix(prefix)
    throwIfCancelled(options?.signal)
    const keys = [...this.#entries.keys()].filter((key) => key.startsWith(prefix)).sort()
    for (const key of keys) {
      const entry = this.#entries.get(key)
      if (entry !== undefined) yield { key, sizeBytes: entry.bytes.length, modifiedMs: entry.modifiedMs }
    }
  }

  async delete(keys: readonly string[], options?: CallOptions): Promise<void> {
    for (const key of keys) this.#check(key, options)
    for (const key of keys) this.#entries.delete(key)
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}

  #check(key: string, options: CallOptions | undefined): void {
    checkKey(key)
    throwIfCancelled(options?.signal)
  }

  #find(key: string, options: CallOptions | undefined): Entry {
    this.#check(key, options)
    const entry = this.#entries.get(key)
    if (entry === undefined) throw notFound(key, this.description)
    return entry
  }

  #set(key: string, bytes: Uint8Array): string {
    const etag = contentEtag(bytes)
    this.#entries.set(key, { bytes: new Uint8Array(bytes), etag, modifiedMs: this.#wallMs() })
    return etag
  }
}
