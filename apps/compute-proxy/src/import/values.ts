/**
 * What of a base backup is imported: file by file, as values of keys. A relation's size is known when its last file is
 * through, so sizes, and everything small, come at the end.
 */
import { refuse } from '@understory/base'
import type { ShardLayout } from '@understory/base'
import {
  CONTROL_FILE_PATH, RELATION_SEGMENT_BLOCKS, RELMAP_NAME, SLRU_PAGES_PER_SEGMENT, parseDatabasePath, parseRelationPath,
  parseSlruSegmentPath, parseTwoPhaseName,
} from '@understory/postgres/cluster'
import { PAGE_SIZE } from '@understory/postgres/wal'
import {
  KEY_CONTROL_FILE, KEY_DATABASE, KEY_RELATION_MAP, KEY_TABLESPACE, KEY_TWO_PHASE, blockKey, relationSizeKey, shardOfKey,
  slruKey,
} from '@understory/storage'
import type { ImportValue, Key } from '@understory/storage'

type PgMajor = 16 | 17 | 18

/** A value with the shard it goes to; `undefined`: to every shard. */
export interface PlacedValue extends ImportValue {
  readonly shard: number | undefined
}

interface PagesTarget {
  readonly kind: 'pages'
  readonly keyOf: (page: number) => Key
  /** Of the file's first page. */
  readonly firstPage: number
  /** A relation fork keeps its size. */
  readonly sizeOf: string | undefined
}
type Target = PagesTarget | { readonly kind: 'whole'; readonly key: Key; readonly everywhere: boolean } | { readonly kind: 'skip' }

const SKIP: Target = { kind: 'skip' }
const key = (fields: Partial<Key> & { keyClass: number }): Key => ({ spcOid: 0, dbOid: 0, rel: 0, fork: 0, block: 0, ...fields })

/** Files that a rebuilt cluster gets otherwise, or that are no part of its state. */
const NOT_IMPORTED =
  /^(PG_VERSION|backup_label|tablespace_map|postgresql\.conf|postgresql\.auto\.conf|pg_hba\.conf|pg_ident\.conf|backup_manifest|current_logfiles|postmaster\.\w+|pg_wal\/.*|pg_replslot\/.*|pg_logical\/.*|pg_stat\/.*|pg_notify\/.*|pg_subtrans\/.*|pg_serial\/.*|pg_snapshots\/.*|pg_dynshmem\/.*|pg_stat_tmp\/.*|(.*\/)?PG_VERSION|(.*\/)?pg_internal\.init(\.\d+)?|(.*\/)?t\d+_\d+(_\w+)?(\.\d+)?)$/

export class BackupFiles {
  readonly #major: PgMajor
  readonly #layout: ShardLayout
  readonly #blocks = new Map<string, { readonly key: Key; blocks: number }>()
  readonly #last: ImportValue[] = []
  #target: Target = SKIP
  #page = 0
  #path = ''
  #rest = Buffer.alloc(0)
  readonly unknownPaths: string[] = []

  constructor(major: PgMajor, layout: ShardLayout) {
    this.#major = major
    this.#layout = layout
  }

  tablespace(oid: number, location: string): void {
    this.#last.push({ key: key({ keyClass: KEY_TABLESPACE, spcOid: oid }), bytes: Buffer.from(location) })
  }

