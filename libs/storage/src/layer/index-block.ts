/**
 * A part of a layer's index: where the values of some neighbouring keys are. Values are in order of key, then oldest
 * first; a key with many values goes over several blocks. Opening a block checks everything that reading relies on, so
 * that no later access can leave its bounds.
 */
import { fail } from '@understory/base'
import type { Lsn, UnderstoryError } from '@understory/base'
import { KEY_BYTES, KEY_CLASS_MAX, compareKeys, readKey } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import {
  BLOCK_BYTES_MAX,
  BLOCK_ENTRY_BYTES,
  INDEX_BLOCK_COUNTS_BYTES,
  KEY_CONTINUES,
  KEY_ENTRY_BYTES,
  KEY_ENTRY_BYTES_V1,
  KEY_IS_WHOLE,
  LayerHeader,
  VALUE_ENTRY_BYTES,
} from './layer-format.ts'
import { isValidMeta } from './value.ts'

/** Counts of an index block, and how long its key entries are: 22 bytes in version 1, 24 since. */
export interface IndexBlockShape {
  readonly blockCount: number
  readonly keyCount: number
  readonly valueCount: number
  readonly keyEntryBytes: number
  /** Of the first data-block entry. */
  readonly startsAt: number
}

/** What an index block's entries must keep to. */
export interface LayerBounds {
  readonly name: string
  readonly lsnMin: Lsn
  readonly lsnMax: Lsn
  /** End of the data blocks in the file. */
  readonly dataEnd: number
}

/** Where a data block is in its file. */
export interface DataBlockPlace {
  readonly offset: number
  readonly storedBytes: number
  readonly rawBytes: number
  readonly crc: number
}

export class IndexBlock {
  readonly keyCount: number
  readonly valueCount: number
  readonly blockCount: number
  readonly sizeBytes: number
  readonly #keyEntryBytes: number
  readonly #blocks: DataView
  readonly #keys: DataView
  readonly #values: DataView

  /** Made by `readIndexBlock` alone, which checks it. */
  constructor(raw: Uint8Array, shape: IndexBlockShape) {
    this.keyCount = shape.keyCount
    this.valueCount = shape.valueCount
    this.blockCount = shape.blockCount
    this.sizeBytes = raw.length
    this.#keyEntryBytes = shape.keyEntryBytes
    const { buffer } = raw
    const blocksAt = raw.byteOffset + shape.startsAt
    const keysAt = blocksAt + shape.blockCount * BLOCK_ENTRY_BYTES
    const valuesAt = keysAt + shape.keyCount * shape.keyEntryBytes
    this.#blocks = new DataView(buffer, blocksAt, shape.blockCount * BLOCK_ENTRY_BYTES)
    this.#keys = new DataView(buffer, keysAt, shape.keyCount * shape.keyEntryBytes)
    this.#values = new DataView(buffer, valuesAt, shape.valueCount * VALUE_ENTRY_BYTES)
  }

