/**
 * Reads a layer file. Opening reads header and footer; everything else is read, checked and decompressed block by block
 * when it is asked for, and kept in the block cache alone. Every fault is refused `bad_file` and names the file, what
 * and where.
 */
import { zstdDecompressSync } from 'node:zlib'
import { crc32c } from '@node-rs/crc32'
import { isErrorCode } from '@understory/base'
import type { Lsn, UnderstoryError } from '@understory/base'
import { compareKeys } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import type { BlockCache, BlockTable, Sized } from './block-cache.ts'
import { damagedLayer, readIndexBlock, shapeOf } from './index-block.ts'
import type { DataBlockPlace, IndexBlock, IndexBlockShape } from './index-block.ts'
import { KeyFilter, hashKey } from './key-filter.ts'
import type { LayerKind } from './layer-format.ts'
import { FileRuns, FileValue } from './file-runs.ts'
import type { BlockSource, RunBlock } from './file-runs.ts'
import { HeldBlocks, Missing } from './layer.ts'
import type { KeyRuns, ValueRef } from './layer.ts'
import { readTopIndex } from './top-index.ts'
import { endsChain } from './value.ts'

/** Where a layer's bytes come from: a file, an object. */
export interface LayerSource {
  /** For messages: the file's path or the object's key. */
  readonly name: string
  readonly sizeBytes: number
  /** Fewer bytes than asked for only at the end. */
  read(offset: number, lengthBytes: number): Promise<Uint8Array>
  /** Asked for when what was read is damaged or gone: puts right bytes in their place. Error: why that cannot be. */
  renew?(damage: UnderstoryError): Promise<void>
}

/** What header and footer say; checked. */
export interface LayerFrame {
  readonly kind: LayerKind
  readonly generation: number
  readonly lsnMin: Lsn
  readonly lsnMax: Lsn
  readonly keyFirst: Key
  readonly keyLast: Key
  readonly keyCount: number
  readonly valueCount: number
  /** End of the data blocks. */
  readonly dataEnd: number
  /** End of the index blocks. */
  readonly indexEnd: number
  readonly top: TopPlace
  /** `rawBytes` is 0 where there is none. */
  readonly filter: DataBlockPlace
}
/** Where the index blocks are listed; version 1 has one, and counts for it. */
export type TopPlace =
  | { readonly version: 2; readonly place: DataBlockPlace }
  | { readonly version: 1; readonly place: DataBlockPlace; readonly shape: IndexBlockShape }

class DataBlock {
  readonly bytes: Uint8Array
  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }
  get sizeBytes(): number {
    return this.bytes.length
  }
}

/** Which index blocks there are. */
interface Directory extends Sized {
  readonly count: number
  find(key: Key, at: Lsn): number
  firstFrom(key: Key): number
  placeOf(number: number): DataBlockPlace
}

export class LayerFile implements BlockSource {
  readonly frame: LayerFrame
  readonly #source: LayerSource
  readonly #blocks: BlockTable<Sized>
  readonly #pending = new Map<number, Promise<Sized>>()
  /** Of version 1, whose one index block needs none. */
  readonly #directory: Directory | undefined

