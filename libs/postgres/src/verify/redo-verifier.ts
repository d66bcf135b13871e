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
import { LSN_ZERO, formatLsn, isErrorCode } from '@understory/base'
import type { Lsn } from '@understory/base'
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
import type { Page } from '../page/bufpage.ts'
import { hasGistBuildLsn } from '../page/gist-build-lsn.ts'
import { maskRelationPage } from '../page/masks.ts'
import { pageKindOf } from '../page/page-kind.ts'
import { isReinitializedSpgistPage } from '../page/unlogged-changes.ts'
import { vmBlockOf } from '../page/visibility-map.ts'
import { restoreBlockImage } from '../wal/block-image.ts'
import { RM_XLOG_ID, XLOG_FPI_FOR_HINT, XLR_RMGR_INFO_MASK } from '../wal/constants.ts'
import { FORK_FSM, FORK_MAIN, FORK_VM } from '../wal/record.ts'
import type { BlockRef, DecodedRecord, RelFile } from '../wal/record.ts'
import { recordEffects, recordTypeName, redoRecordOnPage, redoSlru } from '../redo/dispatch.ts'
import { redoVisibilityClear } from '../redo/heap/visibility.ts'
import type { RemovedPages } from '../redo/slru-truncation.ts'
import { moveOrigin } from '../redo/replorigin/redo.ts'
import type { EffectSink, RedoSettings, SlruKind } from '../redo/types.ts'
import { parameterChangeOf } from '../redo/xlog/redo.ts'

/** Where pages come from that no record has made yet: files that were stopped cleanly before the first record. */
export interface VerifyBase {
  /** The block, or undefined if the file does not reach that far. */
  readBlock(rel: RelFile, fork: number, block: number): Uint8Array | undefined
  readSlruPage(kind: SlruKind, page: number): Uint8Array | undefined
  /** The pages that the SLRU has. */
  slruPages(kind: SlruKind): readonly number[]
  /** pg_filenode.map of a database; dbOid 0 is global/. */
  readRelationMap(dbOid: number, spcOid: number): Uint8Array | undefined
}

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

export interface Difference {
  readonly what: string
  readonly where: string
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

interface Entry {
  readonly page: Page
  /** The record that last touched it. */
  recordLsn: Lsn
  type: string
  /** An FPI_FOR_HINT without an image moved the primary's LSN, and nothing else, to here; redo never learns of it. */
  hintLsn: Lsn
  /** A map page that an image left without the bits that it had. */
  isHoled: boolean
}

const DIFFERENCES_KEPT_COUNT = 50

const relationKey = (rel: RelFile): string => `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}`
const forkKey = (rel: RelFile, fork: number): string => `${relationKey(rel)}/${fork}`
const blockName = (rel: RelFile, fork: number, block: number): string =>
  `${forkKey(rel, fork)} block ${block}`

export class RedoVerifier {
  readonly counts = new Map<string, TypeCounts>()
  readonly fileCounts: FileCounts = { compared: 0, untouched: 0, reinitialized: 0, holedMaps: 0 }
  /** The first of them; `differenceCount` has them all. */
  readonly differences: Difference[] = []
  differenceCount = 0
  /** Contents of pg_filenode.map that the WAL says, by `tablespace/database`. */
  readonly relationMaps = new Map<string, Uint8Array>()
  /** State files of transactions that are prepared at the end, by xid. */
  readonly twoPhase = new Map<number, Uint8Array>()
  /** Remote LSN by replication origin. */
  readonly origins = new Map<number, bigint>()

  /** As of the next record: PARAMETER_CHANGE changes them. */
  #settings: RedoSettings
  readonly #base: VerifyBase
  readonly #mapImagesMayLackBits: boolean
  /** By fork, then by block. */
  readonly #pages = new Map<string, Map<number, Entry>>()
  /** From which block on the base says nothing any more, because the fork was cut or made again. */
  readonly #baseBlocks = new Map<string, number>()
  /** Database directories that are copies: the base has their blocks under the source. */
  readonly #copiedFrom = new Map<string, { readonly spcOid: number; readonly dbOid: number }>()
  readonly #slru = new Map<string, Page>()
  /** The base no longer has these pages. */
  readonly #slruRemoved: { readonly kind: SlruKind; readonly isRemoved: RemovedPages }[] = []
  readonly #sink: EffectSink
  readonly #expected = pageOf(new Uint8Array(PAGE_SIZE))
  readonly #actual = pageOf(new Uint8Array(PAGE_SIZE))
  #record: DecodedRecord | undefined
  #recordType = ''

