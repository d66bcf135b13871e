/**
 * Reads parts of objects that do not change. An object is read in chunks, counted from its end, where a layer has its
 * footer and its index: one request gives both. The last chunks stay in memory for what lies beside the part that was
 * asked for; readers of the same chunk share one request. One for all shards of a process.
 */
import { Semaphore } from '@understory/actor'
import type { ObjectStore } from '@understory/object-store'

const CHUNK_BYTES = 256 * 1024
/** Of the chunk before: a block of a layer that begins there lies whole in one chunk. */
const OVERLAP_BYTES = 64 * 1024
/** Requests that are under way at the same time. */
const REQUESTS_COUNT_MAX = 16

export interface ObjectChunksParts {
  readonly store: Pick<ObjectStore, 'getRange'>
  /** Of chunks in memory. */
  readonly keptBytesMax: number
}

export class ObjectChunks {
  readonly #store: Pick<ObjectStore, 'getRange'>
  readonly #keptCountMax: number
  readonly #turns = new Semaphore(REQUESTS_COUNT_MAX)
  /** By object and number; the one that was used last comes last. */
  readonly #kept = new Map<string, Uint8Array>()
  /** Chunks that are awaited. */
  readonly #pending = new Map<string, Promise<Uint8Array>>()

  constructor({ store, keptBytesMax }: ObjectChunksParts) {
    this.#store = store
    this.#keptCountMax = Math.max(1, Math.floor(keptBytesMax / (CHUNK_BYTES + OVERLAP_BYTES)))
  }

  /**
   * Bytes of the object, which has `sizeBytes`: fewer than asked for only at its end. `onRead` is called for each chunk
   * that came from the store for this reader. Errors: those of the object store.
   */
  async read(
    key: string,
    sizeBytes: number,
    offset: number,
    lengthBytes: number,
    onRead: () => void,
  ): Promise<Uint8Array> {
    const reading: Promise<Uint8Array>[] = []
    let end = Math.min(sizeBytes, offset + lengthBytes)
    while (end > offset) {
      const chunk = chunkOf(sizeBytes, end)
      const from = Math.max(offset, chunk.start)
      const [first, last] = [from - chunk.start, end - chunk.start]
      reading.unshift(this.#chunk(key, chunk, onRead).then((bytes) => bytes.subarray(first, last)))
      end = from
    }
    const parts = await Promise.all(reading)
    return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts)
  }

  /** Its parts that are in memory are read again. */
  drop(key: string): void {
    for (const name of this.#kept.keys()) if (name.startsWith(`${key}#`)) this.#kept.delete(name)
  }

  #chunk(key: string, chunk: Chunk, onRead: () => void): Promise<Uint8Array> {
    const name = `${key}#${chunk.number}`
    const kept = this.#kept.get(name)
    if (kept !== undefined) {
      this.#keep(name, kept)
      return Promise.resolve(kept)
    }
    const pending = this.#pending.get(name)
    if (pending !== undefined) return pending
    const reading = this.#read(key, chunk, name, onRead)
    this.#pending.set(name, reading)
    return reading
  }
  async #read(key: string, { start, end }: Chunk, name: string, onRead: () => void): Promise<Uint8Array> {
    try {
      const bytes = await this.#turns.run(() => this.#store.getRange(key, start, end))
      this.#keep(name, bytes)
      onRead()
      return bytes
    } finally {
      this.#pending.delete(name)
    }
  }
  #keep(name: string, bytes: Uint8Array): void {
    this.#kept.delete(name)
    this.#kept.set(name, bytes)
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= this.#keptCountMax) break
      this.#kept.delete(oldest)
    }
  }
}

interface Chunk {
  /** 0 is the one that ends with the object. */
  readonly number: number
  readonly start: number
  readonly end: number
}

/** The chunk that has the byte before `end`. */
function chunkOf(sizeBytes: number, end: number): Chunk {
  const number = Math.floor((sizeBytes - end) / CHUNK_BYTES)
  const start = Math.max(0, sizeBytes - (number + 1) * CHUNK_BYTES - OVERLAP_BYTES)
  return { number, start, end: sizeBytes - number * CHUNK_BYTES }
}