  keyOf(entry: number): Key {
    return readKey(this.#keys, entry * this.#keyEntryBytes)
  }
  /** Whether the first key has older values in the block before. */
  get continues(): boolean {
    return this.#flagsOf(0, KEY_CONTINUES)
  }
  /** Whether the key's chain begins in this layer, at or before its last value here. */
  isWhole(entry: number): boolean {
    return this.#flagsOf(entry, KEY_IS_WHOLE)
  }
  /**
   * Records of the key since its last value that ends a chain, or since the layer began, up to its last value here;
   * 255: as many or more.
   */
  chainOf(entry: number): number {
    return this.#keys.getUint8(entry * this.#keyEntryBytes + KEY_BYTES + 4)
  }
  /** Version 1 has neither flags nor chains. */
  get hasChains(): boolean {
    return this.#keyEntryBytes === KEY_ENTRY_BYTES
  }
  #flagsOf(entry: number, flag: number): boolean {
    return this.hasChains && (this.#keys.getUint8(entry * KEY_ENTRY_BYTES + KEY_BYTES + 5) & flag) !== 0
  }

  /** Number of entries before the key, or up to it if `isIncluded`. */
  entriesBefore(key: Key, isIncluded: boolean): number {
    let low = 0
    let high = this.keyCount
    while (low < high) {
      const middle = (low + high) >>> 1
      const order = compareWithKeyAt(key, this.#keys, middle * this.#keyEntryBytes)
      if (order > 0 || (isIncluded && order === 0)) low = middle + 1
      else high = middle
    }
    return low
  }
  /** -1 where the block does not have the key. */
  entryOf(key: Key): number {
    const entry = this.entriesBefore(key, false)
    return entry < this.keyCount && compareWithKeyAt(key, this.#keys, entry * this.#keyEntryBytes) === 0
      ? entry
      : -1
  }
  firstValueOf(entry: number): number {
    return entry === this.keyCount
      ? this.valueCount
      : this.#keys.getUint32(entry * this.#keyEntryBytes + KEY_BYTES, true)
  }
  /** The newest value of the entry at or before `at`, or -1. */
  newestOf(entry: number, at: Lsn): number {
    const first = this.firstValueOf(entry)
    let low = first
    let high = this.firstValueOf(entry + 1)
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.lsnOf(middle) <= at) low = middle + 1
      else high = middle
    }
    return low > first ? low - 1 : -1
  }

  lsnOf(value: number): Lsn {
    return lsnAt(this.#values, value * VALUE_ENTRY_BYTES)
  }
  metaOf(value: number): number {
    return this.#values.getUint8(value * VALUE_ENTRY_BYTES + 20)
  }
  blockIndexOf(value: number): number {
    return this.#values.getUint8(value * VALUE_ENTRY_BYTES + 21)
  }
  lengthOf(value: number): number {
    return this.#values.getUint32(value * VALUE_ENTRY_BYTES + 16, true)
  }
  /** Of the value within its data block. */
  offsetOf(value: number): number {
    return this.#values.getUint32(value * VALUE_ENTRY_BYTES + 12, true)
  }
  /** Of the value's data block. */
  placeOf(value: number): DataBlockPlace {
    return this.placeOfBlock(this.#values.getUint32(value * VALUE_ENTRY_BYTES + 8, true))
  }
  placeOfBlock(block: number): DataBlockPlace {
    const at = block * BLOCK_ENTRY_BYTES
    return {
      offset: this.#blocks.getUint32(at, true),
      storedBytes: this.#blocks.getUint32(at + 4, true),
      rawBytes: this.#blocks.getUint32(at + 8, true),
      crc: this.#blocks.getUint32(at + 12, true),
    }
  }
}

/** The shape of a block of this version, which its first bytes say. Errors: `bad_file`. */
export function shapeOf(raw: Uint8Array, name: string, where: string): IndexBlockShape {
  if (raw.length < INDEX_BLOCK_COUNTS_BYTES) throw damagedLayer(name, `${where} has only ${raw.length} bytes`)
  const view = viewOf(raw)
  return {
    blockCount: view.getUint32(0, true),
    keyCount: view.getUint32(4, true),
    valueCount: view.getUint32(8, true),
    keyEntryBytes: KEY_ENTRY_BYTES,
    startsAt: INDEX_BLOCK_COUNTS_BYTES,
  }
}
/** The whole index of a layer of version 1 is one block. */
export const shapeOfVersion1 = (
  blockCount: number,
  keyCount: number,
  valueCount: number,
): IndexBlockShape => ({
  blockCount,
  keyCount,
  valueCount,
  keyEntryBytes: KEY_ENTRY_BYTES_V1,
  startsAt: 0,
})

/** Errors: `bad_file` where an entry contradicts itself, another, or the layer. */
export function readIndexBlock(
  raw: Uint8Array,
  shape: IndexBlockShape,
  bounds: LayerBounds,
  where: string,
): IndexBlock {
  const { blockCount, keyCount, valueCount, keyEntryBytes, startsAt } = shape
  const expected =
    startsAt + blockCount * BLOCK_ENTRY_BYTES + keyCount * keyEntryBytes + valueCount * VALUE_ENTRY_BYTES
  if (raw.length !== expected || keyCount === 0 || valueCount < keyCount) {
    const counts = `${blockCount} blocks, ${keyCount} keys and ${valueCount} values`
    throw damagedLayer(bounds.name, `${where} has ${raw.length} bytes for ${counts}`)
  }
  const block = new IndexBlock(raw, shape)
  for (let number = 0; number < blockCount; number++)
    checkPlace(block.placeOfBlock(number), bounds, `${where} puts block ${number}`)
  checkEntries(block, viewOf(raw), shape, bounds, where)
  return block
}

function checkPlace(
  { offset, storedBytes, rawBytes }: DataBlockPlace,
  { name, dataEnd }: LayerBounds,
  what: string,
): void {
  const end = offset + storedBytes
  if (offset < LayerHeader.SIZE || end > dataEnd || rawBytes > BLOCK_BYTES_MAX)
    throw damagedLayer(name, `${what} at ${offset} to ${end}`)
}

function checkEntries(
  block: IndexBlock,
  view: DataView,
  { blockCount, keyCount, valueCount, keyEntryBytes, startsAt }: IndexBlockShape,
  { name, lsnMin, lsnMax }: LayerBounds,
  where: string,
): void {
  const valuesAt = startsAt + blockCount * BLOCK_ENTRY_BYTES + keyCount * keyEntryBytes
  let previous: Key | undefined
  for (let entry = 0; entry < keyCount; entry++) {
    const key = block.keyOf(entry)
    const first = block.firstValueOf(entry)
    const end = block.firstValueOf(entry + 1)
    const isOrdered = previous === undefined ? first === 0 : compareKeys(previous, key) < 0
    if (!isOrdered || key.keyClass > KEY_CLASS_MAX || first >= end || end > valueCount)
      throw damagedLayer(name, `${where}: the entry of key ${entry} is out of order`)
    previous = key
    let lastLsn: number = lsnMin
    for (let value = first; value < end; value++) {
      const to = valuesAt + value * VALUE_ENTRY_BYTES
      const lsn = lsnAt(view, to)
      const number = view.getUint32(to + 8, true)
      const length = view.getUint32(to + 16, true)
      const isInside =
        length === 0 ||
        (number < blockCount &&
          view.getUint32(to + 12, true) + length <=
            view.getUint32(startsAt + number * BLOCK_ENTRY_BYTES + 8, true))
      if (lsn < lastLsn || lsn > lsnMax || !isInside || !isValidMeta(view.getUint8(to + 20)))
        throw damagedLayer(name, `${where}: the entry of value ${value} contradicts itself`)
      lastLsn = lsn
    }
  }
}

const lsnAt = (view: DataView, at: number): Lsn =>
  (view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true)) as Lsn

export const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** compareKeys with an encoded key. */
export function compareWithKeyAt(key: Key, view: DataView, at: number): number {
  return (
    key.keyClass - view.getUint8(at) ||
    key.spcOid - view.getUint32(at + 1) ||
    key.dbOid - view.getUint32(at + 5) ||
    key.rel - view.getUint32(at + 9) ||
    key.fork - view.getUint8(at + 13) ||
    key.block - view.getUint32(at + 14)
  )
}

export function damagedLayer(name: string, what: string, cause?: unknown): UnderstoryError {
  return fail('bad_file', `layer "${name}" is damaged: ${what}`, {
    hint: 'A local file is fetched again by itself where its object is whole; a damaged object has to be restored from a copy.',
    ...(cause === undefined ? {} : { cause }),
  })
}
