/**
 * What a key holds at one LSN. A value is one of
 *
 *   record     a WAL record, stored as `recordLsn u64 le | the record's bytes`; redo with its role makes the page
 *   image      complete in itself: a page, or the content of a small key
 *   tombstone  the key ends here
 *
 * `meta` packs the kind, the role and two flags into the byte that layers store per value:
 *
 *   bits 0-3   role of a record (ROLE_…), VALUE_IMAGE or VALUE_TOMBSTONE
 *   bit 6      other values refer to the same bytes
 *   bit 7      the value ends a chain: reading never looks below it
 */
import { ROLE_BLOCK_IMAGE, ROLE_BLOCK_INIT, ROLE_SLRU_INIT } from '../wal/shard-stream.ts'

export const VALUE_IMAGE = 8
export const VALUE_TOMBSTONE = 9

export const META_KIND = 0x0f
export const META_IS_SHARED = 0x40
export const META_ENDS_CHAIN = 0x80
/** Bits without a meaning: zero in every layer. */
const META_RESERVED = 0x30

/** Bytes before a record in a value. */
export const RECORD_PREFIX_BYTES = 8

/** `meta` of each role, by role. */
const META_BY_ROLE = Uint8Array.from({ length: 6 }, (_, role) =>
  role === ROLE_BLOCK_IMAGE || role === ROLE_BLOCK_INIT || role === ROLE_SLRU_INIT
    ? role | META_ENDS_CHAIN
    : role,
)
export const metaOfRole = (role: number): number => META_BY_ROLE[role] as number
export const META_IMAGE = VALUE_IMAGE | META_ENDS_CHAIN
export const META_TOMBSTONE = VALUE_TOMBSTONE | META_ENDS_CHAIN

export const endsChain = (meta: number): boolean => (meta & META_ENDS_CHAIN) !== 0
export const isTombstone = (meta: number): boolean => (meta & META_KIND) === VALUE_TOMBSTONE

/** Whether the byte is one that this version writes. */
export function isValidMeta(meta: number): boolean {
  const kind = meta & META_KIND
  if ((meta & META_RESERVED) !== 0 || kind > VALUE_TOMBSTONE || (kind > 5 && kind < VALUE_IMAGE)) return false
  const canonical = kind >= VALUE_IMAGE ? kind | META_ENDS_CHAIN : metaOfRole(kind)
  return (meta & ~META_IS_SHARED) === canonical
}
