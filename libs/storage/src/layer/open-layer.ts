/**
 * The layer in memory: values of any key, linked newest to oldest per key. Bytes lie in append-only chunks, values in
 * columns, so a value costs 23 bytes beyond its data and no object. After `freeze` nothing changes any more.
 *
 * Values of one key come in LSN order, except images, which may come later than records that are newer than they.
 */
import { LSN_MAX, assert, lsnHigh, lsnLow } from '@understory/base'
import type { Lsn } from '@understory/base'
import { grown } from '../key/key-table.ts'
import type { KeyTable } from '../key/key-table.ts'
import type { Key } from '../key/key.ts'
import type { KeyRun, KeyRuns, Layer, ValueRef } from './layer.ts'
import { RECORD_PREFIX_BYTES, endsChain } from './value.ts'

/** A position is `chunk << 20 | offset`; what is larger than a chunk has one of its own. */
const CHUNK_BITS = 20
const CHUNK_BYTES = 1 << CHUNK_BITS
const CHUNKS_COUNT_MAX = 4096
const VALUE_OVERHEAD_BYTES = 23
/** Sorted at a time: some milliseconds. */
const RUN_ENTRIES_MAX = 4096

export class OpenLayer implements Layer {
  readonly keys: KeyTable
  readonly #chunks: Uint8Array[] = []
  #chunk: Uint8Array = new Uint8Array(0)
  #chunkUsed = 0
  #dataBytes = 0

  #capacity = 4096
  #lsn = new Float64Array(this.#capacity)
  #position = new Uint32Array(this.#capacity)
  #length = new Uint32Array(this.#capacity)
  #meta = new Uint8Array(this.#capacity)
  #blockIndex = new Uint8Array(this.#capacity)
  #older = new Int32Array(this.#capacity)
  #count = 0

  /** Value number + 1 of each key's newest value, by key number. */
  #newest = new Uint32Array(1024)
  #touched = new Uint32Array(1024)
  #touchedCount = 0
  #sorted: Uint32Array = new Uint32Array(0)

  #lsnMin: Lsn | undefined
  #lsnMax: Lsn | undefined
  #isFrozen = false

  constructor(keys: KeyTable) {
    this.keys = keys
  }

  get valuesCount(): number {
    return this.#count
  }
  /** Memory held, roughly. */
  get sizeBytes(): number {
    return this.#dataBytes + this.#count * VALUE_OVERHEAD_BYTES
  }
  readonly keyFirst = undefined
  readonly keyLast = undefined
  get lsnMin(): Lsn | undefined {
    return this.#lsnMin
  }
  get lsnMax(): Lsn | undefined {
    return this.#lsnMax
  }
  get isFrozen(): boolean {
    return this.#isFrozen
  }
  /** No room for much more: to be frozen whatever its size. */
  get isFull(): boolean {
    return this.#chunks.length >= CHUNKS_COUNT_MAX - 64
  }
  freeze(): void {
    this.#isFrozen = true
  }

  /** Takes a copy of the bytes; gives their position for `put`. */
  append(bytes: Uint8Array): number {
    if (bytes.length === 0) return 0
    const at = this.#room(bytes.length)
    this.#chunk.set(bytes, at & (CHUNK_BYTES - 1))
    return at
  }

  /** The same for a record with its position, as values of records are stored. */
  appendRecord(recordLsn: Lsn, from: Uint8Array, start: number, length: number): number {
    const at = this.#room(RECORD_PREFIX_BYTES + length)
    const chunk = this.#chunk
    let to = at & (CHUNK_BYTES - 1)
    const low = lsnLow(recordLsn)
    const high = lsnHigh(recordLsn)
    chunk[to] = low
    chunk[to + 1] = low >>> 8
    chunk[to + 2] = low >>> 16
    chunk[to + 3] = low >>> 24
    chunk[to + 4] = high
    chunk[to + 5] = high >>> 8
    chunk[to + 6] = high >>> 16
    chunk[to + 7] = high >>> 24
    to += RECORD_PREFIX_BYTES
    // Most records are short, and a loop then beats making a view for `set`.
    if (length < 96) for (let i = 0; i < length; i++) chunk[to + i] = from[start + i] as number
    else chunk.set(from.subarray(start, start + length), to)
    return at
  }

