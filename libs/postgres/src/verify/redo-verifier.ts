/**
 * Redo compared with what a real Postgres made of the same pages.
 *
 * Under `wal_consistency_checking = all` every record carries the after-image of each block it touches. The verifier
 * starts from the files of a cluster that was stopped cleanly, redoes every record into memory, compares each redone
 * page with the after-image, and lastly all pages with the files of the server, stopped cleanly again. An image that
 * is to be applied (BKPIMAGE_APPLY) proves nothing about redo and is counted apart.
 *
 * pd_lsn, PD_ALL_VISIBLE and the visibility map, which Postgres's own masks hide, are compared exactly at the end. The
 * one exception is the LSN that a hint bit moves under data checksums, on the primary only.
 * Map pages of a database that CREATE DATABASE made by WAL alone may lack bits: Postgres logs them as if they were a
 * hole (bufmgr.c, RelationCopyStorageUsingBuffer), so that its own recovery loses the bits, too. They are counted
 * apart. SLRUs, relation maps and state files of prepared transactions are compared byte for byte. Left out: free-space
 * maps, which no WAL keeps.
 */
import { LSN_ZERO, formatLsn } from '@understory/base'
import {
  PAGE_SIZE,
  PD_ALL_VISIBLE,
  SizeOfPageHeaderData,
  getPageFlags,
  getPageLsn,
  getPagePruneXid,
  isPageNew,
  pageOf,
} from '../page/bufpage.ts'
import { hasGistBuildLsn } from '../page/gist-build-lsn.ts'
import { pageKindOf } from '../page/page-kind.ts'
import { isReinitializedSpgistPage } from '../page/unlogged-changes.ts'
import { vmBlockOf } from '../page/visibility-map.ts'
import { restoreBlockImage } from '../wal/block-image.ts'
import { RM_XLOG_ID, XLOG_FPI_FOR_HINT, XLR_RMGR_INFO_MASK } from '../wal/constants.ts'
import { FORK_FSM, FORK_MAIN, FORK_VM } from '../wal/record.ts'
import type { BlockRef, DecodedRecord, RelFile } from '../wal/record.ts'
import { recordEffects, recordTypeName, redoRecordOnPage, redoSlru } from '../redo/dispatch.ts'
import { redoVisibilityClear } from '../redo/heap/visibility.ts'
import { moveOrigin } from '../redo/replorigin/redo.ts'
import type { EffectSink, RedoSettings, SlruKind } from '../redo/types.ts'
import { parameterChangeOf } from '../redo/xlog/redo.ts'
import type { VerifyBase } from './base.ts'
import { Differences } from './differences.ts'
import type { Difference } from './differences.ts'
import { RedonePages, blockName } from './redone-pages.ts'
import { RedoneSlrus } from './redone-slrus.ts'

export interface VerifyOptions {
  /**
   * Several sessions wrote at a time. A session clears bits of a map page that it does not lock until its record is
   * written, so that an image of the page, in the record of another, may lack bits that redo clears only later.
   */
  readonly concurrent?: boolean
}

/** The results for the blocks of one record type. */
export interface TypeCounts {
  records: number
  /** Redone and found equal to the after-image. */
  compared: number
  /** Redone, without an after-image to compare with. */
  redone: number
  /** Taken from an image to be applied. */
  restored: number
  /** Left alone: the page had the record already, or was never made. */
  skipped: number
}

/** The counts of the last comparison, in blocks. */
export interface FileCounts {
  /** Changed by a record, and equal. */
  compared: number
  /** No record touched it, and its LSN says so too. */
  untouched: number
  /** SP-GiST pages that Postgres initialized without a record. */
  reinitialized: number
  /** Map pages whose image had their bits as a hole: checked to have no bit too many. */
  holedMaps: number
}

export class RedoVerifier {
  readonly counts = new Map<string, TypeCounts>()
  readonly fileCounts: FileCounts = { compared: 0, untouched: 0, reinitialized: 0, holedMaps: 0 }
  /** State files of transactions that are prepared at the end, by xid. */
  readonly twoPhase = new Map<number, Uint8Array>()
  /** Remote LSN by replication origin. */
  readonly origins = new Map<number, bigint>()

