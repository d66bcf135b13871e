/**
 * Takes a shard's part of the WAL in. Per record: its bytes go into the open layer once, each key of this shard gets a
 * value, chains are counted, and what the record does beyond its keys is acted on. The inner loop makes no object a
 * record and does not wait, except for the rare record that needs pages: a database's copy, a chain at its bound.
 */
import { formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { encodeTrackerState, track, xidNote } from '@understory/postgres/cluster'
import { recordEffects } from '@understory/postgres/redo'
import type { EffectSink, RemovedPages, SlruKind } from '@understory/postgres/redo'
import {
  DecodedRecord,
  RM_XLOG_ID,
  XLOG_CHECKPOINT_ONLINE,
  XLOG_CHECKPOINT_SHUTDOWN,
  XLOG_FPW_CHANGE,
  XLOG_PARAMETER_CHANGE,
  XLR_INFO_MASK,
  decodeRecord,
} from '@understory/postgres/wal'
import type { BlockRef, RelFile } from '@understory/postgres/wal'
import {
  CHECKPOINT_STATE_KEY,
  KEY_DATABASE,
  KEY_RELATION_BLOCK,
  KEY_RELATION_MAP,
  KEY_RELATION_SIZE,
  KEY_SLRU_PAGE,
  KEY_TABLESPACE,
  KEY_TWO_PHASE,
  META_IS_SHARED,
  RECORD_KEY_BYTES,
  RECORD_PREFIX_BYTES,
  ROLE_BLOCK_IMAGE,
  ShardEntryReader,
  classRange,
  databaseRange,
  endsChain,
  isStorageImagedAt,
  metaOfRole,
  slruNumber,
  smallKey,
} from '@understory/storage'
import type { ImageGenerationSettings, Key, KeyRange } from '@understory/storage'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'
import { newPage } from '../state/shard-reader.ts'
import type { ShardState } from '../state/shard-state.ts'

/** What ingest asks of the image generator. */
export interface ChainWatch {
  readonly settings: ImageGenerationSettings
  queue(keyId: number): void
  /** full_page_writes as a record says it. */
  sawFullPageWrites(on: boolean): void
  /** Reads of layers, tried again while the disk refuses them: what is ingested already must not be ingested twice. */
  read<T>(attempt: () => Promise<T>): Promise<T>
}

const FLAG_PRESENT = Uint8Array.of(1)
/** Of a scan that is tried again as a whole. */
const PIECE_KEYS = 1024

export class Ingest {
  readonly #state: ShardState
  readonly #watch: ChainWatch
  readonly #reader = new ShardEntryReader()
  readonly #record = new DecodedRecord()
  readonly #sink: EffectSink
  readonly #observer: ShardObserver | undefined
  #at = 0 as Lsn
  /** Work of the current record that needs pages. */
  #waiting: (() => Promise<void>)[] = []

  constructor(state: ShardState, watch: ChainWatch, observer?: ShardObserver) {
    this.#state = state
    this.#watch = watch
    this.#observer = observer
    this.#sink = this.#makeSink()
  }

  /**
   * Takes the entries of [ingestedLsn, endLsn). Errors: `bad_wal`, `unknown_wal`, `bad_page`, `bad_file`: the
   * shard must stop, since some of the batch is in.
   */
  async apply(entries: Uint8Array, endLsn: Lsn): Promise<void> {
    const state = this.#state
    const reader = this.#reader
    reader.reset(entries)
    for (let kind = reader.next(); kind !== undefined; kind = reader.next()) {
      const { nextLsn } = reader
      if (nextLsn <= state.ingestedLsn || nextLsn > endLsn) {
        const range = `${formatLsn(state.ingestedLsn)} to ${formatLsn(endLsn)}`
        throw fail('bad_wal', `shard stream entry ends at ${formatLsn(nextLsn)}, outside its batch ${range}`)
      }
      if (kind === 'record') {
        this.#takeRecord()
        if (this.#waiting.length > 0) for (const work of this.#waiting.splice(0)) await work()
      } else if (kind === 'size') {
        const { spcOid, dbOid, rel, fork, blocks } = reader
        if (blocks > (state.sizeOf(spcOid, dbOid, rel, fork) ?? -1))
          state.putSize(spcOid, dbOid, rel, fork, blocks, nextLsn)
      } else if (state.tracker !== undefined && xidNote(state.tracker, reader.xid)) {
        state.putBytes(CHECKPOINT_STATE_KEY, nextLsn, encodeTrackerState(state.tracker))
      }
    }
    state.ingestedLsn = endLsn
  }

  #takeRecord(): void {
    const state = this.#state
    const { bytes, view, keyCount, keysAt, recordAt, recordLength, recordLsn, nextLsn } = this.#reader
    if (keyCount > 0) {
      const { open, keys, ledger } = state
      const observer = this.#observer
      const { enabled, thresholdRecords } = this.#watch.settings
      const position = open.appendRecord(recordLsn, bytes, recordAt, recordLength)
      const length = RECORD_PREFIX_BYTES + recordLength
      const shared = keyCount > 1 ? META_IS_SHARED : 0
      for (let i = 0, at = keysAt; i < keyCount; i++, at += RECORD_KEY_BYTES) {
        const role = view.getUint8(at)
        const meta = metaOfRole(role)
        const keyId = keys.internAt(view, at + 2)
        open.put(keyId, nextLsn, meta | shared, view.getUint8(at + 1), position, length)
        if (endsChain(meta)) {
          if (role === ROLE_BLOCK_IMAGE) state.walImagesCount++
          if (observer !== undefined) {
            observer.chainEnded(ledger.countOf(keyId))
            if (role === ROLE_BLOCK_IMAGE) observer.walImage(this.#imageBytes(view.getUint8(at + 1)))
          }
          ledger.reset(keyId)
          continue
        }
        const count = ledger.add(keyId)
        if (count >= thresholdRecords && (enabled || isStorageImagedAt(view, at + 2)))
          this.#overThreshold(keyId, count, thresholdRecords, nextLsn)
      }
    }
    // A record without keys is here because of what it says to every shard.
    if (state.tracker !== undefined || this.#reader.hasEffects || keyCount === 0) this.#decodeAndAct()
  }

  /** Of the image that the record at hand carries for a block. */
  #imageBytes(blockIndex: number): number {
    const record = this.#record
    const { bytes, recordAt, recordLsn, nextLsn } = this.#reader
    if (record.recordLsn !== recordLsn) decodeRecord(record, bytes, recordAt, recordLsn, nextLsn)
    return blockIndex < record.blockCount ? (record.blocks[blockIndex] as BlockRef).imageLength : 0
  }

  #overThreshold(keyId: number, count: number, limit: number, at: Lsn): void {
    // A page that was never made cannot get an image; it is tried again now and then only.
    const isAtBound = count >= limit * 2 && (count === limit * 2 || count % limit === 0)
    if (isAtBound) this.#waiting.push(() => this.#imageNow(keyId, limit, at))
    else if (count < limit * 2) this.#watch.queue(keyId)
  }

  /** The bound of chains: the image is made here and now, and ingest waits for it. */
  async #imageNow(keyId: number, limit: number, at: Lsn): Promise<void> {
    const state = this.#state
    if (state.ledger.countOf(keyId) < limit) return
    const page = await this.#readPage(state.keys.keyOf(keyId), at)
    if (page === undefined) return
    state.putImage(keyId, at, page)
    this.#observer?.chainEnded(state.ledger.countOf(keyId))
    this.#observer?.imageMade('bound')
    state.ledger.reset(keyId)
    state.generatedImagesCount++
  }

  /** Returns undefined where the page does not exist yet. */
  #readPage(key: Key, at: Lsn): Promise<Uint8Array | undefined> {
    return this.#watch.read(async () => {
      const page = newPage()
      return (await this.#state.readPage(key, at, page)) === 'made' ? page.bytes : undefined
    })
  }

  #decodeAndAct(): void {
    const state = this.#state
    const record = this.#record
    const { bytes, recordAt, recordLsn, nextLsn, recordLength } = this.#reader
    decodeRecord(record, bytes, recordAt, recordLsn, nextLsn)
    if (record.totLen !== recordLength) {
      throw fail(
        'bad_wal',
        `record at ${formatLsn(recordLsn)} has ${record.totLen} bytes, its entry ${recordLength}`,
      )
    }
    this.#at = nextLsn
    const { settings } = state
    // As of before the record: it may change them.
    if (this.#reader.hasEffects) recordEffects(record, this.#sink, settings)
    if (record.rmid === RM_XLOG_ID) this.#takeXlog(record, nextLsn)
    if (state.tracker !== undefined && track(state.tracker, record, settings)) {
      state.putBytes(CHECKPOINT_STATE_KEY, nextLsn, encodeTrackerState(state.tracker))
    }
  }

  #takeXlog(record: DecodedRecord, at: Lsn): void {
    const { view, mainDataOffset, mainDataLength } = record
    switch (record.info & ~XLR_INFO_MASK & 0xff) {
      case XLOG_PARAMETER_CHANGE: {
        // xl_parameter_change: six int32, wal_log_hints, track_commit_timestamp
        if (mainDataLength < 26)
          throw fail('bad_wal', `parameter change record at ${formatLsn(record.recordLsn)} is too short`)
        const walLogHints = view.getUint8(mainDataOffset + 24) !== 0
        const trackCommitTimestamp = view.getUint8(mainDataOffset + 25) !== 0
        const { settings } = this.#state
        if (settings.walLogHints !== walLogHints || settings.trackCommitTimestamp !== trackCommitTimestamp) {
          this.#state.changeSettings(at, walLogHints, trackCommitTimestamp)
        }
        return
      }
      case XLOG_FPW_CHANGE:
        if (mainDataLength < 1)
          throw fail('bad_wal', `FPW_CHANGE record at ${formatLsn(record.recordLsn)} is too short`)
        this.#watch.sawFullPageWrites(view.getUint8(mainDataOffset) !== 0)
        return
      case XLOG_CHECKPOINT_ONLINE:
      case XLOG_CHECKPOINT_SHUTDOWN: // CheckPoint: redo u64, ThisTimeLineID u32, PrevTimeLineID u32, fullPageWrites bool
        if (mainDataLength < 17)
          throw fail('bad_wal', `checkpoint record at ${formatLsn(record.recordLsn)} is too short`)
        this.#watch.sawFullPageWrites(view.getUint8(mainDataOffset + 16) !== 0)
    }
  }

  #makeSink(): EffectSink {
    const state = this.#state
    const onFirstShard = (act: () => void): void => {
      if (state.isFirstShard) act()
    }
    const put = (key: Key, bytes: Uint8Array): void => state.putBytes(key, this.#at, bytes)
    const end = (key: Key): void => state.putTombstone(key, this.#at)
    return {
      // Their pages are among the record's keys.
      visibilityClear: () => undefined,
      slruPage: () => undefined,
      slruTruncate: (kind, isRemoved) => {
        const at = this.#at
        this.#waiting.push(() => this.#truncateSlru(kind, isRemoved, at))
      },
      relationCreate: ({ spcOid, dbOid, relNumber }: RelFile, fork) => {
        state.putForkBarrier(spcOid, dbOid, relNumber, fork, 0, this.#at)
        if (state.isHomeOf(relNumber)) state.putSize(spcOid, dbOid, relNumber, fork, 0, this.#at)
      },
      relationTruncate: ({ spcOid, dbOid, relNumber }: RelFile, fork, blocks) => {
        state.putForkBarrier(spcOid, dbOid, relNumber, fork, blocks, this.#at)
        const size = state.isHomeOf(relNumber) ? state.sizeOf(spcOid, dbOid, relNumber, fork) : undefined
        if (size !== undefined && size > blocks)
          state.putSize(spcOid, dbOid, relNumber, fork, blocks, this.#at)
      },
      relationDrop: ({ spcOid, dbOid, relNumber }: RelFile) =>
        state.putRelationBarrier(spcOid, dbOid, relNumber, this.#at),
      databaseCopy: (dbOid, spcOid, sourceDbOid, sourceSpcOid) => {
        const at = this.#at
        state.putDatabaseBarrier(spcOid, dbOid, at)
        this.#waiting.push(() => this.#copyDatabase(at, spcOid, dbOid, sourceSpcOid, sourceDbOid))
        onFirstShard(() => put(smallKey(KEY_DATABASE, spcOid, dbOid, 0), FLAG_PRESENT))
      },
      databaseCreate: (dbOid, spcOid) => {
        state.putDatabaseBarrier(spcOid, dbOid, this.#at)
        onFirstShard(() => put(smallKey(KEY_DATABASE, spcOid, dbOid, 0), FLAG_PRESENT))
      },
      databaseDrop: (dbOid, spcOid) => {
        state.putDatabaseBarrier(spcOid, dbOid, this.#at)
        onFirstShard(() => {
          end(smallKey(KEY_DATABASE, spcOid, dbOid, 0))
          end(smallKey(KEY_RELATION_MAP, spcOid, dbOid, 0))
        })
      },
      relationMap: (dbOid, spcOid, content) =>
        onFirstShard(() => put(smallKey(KEY_RELATION_MAP, spcOid, dbOid, 0), content)),
      twoPhasePrepare: (xid, content) => onFirstShard(() => put(smallKey(KEY_TWO_PHASE, 0, 0, xid), content)),
      twoPhaseRemove: (xid) => onFirstShard(() => end(smallKey(KEY_TWO_PHASE, 0, 0, xid))),
      tablespaceCreate: (spcOid, path) =>
        onFirstShard(() => put(smallKey(KEY_TABLESPACE, spcOid, 0, 0), Buffer.from(path))),
      tablespaceDrop: (spcOid) => onFirstShard(() => end(smallKey(KEY_TABLESPACE, spcOid, 0, 0))),
      originAdvance: (originId, remoteLsn, force) =>
        onFirstShard(() => state.advanceOrigin(originId, remoteLsn, force, this.#at)),
      originDrop: (originId) => onFirstShard(() => state.dropOrigin(originId, this.#at)),
    }
  }

  async #truncateSlru(kind: SlruKind, isRemoved: RemovedPages, at: Lsn): Promise<void> {
    const state = this.#state
    const { first, last } = classRange(KEY_SLRU_PAGE)
    const spcOid = slruNumber(kind)
    const removed = await this.#watch.read(async () => {
      const keys: Key[] = []
      for await (const key of state.scan({ first: { ...first, spcOid }, last: { ...last, spcOid } }, at))
        if (isRemoved(key.block)) keys.push(key)
      return keys
    })
    for (const key of removed) {
      state.putTombstone(key, at)
      state.ledger.reset(state.keys.intern(key))
    }
  }

  /** In pieces, since the index of a layer is read as a page is: a piece that cannot be read is tried again. */
  async *#keysWithin({ first, last }: KeyRange, at: Lsn): AsyncGenerator<Key, void, void> {
    const state = this.#state
    for (let from = first; ;) {
      const piece = await this.#watch.read(async () => {
        const keys: Key[] = []
        for await (const key of state.scan({ first: from, last }, at))
          if (keys.push(key) === PIECE_KEYS) break
        return keys
      })
      yield* piece
      const end = piece.at(-1)
      if (end === undefined || piece.length < PIECE_KEYS) return
      from = { ...end, block: end.block + 1 }
    }
  }

  /** Every page, size and map of the source as of `at` becomes one of the new database, as its files were copied. */
  async #copyDatabase(
    at: Lsn,
    spcOid: number,
    dbOid: number,
    sourceSpcOid: number,
    sourceDbOid: number,
  ): Promise<void> {
    const state = this.#state
    for (const keyClass of [KEY_RELATION_BLOCK, KEY_RELATION_SIZE, KEY_RELATION_MAP]) {
      const range = databaseRange(keyClass, sourceSpcOid, sourceDbOid)
      for await (const source of this.#keysWithin(range, at)) {
        const target = { ...source, spcOid, dbOid }
        if (keyClass === KEY_RELATION_BLOCK) {
          const page = await this.#readPage(source, at)
          if (page !== undefined) state.putBytes(target, at, page)
        } else if (keyClass === KEY_RELATION_SIZE) {
          const blocks = await this.#watch.read(() => state.readSize(source, at))
          if (blocks !== undefined) state.putSize(spcOid, dbOid, source.rel, source.fork, blocks, at)
        } else {
          const content = await this.#watch.read(() => state.readBytes(source, at))
          if (content !== undefined) state.putBytes(target, at, content)
        }
      }
    }
  }
}