  constructor(settings: RedoSettings, base: VerifyBase, options: VerifyOptions = {}) {
    this.#settings = settings
    this.#mapImagesMayLackBits = options.concurrent ?? false
    this.#base = base
    this.#sink = this.#makeSink()
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
    const entry = this.#entry(ref, ref.fork, ref.blockNumber)
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
      this.#compare(
        entry.page,
        ref,
        ref.fork,
        ref.blockNumber,
        `${this.#recordType} at ${formatLsn(record.recordLsn)}`,
      )
    } else {
      counts.redone++
    }
  }

  /** Compares a relation page as the stopped server left it in its file. */
  compareBlock(rel: RelFile, fork: number, block: number, filePage: Uint8Array): void {
    const entry = this.#pages.get(forkKey(rel, fork))?.get(block)
    this.#expected.bytes.set(filePage)
    const fileLsn = getPageLsn(this.#expected)
    const where = blockName(rel, fork, block)
    const base = entry === undefined ? this.#readBase(rel, fork, block) : undefined
    const redone = entry?.page.bytes ?? base
    if (fileLsn === LSN_ZERO && redone !== undefined && isReinitializedSpgistPage(filePage, redone)) {
      this.fileCounts.reinitialized++
      return
    }
    if (entry === undefined) {
      const baseLsn = base === undefined ? 0 : getPageLsn(pageOf(base))
      if (fileLsn !== baseLsn)
        this.#differ(where, `the file's page is of ${formatLsn(fileLsn)}, but no record touched it`)
      this.fileCounts.untouched++
      return
    }
    const what = `the file after ${entry.type} at ${formatLsn(entry.recordLsn)}`
    const lsn = getPageLsn(entry.page)
    if (lsn !== fileLsn && entry.hintLsn !== fileLsn && !hasGistBuildLsn(this.#expected))
      this.#differ(where, `${what}: LSN is ${formatLsn(lsn)}, not ${formatLsn(fileLsn)}`)
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
      this.#differ(where, `${what}: PD_ALL_VISIBLE is ${visible !== 0}, not ${visible === 0}`)
    }
    // A hint everywhere else, and masked; in a deleted page of GIN it says when the page may be used again.
    const [redoneXid, fileXid] = [getPagePruneXid(entry.page), getPagePruneXid(this.#expected)]
    if (pageKindOf(this.#expected) === 'gin' && redoneXid !== fileXid)
      this.#differ(where, `${what}: xid is ${redoneXid}, not ${fileXid}`)
    // WAL runs 32 values ahead of a sequence's page, which is what keeps nextval from logging each time.
    if (pageKindOf(this.#expected) !== 'sequence') this.#compare(entry.page, rel, fork, block, what)
    this.fileCounts.compared++
  }

  /** Redone pages beyond the end of a file. Call it once for every fork with its length in blocks, 0 for none. */
  compareLength(rel: RelFile, fork: number, blocks: number): void {
    for (const [block, entry] of this.#pages.get(forkKey(rel, fork)) ?? []) {
      if (block >= blocks && !isPageNew(entry.page)) {
        this.#differ(
          blockName(rel, fork, block),
          `redone by ${entry.type}, but the file ends at block ${blocks}`,
        )
      }
    }
  }

  /** Every fork that has redone pages, for `compareLength`. */
  forks(): { readonly rel: RelFile; readonly fork: number }[] {
    return [...this.#pages.keys()].map((key) => {
      const [spcOid, dbOid, relNumber, fork] = key.split('/').map(Number) as [number, number, number, number]
      return { rel: { spcOid, dbOid, relNumber }, fork }
    })
  }

  /** The SLRU page as redo has it, from the base if no record touched it. */
  slruPage(kind: SlruKind, page: number): Uint8Array | undefined {
    return this.#slru.get(`${kind} ${page}`)?.bytes ?? this.#baseSlruPage(kind, page)
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
    return [...this.#slru.keys()].map((key) => {
      const [kind, page] = key.split(' ') as [SlruKind, string]
      return { kind, page: Number(page) }
    })
  }

  /** Compares pg_filenode.map of a database; dbOid 0 is global/. */
  compareRelationMap(dbOid: number, spcOid: number, file: Uint8Array): void {
    const source = this.#copiedFrom.get(`${spcOid}/${dbOid}`) ?? { dbOid, spcOid }
    const redone =
      this.relationMaps.get(`${spcOid}/${dbOid}`) ??
      this.relationMaps.get(`${source.spcOid}/${source.dbOid}`) ??
      this.#base.readRelationMap(source.dbOid, source.spcOid) ??
      new Uint8Array(0)
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
      if (redone !== stored) this.#differ(`replication origin ${id}`, `the file: ${redone}, not ${stored}`)
      this.fileCounts.compared++
    }
  }

  #compareBytes(where: string, redone: Uint8Array, file: Uint8Array): void {
    const at = firstDifference(redone, file)
    if (at >= 0)
      this.#differ(
        where,
        `the file: byte ${at} of ${redone.length} is ${redone[at]}, not ${file[at]} of ${file.length}`,
      )
    this.fileCounts.compared++
  }

  /** The relation page as redo has it; undefined if no record touched it. */
  page(rel: RelFile, fork: number, block: number): Uint8Array | undefined {
    return this.#pages.get(forkKey(rel, fork))?.get(block)?.page.bytes
  }

  /** `#expected` holds what the page should be; it is masked here. */
  #compare(page: Page, rel: RelFile, fork: number, block: number, what: string): void {
    const expected = this.#expected
    const actual = this.#actual
    actual.bytes.set(page.bytes)
    if (fork === FORK_VM) {
      expected.bytes.fill(0, 0, 10)
      actual.bytes.fill(0, 0, 10)
    } else {
      const kind = pageKindOf(expected)
      try {
        maskRelationPage(kind, expected, block)
        maskRelationPage(kind, actual, block)
      } catch (error) {
        if (!isErrorCode(error, 'bad_page')) throw error
        this.#differ(blockName(rel, fork, block), `${what}: ${error.message}`)
        return
      }
    }
    const at = firstDifference(expected.bytes, actual.bytes)
    if (at < 0) return
    const text = (bytes: Uint8Array): string => Buffer.from(bytes.subarray(at, at + 16)).toString('hex')
    this.#differ(
      blockName(rel, fork, block),
      `${what}: byte ${at} is ${text(actual.bytes)}…, not ${text(expected.bytes)}…`,
    )
  }

  #differ(where: string, what: string): void {
    this.differenceCount++
    if (this.differences.length < DIFFERENCES_KEPT_COUNT) this.differences.push({ where, what })
  }

  #countsOf(type: string): TypeCounts {
    let counts = this.counts.get(type)
    if (counts === undefined) {
      counts = { records: 0, compared: 0, redone: 0, restored: 0, skipped: 0 }
      this.counts.set(type, counts)
    }
    return counts
  }

  #readBase(rel: RelFile, fork: number, block: number): Uint8Array | undefined {
    if (block >= (this.#baseBlocks.get(forkKey(rel, fork)) ?? Infinity)) return undefined
    const source = this.#copiedFrom.get(`${rel.spcOid}/${rel.dbOid}`)
    return this.#base.readBlock(
      source === undefined ? rel : { ...source, relNumber: rel.relNumber },
      fork,
      block,
    )
  }

  #baseSlruPage(kind: SlruKind, page: number): Uint8Array | undefined {
    const isGone = this.#slruRemoved.some((removed) => removed.kind === kind && removed.isRemoved(page))
    return isGone ? undefined : this.#base.readSlruPage(kind, page)
  }

  #forkPages(rel: RelFile, fork: number): Map<number, Entry> {
    const key = forkKey(rel, fork)
    let pages = this.#pages.get(key)
    if (pages === undefined) this.#pages.set(key, (pages = new Map()))
    return pages
  }

  #entry(rel: RelFile, fork: number, block: number): Entry {
    const pages = this.#forkPages(rel, fork)
    let entry = pages.get(block)
    if (entry === undefined) {
      const bytes = new Uint8Array(PAGE_SIZE)
      const base = this.#readBase(rel, fork, block)
      if (base !== undefined) bytes.set(base)
      entry = { page: pageOf(bytes), recordLsn: LSN_ZERO, type: 'nothing', hintLsn: LSN_ZERO, isHoled: false }
      pages.set(block, entry)
    }
    return entry
  }

  #cut(rel: RelFile, fork: number, blocks: number): void {
    const key = forkKey(rel, fork)
    this.#baseBlocks.set(key, Math.min(blocks, this.#baseBlocks.get(key) ?? Infinity))
    const pages = this.#pages.get(key)
    for (const block of pages?.keys() ?? []) if (block >= blocks) pages?.delete(block)
  }

  #cutDatabase(spcOid: number, dbOid: number): void {
    for (const { rel, fork } of this.forks())
      if (rel.spcOid === spcOid && rel.dbOid === dbOid) this.#cut(rel, fork, 0)
  }

  #makeSink(): EffectSink {
    return {
      visibilityClear: (rel, heapBlock) => {
        const record = this.#record as DecodedRecord
        const mapBlock = vmBlockOf(heapBlock)
        const entry = this.#entry(rel, FORK_VM, mapBlock)
        redoVisibilityClear(record, entry.page, mapBlock, this.#settings)
        entry.recordLsn = record.recordLsn
        entry.type = this.#recordType
      },
      slruPage: (kind, pageNumber, init) => {
        const key = `${kind} ${pageNumber}`
        let page = this.#slru.get(key)
        if (page === undefined) {
          page = pageOf(new Uint8Array(PAGE_SIZE))
          page.bytes.set(this.#baseSlruPage(kind, pageNumber) ?? [])
          this.#slru.set(key, page)
        }
        if (init) page.bytes.fill(0)
        redoSlru(this.#record as DecodedRecord, kind, pageNumber, page, this.#settings)
      },
      slruTruncate: (kind, isRemoved) => {
        this.#slruRemoved.push({ kind, isRemoved })
        for (const { kind: other, page } of this.slruPages()) {
          if (other === kind && isRemoved(page)) this.#slru.delete(`${kind} ${page}`)
        }
      },
      // The smgr record of a fork that exists changes nothing, as CREATE of the file does then.
      relationCreate: () => {},
      relationTruncate: (rel, fork, blocks) => this.#cut(rel, fork, blocks),
      relationDrop: (rel) => {
        for (let fork = 0; fork <= 3; fork++) this.#cut(rel, fork, 0)
      },
      databaseCopy: (dbOid, spcOid, sourceDbOid, sourceSpcOid) => {
        this.#copiedFrom.set(`${spcOid}/${dbOid}`, { spcOid: sourceSpcOid, dbOid: sourceDbOid })
        for (const { rel, fork } of this.forks()) {
          if (rel.spcOid !== sourceSpcOid || rel.dbOid !== sourceDbOid) continue
          const target = { spcOid, dbOid, relNumber: rel.relNumber }
          this.#baseBlocks.set(forkKey(target, fork), this.#baseBlocks.get(forkKey(rel, fork)) ?? Infinity)
          const copy = this.#forkPages(target, fork)
          for (const [block, entry] of this.#forkPages(rel, fork)) {
            copy.set(block, { ...entry, page: pageOf(entry.page.bytes.slice()) })
          }
        }
      },
      databaseCreate: () => {},
      databaseDrop: (dbOid, spcOid) => this.#cutDatabase(spcOid, dbOid),
      relationMap: (dbOid, spcOid, content) => this.relationMaps.set(`${spcOid}/${dbOid}`, content.slice()),
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

function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (Buffer.compare(a, b) === 0) return -1
  const at = a.findIndex((byte, i) => byte !== b[i])
  return at < 0 ? a.length : at
}
