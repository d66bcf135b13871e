/**
 * What one shard of one timeline knows: its layers, and what is kept in memory beside them because it follows from
 * them. Changed by the shard's ingest only, synchronously; everything here can be made again from the layers.
 */
import { LSN_MAX, LSN_ZERO, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import { decodeTrackerState, parseControlFile } from '@understory/postgres/cluster'
import type { TrackerState } from '@understory/postgres/cluster'
import { PAGE_SIZE } from '@understory/postgres/page'
import { moveOrigin } from '@understory/postgres/redo'
import type { RedoSettings } from '@understory/postgres/redo'
import {
  CHECKPOINT_STATE_KEY,
  CONTROL_FILE_KEY,
  ChainLedger,
  FORK_ALL,
  KEY_RELATION_BLOCK,
  KEY_RELATION_SIZE,
  KEY_REPLICATION_ORIGIN,
  KEY_SLRU_PAGE,
  KeyTable,
  LAYER_KIND_DELTA,
  LayerMap,
  Missing,
  META_IMAGE,
  META_TOMBSTONE,
  OpenLayer,
  REDO_SETTINGS_KEY,
  applyValue,
  barrierKey,
  classRange,
  decodeOriginProgress,
  encodeOriginProgress,
  endsChain,
  homeShard,
  isTombstone,
  keysOf,
  relationSizeBytes,
  relationSizeKey,
  replicationOriginKey,
  withBlocks,
} from '@understory/storage'
import type {
  Key,
  KeyRange,
  LayerFile,
  LayerOwner,
  ReadPlan,
  RebuildOutcome,
  ValueRef,
} from '@understory/storage'
import { loopTurns } from './loop-turns.ts'
import type { PageProbe } from '../telemetry/pageserver-observer.ts'

const FLAG_WAL_LOG_HINTS = 1
const FLAG_TRACK_COMMIT_TIMESTAMP = 2

interface SizedFork {
  readonly spcOid: number
  readonly dbOid: number
  readonly rel: number
  readonly fork: number
  blocks: number
}

export interface RebuiltPage {
  readonly bytes: Uint8Array
  readonly view: DataView
}
export const newPage = (): RebuiltPage => {
  const buffer = new ArrayBuffer(PAGE_SIZE)
  return { bytes: new Uint8Array(buffer), view: new DataView(buffer) }
}

export class ShardState {
  readonly owner: LayerOwner
  readonly keys = new KeyTable()
  readonly map = new LayerMap()
  readonly ledger = new ChainLedger()
  open: OpenLayer
  /** Everything before is in the layers or the open layer. */
  ingestedLsn: Lsn = LSN_ZERO
  /** On shard 0 only. */
  tracker: TrackerState | undefined
  /** How far each replication origin has come; on shard 0 only. */
  readonly #origins = new Map<number, bigint>()
  walImagesCount = 0
  generatedImagesCount = 0
  /** Current sizes of the relations whose home this shard is. */
  readonly #sizes = new Map<string, SizedFork>()
  #settings: { readonly from: Lsn; readonly value: RedoSettings }[] = []

  constructor(owner: LayerOwner) {
    this.owner = owner
    this.open = new OpenLayer(this.keys)
  }

  get isFirstShard(): boolean {
    return this.owner.shard.number === 0
  }
  isHomeOf(rel: number): boolean {
    return homeShard(this.owner.shard, rel) === this.owner.shard.number
  }

  /** A new open layer on top; gives the one before, frozen. */
  freeze(): OpenLayer {
    const frozen = this.open
    frozen.freeze()
    this.open = new OpenLayer(this.keys)
    this.map.push(this.open)
    return frozen
  }

  // Settings

  get settings(): RedoSettings {
    const newest = this.#settings.at(-1)
    if (newest === undefined)
      throw refuse('precondition', 'shard has no control file yet: its import is not finished')
    return newest.value
  }
  settingsAt(at: Lsn): RedoSettings {
    for (let i = this.#settings.length - 1; i > 0; i--) {
      const { from, value } = this.#settings[i] as { from: Lsn; value: RedoSettings }
      if (at >= from) return value
    }
    return this.#settings[0]?.value ?? this.settings
  }
  /** Whether every value from `at` on is redone with the settings of now. */
  hasSettingsOfNowSince(at: Lsn): boolean {
    return this.settingsAt(at) === this.settings
  }
  changeSettings(at: Lsn, walLogHints: boolean, trackCommitTimestamp: boolean): void {
    const flags =
      (walLogHints ? FLAG_WAL_LOG_HINTS : 0) | (trackCommitTimestamp ? FLAG_TRACK_COMMIT_TIMESTAMP : 0)
    this.putBytes(REDO_SETTINGS_KEY, at, Uint8Array.of(flags))
    this.#settings.push({ from: at, value: { ...this.settings, walLogHints, trackCommitTimestamp } })
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
  /** Remote LSN by origin id. */
  async originsAt(at: Lsn): Promise<Map<number, bigint>> {
    const origins = new Map<number, bigint>()
    for await (const key of this.scan(classRange(KEY_REPLICATION_ORIGIN), at)) {
      const progress = await this.readBytes(key, at)
      if (progress !== undefined) origins.set(key.rel, decodeOriginProgress(progress))
    }
    return origins
  }

  // Reading

  /** The content of a key that is not a page, or undefined. */
  async readBytes(key: Key, at: Lsn): Promise<Uint8Array | undefined> {
    const newest = await this.map.newest(key, at)
    return newest === undefined || isTombstone(newest.meta) ? undefined : (newest.bytes() ?? newest.load())
  }
  async readSize(key: Key, at: Lsn): Promise<number | undefined> {
    const bytes = await this.readBytes(relationSizeKey(key.spcOid, key.dbOid, key.rel, key.fork), at)
    return bytes === undefined
      ? undefined
      : new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true)
  }

  /** Fills `page`, which must be zeros, with the page as of `at`. `none`: nothing was written above its barrier. */
  async readPage(key: Key, at: Lsn, page: RebuiltPage, probe?: PageProbe): Promise<RebuildOutcome | 'none'> {
    const planned = this.map.plan(key, at)
    const plan = planned instanceof Promise ? await planned : planned
    if (plan === undefined) return 'none'
    if (probe !== undefined) return this.#readProbed(key, plan, page, probe)
    let outcome: RebuildOutcome = 'made'
    if (plan.base !== undefined) outcome = await this.#apply(key, plan.base, page)
    for (const ref of plan.records) outcome = await this.#apply(key, ref, page)
    return outcome
  }
  /** The same in steps that can be timed: all bytes first, then redo. */
  async #readProbed(key: Key, plan: ReadPlan, page: RebuiltPage, probe: PageProbe): Promise<RebuildOutcome> {
    const { base, records } = plan
    const refs = base === undefined ? records : [base, ...records]
    probe.planned(plan)
    const values: Uint8Array[] = []
    for (const ref of refs) values.push(ref.bytes() ?? (await ref.load()))
    probe.loaded()
    let outcome: RebuildOutcome = 'made'
    for (const [i, ref] of refs.entries()) outcome = this.#applyBytes(key, ref, values[i] as Uint8Array, page)
    probe.applied()
    return outcome
  }
  #apply(key: Key, ref: ValueRef, page: RebuiltPage): RebuildOutcome | Promise<RebuildOutcome> {
    const bytes = ref.bytes()
    return bytes === undefined
      ? ref.load().then((loaded) => this.#applyBytes(key, ref, loaded, page))
      : this.#applyBytes(key, ref, bytes, page)
  }
  #applyBytes(key: Key, ref: ValueRef, bytes: Uint8Array, page: RebuiltPage): RebuildOutcome {
    const { lsn, meta, blockIndex } = ref
    return applyValue(key, { lsn, meta, blockIndex, bytes }, page, this.settingsAt(lsn))
  }

  /** The keys of [first, last] that exist at `at`, in order. The event loop gets its turns in between. */
  scan({ first, last }: KeyRange, at: Lsn): AsyncGenerator<Key, void, void> {
    return this.map.scan(first, last, at, () => (loopTurns.isOver ? loopTurns.next() : undefined))
  }

  // Loading

  /** Makes everything that follows from the layers. `layers` oldest first. */
  async load(layers: readonly LayerFile[], consistentLsn: Lsn): Promise<void> {
    for (const layer of layers) this.map.push(layer)
    this.map.push(this.open)
    this.ingestedLsn = consistentLsn
    await this.map.loadBarriers()
    for (const layer of layers) if (layer.kind === LAYER_KIND_DELTA) await this.#countChains(layer)
    await this.loadSmall()
  }

  /** Sizes, settings, tracker and replication origins, from the layers. */
  async loadSmall(): Promise<void> {
    this.#sizes.clear()
    for await (const { spcOid, dbOid, rel, fork } of this.scan(classRange(KEY_RELATION_SIZE), LSN_MAX)) {
      const blocks = await this.readSize(
        { keyClass: KEY_RELATION_BLOCK, spcOid, dbOid, rel, fork, block: 0 },
        LSN_MAX,
      )
      if (blocks !== undefined)
        this.#sizes.set(sizeName(spcOid, dbOid, rel, fork), { spcOid, dbOid, rel, fork, blocks })
    }
    await this.#loadSettings()
    if (this.isFirstShard) {
      const state = await this.readBytes(CHECKPOINT_STATE_KEY, LSN_MAX)
      this.tracker = state === undefined ? undefined : decodeTrackerState(state)
      this.#origins.clear()
      for (const [id, remoteLsn] of await this.originsAt(LSN_MAX)) this.#origins.set(id, remoteLsn)
    }
  }

  async #loadSettings(): Promise<void> {
    this.#settings = []
    const controlFile = await this.readBytes(CONTROL_FILE_KEY, LSN_MAX)
    if (controlFile === undefined) return
    const { major, dataChecksums, walLogHints, trackCommitTimestamp } = parseControlFile(controlFile)
    const imported: RedoSettings = { major, dataChecksums, walLogHints, trackCommitTimestamp }
    const changes: { from: Lsn; value: RedoSettings }[] = []
    let newest = await this.map.newest(REDO_SETTINGS_KEY, LSN_MAX)
    while (newest !== undefined) {
      const from = newest.lsn
      const flags = (newest.bytes() ?? (await newest.load()))[0] ?? 0
      const value = {
        ...imported,
        walLogHints: (flags & FLAG_WAL_LOG_HINTS) !== 0,
        trackCommitTimestamp: (flags & FLAG_TRACK_COMMIT_TIMESTAMP) !== 0,
      }
      changes.push({ from, value })
      newest = from === 0 ? undefined : await this.map.newest(REDO_SETTINGS_KEY, (from - 1) as Lsn)
    }
    this.#settings = [{ from: LSN_ZERO, value: imported }, ...changes.reverse()]
  }

  /** Layers come oldest first, so what a layer finds of a key goes on top of what the ones before found. */
  async #countChains(layer: LayerFile): Promise<void> {
    for (const keyClass of [KEY_RELATION_BLOCK, KEY_SLRU_PAGE]) {
      const { first, last } = classRange(keyClass)
      for await (const key of keysOf(layer, first, last)) {
        if (loopTurns.isOver) await loopTurns.next()
        await this.#countChain(layer, key)
      }
    }
  }
  async #countChain(layer: LayerFile, key: Key): Promise<void> {
    const floor = this.map.barriers.newest(key, LSN_MAX)
    const gathered = withBlocks((held) => {
      const values: ValueRef[] = []
      const isOver = layer.gather(key, LSN_MAX, floor, values, held)
      return isOver instanceof Missing ? isOver : { values, isOver }
    })
    const { values, isOver } = gathered instanceof Promise ? await gathered : gathered
    const oldest = values.at(-1)
    if (oldest !== undefined && endsChain(oldest.meta)) values.pop()
    const id = this.keys.intern(key)
    const bytes = values.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)
    if (isOver) this.ledger.reset(id, values.length, bytes)
    else this.ledger.reset(id, this.ledger.countOf(id) + values.length, this.ledger.bytesOf(id) + bytes)
  }
}

const sizeName = (spcOid: number, dbOid: number, rel: number, fork: number): string =>
  `${spcOid}/${dbOid}/${rel}/${fork}`