  directory(path: string): void {
    const database = parseDatabasePath(path.replace(/\/$/, ''), this.#major)
    // global/ is no database.
    if (database === undefined || database.dbOid === 0) return
    this.#last.push({ key: key({ keyClass: KEY_DATABASE, ...database }), bytes: Buffer.from([1]) })
  }

  /** The bytes that follow, by `data`, are of this file. */
  begin(path: string): void {
    this.end()
    this.#path = path
    this.#target = this.#targetOf(path)
    this.#page = 0
    if (this.#target.kind === 'pages' && this.#target.sizeOf !== undefined) this.#noteSize(this.#target, 0)
  }

  *data(bytes: Buffer): Generator<PlacedValue, void, void> {
    const target = this.#target
    if (target.kind === 'skip') return
    const all = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes])
    if (target.kind === 'whole') {
      this.#rest = Buffer.from(all)
      return
    }
    let at = 0
    for (; at + PAGE_SIZE <= all.length; at += PAGE_SIZE) {
      const page = all.subarray(at, at + PAGE_SIZE)
      const pageKey = target.keyOf(target.firstPage + this.#page++)
      // The size says that it is there, and what is not stored reads as zeros.
      if (!isZero(page)) yield this.#place({ key: pageKey, bytes: page })
    }
    // What is borrowed from the wire must not be kept.
    this.#rest = Buffer.from(all.subarray(at))
  }

  /** The file is through. */
  end(): void {
    const target = this.#target
    if (target.kind === 'whole') this.#last.push({ key: target.key, bytes: this.#rest })
    else if (target.kind === 'pages') {
      if (this.#rest.length > 0) {
        throw refuse('bad_file', `file "${this.#path}" of the backup ends within a page`, { hint: 'Take the backup again.' })
      }
      if (target.sizeOf !== undefined) this.#noteSize(target, target.firstPage + this.#page)
    }
    this.#target = SKIP
    this.#rest = Buffer.alloc(0)
  }

  /** Sizes and what came whole, once every file is through. */
  *finish(): Generator<PlacedValue, void, void> {
    this.end()
    for (const { key: sizeKey, blocks } of this.#blocks.values()) {
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32LE(blocks)
      yield this.#place({ key: sizeKey, bytes })
    }
    for (const value of this.#last) yield this.#place(value)
  }

  #noteSize({ keyOf, sizeOf }: PagesTarget, blocks: number): void {
    const known = this.#blocks.get(sizeOf as string)
    if (known !== undefined) {
      known.blocks = Math.max(known.blocks, blocks)
      return
    }
    const { spcOid, dbOid, rel, fork } = keyOf(0)
    this.#blocks.set(sizeOf as string, { key: relationSizeKey(spcOid, dbOid, rel, fork), blocks })
  }

  #place(value: ImportValue): PlacedValue {
    const shard = value.key.keyClass === KEY_CONTROL_FILE ? undefined : shardOfKey(this.#layout, value.key)
    return { ...value, shard }
  }

  #targetOf(path: string): Target {
    if (path === CONTROL_FILE_PATH) return { kind: 'whole', key: key({ keyClass: KEY_CONTROL_FILE }), everywhere: true }
    const relation = parseRelationPath(path, this.#major)
    if (relation !== undefined) {
      const { spcOid, dbOid, relNumber, fork, segment } = relation
      const sizeOf = `${spcOid}/${dbOid}/${relNumber}/${fork}`
      return { kind: 'pages', keyOf: (block) => blockKey(spcOid, dbOid, relNumber, fork, block), firstPage: segment * RELATION_SEGMENT_BLOCKS, sizeOf }
    }
    const slru = parseSlruSegmentPath(path)
    if (slru !== undefined) {
      const { kind, segment } = slru
      return { kind: 'pages', keyOf: (page) => slruKey(kind, page), firstPage: segment * SLRU_PAGES_PER_SEGMENT, sizeOf: undefined }
    }
    const slash = path.lastIndexOf('/')
    const [folder, name] = [path.slice(0, slash), path.slice(slash + 1)]
    if (name === RELMAP_NAME) {
      const database = parseDatabasePath(folder, this.#major)
      if (database !== undefined) return { kind: 'whole', key: key({ keyClass: KEY_RELATION_MAP, ...database }), everywhere: false }
    }
    if (folder === 'pg_twophase') {
      const xid = parseTwoPhaseName(name, this.#major)
      if (xid !== undefined) return { kind: 'whole', key: key({ keyClass: KEY_TWO_PHASE, rel: xid }), everywhere: false }
    }
    if (!NOT_IMPORTED.test(path)) this.unknownPaths.push(path)
    return SKIP
  }
}

function isZero(page: Uint8Array): boolean {
  // The header of a page in use is never all zeros, so most pages are decided here.
  for (let i = 0; i < page.length; i++) if (page[i] !== 0) return false
  return true
}
