/** Writes a layer file into memory. Compression runs on the runtime's own threads, a block at a time. */
import { promisify } from 'node:util'
import { constants, zstdCompress } from 'node:zlib'
import { crc32c } from '@node-rs/crc32'
import { assert, lsnHigh, lsnLow } from '@understory/base'
import type { Lsn } from '@understory/base'
import { KEY_BYTES, compareKeys, formatKey, readKey, writeKey } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { grown } from '../key/key-table.ts'
import { hashKey, keyFilterBytes } from './key-filter.ts'
import { IndexWriter } from './index-writer.ts'
import {
  BLOCK_BYTES,
  BLOCK_ENTRY_BYTES,
  KEY_ENTRY_BYTES,
  LAYER_KIND_DELTA,
  LAYER_MAGIC,
  LAYER_VERSION,
  LayerFooter,
  LayerHeader,
  VALUE_ENTRY_BYTES,
} from './layer-format.ts'
import type { LayerKind, LayerOwner, LayerSummary } from './layer-format.ts'
import type { OpenLayer } from './open-layer.ts'
import { META_IS_SHARED } from './value.ts'

const compressAsync = promisify(zstdCompress)
const compress = (raw: Uint8Array): Promise<Buffer> =>
  compressAsync(raw, { params: { [constants.ZSTD_c_compressionLevel]: 1 } })

export interface WrittenLayer extends LayerSummary {
  readonly bytes: Buffer
}

export class LayerWriter {
  readonly #owner: LayerOwner
  readonly #kind: LayerKind
  readonly #generation: number
  readonly #parts: Buffer[] = [Buffer.alloc(LayerHeader.SIZE)]
  #offset = LayerHeader.SIZE

  #block = new Uint8Array(BLOCK_BYTES)
  #blockUsed = 0
  #blockCount = 0
  #blocks = new DataView(new ArrayBuffer(64 * BLOCK_ENTRY_BYTES))
  #keys = new DataView(new ArrayBuffer(1024 * KEY_ENTRY_BYTES))
  #keyCount = 0
  #values = new DataView(new ArrayBuffer(1024 * VALUE_ENTRY_BYTES))
  #valueCount = 0
  #lastKey: Key | undefined
  #lsnMin = Infinity
  #lsnMax = 0
  /** Where shared bytes went: block * 2^32 + offset. */
  readonly #shared = new Map<number, number>()

  constructor(owner: LayerOwner, kind: LayerKind, generation: number) {
    this.#owner = owner
    this.#kind = kind
    this.#generation = generation
  }

  get valueCount(): number {
    return this.#valueCount
  }

  /** Of what is stored, and of the block that fills. */
  get sizeBytes(): number {
    return this.#offset + this.#blockUsed
  }

