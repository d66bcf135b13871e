/**
 * Acts on what a record does beyond its keys: forks, databases, small values of the first shard. Owns the position at
 * which it acts. What needs pages, such as the copy of a database, is deferred until the record's own keys are in.
 */
import type { Lsn } from '@understory/base'
import { recordEffects } from '@understory/postgres/redo'
import type { EffectSink, RedoSettings, RemovedPages, SlruKind } from '@understory/postgres/redo'
import type { DecodedRecord, RelFile } from '@understory/postgres/wal'
import {
  KEY_DATABASE,
  KEY_RELATION_BLOCK,
  KEY_RELATION_MAP,
  KEY_RELATION_SIZE,
  KEY_SLRU_PAGE,
  KEY_TABLESPACE,
  KEY_TWO_PHASE,
  classRange,
  databaseRange,
  slruNumber,
  smallKey,
} from '@understory/storage'
import type { Key, KeyRange } from '@understory/storage'
import type { ShardState } from '../state/shard-state.ts'

/** How effects that need pages are carried out. */
export interface EffectWork {
  /** Reads of layers, tried again while the disk refuses them. */
  read<T>(attempt: () => Promise<T>): Promise<T>
  /** Returns undefined where the page does not exist yet. */
  readPage(key: Key, at: Lsn): Promise<Uint8Array | undefined>
  /** Runs it once the record is in, before the next one. */
  defer(work: () => Promise<void>): void
}

const FLAG_PRESENT = Uint8Array.of(1)
/** Of a scan that is tried again as a whole. */
const PIECE_KEYS = 1024

export class RecordEffects {
  readonly #state: ShardState
  readonly #work: EffectWork
  readonly #sink: EffectSink
  #at = 0 as Lsn

  constructor(state: ShardState, work: EffectWork) {
    this.#state = state
    this.#work = work
    this.#sink = this.#makeSink()
  }

  /** `settings` as of before the record. Errors: `bad_wal`, `unknown_wal`. */
  act(record: DecodedRecord, settings: RedoSettings): void {
    this.#at = record.nextLsn
    recordEffects(record, this.#sink, settings)
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
        this.#work.defer(() => this.#truncateSlru(kind, isRemoved, at))
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
        this.#work.defer(() => this.#copyDatabase(at, spcOid, dbOid, sourceSpcOid, sourceDbOid))
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
    const removed = await this.#work.read(async () => {
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
      const piece = await this.#work.read(async () => {
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
          const page = await this.#work.readPage(source, at)
          if (page !== undefined) state.putBytes(target, at, page)
        } else if (keyClass === KEY_RELATION_SIZE) {
          const blocks = await this.#work.read(() => state.readSize(source, at))
          if (blocks !== undefined) state.putSize(spcOid, dbOid, source.rel, source.fork, blocks, at)
        } else {
          const content = await this.#work.read(() => state.readBytes(source, at))
          if (content !== undefined) state.putBytes(target, at, content)
        }
      }
    }
  }
}
