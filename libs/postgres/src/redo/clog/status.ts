import { PAGE_SIZE } from '../../page/bufpage.ts'
import type { Page } from '../../page/bufpage.ts'
/**
 * Two status bits for every transaction, four transactions a byte, from the low bits up.
 *
 * Source: access/clog.h, access/transam/clog.c (16, 17, 18 alike).
 */

export const TRANSACTION_STATUS_COMMITTED = 0x01
export const TRANSACTION_STATUS_ABORTED = 0x02

const CLOG_XACTS_PER_BYTE = 4
export const CLOG_XACTS_PER_PAGE = PAGE_SIZE * CLOG_XACTS_PER_BYTE

/** TransactionIdToPage. */
export const clogPageOf = (xid: number): number => Math.floor(xid / CLOG_XACTS_PER_PAGE)

/** The last thing that TransactionIdSetStatusBit does. `xid` lives on this page. */
export function setTransactionStatus(page: Page, xid: number, status: number): void {
  const at = (xid % CLOG_XACTS_PER_PAGE) >>> 2
  const shift = (xid & 3) << 1
  page.bytes[at] = ((page.bytes[at] as number) & ~(3 << shift)) | (status << shift)
}
