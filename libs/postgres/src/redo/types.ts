/**
 * The redo contract. Redo is per page: a value that a page's chain holds is a whole WAL record, and redo applies what
 * that record says about that one page. Nothing here reads or writes anything but the page it is given.
 */
import type { Page } from '../page/bufpage.ts'
import type { PgMajor } from '../wal/pages.ts'
import type { DecodedRecord, RelFile } from '../wal/record.ts'
import type { RemovedPages } from './slru-truncation.ts'

/** The settings that some redo functions depend on; each as of the record's LSN. */
export interface RedoSettings {
  readonly major: PgMajor
  /** The cluster has data checksums: hint-bit images exist and some redo sets more LSNs. */
  readonly dataChecksums: boolean
  readonly walLogHints: boolean
  /** Commits write pg_commit_ts. As of before the record: PARAMETER_CHANGE compares its own value with this. */
  readonly trackCommitTimestamp?: boolean
}

/**
 * SLRU directories that WAL rebuilds. pg_subtrans, pg_notify and pg_serial are not: Postgres makes them at each start.
 */
export type SlruKind = 'pg_xact' | 'pg_multixact/offsets' | 'pg_multixact/members' | 'pg_commit_ts'

/**
 * Receives what a record does beyond its registered blocks. Called in the order in which recovery would act. A `rel` is
 * borrowed until the call returns.
 */
export interface EffectSink {
  /** A heap record clears `flags` (VISIBILITYMAP_*) of `heapBlock`; the map block itself is not registered. */
  visibilityClear(rel: RelFile, heapBlock: number, flags: number): void
  /**
   * The record changes this page of an SLRU: redo it with `redoSlru`. `init`: the page starts as zeros. So does a page
   * that nothing made before: pg_commit_ts gets its first one without a record when it is switched on.
   */
  slruPage(kind: SlruKind, page: number, init: boolean): void
  /** Every page for which `isRemoved` holds is gone; a page of the same number may be made again later. */
  slruTruncate(kind: SlruKind, isRemoved: RemovedPages): void
  relationCreate(rel: RelFile, fork: number): void
  /** The fork is cut to `blocks` blocks. */
  relationTruncate(rel: RelFile, fork: number, blocks: number): void
  /** All forks of the relation are removed. */
  relationDrop(rel: RelFile): void
  /** Every file of the source database is copied (CREATE DATABASE … STRATEGY file_copy). */
  databaseCopy(dbOid: number, spcOid: number, sourceDbOid: number, sourceSpcOid: number): void
  /** An empty database directory appears (STRATEGY wal_log). */
  databaseCreate(dbOid: number, spcOid: number): void
  databaseDrop(dbOid: number, spcOid: number): void
  /** The whole new content of pg_filenode.map, borrowed from the record. dbOid 0 = the shared map in global/. */
  relationMap(dbOid: number, spcOid: number, content: Uint8Array): void
  /** The whole content of the state file, CRC included, made by this call. */
  twoPhasePrepare(xid: number, content: Uint8Array): void
  twoPhaseRemove(xid: number): void
  tablespaceCreate(spcOid: number, path: string): void
  tablespaceDrop(spcOid: number): void
  /**
   * Everything of a replication origin (pg_replication_origin.roident) up to `remoteLsn` is applied: any 64-bit number,
   * since it is a position of another server. Progress moves forwards only, unless `force` is set (replorigin_advance,
   * origin.c).
   */
  originAdvance(originId: number, remoteLsn: bigint, force: boolean): void
  /** The progress of the origin is forgotten. */
  originDrop(originId: number): void
}

/** One resource manager: a row of the registry. */
export interface Rmgr {
  readonly id: number
  /** As `pg_waldump` names it. */
  readonly name: string
  /** The record type, as `pg_waldump` names it, or undefined if this version has no such record. */
  identify(info: number, settings: RedoSettings): string | undefined
  /**
   * Applies what the record says about its block `blockIndex` (an index into `record.blocks`) to `page`, and sets
   * pd_lsn to `record.nextLsn`, exactly where stock redo does. The caller has already dealt with images to be applied
   * and with pages that are new enough. A `willInit` block gets a page of arbitrary content.
   * Errors: `unknown_wal` for a record type that is not known, `bad_wal`/`bad_page` where stock redo would PANIC.
   */
  redoBlock?(record: DecodedRecord, blockIndex: number, page: Page, settings: RedoSettings): void
  /**
   * The changes that stock redo makes to block `blockIndex` even after restoring it from an image: the primary makes
   * these changes after it has written the record, so the image does not have them.
   */
  redoRestored?(record: DecodedRecord, blockIndex: number, page: Page): void
  /** Reports everything that the record does beyond its registered blocks. */
  effects?(record: DecodedRecord, sink: EffectSink, settings: RedoSettings): void
  /** Applies the record to one SLRU page that `effects` reported. */
  redoSlru?(record: DecodedRecord, kind: SlruKind, slruPage: number, page: Page, settings: RedoSettings): void
}