  #room(length: number): number {
    assert(!this.#isFrozen, () => 'a frozen layer takes no value')
    if (this.#chunkUsed + length > this.#chunk.length) {
      assert(this.#chunks.length < CHUNKS_COUNT_MAX, () => 'open layer is beyond its largest size')
      this.#chunk = new Uint8Array(Math.max(CHUNK_BYTES, length))
      this.#chunks.push(this.#chunk)
      this.#chunkUsed = 0
    }
    const offset = this.#chunkUsed
    assert(offset < CHUNK_BYTES, () => `offset ${offset} is beyond a chunk`)
    this.#chunkUsed = offset + length
    this.#dataBytes += length
    return (((this.#chunks.length - 1) << CHUNK_BITS) | offset) >>> 0
  }

  /** A value of the key whose bytes were appended at `position`. */
  put(keyId: number, at: Lsn, meta: number, blockIndex: number, position: number, length: number): void {
    assert(!this.#isFrozen, () => 'a frozen layer takes no value')
    const value = this.#count++
    if (value === this.#capacity) this.#grow()
    this.#lsn[value] = at
    this.#position[value] = position
    this.#length[value] = length
    this.#meta[value] = meta
    this.#blockIndex[value] = blockIndex
    if (this.#lsnMin === undefined || at < this.#lsnMin) this.#lsnMin = at
    if (this.#lsnMax === undefined || at > this.#lsnMax) this.#lsnMax = at
    if (keyId >= this.#newest.length) {
      this.#newest = grown(this.#newest, new Uint32Array(Math.max(keyId + 1, this.#newest.length * 2)))
    }
    const head = (this.#newest[keyId] as number) - 1
    if (head < 0) this.#touch(keyId)
    if (head < 0 || (this.#lsn[head] as number) <= at) {
      this.#older[value] = head
      this.#newest[keyId] = value + 1
      return
    }
    let above = head
    for (;;) {
      const next = this.#older[above] as number
      if (next < 0 || (this.#lsn[next] as number) <= at) break
      above = next
    }
    this.#older[value] = this.#older[above] as number
    this.#older[above] = value
  }

  /** A value that owns its bytes, which are copied. */
  putBytes(keyId: number, at: Lsn, meta: number, bytes: Uint8Array): void {
    this.put(keyId, at, meta, 0, this.append(bytes), bytes.length)
  }

  #touch(keyId: number): void {
    if (this.#touchedCount === this.#touched.length) {
      this.#touched = grown(this.#touched, new Uint32Array(this.#touched.length * 2))
    }
    this.#touched[this.#touchedCount++] = keyId
  }

  #grow(): void {
    const capacity = this.#capacity * 2
    this.#capacity = capacity
    this.#lsn = grown(this.#lsn, new Float64Array(capacity))
    this.#position = grown(this.#position, new Uint32Array(capacity))
    this.#length = grown(this.#length, new Uint32Array(capacity))
    this.#meta = grown(this.#meta, new Uint8Array(capacity))
    this.#blockIndex = grown(this.#blockIndex, new Uint8Array(capacity))
    this.#older = grown(this.#older, new Int32Array(capacity))
  }

  /** Numbers of the keys that have a value here, in key order. */
  sortedKeyIds(): Uint32Array {
    if (this.#sorted.length !== this.#touchedCount) {
      const keys = this.keys
      this.#sorted = this.#touched.slice(0, this.#touchedCount).sort((a, b) => keys.compare(a, b))
    }
    return this.#sorted
  }
  /** Keys that come while the runs are read may be left out. */
  *runsWithin(first: Key, last: Key): Generator<KeyRuns, void, void> {
    const { keys } = this
    // Only what lies behind the count changes.
    const touched = this.#touched
    const count = this.#touchedCount
    let run: number[] = []
    for (let i = 0; i < count; i++) {
      const keyId = touched[i] as number
      if (keys.compareWith(keyId, first) >= 0 && keys.compareWith(keyId, last) <= 0) run.push(keyId)
      if (run.length < RUN_ENTRIES_MAX && i + 1 < count) continue
      if (run.length > 0)
        yield oneRun(
          new OpenRun(
            this,
            run.sort((a, b) => keys.compare(a, b)),
          ),
        )
      run = []
    }
  }

  newestOf(keyId: number, at: Lsn): number {
    let value = keyId < this.#newest.length ? (this.#newest[keyId] as number) - 1 : -1
    while (value >= 0 && (this.#lsn[value] as number) > at) value = this.#older[value] as number
    return value
  }
  gather(key: Key, at: Lsn, floor: Lsn, found: ValueRef[]): boolean {
    const keyId = this.keys.lookUp(key)
    if (keyId < 0) return false
    for (let value = this.newestOf(keyId, at); value >= 0; value = this.older(value)) {
      if ((this.#lsn[value] as number) < floor) return true
      found.push(new OpenValue(this, value))
      if (endsChain(this.#meta[value] as number)) return true
    }
    return false
  }
  newest(key: Key, at: Lsn): ValueRef | undefined {
    const keyId = this.keys.lookUp(key)
    const value = keyId < 0 ? -1 : this.newestOf(keyId, at)
    return value < 0 ? undefined : new OpenValue(this, value)
  }
  older(value: number): number {
    return this.#older[value] as number
  }
  lsnOf(value: number): Lsn {
    return this.#lsn[value] as Lsn
  }
  metaOf(value: number): number {
    return this.#meta[value] as number
  }
  blockIndexOf(value: number): number {
    return this.#blockIndex[value] as number
  }
  lengthOf(value: number): number {
    return this.#length[value] as number
  }
  /** Where the bytes are: equal for values that share them (META_IS_SHARED). */
  positionOf(value: number): number {
    return this.#position[value] as number
  }
  /** Borrows from the layer, whose bytes never change. */
  bytesOf(value: number): Uint8Array {
    const position = this.#position[value] as number
    const offset = position & (CHUNK_BYTES - 1)
    const length = this.#length[value] as number
    if (length === 0) return EMPTY
    return (this.#chunks[position >>> CHUNK_BITS] as Uint8Array).subarray(offset, offset + length)
  }
}

const EMPTY = new Uint8Array(0)

class OpenValue implements ValueRef {
  readonly layer: OpenLayer
  readonly #value: number

  constructor(layer: OpenLayer, value: number) {
    this.layer = layer
    this.#value = value
  }
  get lsn(): Lsn {
    return this.layer.lsnOf(this.#value)
  }
  get meta(): number {
    return this.layer.metaOf(this.#value)
  }
  get blockIndex(): number {
    return this.layer.blockIndexOf(this.#value)
  }
  get lengthBytes(): number {
    return this.layer.lengthOf(this.#value)
  }
  bytes(): Uint8Array {
    return this.layer.bytesOf(this.#value)
  }
  load(): Promise<Uint8Array> {
    return Promise.resolve(this.bytes())
  }
}

class OpenRun implements KeyRun {
  readonly #layer: OpenLayer
  readonly #keyIds: readonly number[]

  constructor(layer: OpenLayer, keyIds: readonly number[]) {
    this.#layer = layer
    this.#keyIds = keyIds
  }
  get length(): number {
    return this.#keyIds.length
  }
  keyAt(index: number): Key {
    return this.#layer.keys.keyOf(this.#keyIds[index] as number)
  }
  newestAt(index: number, at: Lsn): ValueRef | undefined {
    const value = this.#layer.newestOf(this.#keyIds[index] as number, at)
    return value < 0 ? undefined : new OpenValue(this.#layer, value)
  }
  valuesAt(index: number): Iterable<ValueRef> {
    const values: ValueRef[] = []
    const keyId = this.#keyIds[index] as number
    for (let value = this.#layer.newestOf(keyId, LSN_MAX); value >= 0; value = this.#layer.older(value))
      values.push(new OpenValue(this.#layer, value))
    return values.reverse()
  }
  chainAt(): undefined {
    return undefined
  }
}

function oneRun(run: KeyRun): KeyRuns {
  let rest: KeyRun | undefined = run
  return {
    next: () => {
      const given = rest
      rest = undefined
      return given
    },
  }
}