  /** As of the next record: PARAMETER_CHANGE changes them. */
  #settings: RedoSettings
  readonly #mapImagesMayLackBits: boolean
  readonly #pages: RedonePages
  readonly #slrus: RedoneSlrus
  readonly #differences = new Differences()
  readonly #sink: EffectSink
  readonly #expected = pageOf(new Uint8Array(PAGE_SIZE))
  #record: DecodedRecord | undefined
  #recordType = ''

  constructor(settings: RedoSettings, base: VerifyBase, options: VerifyOptions = {}) {
    this.#settings = settings
    this.#mapImagesMayLackBits = options.concurrent ?? false
    this.#pages = new RedonePages(base)
    this.#slrus = new RedoneSlrus(base)
    this.#sink = this.#makeSink()
  }

  /** The first of them; `differenceCount` has them all. */
  get differences(): readonly Difference[] {
    return this.#differences.kept
  }
  get differenceCount(): number {
    return this.#differences.count
  }

  /** Redoes one record on every page it concerns and compares. Records come in order, from the base's LSN on. */
  redo(record: DecodedRecord): void {
    this.#record = record
    this.#recordType = recordTypeName(record, this.#settings)
    const counts = this.#countsOf(this.#recordType)
    counts.records++
    for (let i = 0; i < record.blockCount; i++) {
      const ref = record.blocks[i] as BlockRef
      if (ref.fork !== FORK_FSM || ref.applyImage) this.#redoBlock(record, i, ref, counts)
    }
    recordEffects(record, this.#sink, this.#settings)
    const change = parameterChangeOf(record)
    if (change !== undefined) {
      const { walLogHints, trackCommitTimestamp } = change
      this.#settings = { ...this.#settings, walLogHints, trackCommitTimestamp }
    }
  }

  #redoBlock(record: DecodedRecord, blockIndex: number, ref: BlockRef, counts: TypeCounts): void {
    const entry = this.#pages.entry(ref, ref.fork, ref.blockNumber)
    const outcome = redoRecordOnPage(record, blockIndex, entry.page, this.#settings)
    if (isHint(record)) entry.hintLsn = record.nextLsn
    if (outcome === 'newer' || outcome === 'absent') {
      counts.skipped++
      return
    }
    entry.recordLsn = record.recordLsn
    entry.type = this.#recordType
    if (outcome === 'restored') {
      counts.restored++
      entry.isHoled = ref.fork === FORK_VM && ref.holeLength >= PAGE_SIZE - SizeOfPageHeaderData
    } else if (ref.hasImage) {
      restoreBlockImage(record, ref, this.#expected.bytes)
      counts.compared++
      if (ref.fork === FORK_VM && this.#mapImagesMayLackBits) addBits(this.#expected.bytes, entry.page.bytes)
      if (entry.isHoled) keepBits(this.#expected.bytes, entry.page.bytes)
      const what = `${this.#recordType} at ${formatLsn(record.recordLsn)}`
      const place = { rel: ref, fork: ref.fork, block: ref.blockNumber }
      this.#differences.comparePage(this.#expected, entry.page, place, what)
    } else {
      counts.redone++
    }
  }

  /** Compares a relation page as the stopped server left it in its file. */
  compareBlock(rel: RelFile, fork: number, block: number, filePage: Uint8Array): void {
    const entry = this.#pages.find(rel, fork, block)
    this.#expected.bytes.set(filePage)
    const fileLsn = getPageLsn(this.#expected)
    const where = blockName(rel, fork, block)
    const base = entry === undefined ? this.#pages.readBase(rel, fork, block) : undefined
    const redone = entry?.page.bytes ?? base
    if (fileLsn === LSN_ZERO && redone !== undefined && isReinitializedSpgistPage(filePage, redone)) {
      this.fileCounts.reinitialized++
      return
    }
    if (entry === undefined) {
      const baseLsn = base === undefined ? 0 : getPageLsn(pageOf(base))
      if (fileLsn !== baseLsn)
        this.#differences.add(where, `the file's page is of ${formatLsn(fileLsn)}, but no record touched it`)
      this.fileCounts.untouched++
      return
    }
    const what = `the file after ${entry.type} at ${formatLsn(entry.recordLsn)}`
    const lsn = getPageLsn(entry.page)
    if (lsn !== fileLsn && entry.hintLsn !== fileLsn && !hasGistBuildLsn(this.#expected))
      this.#differences.add(where, `${what}: LSN is ${formatLsn(lsn)}, not ${formatLsn(fileLsn)}`)
    if (entry.isHoled) {
      keepBits(this.#expected.bytes, entry.page.bytes)
      this.fileCounts.holedMaps++
    }
    const visible = getPageFlags(entry.page) & PD_ALL_VISIBLE
    if (
      fork === FORK_MAIN &&
      pageKindOf(this.#expected) === 'heap' &&
      visible !== (getPageFlags(this.#expected) & PD_ALL_VISIBLE)
    ) {
      this.#differences.add(where, `${what}: PD_ALL_VISIBLE is ${visible !== 0}, not ${visible === 0}`)
    }
    // A hint everywhere else, and masked; in a deleted page of GIN it says when the page may be used again.
    const [redoneXid, fileXid] = [getPagePruneXid(entry.page), getPagePruneXid(this.#expected)]
    if (pageKindOf(this.#expected) === 'gin' && redoneXid !== fileXid)
      this.#differences.add(where, `${what}: xid is ${redoneXid}, not ${fileXid}`)
    // WAL runs 32 values ahead of a sequence's page, which is what keeps nextval from logging each time.
    if (pageKindOf(this.#expected) !== 'sequence')
      this.#differences.comparePage(this.#expected, entry.page, { rel, fork, block }, what)
    this.fileCounts.compared++
  }

  /** Redone pages beyond the end of a file. Call it once for every fork with its length in blocks, 0 for none. */
  compareLength(rel: RelFile, fork: number, blocks: number): void {
    for (const [block, entry] of this.#pages.ofFork(rel, fork)) {
      if (block >= blocks && !isPageNew(entry.page)) {
        this.#differences.add(
          blockName(rel, fork, block),
          `redone by ${entry.type}, but the file ends at block ${blocks}`,
        )
      }
    }
  }

  /** Every fork that has redone pages, for `compareLength`. */
  forks(): { readonly rel: RelFile; readonly fork: number }[] {
    return this.#pages.forks()
  }

  /** The SLRU page as redo has it, from the base if no record touched it. */
  slruPage(kind: SlruKind, page: number): Uint8Array | undefined {
    return this.#slrus.find(kind, page)
  }

  /** Compares an SLRU page with the file's. Postgres writes whole pages, so that nothing in them is left out. */
  compareSlruPage(kind: SlruKind, page: number, filePage: Uint8Array): void {
    this.#compareBytes(
      `${kind} page ${page}`,
      this.slruPage(kind, page) ?? new Uint8Array(PAGE_SIZE),
      filePage,
    )
  }

  /** The SLRU pages that redo changed and did not remove; those of the base are not among them. */
  slruPages(): { readonly kind: SlruKind; readonly page: number }[] {
    return this.#slrus.changed()
  }

  /** Compares pg_filenode.map of a database; dbOid 0 is global/. */
  compareRelationMap(dbOid: number, spcOid: number, file: Uint8Array): void {
    const redone = this.#pages.relationMap({ spcOid, dbOid }) ?? new Uint8Array(0)
    this.#compareBytes(`relation map of database ${dbOid}`, redone, file)
  }

  /** Compares the state files of prepared transactions, by xid. */
  compareTwoPhase(files: ReadonlyMap<number, Uint8Array>): void {
    for (const xid of new Set([...this.twoPhase.keys(), ...files.keys()])) {
      const none = new Uint8Array(0)
      this.#compareBytes(
        `state of prepared transaction ${xid}`,
        this.twoPhase.get(xid) ?? none,
        files.get(xid) ?? none,
      )
    }
  }

  /** Compares the progress of replication origins, by id. An origin that was merely set up has none, and no record. */
  compareOrigins(file: ReadonlyMap<number, bigint>): void {
    for (const id of new Set([...this.origins.keys(), ...file.keys()])) {
      const [redone, stored] = [this.origins.get(id) ?? 0n, file.get(id) ?? 0n]
      if (redone !== stored)
        this.#differences.add(`replication origin ${id}`, `the file: ${redone}, not ${stored}`)
      this.fileCounts.compared++
    }
  }

  #compareBytes(where: string, redone: Uint8Array, file: Uint8Array): void {
    this.#differences.compareBytes(where, redone, file)
    this.fileCounts.compared++
  }

  /** The relation page as redo has it; undefined if no record touched it. */
  page(rel: RelFile, fork: number, block: number): Uint8Array | undefined {
    return this.#pages.find(rel, fork, block)?.page.bytes
  }

  #countsOf(type: string): TypeCounts {
    let counts = this.counts.get(type)
    if (counts === undefined) {
      counts = { records: 0, compared: 0, redone: 0, restored: 0, skipped: 0 }
      this.counts.set(type, counts)
    }
    return counts
  }

  #makeSink(): EffectSink {
    return {
      visibilityClear: (rel, heapBlock) => {
        const record = this.#record as DecodedRecord
        const mapBlock = vmBlockOf(heapBlock)
        const entry = this.#pages.entry(rel, FORK_VM, mapBlock)
        redoVisibilityClear(record, entry.page, mapBlock, this.#settings)
        entry.recordLsn = record.recordLsn
        entry.type = this.#recordType
      },
      slruPage: (kind, pageNumber, init) => {
        const page = this.#slrus.entry(kind, pageNumber)
        if (init) page.bytes.fill(0)
        redoSlru(this.#record as DecodedRecord, kind, pageNumber, page, this.#settings)
      },
      slruTruncate: (kind, isRemoved) => this.#slrus.truncate(kind, isRemoved),
      // The smgr record of a fork that exists changes nothing, as CREATE of the file does then.
      relationCreate: () => {},
      relationTruncate: (rel, fork, blocks) => this.#pages.cut(rel, fork, blocks),
      relationDrop: (rel) => {
        for (let fork = 0; fork <= 3; fork++) this.#pages.cut(rel, fork, 0)
      },
      databaseCopy: (dbOid, spcOid, sourceDbOid, sourceSpcOid) => {
        this.#pages.copyDatabase({ spcOid, dbOid }, { spcOid: sourceSpcOid, dbOid: sourceDbOid })
      },
      databaseCreate: () => {},
      databaseDrop: (dbOid, spcOid) => this.#pages.cutDatabase(spcOid, dbOid),
      relationMap: (dbOid, spcOid, content) => this.#pages.putRelationMap({ spcOid, dbOid }, content.slice()),
      twoPhasePrepare: (xid, content) => this.twoPhase.set(xid, content),
      twoPhaseRemove: (xid) => this.twoPhase.delete(xid),
      tablespaceCreate: () => {},
      tablespaceDrop: () => {},
      originAdvance: (originId, remoteLsn, force) =>
        void moveOrigin(this.origins, originId, remoteLsn, force),
      originDrop: (originId) => this.origins.delete(originId),
    }
  }
}

const isHint = (record: DecodedRecord): boolean =>
  record.rmid === RM_XLOG_ID && (record.info & XLR_RMGR_INFO_MASK) === XLOG_FPI_FOR_HINT

/** Sets in `page`, a page of the visibility map, the bits that `other` has. */
function addBits(page: Uint8Array, other: Uint8Array): void {
  for (let i = SizeOfPageHeaderData; i < PAGE_SIZE; i++) page[i] = (page[i] as number) | (other[i] as number)
}

/** Clears in `page`, a page of the visibility map, the bits that `other` lacks. */
function keepBits(page: Uint8Array, other: Uint8Array): void {
  for (let i = SizeOfPageHeaderData; i < PAGE_SIZE; i++) page[i] = (page[i] as number) & (other[i] as number)
}
