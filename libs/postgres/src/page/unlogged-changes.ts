/**
 * Pages that Postgres changes without a WAL record, so that no storage and no recovery can have them: distinguished
 * from damage by being exactly what Postgres writes there, byte for byte.
 */
import { LSN_ZERO, fail } from '@understory/base'
import {
  PAGE_SIZE,
  PD_VALID_FLAG_BITS,
  PageHeader,
  SizeOfPageHeaderData,
  pageInit,
  pageOf,
  setPageLsn,
} from './bufpage.ts'
import type { Page } from './bufpage.ts'

const SPECIAL_BYTES = 8
const SPECIAL_START = PAGE_SIZE - SPECIAL_BYTES

function initializedPage(): Page {
  const page = pageOf(new Uint8Array(PAGE_SIZE))
  pageInit(page, SPECIAL_BYTES)
  return page
}

/** But for pd_checksum, which is stamped when a page is written. */
function isSamePage(a: Uint8Array, b: Uint8Array): boolean {
  const [start, end] = [PageHeader.checksum.offset, PageHeader.flags.offset]
  return (
    Buffer.compare(a.subarray(0, start), b.subarray(0, start)) === 0 &&
    Buffer.compare(a.subarray(end), b.subarray(end)) === 0
  )
}

const SPGIST_LEAF = 1 << 2
const SPGIST_NULLS = 1 << 3
const SPGIST_PAGE_ID = 0xff82

function emptySpgistPage(flags: number): Uint8Array {
  const { bytes, view } = initializedPage()
  view.setUint16(SPECIAL_START, flags, true)
  view.setUint16(PAGE_SIZE - 2, SPGIST_PAGE_ID, true)
  return bytes
}

/**
 * An SP-GiST page that was empty and to be used again: looking for an inner page, Postgres initializes it in its
 * buffer, finds that its number has the wrong parity, and leaves it. If the buffer was dirty already, say after a
 * VACUUM, this is what gets written: an empty inner page with pd_lsn 0. The next user of the page initializes it again,
 * with a record.
 *
 * True if `primary` is exactly that and `redone` is an empty page in all that is not masked, a leaf perhaps, or of
 * nulls.
 *
 * Source: access/spgist/spgutils.c allocNewBuffer (15.18, 18.6).
 */
export function isReinitializedSpgistPage(primary: Uint8Array, redone: Uint8Array): boolean {
  if (![0, SPGIST_NULLS].some((flags) => isSamePage(primary, emptySpgistPage(flags)))) return false
  const masked = pageOf(Uint8Array.from(redone))
  const { bytes, view } = masked
  const flags = view.getUint16(SPECIAL_START, true)
  if ((flags & ~(SPGIST_LEAF | SPGIST_NULLS)) !== 0) return false
  // As spg_mask does, for a page whose header need not make sense.
  setPageLsn(masked, LSN_ZERO)
  PageHeader.pruneXid.set(view, 0, 0)
  PageHeader.flags.set(view, 0, PageHeader.flags.get(view, 0) & ~PD_VALID_FLAG_BITS)
  bytes.fill(0, SizeOfPageHeaderData, SPECIAL_START)
  return isSamePage(bytes, emptySpgistPage(flags))
}

const BLOOM_META = 1
const BLOOM_PAGE_ID = 0xff83
const BLOOM_MAGICK_NUMBER = 0xdbac_0ded
const INDEX_MAX_KEYS = 32
/** BloomOptions: varlena header, length in words, bits of each column. */
const BLOOM_OPTIONS_BYTES = 4 + 4 + INDEX_MAX_KEYS * 4
const BLOOM_OPTIONS_OFFSET = SizeOfPageHeaderData + 8
const SIGNWORDBITS = 16
const DEFAULT_BLOOM_LENGTH = 80
const DEFAULT_BLOOM_BITS = 2

/**
 * The metapage of an empty bloom index with these `pg_class.reloptions`, such as `length=96`, with pd_lsn 0. That is
 * the whole init fork of a bloom index on an unlogged table, which 16 to 18 do not log: blbuildempty writes it by
 * generic WAL, and GenericXLogStart logs nothing for an unlogged relation. Errors: `bad_argument` for an unknown
 * option.
 *
 * Source: contrib/bloom blinsert.c blbuildempty, blutils.c BloomFillMetapage, bloom.h (18.6); 15.18 logs it.
 */
export function bloomMetapage(reloptions: readonly string[]): Uint8Array {
  const { bytes, view } = initializedPage()
  // The array of free blocks, empty here, takes all of the page.
  PageHeader.lower.set(view, 0, SPECIAL_START)
  view.setUint16(SPECIAL_START + 2, BLOOM_META, true)
  view.setUint16(PAGE_SIZE - 2, BLOOM_PAGE_ID, true)
  view.setUint32(SizeOfPageHeaderData, BLOOM_MAGICK_NUMBER, true)
  view.setUint32(BLOOM_OPTIONS_OFFSET, BLOOM_OPTIONS_BYTES << 2, true)
  const setBits = (column: number, bits: number): void =>
    view.setInt32(BLOOM_OPTIONS_OFFSET + 8 + (column - 1) * 4, bits, true)
  for (let column = 1; column <= INDEX_MAX_KEYS; column++) setBits(column, DEFAULT_BLOOM_BITS)
  let lengthBits = DEFAULT_BLOOM_LENGTH
  for (const option of reloptions) {
    const match = /^(?:length|col([1-9][0-9]?))=([0-9]+)$/.exec(option)
    if (match === null) throw fail('bad_argument', `unknown option "${option}" of a bloom index`)
    if (match[1] === undefined) lengthBits = Number(match[2])
    else setBits(Number(match[1]), Number(match[2]))
  }
  view.setInt32(BLOOM_OPTIONS_OFFSET + 4, Math.ceil(lengthBits / SIGNWORDBITS), true)
  return bytes
}

/**
 * True if `primary` is the init fork's page of an unlogged bloom index with these options, just as Postgres makes it.
 */
export const isUnloggedBloomMetapage = (primary: Uint8Array, reloptions: readonly string[]): boolean =>
  isSamePage(primary, bloomMetapage(reloptions))
