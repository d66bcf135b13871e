/**
 * The shard's part of the object store: layers, and one index per generation that lists them. Layers come before the
 * index that lists them, so every prefix of uploads is consistent. Before each publication the newest generation is
 * looked up: a stale one never publishes again (I9). Nor does one whose generation another writes, too: what is there
 * must be what was read or written here last.
 */
import { createHash } from 'node:crypto'
import { assert, isErrorCode, fail } from '@understory/base'
import { shardPrefix } from '@understory/protocol'
import { crc32c } from '@understory/postgres/wal'
import type { ObjectStore } from '@understory/object-store'
import { encodeIndexPart, generationOfIndexPart, indexPartName, parseIndexPart } from '@understory/storage'
import type { IndexPart, LayerEntry, LayerOwner } from '@understory/storage'

/** Whether the bytes are those of a layer as its index has it. */
export const isWhole = (
  { sizeBytes, crc }: Pick<LayerEntry, 'sizeBytes' | 'crc'>,
  bytes: Uint8Array,
): boolean => bytes.length === sizeBytes && crc32c(bytes, 0, bytes.length) === crc

export class RemoteIndex {
  readonly #store: ObjectStore
  readonly #owner: LayerOwner
  readonly #prefix: string
  /** Of the indexes that were read or published, by generation. */
  readonly #etags = new Map<number, string>()
  /** Digests of what was sent since, without an answer: some of it may be there. */
  readonly #unanswered = new Set<string>()

  constructor(store: ObjectStore, owner: LayerOwner) {
    this.#store = store
    this.#owner = owner
    this.#prefix = shardPrefix(owner)
  }

  /** The newest generation that has an index, or undefined. */
  async newestGeneration(): Promise<number | undefined> {
    return (await this.#generations()).at(-1)
  }
  /** Ascending. */
  async #generations(): Promise<number[]> {
    const found: number[] = []
    for await (const { key } of this.#store.list(`${this.#prefix}index_part-`)) {
      const generation = generationOfIndexPart(key)
      if (generation !== undefined) found.push(generation)
    }
    return found.sort((a, b) => a - b)
  }

  /**
   * Makes the layers of the shard those of `generation`; returns the index that says which they are, of an older
   * generation where this one has published nothing of its own. An older index is published, changed by `change`,
   * under the new generation first. Its owner removes objects that it has left out of its index until it sees that
   * there is a newer one: so after that the index is looked up again, and where another has come in its place, that
   * one is taken. Undefined where there is no index. Errors: `stale`; those of `read` and `publish`.
   */
  async takeOver(generation: number, change: (part: IndexPart) => IndexPart): Promise<IndexPart | undefined> {
    for (;;) {
      const found = await this.#newestOwn(generation)
      if (found === undefined || found.part.generation === generation) return found?.part
      const { part, etag } = found
      await this.publish({ ...change(part), generation, isCopy: true })
      const now = await this.#newestOwn(generation)
      if (now?.part.generation === part.generation && now.etag === etag) return part
    }
  }
  /**
   * The same for an owner whose generation was `before` until now: false where another has published more than a copy
   * since, and the shard must be taken over from that. The copy is of what the store has: the owner's own index may
   * list layers that are not there yet. Errors: `stale`; those of `publish`.
   */
  async claim(generation: number, before: number): Promise<boolean> {
    const newest = await this.#newestOwn(generation)
    // Without an index there is nothing that another could have taken over.
    if (newest === undefined) return true
    await this.publish({ ...newest.part, generation, isCopy: true })
    const found = await this.#newestOwn(generation)
    return found === undefined || found.part.generation <= before
  }
  /** Of the newest generation that has published more than a copy of what was before it. Error: `stale`. */
  async #newestOwn(generation: number): Promise<{ part: IndexPart; etag: string } | undefined> {
    for (;;) {
      const generations = await this.#generations()
      const newest = generations.at(-1)
      if (newest !== undefined && newest > generation) throw staleGeneration(generation, newest)
      try {
        for (const each of generations.toReversed()) {
          const part = await this.read(each)
          if (part.isCopy !== true) return { part, etag: this.#etags.get(each) as string }
        }
        assert(generations.length === 0, () => 'the index that others were copied from is gone')
        return undefined
      } catch (error) {
        // A newer one has come in its place.
        if (!isErrorCode(error, 'not_found')) throw error
      }
    }
  }

