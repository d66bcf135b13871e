/**
 * What one shard of one timeline knows: its layers, and what is kept in memory beside them because it follows from
 * them. Everything here can be made again from the layers. Changed synchronously, by three: ingest, the images that are
 * put into the open layer, and the layer files that take the place of frozen layers.
 */
import { LSN_MAX, LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { decodeTrackerState } from '@understory/postgres/cluster'
import type { TrackerState } from '@understory/postgres/cluster'
import { moveOrigin } from '@understory/postgres/redo'
import {
  CHECKPOINT_STATE_KEY,
  ChainLedger,
  FORK_ALL,
  KEY_RELATION_BLOCK,
  KEY_RELATION_SIZE,
  KeyTable,
  LAYER_KIND_DELTA,
  META_IMAGE,
  META_TOMBSTONE,
  OpenLayer,
  REDO_SETTINGS_KEY,
  barrierKey,
  classRange,
  encodeOriginProgress,
  relationSizeBytes,
  relationSizeKey,
  replicationOriginKey,
} from '@understory/storage'
import type { Key, LayerFile } from '@understory/storage'
import { countChains } from './count-chains.ts'
import { ShardReader } from './shard-reader.ts'

interface SizedFork {
  readonly spcOid: number
  readonly dbOid: number
  readonly rel: number
  readonly fork: number
  blocks: number
}

export class ShardState extends ShardReader {
  readonly keys = new KeyTable()
  readonly ledger = new ChainLedger()
  open: OpenLayer = new OpenLayer(this.keys)
  /** Everything before is in the layers or the open layer. */
  ingestedLsn: Lsn = LSN_ZERO
  /** On shard 0 only. */
  tracker: TrackerState | undefined
  walImagesCount = 0
  generatedImagesCount = 0
  /** How far each replication origin has come; on shard 0 only. */
  readonly #origins = new Map<number, bigint>()
  /** Current sizes of the relations whose home this shard is. */
  readonly #sizes = new Map<string, SizedFork>()

  /** A new open layer on top; gives the one before, frozen. */
  freeze(): OpenLayer {
    const frozen = this.open
    frozen.freeze()
    this.open = new OpenLayer(this.keys)
    this.map.push(this.open)
    return frozen
  }

  changeSettings(at: Lsn, walLogHints: boolean, trackCommitTimestamp: boolean): void {
    this.putBytes(REDO_SETTINGS_KEY, at, this.history.change(at, walLogHints, trackCommitTimestamp))
  }

  // Writing

  putBytes(key: Key, at: Lsn, bytes: Uint8Array): void {
    this.open.putBytes(this.keys.intern(key), at, META_IMAGE, bytes)
  }
  putTombstone(key: Key, at: Lsn): void {
    this.open.put(this.keys.intern(key), at, META_TOMBSTONE, 0, 0, 0)
  }
  /** A page's image that ends its chain. */
  putImage(keyId: number, at: Lsn, image: Uint8Array): void {
    this.open.putBytes(keyId, at, META_IMAGE, image)
  }

  /** Nothing of the fork from `fromBlock` on is looked for below `at` any more. */
  putForkBarrier(spcOid: number, dbOid: number, rel: number, fork: number, fromBlock: number, at: Lsn): void {
    this.#putBarrier(barrierKey(spcOid, dbOid, rel, fork), at, fromBlock)
    const known = this.keys.fork(KEY_RELATION_BLOCK, spcOid, dbOid, rel, fork)
    for (let id = known?.lastKeyId ?? -1; id >= 0; id = this.keys.nextInFork(id)) {
      if (this.keys.blockOf(id) >= fromBlock) this.ledger.reset(id)
    }
  }
  putRelationBarrier(spcOid: number, dbOid: number, rel: number, at: Lsn): void {
    this.#putBarrier(barrierKey(spcOid, dbOid, rel, FORK_ALL), at, 0)
    for (let fork = 0; fork < 4; fork++) {
      const known = this.keys.fork(KEY_RELATION_BLOCK, spcOid, dbOid, rel, fork)
      for (let id = known?.lastKeyId ?? -1; id >= 0; id = this.keys.nextInFork(id)) this.ledger.reset(id)
      if (this.isHomeOf(rel)) this.endSize(spcOid, dbOid, rel, fork, at)
    }
  }
  putDatabaseBarrier(spcOid: number, dbOid: number, at: Lsn): void {
    this.#putBarrier(barrierKey(spcOid, dbOid, 0, FORK_ALL), at, 0)
    for (const fork of this.keys.forks) {
      if (fork.keyClass !== KEY_RELATION_BLOCK || fork.dbOid !== dbOid || fork.spcOid !== spcOid) continue
      for (let id = fork.lastKeyId; id >= 0; id = this.keys.nextInFork(id)) this.ledger.reset(id)
    }
    for (const size of this.#sizes.values()) {
      if (size.dbOid === dbOid && size.spcOid === spcOid) this.endSize(spcOid, dbOid, size.rel, size.fork, at)
    }
  }
  #putBarrier(key: Key, at: Lsn, fromBlock: number): void {
    const value = new Uint8Array(4)
    new DataView(value.buffer).setUint32(0, fromBlock, true)
    this.putBytes(key, at, value)
    this.map.barriers.add(key, at, fromBlock)
  }

  // Sizes

  /** The current size in blocks; undefined where the fork does not exist or lives elsewhere. */
  sizeOf(spcOid: number, dbOid: number, rel: number, fork: number): number | undefined {
    return this.#sizes.get(sizeName(spcOid, dbOid, rel, fork))?.blocks
  }
  putSize(spcOid: number, dbOid: number, rel: number, fork: number, blocks: number, at: Lsn): void {
    const name = sizeName(spcOid, dbOid, rel, fork)
    const known = this.#sizes.get(name)
    if (known?.blocks === blocks) return
    if (known === undefined) this.#sizes.set(name, { spcOid, dbOid, rel, fork, blocks })
    else known.blocks = blocks
    this.putBytes(relationSizeKey(spcOid, dbOid, rel, fork), at, relationSizeBytes(blocks))
  }
  endSize(spcOid: number, dbOid: number, rel: number, fork: number, at: Lsn): void {
    if (this.#sizes.delete(sizeName(spcOid, dbOid, rel, fork)))
      this.putTombstone(relationSizeKey(spcOid, dbOid, rel, fork), at)
  }

  // Replication origins

  /** Forwards only, unless `force` is set. */
  advanceOrigin(originId: number, remoteLsn: bigint, force: boolean, at: Lsn): void {
    if (moveOrigin(this.#origins, originId, remoteLsn, force))
      this.putBytes(replicationOriginKey(originId), at, encodeOriginProgress(remoteLsn))
  }
  dropOrigin(originId: number, at: Lsn): void {
    if (this.#origins.delete(originId)) this.putTombstone(replicationOriginKey(originId), at)
  }
  // Loading

  /** Makes everything that follows from the layers. `layers` oldest first. */
  async load(layers: readonly LayerFile[], consistentLsn: Lsn): Promise<void> {
    for (const layer of layers) this.map.push(layer)
    this.map.push(this.open)
    this.ingestedLsn = consistentLsn
    await this.map.loadBarriers()
    for (const layer of layers) if (layer.kind === LAYER_KIND_DELTA) await countChains(this, layer)
    await this.#loadSizes()
    await this.history.load(this.map)
    if (!this.isFirstShard) return
    const state = await this.readBytes(CHECKPOINT_STATE_KEY, LSN_MAX)
    this.tracker = state === undefined ? undefined : decodeTrackerState(state)
    for (const [id, remoteLsn] of await this.originsAt(LSN_MAX)) this.#origins.set(id, remoteLsn)
  }

  async #loadSizes(): Promise<void> {
    for await (const key of this.scan(classRange(KEY_RELATION_SIZE), LSN_MAX)) {
      const { spcOid, dbOid, rel, fork } = key
      const blocks = await this.readSize(key, LSN_MAX)
      if (blocks !== undefined)
        this.#sizes.set(sizeName(spcOid, dbOid, rel, fork), { spcOid, dbOid, rel, fork, blocks })
    }
  }
}

const sizeName = (spcOid: number, dbOid: number, rel: number, fork: number): string =>
  `${spcOid}/${dbOid}/${rel}/${fork}`