  /** Made by `openLayer` alone, which checks the frame. */
  constructor(source: LayerSource, cache: BlockCache, frame: LayerFrame) {
    this.frame = frame
    this.#source = source
    this.#blocks = cache.table()
    const { top } = frame
    if (top.version === 1)
      this.#directory = {
        count: 1,
        sizeBytes: 0,
        find: () => 0,
        firstFrom: () => 0,
        placeOf: () => top.place,
      }
  }

  get name(): string {
    return this.#source.name
  }
  get sizeBytes(): number {
    return this.#source.sizeBytes
  }
  get kind(): LayerKind {
    return this.frame.kind
  }
  get lsnMin(): Lsn {
    return this.frame.lsnMin
  }
  get lsnMax(): Lsn {
    return this.frame.lsnMax
  }
  get keyFirst(): Key {
    return this.frame.keyFirst
  }
  get keyLast(): Key {
    return this.frame.keyLast
  }

  gather(key: Key, at: Lsn, floor: Lsn, found: ValueRef[], held: HeldBlocks | undefined): boolean | Missing {
    const { lsnMin, lsnMax } = this.frame
    // A layer that ends below the floor may be of late images alone: layers under it may still have newer values of
    // other keys.
    if (at < lsnMin || lsnMax < floor) return false
    const place = this.#find(key, at, held)
    if (place instanceof Missing) return place
    let { number } = place
    const { directory } = place
    const count = found.length
    for (; number >= 0; number--) {
      const block = this.#indexBlock(directory, number, held)
      if (block instanceof Missing) {
        found.length = count
        return block
      }
      const entry = block.entryOf(key)
      if (entry < 0) return false
      const first = block.firstValueOf(entry)
      for (let value = block.newestOf(entry, at); value >= first; value--) {
        if (block.lsnOf(value) < floor) return true
        found.push(new FileValue(this, block, value))
        if (endsChain(block.metaOf(value))) return true
      }
      if (entry > 0 || !block.continues) return false
    }
    return false
  }

  newest(key: Key, at: Lsn, held: HeldBlocks | undefined): ValueRef | undefined | Missing {
    if (at < this.frame.lsnMin) return undefined
    const place = this.#find(key, at, held)
    if (place instanceof Missing) return place
    if (place.number < 0) return undefined
    const block = this.#indexBlock(place.directory, place.number, held)
    if (block instanceof Missing) return block
    const entry = block.entryOf(key)
    const value = entry < 0 ? -1 : block.newestOf(entry, at)
    return value < 0 ? undefined : new FileValue(this, block, value)
  }

  /** The index block that has the key's newest value at or before `at`, if one has; -1: none. */
  #find(key: Key, at: Lsn, held: HeldBlocks | undefined): { directory: Directory; number: number } | Missing {
    const { keyFirst, keyLast, filter } = this.frame
    if (compareKeys(key, keyFirst) < 0 || compareKeys(key, keyLast) > 0) return NOWHERE
    if (filter.rawBytes > 0) {
      const known = this.#at(filter.offset, held) as KeyFilter | undefined
      if (known === undefined) return this.#missing(filter, 'key filter', (raw) => new KeyFilter(raw), true)
      if (!known.mayHave(hashKey(key))) return NOWHERE
    }
    const directory = this.#directoryOf(held)
    return directory instanceof Missing ? directory : { directory, number: directory.find(key, at) }
  }

  #directoryOf(held: HeldBlocks | undefined): Directory | Missing {
    if (this.#directory !== undefined) return this.#directory
    const { top, dataEnd, indexEnd } = this.frame
    const known = this.#at(top.place.offset, held) as Directory | undefined
    if (known !== undefined) return known
    return this.#missing(top.place, 'top index', (raw) => readTopIndex(raw, this.name, dataEnd, indexEnd))
  }
  #indexBlock(directory: Directory, number: number, held: HeldBlocks | undefined): IndexBlock | Missing {
    const place = directory.placeOf(number)
    const known = this.#at(place.offset, held) as IndexBlock | undefined
    if (known !== undefined) return known
    const { name } = this
    const { top } = this.frame
    const what = `index block ${number} at byte ${place.offset}`
    return this.#missing(place, what, (raw) => {
      const shape = top.version === 1 ? top.shape : shapeOf(raw, name, what)
      return readIndexBlock(raw, shape, { name, ...this.frame }, what)
    })
  }

  #at(offset: number, held: HeldBlocks | undefined): Sized | undefined {
    return this.#blocks.get(offset) ?? held?.get(this.#blocks, offset)
  }
  #missing(place: DataBlockPlace, what: string, make: (raw: Uint8Array) => Sized, isStored = false): Missing {
    return new Missing(async (held) => {
      held.put(this.#blocks, place.offset, await this.#load(place, what, make, isStored))
    })
  }

  bytesAt(place: DataBlockPlace, offset: number, length: number): Uint8Array | undefined {
    const block = this.#blocks.get(place.offset) as DataBlock | undefined
    return block?.bytes.subarray(offset, offset + length)
  }
  async loadAt(place: DataBlockPlace, offset: number, length: number): Promise<Uint8Array> {
    const block = await this.#load(place, `block at byte ${place.offset}`, (raw) => new DataBlock(raw), false)
    return (block as DataBlock).bytes.subarray(offset, offset + length)
  }

  #load(
    place: DataBlockPlace,
    what: string,
    make: (raw: Uint8Array) => Sized,
    isStored: boolean,
  ): Promise<Sized> {
    const { offset } = place
    const known = this.#blocks.get(offset)
    if (known !== undefined) return Promise.resolve(known)
    const pending = this.#pending.get(offset)
    if (pending !== undefined) return pending
    const loading = this.#read(place, what, isStored)
      .then((raw) => {
        const block = make(raw)
        this.#blocks.put(offset, block)
        return block
      })
      .finally(() => this.#pending.delete(offset))
    this.#pending.set(offset, loading)
    return loading
  }
  async #read(place: DataBlockPlace, what: string, isStored: boolean): Promise<Uint8Array> {
    try {
      return await this.#tryRead(place, what, isStored)
    } catch (error) {
      const isLost = isErrorCode(error, 'bad_file') || isErrorCode(error, 'not_found')
      if (!isLost || this.#source.renew === undefined) throw error
      await this.#source.renew(error)
      return this.#tryRead(place, what, isStored)
    }
  }
  async #tryRead(place: DataBlockPlace, what: string, isStored: boolean): Promise<Uint8Array> {
    const { offset, storedBytes, rawBytes, crc } = place
    const stored = await this.#source.read(offset, storedBytes)
    if (stored.length !== storedBytes)
      throw damagedLayer(
        this.name,
        `${what} is cut short: ${stored.length} of ${storedBytes} bytes are there`,
      )
    if (crc32c(stored) !== crc) throw damagedLayer(this.name, `${what} fails its checksum`)
    return isStored ? ownBytes(stored) : decompress(this.name, stored, rawBytes, what)
  }

  *runsWithin(first: Key, last: Key): Iterable<KeyRuns> {
    const { keyFirst, keyLast } = this.frame
    if (compareKeys(last, keyFirst) >= 0 && compareKeys(first, keyLast) <= 0)
      yield new FileRuns(this, first, last)
  }
  runBlock(
    first: Key,
    number: number | undefined,
    held: HeldBlocks | undefined,
  ): RunBlock | undefined | Missing {
    const directory = this.#directoryOf(held)
    if (directory instanceof Missing) return directory
    const at = number ?? directory.firstFrom(first)
    if (at >= directory.count) return undefined
    const block = this.#indexBlock(directory, at, held)
    return block instanceof Missing ? block : { number: at, block }
  }

  /** Reads and checks every block. */
  async verify(): Promise<void> {
    const held = new HeldBlocks()
    const { filter } = this.frame
    if (filter.rawBytes > 0) await this.#read(filter, 'key filter', true)
    const seen = new Set<number>()
    for (let number = 0; ; number++) {
      let run = this.runBlock(this.frame.keyFirst, number, held)
      for (; run instanceof Missing; run = this.runBlock(this.frame.keyFirst, number, held))
        await run.load(held)
      if (run === undefined) return
      for (let i = 0; i < run.block.blockCount; i++) {
        const place = run.block.placeOfBlock(i)
        if (seen.has(place.offset)) continue
        seen.add(place.offset)
        await this.#read(place, `block at byte ${place.offset}`, false)
      }
    }
  }
}

const NO_DIRECTORY: Directory = {
  count: 0,
  sizeBytes: 0,
  find: () => -1,
  firstFrom: () => 0,
  placeOf: () => ({ offset: 0, storedBytes: 0, rawBytes: 0, crc: 0 }),
}
const NOWHERE = { directory: NO_DIRECTORY, number: -1 }

function decompress(name: string, stored: Uint8Array, rawBytes: number, what: string): Uint8Array {
  let raw: Uint8Array
  try {
    raw = zstdDecompressSync(stored, { maxOutputLength: Math.max(1, rawBytes) })
  } catch (cause) {
    throw damagedLayer(name, `${what} cannot be decompressed`, cause)
  }
  if (raw.length !== rawBytes) throw damagedLayer(name, `${what} has ${raw.length} bytes, not ${rawBytes}`)
  return ownBytes(raw)
}

/**
 * What the cache keeps must not hold on to a larger buffer: small results are slices of one that the runtime shares.
 */
const ownBytes = (bytes: Uint8Array): Uint8Array =>
  bytes.buffer.byteLength === bytes.length ? bytes : Uint8Array.from(bytes)
