/**
 * Takes the committed WAL of a timeline record by record and writes the parts of several shards of one layout, as
 * shard-stream.ts says: a record is looked at once, whatever the number of shards. It remembers only what spares notes.
 * Hot: keys live in objects that are used again, and a record that concerns no wanted shard costs no allocation. The
 * end of a transaction that is large goes in parts: each page of pg_xact gets the subtransactions that are on it, and
 * not those of three hundred others.
 *
 * Notes (sizes, xids) are left out where a note before said as much: so a shard may be wanted from a position on only
 * if it has everything before that position, from this splitter or from another one.
 *
 * A record of an unknown kind is refused `unknown_wal` by `recordEffects`, for every shard alike (I7).
 */
import { assert } from '@understory/base'
import type { ShardLayout } from '@understory/base'
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
import type { EffectSink, RedoSettings, SlruKind } from '@understory/postgres/redo'
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
import { slruNumber } from '../key/key.ts'
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
import { ShardPart } from './shard-part.ts'
import { EFFECT_AUDIENCE, TRACKER_NEEDS } from './audience.ts'
import type { Audience, TrackerNeed } from './audience.ts'
import { SizeNotes } from './size-notes.ts'

/** From this length on the end of a transaction is split into parts. */
const LARGE_XACT_BYTES = 16 * 1024
/** Dropped relations of one part. */
const PART_RELS_COUNT_MAX = 4096

export class ShardSplitter {
  readonly #layout: ShardLayout
  readonly #sizes = new SizeNotes()
  readonly #sink: EffectSink
  #settings: RedoSettings
  readonly #parts = new Map<number, ShardPart>()
  #isForAll = false
  #isForFirst = false
  /** The record at hand goes in parts: what it does to SLRU pages is found there. */
  #isInParts = false
  readonly #xact = new ParsedXact()
  /** Newest xid sent or noted; 0 before the first. */
  #newestXid = 0

  /** `settings` as of where the WAL begins; changes are followed in it. No shard is wanted yet. */
  constructor(layout: ShardLayout, settings: RedoSettings) {
    this.#layout = layout
    this.#settings = settings
    this.#sink = this.#makeSink()
  }

  /** Whether commits write pg_commit_ts, as of the last record. */
  get trackCommitTimestamp(): boolean {
    return this.#settings.trackCommitTimestamp === true
  }

