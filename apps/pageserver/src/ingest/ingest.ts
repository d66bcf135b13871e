/**
 * Takes a shard's part of the WAL in. Per record: its bytes go into the open layer once, each key of this shard gets a
 * value, chains are counted, and what the record does beyond its keys is acted on (record-effects.ts). The inner loop makes no object a
 * record and does not wait, except for the rare record that needs pages: a database's copy, a chain at its bound.
 */
import { formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { encodeTrackerState, track, xidNote } from '@understory/postgres/cluster'
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
import type { BlockRef } from '@understory/postgres/wal'
import {
  CHECKPOINT_STATE_KEY,
  META_IS_SHARED,
  RECORD_KEY_BYTES,
  RECORD_PREFIX_BYTES,
  ROLE_BLOCK_IMAGE,
  ShardEntryReader,
  endsChain,
  isStorageImagedAt,
  metaOfRole,
} from '@understory/storage'
import type { ImageGenerationSettings, Key } from '@understory/storage'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'
import { newPage } from '../state/shard-reader.ts'
import type { ShardState } from '../state/shard-state.ts'
import { RecordEffects } from './record-effects.ts'

/** What ingest asks of the image generator. */
export interface ChainWatch {
  readonly settings: ImageGenerationSettings
  queue(keyId: number): void
  /** full_page_writes as a record says it. */
  sawFullPageWrites(on: boolean): void
  /** Reads of layers, tried again while the disk refuses them: what is ingested already must not be ingested twice. */
  read<T>(attempt: () => Promise<T>): Promise<T>
}

export class Ingest {
  readonly #state: ShardState
  readonly #watch: ChainWatch
  readonly #reader = new ShardEntryReader()
  readonly #record = new DecodedRecord()
  readonly #effects: RecordEffects
  readonly #observer: ShardObserver | undefined
  /** Work of the current record that needs pages. */
  #waiting: (() => Promise<void>)[] = []

  constructor(state: ShardState, watch: ChainWatch, observer?: ShardObserver) {
    this.#state = state
    this.#watch = watch
    this.#observer = observer
    this.#effects = new RecordEffects(state, {
      read: (attempt) => watch.read(attempt),
      readPage: (key, at) => this.#readPage(key, at),
      defer: (work) => this.#waiting.push(work),
    })
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
    const { settings } = state
    // As of before the record: it may change them.
    if (this.#reader.hasEffects) this.#effects.act(record, settings)
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
}
