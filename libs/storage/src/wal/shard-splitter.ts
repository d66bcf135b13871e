/**
 * Takes the committed WAL of a timeline record by record and writes one shard's part of it, as shard-stream.ts says.
 * One splitter for each subscription; it remembers only what spares notes. Hot: keys live in objects that are used
 * again, and a record that does not concern the shard costs no allocation. The end of a transaction that is large goes
 * in parts: each page of pg_xact gets the subtransactions that are on it, and not those of three hundred others.
 *
 * A record that nobody knows is refused `unknown_wal` by `recordEffects`, for every shard alike (I7).
 */
import { assert } from '@understory/base'
import type { ShardIdentity } from '@understory/base'
import { vmBlockOf } from '@understory/postgres/page'
import {
  ParsedXact,
  eachXactPage,
  encodeXactPart,
  isXactCommit,
  isXactEnd,
  maxXidOf,
  parameterChangeOf,
  parseXact,
  recordEffects,
  xidPrecedes,
} from '@understory/postgres/redo'
import type { EffectSink, RedoSettings, SlruKind, XactRange } from '@understory/postgres/redo'
import {
  FORK_FSM,
  FORK_VM,
  RM_XACT_ID,
  RM_XLOG_ID,
  XLOG_CHECKPOINT_ONLINE,
  XLOG_CHECKPOINT_SHUTDOWN,
  XLOG_FPI,
  XLOG_FPI_FOR_HINT,
  XLOG_FPW_CHANGE,
  XLOG_PARAMETER_CHANGE,
  XLR_RMGR_INFO_MASK,
} from '@understory/postgres/wal'
import type { BlockRef, DecodedRecord, RelFile } from '@understory/postgres/wal'
import { KEY_RELATION_BLOCK, KEY_SLRU_PAGE, slruNumber } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { homeShard, shardOfBlock, shardOfSlruPage } from '../key/shard.ts'
import {
  RECORD_HAS_EFFECTS,
  ROLE_BLOCK,
  ROLE_BLOCK_IMAGE,
  ROLE_BLOCK_INIT,
  ROLE_SLRU,
  ROLE_SLRU_INIT,
  ROLE_VISIBILITY_CLEAR,
} from './shard-stream.ts'
import type { RecordKey, ShardStreamWriter } from './shard-stream.ts'
import { EFFECT_AUDIENCE, TRACKER_NEEDS } from './audience.ts'
import type { Audience, TrackerNeed } from './audience.ts'
import { SizeNotes } from './size-notes.ts'

/** From this length on the end of a transaction is split into parts. */
const LARGE_XACT_BYTES = 16 * 1024
/** Dropped relations of one part. */
const PART_RELS_COUNT_MAX = 4096

interface WritableKey extends RecordKey {
  role: number
  blockIndex: number
  readonly key: { -readonly [K in keyof Key]: Key[K] }
}

const makeKey = (): WritableKey => ({
  role: 0,
  blockIndex: 0,
  key: { keyClass: 0, spcOid: 0, dbOid: 0, rel: 0, fork: 0, block: 0 },
})

export class ShardSplitter {
  readonly #shard: ShardIdentity
  readonly #writer: ShardStreamWriter
  readonly #sizes = new SizeNotes()
  readonly #sink: EffectSink
  #settings: RedoSettings
  /** Keys of the record at hand; the rest of them wait in the pool. */
  readonly #keys: WritableKey[] = []
  readonly #pool: WritableKey[] = []
  #hasEffects = false
  /** The record at hand goes in parts: what it does to SLRU pages is found there. */
  #isInParts = false
  readonly #xact = new ParsedXact()
  /** Newest xid sent or noted; 0 before the first. */
  #newestXid = 0

  /** `settings` as of where the subscription begins; changes are followed in the WAL. */
  constructor(shard: ShardIdentity, settings: RedoSettings, writer: ShardStreamWriter) {
    this.#shard = shard
    this.#settings = settings
    this.#writer = writer
    this.#sink = this.#makeSink()
  }