  /** Removes the indexes of generations before `generation`, whose own does not depend on them. */
  async removeOlder(generation: number): Promise<void> {
    const generations = await this.#generations()
    if (generations.at(-1) !== generation) return
    const older = generations.filter((each) => each < generation)
    await this.#store.delete(older.map((each) => this.#prefix + indexPartName(each)))
  }

  /** Errors: `bad_file` where what is there is damaged, or of another shard or generation. */
  async read(generation: number): Promise<IndexPart> {
    const key = this.#prefix + indexPartName(generation)
    const { bytes, etag } = await this.#store.get(key)
    this.#etags.set(generation, etag)
    return parseIndexPart(bytes, key, this.#owner, generation)
  }

  /** The layer's bytes, checked against its entry. Errors: `bad_file`; those of the object store. */
  async getLayer({ name, sizeBytes, crc }: LayerEntry, signal?: AbortSignal): Promise<Uint8Array> {
    const key = this.layerKey(name)
    const bytes = await this.#store.get(key, { signal }).then(
      (object) => object.bytes,
      (error: unknown) => {
        throw isErrorCode(error, 'not_found') ? missingLayer(key, error) : error
      },
    )
    if (isWhole({ sizeBytes, crc }, bytes)) return bytes
    throw fail(
      'bad_file',
      `layer object "${key}" is damaged: ${bytes.length} bytes of ${sizeBytes}, or its checksum is wrong`,
      {
        hint: 'Restore the object from a copy; the shard is attached again by itself.',
      },
    )
  }

  async putLayer(name: string, bytes: Uint8Array): Promise<void> {
    await this.#store.put(this.layerKey(name), bytes)
  }

  async removeLayers(names: readonly string[]): Promise<void> {
    await this.#store.delete(names.map((name) => this.layerKey(name)))
  }
  /** Of the layer's object. */
  layerKey(name: string): string {
    return this.#prefix + name
  }

  /**
   * Publishes the index of its generation. Errors: `stale` where a newer generation is there, `conflict` where
   * another writer has written this one since it was read or written here.
   */
  async publish(part: IndexPart): Promise<void> {
    const { generation } = part
    const newest = await this.newestGeneration()
    if (newest !== undefined && newest > generation) throw staleGeneration(generation, newest)
    const key = this.#prefix + indexPartName(generation)
    const bytes = encodeIndexPart(part)
    this.#unanswered.add(digestOf(bytes))
    for (let attempt = 0; attempt < 2; attempt++) {
      const known = this.#etags.get(generation)
      const result =
        known === undefined
          ? await this.#store.putIfAbsent(key, bytes)
          : await this.#store.putIfMatch(key, known, bytes)
      if (result.kind === 'stored') {
        this.#etags.set(generation, result.etag)
        this.#unanswered.clear()
        return
      }
      // It may be of a try whose answer was lost.
      const there = await this.#store.get(key)
      if (!this.#unanswered.has(digestOf(there.bytes))) break
      this.#etags.set(generation, there.etag)
    }
    throw fail('conflict', `index object "${key}" is being written by another`, {
      hint: 'Two pageservers have the shard under one generation; the control plane must give out a new one.',
    })
  }
}

export const missingLayer = (key: string, cause: Error): Error =>
  fail('bad_file', `layer object "${key}" is ${isErrorCode(cause, 'not_found') ? 'missing' : 'cut short'}`, {
    hint: 'Restore the object from a copy; the shard is attached again by itself.',
    cause,
  })

const digestOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

export const staleGeneration = (generation: number, newest: number): Error =>
  fail('stale', `generation ${generation} of the shard is not the newest, which is ${newest}`, {
    hint: 'The shard was given to another pageserver; detach it here.',
  })
