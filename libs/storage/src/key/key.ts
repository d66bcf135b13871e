/**
 * What a version is stored under. A key is 18 bytes, sortable as bytes:
 *
 *   0  class   u8      what the key names (below)
 *   1  spcOid  u32 be  tablespace; of an SLRU page: the SLRU's number
 *   5  dbOid   u32 be  database
 *   9  rel     u32 be  relation file number; of a two-phase file: the xid; of a replication origin: its id
 *   13 fork    u8      fork number
 *   14 block   u32 be  block; of an SLRU page: the page's number
 *
 * Fields without a meaning in a class are 0.
 */
import { assert } from '@understory/base'
import type { SlruKind } from '@understory/postgres/redo'
import { FORK_VM } from '@understory/postgres/wal'

export const KEY_BYTES = 18

/** Classes; the numbers are on disk. */
export const KEY_RELATION_BLOCK = 0
/**
 * Blocks of a relation fork (value: u32 little-endian) or its end (a tombstone). Lives on the relation's home shard.
 */
export const KEY_RELATION_SIZE = 1
/** Nothing of this fork from block `value` (u32) on may be looked for below this LSN. On every shard. */
export const KEY_BARRIER = 2
export const KEY_SLRU_PAGE = 3
/** pg_filenode.map of a database, or of the cluster (spcOid 1664, dbOid 0): 512 or 524 bytes as the file has. */
export const KEY_RELATION_MAP = 4
export const KEY_TWO_PHASE = 5
/** State of the checkpoint tracker. */
export const KEY_CHECKPOINT_STATE = 6
/** A database's directory in a tablespace (value: one byte 1) or its end. */
export const KEY_DATABASE = 7
/** A tablespace (value: its location on the primary, UTF-8) or its end. */
export const KEY_TABLESPACE = 8
/** pg_control as imported. */
export const KEY_CONTROL_FILE = 9
/** Progress of a replication origin (value: replication-origin.ts) or its end. */
export const KEY_REPLICATION_ORIGIN = 10
export const KEY_CLASS_MAX = 10

export interface Key {
  readonly keyClass: number
  readonly spcOid: number
  readonly dbOid: number
  readonly rel: number
  readonly fork: number
  readonly block: number
}

/** Numbers of the SLRUs in keys; on disk, so append only. */
export const SLRU_KINDS = ['pg_xact', 'pg_multixact/offsets', 'pg_multixact/members', 'pg_commit_ts'] as const
export const slruNumber = (kind: SlruKind): number => SLRU_KINDS.indexOf(kind)
export function slruKind(number: number): SlruKind {
  const kind = SLRU_KINDS[number]
  assert(kind !== undefined, () => `slru number ${number}`)
  return kind
}

export const blockKey = (spcOid: number, dbOid: number, rel: number, fork: number, block: number): Key => ({
  keyClass: KEY_RELATION_BLOCK,
  spcOid,
  dbOid,
  rel,
  fork,
  block,
})
export const relationSizeKey = (spcOid: number, dbOid: number, rel: number, fork: number): Key => ({
  keyClass: KEY_RELATION_SIZE,
  spcOid,
  dbOid,
  rel,
  fork,
  block: 0,
})
/**
 * Pages that get their images from the storage whatever full_page_writes is. Postgres logs none of SLRU pages, nor of a
 * visibility-map page whose bits a record of the heap clears (heapam.c, visibilitymap_clear). Such records lie
 * scattered among those of the heap's pages, so that reading a chain of thousands would take seconds.
 */
export const isStorageImaged = ({ keyClass, fork }: Key): boolean =>
  keyClass === KEY_SLRU_PAGE || (keyClass === KEY_RELATION_BLOCK && fork === FORK_VM)
/** The same of a written key. */
export const isStorageImagedAt = (view: DataView, at: number): boolean =>
  view.getUint8(at) === KEY_SLRU_PAGE ||
  (view.getUint8(at) === KEY_RELATION_BLOCK && view.getUint8(at + 13) === FORK_VM)

/** A key that is not a page: fields that its class does not use are 0. */
export const smallKey = (keyClass: number, spcOid: number, dbOid: number, rel: number): Key => ({
  keyClass,
  spcOid,
  dbOid,
  rel,
  fork: 0,
  block: 0,
})
/** The value of a relation's size. */
export function relationSizeBytes(blocks: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, blocks, true)
  return bytes
}
export const slruKey = (kind: SlruKind, page: number): Key => ({
  keyClass: KEY_SLRU_PAGE,
  spcOid: slruNumber(kind),
  dbOid: 0,
  rel: 0,
  fork: 0,
  block: page,
})

export function writeKey(view: DataView, at: number, key: Key): void {
  view.setUint8(at, key.keyClass)
  view.setUint32(at + 1, key.spcOid)
  view.setUint32(at + 5, key.dbOid)
  view.setUint32(at + 9, key.rel)
  view.setUint8(at + 13, key.fork)
  view.setUint32(at + 14, key.block)
}

export function readKey(view: DataView, at: number): Key {
  return {
    keyClass: view.getUint8(at),
    spcOid: view.getUint32(at + 1),
    dbOid: view.getUint32(at + 5),
    rel: view.getUint32(at + 9),
    fork: view.getUint8(at + 13),
    block: view.getUint32(at + 14),
  }
}

/** Order of the encoded bytes. */
export function compareKeys(a: Key, b: Key): number {
  return (
    a.keyClass - b.keyClass ||
    a.spcOid - b.spcOid ||
    a.dbOid - b.dbOid ||
    a.rel - b.rel ||
    a.fork - b.fork ||
    a.block - b.block
  )
}

/** For messages: `rel 1663/5/16384 fork 0 block 7`. */
export function formatKey(key: Key): string {
  const { keyClass, spcOid, dbOid, rel, fork, block } = key
  switch (keyClass) {
    case KEY_RELATION_BLOCK:
      return `rel ${spcOid}/${dbOid}/${rel} fork ${fork} block ${block}`
    case KEY_RELATION_SIZE:
      return `size of rel ${spcOid}/${dbOid}/${rel} fork ${fork}`
    case KEY_SLRU_PAGE:
      return `${slruKind(spcOid)} page ${block}`
    default:
      return `key class ${keyClass} ${spcOid}/${dbOid}/${rel} fork ${fork} block ${block}`
  }
}

/** Whether the key is a page that is rebuilt from values; other keys hold complete contents. */
export const isPageKey = (key: Key): boolean =>
  key.keyClass === KEY_RELATION_BLOCK || key.keyClass === KEY_SLRU_PAGE

/** pg_control as it was imported. Only shard 0 has it. */
export const CONTROL_FILE_KEY: Key = smallKey(KEY_CONTROL_FILE, 0, 0, 0)
/** Settings that redo depends on, as changed since the import: one byte of flags. On every shard. */
export const REDO_SETTINGS_KEY: Key = { ...CONTROL_FILE_KEY, block: 1 }
/** State of the checkpoint tracker. */
export const CHECKPOINT_STATE_KEY: Key = smallKey(KEY_CHECKPOINT_STATE, 0, 0, 0)