  /** Keys come in order; every key gets at least one value. */
  addKey(key: Key): void {
    const last = this.#lastKey
    assert(last === undefined || compareKeys(last, key) < 0, () => `${formatKey(key)} is out of order`)
    this.#lastKey = key
    this.#keys = withRoom(this.#keys, (this.#keyCount + 1) * KEY_ENTRY_BYTES)
    const at = this.#keyCount++ * KEY_ENTRY_BYTES
    writeKey(this.#keys, at, key)
    this.#keys.setUint32(at + KEY_BYTES, this.#valueCount, true)
  }

  /**
   * A value of the last key, oldest first. Values with the same `shareId` have the same bytes, which are written once;
   * -1: not shared. To be awaited where it gives a promise.
   */
  addValue(
    at: Lsn,
    meta: number,
    blockIndex: number,
    bytes: Uint8Array,
    shareId = -1,
  ): Promise<void> | undefined {
    const known = shareId < 0 ? undefined : this.#shared.get(shareId)
    if (known !== undefined) {
      this.#note(at, Math.floor(known / 0x1_0000_0000), known % 0x1_0000_0000, bytes.length, meta, blockIndex)
      return undefined
    }
    if (this.#blockUsed > 0 && this.#blockUsed + bytes.length > BLOCK_BYTES) {
      return this.#flush().then(() => this.#place(at, meta, blockIndex, bytes, shareId))
    }
    this.#place(at, meta, blockIndex, bytes, shareId)
    return undefined
  }

  #place(at: Lsn, meta: number, blockIndex: number, bytes: Uint8Array, shareId: number): void {
    if (bytes.length > this.#block.length) this.#block = new Uint8Array(bytes.length)
    this.#block.set(bytes, this.#blockUsed)
    if (shareId >= 0) this.#shared.set(shareId, this.#blockCount * 0x1_0000_0000 + this.#blockUsed)
    this.#note(at, this.#blockCount, this.#blockUsed, bytes.length, meta, blockIndex)
    this.#blockUsed += bytes.length
  }

  #note(at: Lsn, block: number, offset: number, length: number, meta: number, blockIndex: number): void {
    this.#values = withRoom(this.#values, (this.#valueCount + 1) * VALUE_ENTRY_BYTES)
    const to = this.#valueCount++ * VALUE_ENTRY_BYTES
    const view = this.#values
    view.setUint32(to, lsnLow(at), true)
    view.setUint32(to + 4, lsnHigh(at), true)
    view.setUint32(to + 8, block, true)
    view.setUint32(to + 12, offset, true)
    view.setUint32(to + 16, length, true)
    view.setUint8(to + 20, meta)
    view.setUint8(to + 21, blockIndex)
    if (at < this.#lsnMin) this.#lsnMin = at
    if (at > this.#lsnMax) this.#lsnMax = at
  }

  async #flush(): Promise<void> {
    const raw = this.#block.subarray(0, this.#blockUsed)
    const stored = await compress(raw)
    this.#blocks = withRoom(this.#blocks, (this.#blockCount + 1) * BLOCK_ENTRY_BYTES)
    const to = this.#blockCount++ * BLOCK_ENTRY_BYTES
    assert(this.#offset + stored.length < 0xffff_ffff, () => 'layer file is beyond 4 GiB')
    this.#blocks.setUint32(to, this.#offset, true)
    this.#blocks.setUint32(to + 4, stored.length, true)
    this.#blocks.setUint32(to + 8, raw.length, true)
    this.#blocks.setUint32(to + 12, crc32c(stored), true)
    this.#emit(stored)
    this.#blockUsed = 0
    if (this.#block.length > BLOCK_BYTES) this.#block = new Uint8Array(BLOCK_BYTES)
  }

  #emit(part: Buffer): void {
    this.#parts.push(part)
    this.#offset += part.length
  }

  /** The whole file. A layer has at least one value. */
  async finish(): Promise<WrittenLayer> {
    assert(this.#lastKey !== undefined && this.#valueCount > 0, () => 'a layer without values')
    if (this.#blockUsed > 0) await this.#flush()
    const indexOffset = this.#offset
    const index = new IndexWriter(this.#blocks, this.#keys, this.#keyCount, this.#values, this.#valueCount)
    for (let raw = index.next(); raw !== undefined; raw = index.next()) {
      const stored = await compress(raw)
      index.placed(this.#offset, stored, raw.length)
      this.#emit(stored)
    }
    const filterOffset = this.#offset
    const filter = this.#kind === LAYER_KIND_DELTA ? this.#filter() : Buffer.alloc(0)
    this.#emit(filter)
    const topOffset = this.#offset
    const rawTop = index.top()
    const top = await compress(rawTop)
    this.#emit(top)
    const footer = Buffer.alloc(LayerFooter.SIZE)
    const view = new DataView(footer.buffer, footer.byteOffset, footer.length)
    LayerFooter.indexOffset.set(view, 0, BigInt(indexOffset))
    LayerFooter.filterOffset.set(view, 0, BigInt(filterOffset))
    LayerFooter.filterBytes.set(view, 0, filter.length)
    LayerFooter.filterCrc.set(view, 0, crc32c(filter))
    LayerFooter.topOffset.set(view, 0, BigInt(topOffset))
    LayerFooter.topStoredBytes.set(view, 0, top.length)
    LayerFooter.topRawBytes.set(view, 0, rawTop.length)
    LayerFooter.topCrc.set(view, 0, crc32c(top))
    LayerFooter.magic.set(view, 0, LAYER_MAGIC)
    LayerFooter.crc.set(view, 0, crc32c(footer.subarray(0, LayerFooter.SIZE - 4)))
    this.#emit(footer)
    this.#writeHeader(this.#parts[0] as Buffer)
    const file = Buffer.concat(this.#parts)
    return {
      bytes: file,
      kind: this.#kind,
      lsnMin: this.#lsnMin as Lsn,
      lsnMax: this.#lsnMax as Lsn,
      keyCount: this.#keyCount,
      valueCount: this.#valueCount,
      sizeBytes: file.length,
      crc: crc32c(file),
    }
  }

  #filter(): Buffer {
    const hashes = new Uint32Array(this.#keyCount * 2)
    for (let entry = 0; entry < this.#keyCount; entry++) {
      const { low, high } = hashKey(readKey(this.#keys, entry * KEY_ENTRY_BYTES))
      hashes[entry * 2] = low
      hashes[entry * 2 + 1] = high
    }
    return Buffer.from(keyFilterBytes(hashes).buffer)
  }

  #writeHeader(header: Buffer): void {
    const { tenantId, timelineId, shard } = this.#owner
    const view = new DataView(header.buffer, header.byteOffset, header.length)
    const keys = new Uint8Array(this.#keys.buffer)
    LayerHeader.magic.set(view, 0, LAYER_MAGIC)
    LayerHeader.version.set(view, 0, LAYER_VERSION)
    LayerHeader.kind.set(view, 0, this.#kind)
    LayerHeader.headerBytes.set(view, 0, LayerHeader.SIZE)
    LayerHeader.shardNumber.set(view, 0, shard.number)
    LayerHeader.shardCount.set(view, 0, shard.count)
    LayerHeader.stripeBlocks.set(view, 0, shard.stripeBlocks)
    LayerHeader.tenantId.set(view, 0, Buffer.from(tenantId, 'hex'))
    LayerHeader.timelineId.set(view, 0, Buffer.from(timelineId, 'hex'))
    LayerHeader.generation.set(view, 0, BigInt(this.#generation))
    LayerHeader.keyFirst.set(view, 0, keys.subarray(0, KEY_BYTES))
    LayerHeader.keyLast.set(view, 0, keys.subarray((this.#keyCount - 1) * KEY_ENTRY_BYTES))
    LayerHeader.lsnMin.set(view, 0, this.#lsnMin as Lsn)
    LayerHeader.lsnMax.set(view, 0, this.#lsnMax as Lsn)
    LayerHeader.keyCount.set(view, 0, this.#keyCount)
    LayerHeader.valueCount.set(view, 0, this.#valueCount)
    LayerHeader.crc.set(view, 0, crc32c(header.subarray(0, LayerHeader.SIZE - 4)))
  }
}

/** Writes a frozen layer. `pause` is awaited now and then, so that other work gets its turn. */
export async function writeOpenLayer(
  layer: OpenLayer,
  owner: LayerOwner,
  kind: LayerKind,
  generation: number,
  pause: () => Promise<void>,
): Promise<WrittenLayer> {
  assert(layer.isFrozen, () => 'only a frozen layer is written')
  const writer = new LayerWriter(owner, kind, generation)
  const newestFirst: number[] = []
  let sincePause = 0
  for (const keyId of layer.sortedKeyIds()) {
    writer.addKey(layer.keys.keyOf(keyId))
    newestFirst.length = 0
    for (let value = layer.newestOf(keyId, Infinity as Lsn); value >= 0; value = layer.older(value))
      newestFirst.push(value)
    for (let i = newestFirst.length - 1; i >= 0; i--) {
      const value = newestFirst[i] as number
      const meta = layer.metaOf(value)
      const shareId = (meta & META_IS_SHARED) === 0 ? -1 : layer.positionOf(value)
      const full = writer.addValue(
        layer.lsnOf(value),
        meta,
        layer.blockIndexOf(value),
        layer.bytesOf(value),
        shareId,
      )
      if (full !== undefined) await full
    }
    sincePause += newestFirst.length
    if (sincePause > 4096) {
      sincePause = 0
      await pause()
    }
  }
  return writer.finish()
}

function withRoom(view: DataView<ArrayBuffer>, length: number): DataView<ArrayBuffer> {
  if (length <= view.byteLength) return view
  const wider = grown(new Uint8Array(view.buffer), new Uint8Array(Math.max(length, view.byteLength * 2)))
  return new DataView(wider.buffer)
}
