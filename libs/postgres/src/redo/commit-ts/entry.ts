/**
 * Ten bytes for every transaction: when it committed (int64 microseconds since 2000) and by which replication origin.
 *
 * Source: access/transam/commit_ts.c (16, 17, 18 alike).
 */
import { PAGE_SIZE } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
import { copyBytes } from '../../page/page-items.ts'

/** SizeOfCommitTimestampEntry. */
const COMMIT_TS_ENTRY_BYTES = 10
export const COMMIT_TS_XACTS_PER_PAGE = Math.floor(PAGE_SIZE / COMMIT_TS_ENTRY_BYTES)

/** TransactionIdToCTsPage. */
export const commitTsPageOf = (xid: number): number => Math.floor(xid / COMMIT_TS_XACTS_PER_PAGE)

/** TransactionIdSetCommitTs. The timestamp is the 8 bytes at `timestampAt` of `source`. */
export function setCommitTs(
  page: Page,
  xid: number,
  source: Uint8Array,
  timestampAt: number,
  originId: number,
): void {
  const at = (xid % COMMIT_TS_XACTS_PER_PAGE) * COMMIT_TS_ENTRY_BYTES
  copyBytes(page.bytes, at, source, timestampAt, 8)
  page.view.setUint16(at + 8, originId, true)
}