  /**
   * The shards whose parts are written from the next record on. Parts of other shards that were not taken are dropped.
   */
  want(shards: ReadonlySet<number>): void {
    for (const number of this.#parts.keys()) if (!shards.has(number)) this.#parts.delete(number)
    for (const number of shards) {
      assert(number < this.#layout.count, () => `shard ${number} of ${this.#layout.count}`)
      if (!this.#parts.has(number)) this.#parts.set(number, new ShardPart(number))
    }
  }

  /** Bytes written of the shard that has most, and of all. */
  get written(): { readonly mostBytes: number; readonly bytes: number } {
    let [mostBytes, bytes] = [0, 0]
    for (const { writer } of this.#parts.values()) {
      mostBytes = Math.max(mostBytes, writer.length)
      bytes += writer.length
    }
    return { mostBytes, bytes }
  }

  /** Returns the bytes written for each wanted shard, which are the caller's; starts again empty. */
  take(): Map<number, Uint8Array> {
    const taken = new Map<number, Uint8Array>()
    for (const { number, writer } of this.#parts.values()) taken.set(number, writer.take())
    return taken
  }

  /**
   * Appends what `record` means for each wanted shard. Errors: `unknown_wal`, `bad_wal`; nothing is written then.
   */
  split(record: DecodedRecord): void {
    this.#begin()
    this.#collectBlocks(record)
    this.#isInParts = record.totLen >= LARGE_XACT_BYTES && record.rmid === RM_XACT_ID && isXactEnd(record)
    recordEffects(record, this.#sink, this.#settings)
    if (this.#isInParts) return this.#splitXactEnd(record)
    const changesParameters = isXlog(record, XLOG_PARAMETER_CHANGE)
    if (changesParameters) this.#followParameters(record)
    // Every shard must know what redo depends on, and whether chains will grow.
    const concernsAll = this.#isForAll || changesParameters || showsFullPageWrites(record)
    const { bytes, start, totLen } = record
    let isFirstSent = false
    for (const part of this.#parts.values()) {
      const hasEffects = this.#hasEffects(part)
      const isWanted = part.hasKeys || hasEffects || concernsAll || this.#isTracked(part, record)
      if (isWanted) {
        const flags = hasEffects ? RECORD_HAS_EFFECTS : 0
        part.write(record, flags, bytes.subarray(start, start + totLen))
      }
      part.releaseKeys()
      if (part.number === 0) isFirstSent = isWanted
    }
    this.#noteSizes(record)
    this.#noteXid(record, isFirstSent)
  }

  /**
   * A record whose body was too large to be kept, and of which no shard wants more than its xid. Error: refused
   * `unknown_wal`.
   */
  splitHeader(record: DecodedRecord): void {
    this.#begin()
    recordEffects(record, this.#sink, this.#settings)
    this.#noteXid(record, false)
  }

  /** A record that was refused leaves its keys behind. */
  #begin(): void {
    this.#isForAll = this.#isForFirst = this.#isInParts = false
    for (const part of this.#parts.values()) part.releaseKeys()
  }

  #hasEffects({ number }: ShardPart): boolean {
    return this.#isForAll || (this.#isForFirst && number === 0)
  }

  #isTracked({ number }: ShardPart, record: DecodedRecord): boolean {
    return number === 0 && trackerNeeds(record, this.trackCommitTimestamp)
  }

  #splitXactEnd(record: DecodedRecord): void {
    const { major, trackCommitTimestamp } = this.#settings
    const xact = this.#xact
    parseXact(record, major, xact)
    // First, so that the tracker moves once and not with each part.
    this.#noteXid(record, false)
    const concerned = [...this.#parts.values()].filter(
      (part) => this.#hasEffects(part) || this.#isTracked(part, record),
    )
    // The tracker goes by the last of all subtransactions.
    const last = { subxactsFrom: Math.max(0, xact.subxactsCount - 1), subxactsTo: xact.subxactsCount }
    for (let relsFrom = 0; concerned.length > 0;) {
      const relsTo = Math.min(xact.relsCount, relsFrom + PART_RELS_COUNT_MAX)
      const bytes = encodeXactPart(record, xact, { ...last, relsFrom, relsTo })
      for (const part of concerned) {
        const hasEffects = this.#hasEffects(part)
        if (hasEffects || relsFrom === 0) part.write(record, hasEffects ? RECORD_HAS_EFFECTS : 0, bytes)
      }
      relsFrom = relsTo
      if (relsFrom >= xact.relsCount) break
    }
    const hasTimestamp = isXactCommit(xact) && trackCommitTimestamp === true
    for (const kind of hasTimestamp ? (['pg_commit_ts', 'pg_xact'] as const) : (['pg_xact'] as const)) {
      eachXactPage(record, xact, kind, (page, range) => {
        const part = this.#slruPage(kind, page, false)
        if (part === undefined) return
        part.write(record, 0, encodeXactPart(record, xact, range))
        part.releaseKeys()
      })
    }
  }

  #collectBlocks(record: DecodedRecord): void {
    for (let i = 0; i < record.blockCount; i++) {
      const ref = record.blocks[i] as BlockRef
      // Free-space maps are hints and not redone; FPI_FOR_HINT names their pages even where it brings no image.
      if (ref.fork === FORK_FSM && !ref.applyImage && !ref.willInit) continue
      const part = this.#parts.get(shardOfBlock(this.#layout, ref.relNumber, ref.blockNumber))
      if (part === undefined) continue
      const role = ref.applyImage ? ROLE_BLOCK_IMAGE : ref.willInit ? ROLE_BLOCK_INIT : ROLE_BLOCK
      part.addBlock(role, i, ref, ref.fork, ref.blockNumber)
    }
  }

  #visibilityClear(rel: RelFile, heapBlock: number): void {
    const block = vmBlockOf(heapBlock)
    const part = this.#parts.get(shardOfBlock(this.#layout, rel.relNumber, block))
    if (part === undefined || part.hasKey(ROLE_VISIBILITY_CLEAR, rel.spcOid, block)) return
    part.addBlock(ROLE_VISIBILITY_CLEAR, 0, rel, FORK_VM, block)
  }

  /** The part that has the page's key now, where its shard is wanted. */
  #slruPage(kind: SlruKind, page: number, init: boolean): ShardPart | undefined {
    const number = slruNumber(kind)
    const part = this.#parts.get(shardOfSlruPage(this.#layout, number, page))
    const role = init ? ROLE_SLRU_INIT : ROLE_SLRU
    if (part !== undefined && !part.hasKey(role, number, page)) part.addSlruPage(role, number, page)
    return part
  }

  #concerns(audience: Exclude<Audience, 'owner'>): void {
    if (audience === 'all') this.#isForAll = true
    else this.#isForFirst = true
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
      const home = this.#parts.get(homeShard(this.#layout, ref.relNumber))
      const blocks = ref.blockNumber + 1
      if (home === undefined || !this.#sizes.raise(ref, ref.fork, blocks)) continue
      home.writer.size(record.nextLsn, ref.spcOid, ref.dbOid, ref.relNumber, ref.fork, blocks)
    }
  }

  #noteXid(record: DecodedRecord, isSent: boolean): void {
    const first = this.#parts.get(0)
    if (first === undefined) return
    const xid = maxXidOf(record, this.#settings.major)
    if (xid === 0 || (this.#newestXid !== 0 && !xidPrecedes(this.#newestXid, xid))) return
    this.#newestXid = xid
    if (!isSent) first.writer.xid(record.nextLsn, xid)
  }
}

const isXlog = (record: DecodedRecord, opcode: number): boolean =>
  record.rmid === RM_XLOG_ID && (record.info & XLR_RMGR_INFO_MASK) === opcode

/** Whether the tracker of the first shard needs a record that concerns none of its pages. */
function trackerNeeds(record: DecodedRecord, tracksCommitTimestamp: boolean): boolean {
  const need: TrackerNeed | undefined = (TRACKER_NEEDS as Readonly<Record<number, TrackerNeed>>)[record.rmid]
  assert(need !== undefined, () => `resource manager ${record.rmid} passed as known`)
  switch (need) {
    case 'always':
      return true
    case 'noImages':
      return !isXlog(record, XLOG_FPI) && !isXlog(record, XLOG_FPI_FOR_HINT)
    case 'commitTs':
      return tracksCommitTimestamp && isXactEnd(record)
    case 'xid':
      return false
  }
}

/** A start of Postgres with another setting writes no FPW_CHANGE: the next checkpoint is the first to show it. */
const showsFullPageWrites = (record: DecodedRecord): boolean =>
  isXlog(record, XLOG_FPW_CHANGE) ||
  isXlog(record, XLOG_CHECKPOINT_ONLINE) ||
  isXlog(record, XLOG_CHECKPOINT_SHUTDOWN)
