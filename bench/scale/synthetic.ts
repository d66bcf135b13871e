/**
 * Shards made of layers of the layer writer, at the cost of their index alone: all pages of a layer share one stored
 * value. Index blocks, filters, counts of chains and layer files are as many as those of a real database of the size;
 * only the blocks with values are few.
 */
import type { Lsn } from '@understory/base'
import { realDisk, realEnv, silentLog } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import { PAGE_SIZE } from '@understory/postgres/page'
import {
  CONTROL_FILE_KEY,
  KeyTable,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
  META_IMAGE,
  META_IS_SHARED,
  OpenLayer,
  RECORD_PREFIX_BYTES,
  blockKey,
  layerName,
  metaOfRole,
  relationSizeBytes,
  relationSizeKey,
  writeOpenLayer,
} from '@understory/storage'
import type { Key, LayerEntry, LayerKind, LayerOwner } from '@understory/storage'
import { TENANT } from '../../apps/pageserver/test/support.ts'
import { LayerRoom } from '../../apps/pageserver/src/layers/layer-room.ts'
import { RemoteIndex } from '../../apps/pageserver/src/layers/remote-index.ts'
import { ShardFiles } from '../../apps/pageserver/src/layers/shard-files.ts'

export interface SyntheticOptions {
  readonly dataDirectory: string
  readonly store: ObjectStore
  /** Makes its timeline. */
  readonly number: number
  readonly pages: number
  /** Of a base layer. */
  readonly layerPages?: number
  /** pg_control of some cluster. */
  readonly control: Uint8Array
  /** Layers go to the object store too, which a shard needs that is attached again. */
  readonly hasObjects?: boolean
}

export interface Synthetic {
  readonly layers: number
  /** Of pages. */
  readonly logicalBytes: number
  readonly layerBytes: number
}

/** 128 MiB of pages. */
const LAYER_PAGES = 16_384
/** Every tenth page has a record on top of its image, in one of the delta layers. */
export const CHANGED_EVERY = 10
const DELTA_LAYERS = 3
const RECORD_BYTES = 64
export const SYNTHETIC_LSN = 0x1000_0000 as Lsn
export const SYNTHETIC_LAYOUT = { count: 1, stripeBlocks: 256 }
const POSTGRES = { major: 17, systemId: 1n, pgTimelineId: 1, walSegmentBytes: 16 << 20 } as const
const IMAGES = { enabled: true, thresholdRecords: 32 }
const GENERATION = 1

export const syntheticOwner = (number: number): LayerOwner => ({
  tenantId: TENANT,
  timelineId: number.toString(16).padStart(32, '0') as LayerOwner['timelineId'],
  shard: { ...SYNTHETIC_LAYOUT, number: 0 },
})
export const syntheticKey = (block: number): Key => blockKey(1663, 5, 16_384, 0, block)
/** A page that no delta layer has. */
export const unchangedBlock = (block: number): number => (block % CHANGED_EVERY === 0 ? block + 1 : block)

class Maker {
  readonly #options: SyntheticOptions
  readonly #owner: LayerOwner
  readonly #files: ShardFiles
  readonly #remote: RemoteIndex
  readonly #entries: LayerEntry[] = []

  constructor(options: SyntheticOptions) {
    this.#options = options
    this.#owner = syntheticOwner(options.number)
    this.#files = new ShardFiles(
      realDisk,
      new LayerRoom({ ...realEnv(silentLog), filesBytesMax: undefined }),
      options.dataDirectory,
      this.#owner,
    )
    this.#remote = new RemoteIndex(options.store, this.#owner)
  }

  async make(): Promise<Synthetic> {
    const { pages, layerPages = LAYER_PAGES } = this.#options
    await this.#files.make()
    for (let from = 0; from < pages; from += layerPages)
      await this.#makeBase(from, Math.min(pages, from + layerPages))
    for (let number = 0; number < DELTA_LAYERS; number++) await this.#makeDelta(number)
    await this.#list()
    return {
      layers: this.#entries.length,
      logicalBytes: pages * PAGE_SIZE,
      layerBytes: this.#entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    }
  }

  async #makeBase(from: number, to: number): Promise<void> {
    const { pages, control } = this.#options
    const layer = new OpenLayer(new KeyTable())
    const position = layer.append(new Uint8Array(PAGE_SIZE))
    for (let block = from; block < to; block++) {
      const key = layer.keys.intern(syntheticKey(block))
      layer.put(key, SYNTHETIC_LSN, META_IMAGE | META_IS_SHARED, 0, position, PAGE_SIZE)
    }
    if (to === pages) {
      const { spcOid, dbOid, rel, fork } = syntheticKey(0)
      const size = layer.keys.intern(relationSizeKey(spcOid, dbOid, rel, fork))
      layer.putBytes(size, SYNTHETIC_LSN, META_IMAGE, relationSizeBytes(pages))
      layer.putBytes(layer.keys.intern(CONTROL_FILE_KEY), SYNTHETIC_LSN, META_IMAGE, control)
    }
    await this.#write(layer, LAYER_KIND_IMAGE)
  }

  async #makeDelta(number: number): Promise<void> {
    const { pages } = this.#options
    const layer = new OpenLayer(new KeyTable())
    const length = RECORD_PREFIX_BYTES + RECORD_BYTES
    const position = layer.append(new Uint8Array(length))
    const at = (SYNTHETIC_LSN + 0x1000 * (number + 1)) as Lsn
    for (let block = number * CHANGED_EVERY; block < pages; block += CHANGED_EVERY * DELTA_LAYERS) {
      const key = layer.keys.intern(syntheticKey(block))
      layer.put(key, at, metaOfRole(0) | META_IS_SHARED, 0, position, length)
    }
    await this.#write(layer, LAYER_KIND_DELTA)
  }

  async #write(layer: OpenLayer, kind: LayerKind): Promise<void> {
    layer.freeze()
    const written = await writeOpenLayer(layer, this.#owner, kind, GENERATION, () => Promise.resolve())
    const { bytes, sizeBytes, crc, lsnMin, lsnMax } = written
    const name = layerName(kind, lsnMin, lsnMax, this.#entries.length, GENERATION)
    await this.#files.writeLayer(
      { name, sizeBytes },
      'ingest',
      () => bytes,
      () => undefined,
    )
    if (this.#options.hasObjects === true) await this.#remote.putLayer(name, bytes)
    this.#entries.push({ name, kind, sizeBytes, crc, lsnMin, lsnMax })
  }

  async #list(): Promise<void> {
    const index = {
      owner: this.#owner,
      generation: GENERATION,
      postgres: POSTGRES,
      startLsn: SYNTHETIC_LSN,
      readableLsn: SYNTHETIC_LSN,
      consistentLsn: (SYNTHETIC_LSN + 0x1000 * (DELTA_LAYERS + 1)) as Lsn,
      imageGeneration: IMAGES,
      nextSequence: this.#entries.length,
      layers: this.#entries,
    }
    await this.#files.writeIndex(index)
    const { tenantId, timelineId, shard } = this.#owner
    await this.#files.writeAttach({ tenantId, timelineId, shard, generation: GENERATION, safekeepers: [] })
    await this.#remote.publish(index)
  }
}

export const makeSynthetic = (options: SyntheticOptions): Promise<Synthetic> => new Maker(options).make()

export const attachSynthetic = (number: number, generation: number) => ({
  owner: syntheticOwner(number),
  generation,
  create: false,
  safekeepers: [],
  postgres: POSTGRES,
  imageGeneration: IMAGES,
})
