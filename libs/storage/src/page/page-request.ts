/** Page request, version 1: per page key 18 bytes | lsn u64 le. And the statuses of the pages of an answer. */
import { Cursor, lsnHigh, lsnLow, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { KEY_BYTES, readKey, writeKey } from '../key/key.ts'
import type { Key } from '../key/key.ts'

const PAGE_REQUEST_BYTES = KEY_BYTES + 8

export interface PageRequest {
  readonly key: Key
  readonly lsn: Lsn
}

export function encodePageRequests(requests: readonly PageRequest[]): Buffer {
  const encoded = Buffer.allocUnsafe(requests.length * PAGE_REQUEST_BYTES)
  const view = new DataView(encoded.buffer, encoded.byteOffset, encoded.length)
  requests.forEach(({ key, lsn }, i) => {
    const at = i * PAGE_REQUEST_BYTES
    writeKey(view, at, key)
    view.setUint32(at + KEY_BYTES, lsnLow(lsn), true)
    view.setUint32(at + KEY_BYTES + 4, lsnHigh(lsn), true)
  })
  return encoded
}

/**
 * Pages of one request: as many as an answer of 32 MiB has room for. A client that needs more sends several requests.
 */
export const PAGE_REQUESTS_COUNT_MAX = 4_000

/**
 * Errors: `bad_argument` where the length is not a multiple of an entry's, or where there are more than
 * `PAGE_REQUESTS_COUNT_MAX`: an entry of 26 bytes asks for 8,192, so nothing is reserved before this is known.
 */
export function readPageRequests(encoded: Uint8Array): PageRequest[] {
  if (encoded.length % PAGE_REQUEST_BYTES !== 0) {
    throw fail(
      'bad_argument',
      `page request has ${encoded.length} bytes, not a multiple of ${PAGE_REQUEST_BYTES}`,
    )
  }
  const count = encoded.length / PAGE_REQUEST_BYTES
  if (count > PAGE_REQUESTS_COUNT_MAX) {
    throw fail(
      'bad_argument',
      `page request asks for ${count} pages, the limit is ${PAGE_REQUESTS_COUNT_MAX}`,
      {
        hint: 'Split it into several requests.',
      },
    )
  }
  const cursor = new Cursor(encoded, 'page request', 'bad_argument')
  const requests: PageRequest[] = []
  while (cursor.remaining > 0) {
    const at = cursor.at
    cursor.skip(KEY_BYTES)
    requests.push({ key: readKey(cursor.view, at), lsn: cursor.lsn() })
  }
  return requests
}

/** Statuses of `GetPagesResponse`. */
export const PAGE_FOUND = 0
export const PAGE_BEYOND_END = 1
export const PAGE_NO_RELATION = 2
