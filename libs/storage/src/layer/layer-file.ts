/**
 * Reads a layer file. Opening checks header, footer and index, and keeps the index in columns; blocks are read,
 * checked and decompressed when asked for. Every fault is refused `bad_file` and names the file, what and where.
 */
import { zstdDecompressSync } from 'node:zlib'
import { crc32c } from '@node-rs/crc32'
import { isErrorCode, refuse } from '@understory/base'
import type { Lsn, UnderstoryError } from '@understory/base'
import type { BlockCache } from './block-cache.ts'
import { KEY_BYTES, KEY_CLASS_MAX, compareKeys, readKey } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import {
  BLOCK_BYTES_MAX,
  BLOCK_ENTRY_BYTES,
  INDEX_BYTES_MAX,
  KEY_ENTRY_BYTES,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
  LAYER_MAGIC,
  LAYER_VERSION,
  LayerFooter,
  LayerHeader,
  VALUE_ENTRY_BYTES,
} from './layer-format.ts'
import type { LayerKind, LayerOwner } from './layer-format.ts'
import type { EntryRun, Layer } from './layer.ts'
import { isValidMeta } from './value.ts'

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

export class LayerFile implements Layer {
  readonly kind: LayerKind
  readonly lsnMin: Lsn
  readonly lsnMax: Lsn
  readonly generation: number
  readonly keyCount: number
  readonly valueCount: number
  readonly #source: LayerSource
  readonly #cache: BlockCache
  readonly #cacheOwner: number
  readonly #blockCount: number
  readonly #blocks: DataView
  readonly #keys: DataView
  readonly #values: DataView
  /** A bit per value: it is the oldest of its key. */
  readonly #runStarts: Uint8Array
  readonly #pending = new Map<number, Promise<Uint8Array>>()

  /** `index` must have been checked: made by `openLayer` only. */
  constructor(
    source: LayerSource,
    cache: BlockCache,
    header: DataView,
    index: Uint8Array,
    blockCount: number,
  ) {
    this.#source = source
    this.#cache = cache
    this.#cacheOwner = cache.newOwner()
    this.kind = LayerHeader.kind.get(header, 0) as LayerKind
    this.lsnMin = LayerHeader.lsnMin.get(header, 0)
    this.lsnMax = LayerHeader.lsnMax.get(header, 0)
    this.generation = Number(LayerHeader.generation.get(header, 0))
    this.keyCount = LayerHeader.keyCount.get(header, 0)
    this.valueCount = LayerHeader.valueCount.get(header, 0)
    this.#blockCount = blockCount
    const keysAt = index.byteOffset + blockCount * BLOCK_ENTRY_BYTES
    const valuesAt = keysAt + this.keyCount * KEY_ENTRY_BYTES
    this.#blocks = new DataView(index.buffer, index.byteOffset, blockCount * BLOCK_ENTRY_BYTES)
    this.#keys = new DataView(index.buffer, keysAt, this.keyCount * KEY_ENTRY_BYTES)
    this.#values = new DataView(index.buffer, valuesAt, this.valueCount * VALUE_ENTRY_BYTES)
    this.#runStarts = new Uint8Array((this.valueCount + 7) >>> 3)
    for (let entry = 0; entry < this.keyCount; entry++) {
      const value = this.#firstValue(entry)
      this.#runStarts[value >>> 3] = (this.#runStarts[value >>> 3] as number) | (1 << (value & 7))
    }
  }

  get name(): string {
    return this.#source.name
  }
  get sizeBytes(): number {
    return this.#source.sizeBytes
  }

  keyOfEntry(entry: number): Key {
    return readKey(this.#keys, entry * KEY_ENTRY_BYTES)
  }
  /** One run: entries are numbered in key order. */
  runsWithin(first: Key, last: Key): EntryRun[] {
    const begin = this.#entriesBefore(first, false)
    const length = this.#entriesBefore(last, true) - begin
    return length > 0 ? [{ length, at: (index) => begin + index }] : []
  }
  /** Number of entries before the key, or up to it if `isIncluded`. */
  #entriesBefore(key: Key, isIncluded: boolean): number {
    let low = 0
    let high = this.keyCount
    while (low < high) {
      const middle = (low + high) >>> 1
      const order = compareWithKeyAt(key, this.#keys, middle * KEY_ENTRY_BYTES)
      if (order > 0 || (isIncluded && order === 0)) low = middle + 1
      else high = middle
    }
    return low
  }
  #firstValue(entry: number): number {
    return entry === this.keyCount
      ? this.valueCount
      : this.#keys.getUint32(entry * KEY_ENTRY_BYTES + KEY_BYTES, true)
  }

