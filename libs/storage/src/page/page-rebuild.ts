/**
 * Makes a page from its base and the records on top. The values of a page as one framed piece of bytes travel to the
 * threads that make images; the same function serves reads on the main thread.
 *
 * Page job, version 1, little-endian: per page key 18 bytes | valueCount u32, then per value, oldest first,
 * meta u8 | block index u8 | lsn u64 | length u32 | the bytes. The first value is the base where there is one.
 */
import { Cursor, formatLsn, lsnFromHalves, lsnHigh, lsnLow, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Page } from '@understory/postgres/page'
import { PAGE_SIZE } from '@understory/postgres/page'
import { redoRecordOnPage, redoSlru, redoVisibilityClear } from '@understory/postgres/redo'
import type { RedoSettings } from '@understory/postgres/redo'
import { DecodedRecord, decodeRecord } from '@understory/postgres/wal'
import { KEY_BYTES, formatKey, readKey, slruKind, writeKey } from '../key/key.ts'
import type { Key } from '../key/key.ts'
import { ROLE_SLRU, ROLE_SLRU_INIT, ROLE_VISIBILITY_CLEAR } from '../wal/shard-stream.ts'
import { META_KIND, RECORD_PREFIX_BYTES, VALUE_IMAGE, VALUE_TOMBSTONE } from '../layer/value.ts'

/**
 *   made     the page is right
 *   absent   its last record found a page that was never made: right only for a page that is never asked for
 */
export type RebuildOutcome = 'made' | 'absent'

/** One value of a page to apply. `bytes` are as layers store them. */
export interface PageValue {
  readonly lsn: Lsn
  readonly meta: number
  readonly blockIndex: number
  readonly bytes: Uint8Array
}

const record = new DecodedRecord()

/**
 * Applies values, oldest first, to `page`, which must be zeros before the first. Errors: refused by redo, or `bad_file`
 * where an image has not a page's size.
 */
export function applyValue(key: Key, value: PageValue, page: Page, settings: RedoSettings): RebuildOutcome {
  const { meta, bytes } = value
  const kind = meta & META_KIND
  if (kind === VALUE_IMAGE) {
    if (bytes.length !== PAGE_SIZE)
      throw fail('bad_file', `image of ${formatKey(key)} has ${bytes.length} bytes`)
    page.bytes.set(bytes)
    return 'made'
  }
  if (kind === VALUE_TOMBSTONE) {
    page.bytes.fill(0)
    return 'made'
  }
  if (bytes.length < RECORD_PREFIX_BYTES)
    throw fail('bad_file', `record of ${formatKey(key)} has ${bytes.length} bytes`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, RECORD_PREFIX_BYTES)
  const recordLsn = lsnFromHalves(view.getUint32(4, true), view.getUint32(0, true))
  decodeRecord(record, bytes, RECORD_PREFIX_BYTES, recordLsn, value.lsn)
  switch (kind) {
    case ROLE_VISIBILITY_CLEAR:
      redoVisibilityClear(record, page, key.block, settings)
      return 'made'
    case ROLE_SLRU_INIT:
      page.bytes.fill(0)
      redoSlru(record, slruKind(key.spcOid), key.block, page, settings)
      return 'made'
    case ROLE_SLRU:
      redoSlru(record, slruKind(key.spcOid), key.block, page, settings)
      return 'made'
    default: {
      const { blockIndex } = value
      if (blockIndex >= record.blockCount) {
        throw fail(
          'bad_wal',
          `record at ${formatLsn(recordLsn)} has no block ${blockIndex} for ${formatKey(key)}`,
        )
      }
      return redoRecordOnPage(record, blockIndex, page, settings) === 'absent' ? 'absent' : 'made'
    }
  }
}

/** Appends page jobs to one growing buffer. */
export class PageJobWriter {
  #bytes = new Uint8Array(256 * 1024)
  #view = new DataView(this.#bytes.buffer)
  #length = 0

  get length(): number {
    return this.#length
  }

  #room(size: number): number {
    const at = this.#length
    if (at + size > this.#bytes.length) {
      const wider = new Uint8Array(Math.max(this.#bytes.length * 2, at + size))
      wider.set(this.#bytes.subarray(0, at))
      this.#bytes = wider
      this.#view = new DataView(wider.buffer)
    }
    this.#length = at + size
    return at
  }

  page(key: Key, values: readonly PageValue[]): void {
    const at = this.#room(KEY_BYTES + 4)
    writeKey(this.#view, at, key)
    this.#view.setUint32(at + KEY_BYTES, values.length, true)
    for (const { meta, blockIndex, lsn, bytes } of values) {
      const to = this.#room(14 + bytes.length)
      this.#view.setUint8(to, meta)
      this.#view.setUint8(to + 1, blockIndex)
      this.#view.setUint32(to + 2, lsnLow(lsn), true)
      this.#view.setUint32(to + 6, lsnHigh(lsn), true)
      this.#view.setUint32(to + 10, bytes.length, true)
      this.#bytes.set(bytes, to + 14)
    }
  }

  /** Returns the written bytes as a buffer of their own that can be transferred, and starts again empty. */
  take(): ArrayBuffer {
    const taken = this.#bytes.buffer.slice(0, this.#length)
    this.#length = 0
    return taken
  }
}

/** Images of a job's pages, 8,192 bytes each in order; a byte each in `isMade`. */
export interface PageJobResult {
  readonly pages: ArrayBuffer
  readonly isMade: Uint8Array
}

/** The body of an image job. Errors: refused by redo; one page that cannot be made fails the job. */
export function runPageJob(job: ArrayBuffer, pagesCount: number, settings: RedoSettings): PageJobResult {
  const pages = new ArrayBuffer(pagesCount * PAGE_SIZE)
  const isMade = new Uint8Array(pagesCount)
  const cursor = new Cursor(new Uint8Array(job), 'page job', 'bad_argument')
  for (let i = 0; i < pagesCount; i++) {
    const page = {
      bytes: new Uint8Array(pages, i * PAGE_SIZE, PAGE_SIZE),
      view: new DataView(pages, i * PAGE_SIZE, PAGE_SIZE),
    }
    const at = cursor.at
    cursor.skip(KEY_BYTES)
    const key = readKey(cursor.view, at)
    let outcome: RebuildOutcome = 'made'
    for (let left = cursor.u32(); left > 0; left--) {
      const meta = cursor.u8()
      const blockIndex = cursor.u8()
      const lsn = cursor.lsn()
      outcome = applyValue(key, { lsn, meta, blockIndex, bytes: cursor.take(cursor.u32()) }, page, settings)
    }
    isMade[i] = outcome === 'made' ? 1 : 0
  }
  return { pages, isMade }
}
