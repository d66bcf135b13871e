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
  /** Of chunks in memory; those that are awaited count as whole ones. */
  readonly keptBytesMax: number
}

export class ObjectChunks {
  readonly #store: Pick<ObjectStore, 'getRange'>
  readonly #keptCountMax: number
  readonly #turns = new Semaphore(REQUESTS_COUNT_MAX)
  /** By object and number; the one that was used last comes last. */
  readonly #chunks = new Map<string, Promise<Uint8Array>>()

  constructor({ store, keptBytesMax }: ObjectChunksParts) {
    this.#store = store
    this.#keptCountMax = Math.max(1, Math.floor(keptBytesMax / (CHUNK_BYTES + OVERLAP_BYTES)))
  }

  /**
   * Bytes of the object, which has `sizeBytes`: fewer than asked for only at its end. `onRequest` is called for each
   * chunk that is not in memory. Errors: those of the object store.
   */
  async read(
    key: string,
    sizeBytes: number,
    offset: number,
    lengthBytes: number,
    onRequest: () => void,
  ): Promise<Uint8Array> {
    const reading: Promise<Uint8Array>[] = []
    let end = Math.min(sizeBytes, offset + lengthBytes)
    while (end > offset) {
      const chunk = chunkOf(sizeBytes, end)
      const from = Math.max(offset, chunk.start)
      const [first, last] = [from - chunk.start, end - chunk.start]
      reading.unshift(this.#chunk(key, chunk, onRequest).then((bytes) => bytes.subarray(first, last)))
      end = from
    }
    const parts = await Promise.all(reading)
    return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts)
  }

  /** Its parts that are in memory are read again. */
  drop(key: string): void {
    for (const name of this.#chunks.keys()) if (name.startsWith(`${key}#`)) this.#chunks.delete(name)
  }

  #chunk(key: string, { number, start, end }: Chunk, onRequest: () => void): Promise<Uint8Array> {
    const name = `${key}#${number}`
    let chunk = this.#chunks.get(name)
    if (chunk === undefined) {
      onRequest()
      const reading = this.#turns.run(() => this.#store.getRange(key, start, end))
      chunk = reading
      reading.catch(() => {
        if (this.#chunks.get(name) === reading) this.#chunks.delete(name)
      })
    }
    this.#chunks.delete(name)
    this.#chunks.set(name, chunk)
    for (const oldest of this.#chunks.keys()) {
      if (this.#chunks.size <= this.#keptCountMax) break
      this.#chunks.delete(oldest)
    }
    return chunk
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