  /** Binary search; -1 where the layer does not have the key. */
  entryOf(key: Key): number {
    let low = 0
    let high = this.keyCount - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const order = compareWithKeyAt(key, this.#keys, middle * KEY_ENTRY_BYTES)
      if (order === 0) return middle
      if (order < 0) high = middle - 1
      else low = middle + 1
    }
    return -1
  }

  newest(key: Key, at: Lsn): number {
    if (at < this.lsnMin) return -1
    const entry = this.entryOf(key)
    return entry < 0 ? -1 : this.newestOfEntry(entry, at)
  }
  newestOfEntry(entry: number, at: Lsn): number {
    const first = this.#firstValue(entry)
    let value = this.#firstValue(entry + 1) - 1
    while (value >= first && this.lsnOf(value) > at) value--
    return value >= first ? value : -1
  }
  /** The values of a key are neighbours. */
  older(value: number): number {
    return ((this.#runStarts[value >>> 3] as number) >>> (value & 7)) & 1 ? -1 : value - 1
  }

  lsnOf(value: number): Lsn {
    const at = value * VALUE_ENTRY_BYTES
    return (this.#values.getUint32(at + 4, true) * 0x1_0000_0000 + this.#values.getUint32(at, true)) as Lsn
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
  /** Equal for values that share their bytes: block * 2^32 + offset. */
  positionOf(value: number): number {
    const at = value * VALUE_ENTRY_BYTES
    return this.#values.getUint32(at + 8, true) * 0x1_0000_0000 + this.#values.getUint32(at + 12, true)
  }

  bytesOf(value: number): Uint8Array | undefined {
    const at = value * VALUE_ENTRY_BYTES
    const length = this.#values.getUint32(at + 16, true)
    if (length === 0) return EMPTY
    const block = this.#cache.get(this.#cacheOwner, this.#values.getUint32(at + 8, true))
    if (block === undefined) return undefined
    const offset = this.#values.getUint32(at + 12, true)
    return block.subarray(offset, offset + length)
  }
  async load(value: number): Promise<Uint8Array> {
    const at = value * VALUE_ENTRY_BYTES
    const length = this.#values.getUint32(at + 16, true)
    if (length === 0) return EMPTY
    const number = this.#values.getUint32(at + 8, true)
    const block = this.#cache.get(this.#cacheOwner, number) ?? (await this.#loadBlock(number))
    const offset = this.#values.getUint32(at + 12, true)
    return block.subarray(offset, offset + length)
  }

  #loadBlock(number: number): Promise<Uint8Array> {
    const pending = this.#pending.get(number)
    if (pending !== undefined) return pending
    const loading = this.#readBlock(number).finally(() => this.#pending.delete(number))
    this.#pending.set(number, loading)
    return loading
  }
  async #readBlock(number: number): Promise<Uint8Array> {
    try {
      return await this.#tryReadBlock(number)
    } catch (error) {
      const isLost = isErrorCode(error, 'bad_file') || isErrorCode(error, 'not_found')
      if (!isLost || this.#source.renew === undefined) throw error
      await this.#source.renew(error)
      return this.#tryReadBlock(number)
    }
  }
  async #tryReadBlock(number: number): Promise<Uint8Array> {
    const at = number * BLOCK_ENTRY_BYTES
    const offset = this.#blocks.getUint32(at, true)
    const length = this.#blocks.getUint32(at + 4, true)
    const rawLength = this.#blocks.getUint32(at + 8, true)
    const stored = await this.#source.read(offset, length)
    const where = `block ${number} at byte ${offset}`
    if (stored.length !== length) {
      throw damaged(this.#source.name, `${where} is cut short: ${stored.length} of ${length} bytes are there`)
    }
    const raw = checkAndDecompress(
      this.#source.name,
      stored,
      this.#blocks.getUint32(at + 12, true),
      rawLength,
      where,
    )
    this.#cache.put(this.#cacheOwner, number, raw)
    return raw
  }

  /** Reads and checks every block. */
  async verify(): Promise<void> {
    for (let number = 0; number < this.#blockCount; number++) await this.#readBlock(number)
  }
}

const EMPTY = new Uint8Array(0)

/** Opens a layer of `owner`. Error: refused `bad_file`. */
export async function openLayer(
  source: LayerSource,
  owner: LayerOwner,
  cache: BlockCache,
): Promise<LayerFile> {
  const { name, sizeBytes } = source
  if (sizeBytes < LayerHeader.SIZE + LayerFooter.SIZE) throw damaged(name, `it has only ${sizeBytes} bytes`)
  const header = viewOf(await readExactly(source, 0, LayerHeader.SIZE))
  checkHeader(name, header, owner)
  const footerAt = sizeBytes - LayerFooter.SIZE
  const footer = viewOf(await readExactly(source, footerAt, LayerFooter.SIZE))
  checkCrc(name, footer, LayerFooter.SIZE - 4, LayerFooter.crc.get(footer, 0), `footer at byte ${footerAt}`)
  if (LayerFooter.magic.get(footer, 0) !== LAYER_MAGIC)
    throw damaged(name, `footer at byte ${footerAt} has a wrong magic`)
  const indexAt = Number(LayerFooter.indexOffset.get(footer, 0))
  const stored = LayerFooter.indexStoredBytes.get(footer, 0)
  if (indexAt < LayerHeader.SIZE || indexAt + stored !== footerAt) {
    throw damaged(
      name,
      `footer puts the index at ${indexAt} to ${indexAt + stored}, but it must end at ${footerAt}`,
    )
  }
  const rawBytes = LayerFooter.indexRawBytes.get(footer, 0)
  if (rawBytes > INDEX_BYTES_MAX) throw damaged(name, `index of ${rawBytes} bytes is too large`)
  const where = `index at byte ${indexAt}`
  const index = checkAndDecompress(
    name,
    await readExactly(source, indexAt, stored),
    LayerFooter.indexCrc.get(footer, 0),
    rawBytes,
    where,
  )
  const blockCount = LayerFooter.blockCount.get(footer, 0)
  checkIndex(name, header, index, blockCount, indexAt)
  return new LayerFile(source, cache, header, index, blockCount)
}

function checkHeader(name: string, header: DataView, owner: LayerOwner): void {
  const magic = LayerHeader.magic.get(header, 0)
  if (magic !== LAYER_MAGIC) throw damaged(name, `header has magic 0x${magic.toString(16)}`)
  const version = LayerHeader.version.get(header, 0)
  if (version !== LAYER_VERSION) {
    throw refuse('bad_file', `layer "${name}" has version ${version}, this program reads ${LAYER_VERSION}`, {
      hint: 'Run the version of the program that wrote it.',
    })
  }
  checkCrc(name, header, LayerHeader.SIZE - 4, LayerHeader.crc.get(header, 0), 'header at byte 0')
  const kind = LayerHeader.kind.get(header, 0)
  if (kind !== LAYER_KIND_DELTA && kind !== LAYER_KIND_IMAGE) throw damaged(name, `header has kind ${kind}`)
  const tenantId = Buffer.from(LayerHeader.tenantId.get(header, 0)).toString('hex')
  const timelineId = Buffer.from(LayerHeader.timelineId.get(header, 0)).toString('hex')
  const number = LayerHeader.shardNumber.get(header, 0)
  const count = LayerHeader.shardCount.get(header, 0)
  const stripeBlocks = LayerHeader.stripeBlocks.get(header, 0)
  const { shard } = owner
  if (
    tenantId !== owner.tenantId ||
    timelineId !== owner.timelineId ||
    number !== shard.number ||
    count !== shard.count ||
    stripeBlocks !== shard.stripeBlocks ||
    LayerHeader.headerBytes.get(header, 0) !== LayerHeader.SIZE
  ) {
    const whose = `tenant ${tenantId}, timeline ${timelineId}, shard ${number} of ${count}`
    throw damaged(name, `it belongs to ${whose} with stripes of ${stripeBlocks} blocks`)
  }
}

/** Everything that reading relies on, so that no later access can leave its bounds. */
function checkIndex(
  name: string,
  header: DataView,
  index: Uint8Array,
  blockCount: number,
  indexAt: number,
): void {
  const keyCount = LayerHeader.keyCount.get(header, 0)
  const valueCount = LayerHeader.valueCount.get(header, 0)
  const expected =
    blockCount * BLOCK_ENTRY_BYTES + keyCount * KEY_ENTRY_BYTES + valueCount * VALUE_ENTRY_BYTES
  if (index.length !== expected || keyCount === 0 || valueCount < keyCount) {
    const counts = `${blockCount} blocks, ${keyCount} keys and ${valueCount} values`
    throw damaged(name, `index has ${index.length} bytes for ${counts}`)
  }
  const view = viewOf(index)
  for (let block = 0; block < blockCount; block++) {
    const at = block * BLOCK_ENTRY_BYTES
    const offset = view.getUint32(at, true)
    const end = offset + view.getUint32(at + 4, true)
    if (offset < LayerHeader.SIZE || end > indexAt || view.getUint32(at + 8, true) > BLOCK_BYTES_MAX) {
      throw damaged(name, `index puts block ${block} at ${offset} to ${end}`)
    }
  }
  const keysAt = blockCount * BLOCK_ENTRY_BYTES
  const valuesAt = keysAt + keyCount * KEY_ENTRY_BYTES
  const lsnMin = LayerHeader.lsnMin.get(header, 0)
  const lsnMax = LayerHeader.lsnMax.get(header, 0)
  let previous: Key | undefined
  for (let entry = 0; entry < keyCount; entry++) {
    const at = keysAt + entry * KEY_ENTRY_BYTES
    const key = readKey(view, at)
    const first = view.getUint32(at + KEY_BYTES, true)
    const end = entry + 1 === keyCount ? valueCount : view.getUint32(at + KEY_ENTRY_BYTES + KEY_BYTES, true)
    const isOrdered = previous === undefined ? first === 0 : compareKeys(previous, key) < 0
    if (!isOrdered || key.keyClass > KEY_CLASS_MAX || first >= end || end > valueCount) {
      throw damaged(name, `index entry of key ${entry} is out of order`)
    }
    previous = key
    let lastLsn = lsnMin as number
    for (let value = first; value < end; value++) {
      const to = valuesAt + value * VALUE_ENTRY_BYTES
      const high = view.getUint32(to + 4, true)
      const at = high * 0x1_0000_0000 + view.getUint32(to, true)
      const block = view.getUint32(to + 8, true)
      const length = view.getUint32(to + 16, true)
      const valueEnd = view.getUint32(to + 12, true) + length
      const isInside =
        length === 0 ||
        (block < blockCount && valueEnd <= view.getUint32(block * BLOCK_ENTRY_BYTES + 8, true))
      if (at < lastLsn || at > lsnMax || !isInside || !isValidMeta(view.getUint8(to + 20))) {
        throw damaged(name, `index entry of value ${value} contradicts itself`)
      }
      lastLsn = at
    }
  }
}

function checkCrc(name: string, view: DataView, length: number, expected: number, where: string): void {
  if (crc32c(new Uint8Array(view.buffer, view.byteOffset, length)) !== expected)
    throw damaged(name, `${where} fails its checksum`)
}

function checkAndDecompress(
  name: string,
  stored: Uint8Array,
  crc: number,
  rawLength: number,
  where: string,
): Uint8Array {
  if (crc32c(stored) !== crc) throw damaged(name, `${where} fails its checksum`)
  let raw: Uint8Array
  try {
    raw = zstdDecompressSync(stored, { maxOutputLength: Math.max(1, rawLength) })
  } catch (cause) {
    throw damaged(name, `${where} cannot be decompressed`, cause)
  }
  if (raw.length !== rawLength) throw damaged(name, `${where} has ${raw.length} bytes, not ${rawLength}`)
  return raw
}

async function readExactly(source: LayerSource, offset: number, length: number): Promise<Uint8Array> {
  const bytes = await source.read(offset, length)
  if (bytes.length !== length) {
    throw damaged(source.name, `it is cut short: ${bytes.length} of ${length} bytes are at byte ${offset}`)
  }
  return bytes
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

function damaged(name: string, what: string, cause?: unknown): UnderstoryError {
  return refuse('bad_file', `layer "${name}" is damaged: ${what}`, {
    hint: 'A local file is fetched again by itself where its object is whole; a damaged object has to be restored from a copy.',
    ...(cause === undefined ? {} : { cause }),
  })
}

/** compareKeys with an encoded key. */
function compareWithKeyAt(key: Key, view: DataView, at: number): number {
  return (
    key.keyClass - view.getUint8(at) ||
    key.spcOid - view.getUint32(at + 1) ||
    key.dbOid - view.getUint32(at + 5) ||
    key.rel - view.getUint32(at + 9) ||
    key.fork - view.getUint8(at + 13) ||
    key.block - view.getUint32(at + 14)
  )
}