  /** Appends what `record` means for this shard. Errors: refused `unknown_wal`, `bad_wal`; nothing is written then. */
  split(record: DecodedRecord): void {
    this.#hasEffects = false
    this.#collectBlocks(record)
    this.#isInParts = record.totLen >= LARGE_XACT_BYTES && record.rmid === RM_XACT_ID && isXactEnd(record)
    recordEffects(record, this.#sink, this.#settings)
    if (this.#isInParts) return this.#splitXactEnd(record)
    const changesParameters = isXlog(record, XLOG_PARAMETER_CHANGE)
    if (changesParameters) this.#followParameters(record)
    // Every shard must know what redo depends on, and whether chains will grow.
    const isForAll = changesParameters || tellsFullPageWrites(record)
    const isWanted =
      this.#keys.length > 0 ||
      this.#hasEffects ||
      isForAll ||
      (this.#shard.number === 0 && this.#trackerNeeds(record))
    if (isWanted) {
      const { bytes, start, totLen, recordLsn, nextLsn } = record
      const flags = this.#hasEffects ? RECORD_HAS_EFFECTS : 0
      this.#writer.record(flags, recordLsn, nextLsn, this.#keys, bytes.subarray(start, start + totLen))
    }
    this.#releaseKeys()
    this.#noteSizes(record)
    if (this.#shard.number === 0) this.#noteXid(record, isWanted)
  }

  /**
   * A record whose body was too large to be kept, and of which no shard wants more than its xid. Error: refused
   * `unknown_wal`.
   */
  splitHeader(record: DecodedRecord): void {
    this.#releaseKeys()
    this.#isInParts = false
    recordEffects(record, this.#sink, this.#settings)
    if (this.#shard.number === 0) this.#noteXid(record, false)
  }

  #splitXactEnd(record: DecodedRecord): void {
    const { major, trackCommitTimestamp } = this.#settings
    const xact = this.#xact
    parseXact(record, major, xact)
    // First, so that the tracker moves once and not with each part.
    if (this.#shard.number === 0) this.#noteXid(record, false)
    const isTracked = this.#shard.number === 0 && this.#trackerNeeds(record)
    if (this.#hasEffects || isTracked) {
      // The tracker goes by the last of all subtransactions.
      const last = { subxactsFrom: Math.max(0, xact.subxactsCount - 1), subxactsTo: xact.subxactsCount }
      let relsFrom = 0
      do {
        const relsTo = Math.min(xact.relsCount, relsFrom + PART_RELS_COUNT_MAX)
        this.#writePart(record, this.#hasEffects ? RECORD_HAS_EFFECTS : 0, { ...last, relsFrom, relsTo })
        relsFrom = relsTo
      } while (this.#hasEffects && relsFrom < xact.relsCount)
    }
    const hasTimestamp = isXactCommit(xact) && trackCommitTimestamp === true
    for (const kind of hasTimestamp ? (['pg_commit_ts', 'pg_xact'] as const) : (['pg_xact'] as const)) {
      eachXactPage(record, xact, kind, (page, range) => {
        this.#slruPage(kind, page, false)
        if (this.#keys.length === 0) return
        this.#writePart(record, 0, range)
        this.#releaseKeys()
      })
    }
  }

  #writePart(record: DecodedRecord, flags: number, range: XactRange): void {
    const part = encodeXactPart(record, this.#xact, range)
    this.#writer.record(flags, record.recordLsn, record.nextLsn, this.#keys, part)
  }

  #addKey(role: number, blockIndex: number, keyClass: number): WritableKey['key'] {
    const entry = this.#pool.pop() ?? makeKey()
    entry.role = role
    entry.blockIndex = blockIndex
    entry.key.keyClass = keyClass
    this.#keys.push(entry)
    return entry.key
  }

  #releaseKeys(): void {
    for (let entry = this.#keys.pop(); entry !== undefined; entry = this.#keys.pop()) this.#pool.push(entry)
  }

  #collectBlocks(record: DecodedRecord): void {
    // A refused record leaves its keys behind.
    this.#releaseKeys()
    for (let i = 0; i < record.blockCount; i++) {
      const ref = record.blocks[i] as BlockRef
      // Free-space maps are hints and not redone; FPI_FOR_HINT names their pages even where it brings no image.
      if (ref.fork === FORK_FSM && !ref.applyImage && !ref.willInit) continue
      if (shardOfBlock(this.#shard, ref.relNumber, ref.blockNumber) !== this.#shard.number) continue
      const role = ref.applyImage ? ROLE_BLOCK_IMAGE : ref.willInit ? ROLE_BLOCK_INIT : ROLE_BLOCK
      setBlock(this.#addKey(role, i, KEY_RELATION_BLOCK), ref, ref.fork, ref.blockNumber)
    }
  }

  /** Two blocks of a record may share a map page, and a transaction may touch an SLRU page twice: one key each. */
  #hasKey(role: number, spcOid: number, block: number): boolean {
    for (const entry of this.#keys) {
      if (entry.role === role && entry.key.block === block && entry.key.spcOid === spcOid) return true
    }
    return false
  }

  #visibilityClear(rel: RelFile, heapBlock: number): void {
    const block = vmBlockOf(heapBlock)
    if (shardOfBlock(this.#shard, rel.relNumber, block) !== this.#shard.number) return
    if (this.#hasKey(ROLE_VISIBILITY_CLEAR, rel.spcOid, block)) return
    setBlock(this.#addKey(ROLE_VISIBILITY_CLEAR, 0, KEY_RELATION_BLOCK), rel, FORK_VM, block)
  }

  #slruPage(kind: SlruKind, page: number, init: boolean): void {
    const number = slruNumber(kind)
    if (shardOfSlruPage(this.#shard, number, page) !== this.#shard.number) return
    const role = init ? ROLE_SLRU_INIT : ROLE_SLRU
    if (this.#hasKey(role, number, page)) return
    const key = this.#addKey(role, 0, KEY_SLRU_PAGE)
    key.spcOid = number
    key.dbOid = key.rel = key.fork = 0
    key.block = page
  }

  #concerns(audience: Exclude<Audience, 'owner'>): void {
    if (audience === 'all' || this.#shard.number === 0) this.#hasEffects = true
  }

  #makeSink(): EffectSink {
    const sizes = this.#sizes
    const concerns = (audience: Exclude<Audience, 'owner'>): void => this.#concerns(audience)
    return {
      visibilityClear: (rel, heapBlock) => this.#visibilityClear(rel, heapBlock),
      slruPage: (kind, page, init) => {
        if (!this.#isInParts) this.#slruPage(kind, page, init)
      },
      slruTruncate: () => concerns(EFFECT_AUDIENCE.slruTruncate),
      relationCreate: (rel, fork) => {
        sizes.forget(rel, fork)
        concerns(EFFECT_AUDIENCE.relationCreate)
      },
      relationTruncate: (rel, fork, blocks) => {
        sizes.truncate(rel, fork, blocks)
        concerns(EFFECT_AUDIENCE.relationTruncate)
      },
      relationDrop: (rel) => {
        sizes.forgetRelation(rel)
        concerns(EFFECT_AUDIENCE.relationDrop)
      },
      databaseCopy: (dbOid, spcOid) => {
        sizes.forgetDatabase(spcOid, dbOid)
        concerns(EFFECT_AUDIENCE.databaseCopy)
      },
      databaseCreate: (dbOid, spcOid) => {
        sizes.forgetDatabase(spcOid, dbOid)
        concerns(EFFECT_AUDIENCE.databaseCreate)
      },
      databaseDrop: (dbOid, spcOid) => {
        sizes.forgetDatabase(spcOid, dbOid)
        concerns(EFFECT_AUDIENCE.databaseDrop)
      },
      relationMap: () => concerns(EFFECT_AUDIENCE.relationMap),
      twoPhasePrepare: () => concerns(EFFECT_AUDIENCE.twoPhasePrepare),
      twoPhaseRemove: () => concerns(EFFECT_AUDIENCE.twoPhaseRemove),
      tablespaceCreate: () => concerns(EFFECT_AUDIENCE.tablespaceCreate),
      tablespaceDrop: () => concerns(EFFECT_AUDIENCE.tablespaceDrop),
      originAdvance: () => concerns(EFFECT_AUDIENCE.originAdvance),
      originDrop: () => concerns(EFFECT_AUDIENCE.originDrop),
    }
  }

  #trackerNeeds(record: DecodedRecord): boolean {
    const need: TrackerNeed | undefined = (TRACKER_NEEDS as Readonly<Record<number, TrackerNeed>>)[
      record.rmid
    ]
    assert(need !== undefined, () => `resource manager ${record.rmid} passed as known`)
    switch (need) {
      case 'always':
        return true
      case 'noImages':
        return !isXlog(record, XLOG_FPI) && !isXlog(record, XLOG_FPI_FOR_HINT)
      case 'commitTs':
        return this.#settings.trackCommitTimestamp === true && isXactEnd(record)
      case 'xid':
        return false
    }
  }

  /** Every shard gets these records, so that each can know what SLRU pages a commit writes. */
  #followParameters(record: DecodedRecord): void {
    const change = parameterChangeOf(record)
    if (change === undefined) return
    const { trackCommitTimestamp, walLogHints } = change
    this.#settings = { ...this.#settings, trackCommitTimestamp, walLogHints }
  }

  #noteSizes(record: DecodedRecord): void {
    for (let i = 0; i < record.blockCount; i++) {
      const ref = record.blocks[i] as BlockRef
      if (homeShard(this.#shard, ref.relNumber) !== this.#shard.number) continue
      const blocks = ref.blockNumber + 1
      if (!this.#sizes.raise(ref, ref.fork, blocks)) continue
      this.#writer.size(record.nextLsn, ref.spcOid, ref.dbOid, ref.relNumber, ref.fork, blocks)
    }
  }

  #noteXid(record: DecodedRecord, isSent: boolean): void {
    const xid = maxXidOf(record, this.#settings.major)
    if (xid === 0 || (this.#newestXid !== 0 && !xidPrecedes(this.#newestXid, xid))) return
    this.#newestXid = xid
    if (!isSent) this.#writer.xid(record.nextLsn, xid)
  }
}

function setBlock(key: WritableKey['key'], rel: RelFile, fork: number, block: number): void {
  key.spcOid = rel.spcOid
  key.dbOid = rel.dbOid
  key.rel = rel.relNumber
  key.fork = fork
  key.block = block
}

const isXlog = (record: DecodedRecord, opcode: number): boolean =>
  record.rmid === RM_XLOG_ID && (record.info & XLR_RMGR_INFO_MASK) === opcode

/** A start of Postgres with another setting writes no FPW_CHANGE: the next checkpoint is the first to tell. */
const tellsFullPageWrites = (record: DecodedRecord): boolean =>
  isXlog(record, XLOG_FPW_CHANGE) ||
  isXlog(record, XLOG_CHECKPOINT_ONLINE) ||
  isXlog(record, XLOG_CHECKPOINT_SHUTDOWN)
