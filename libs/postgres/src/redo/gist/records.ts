/**
 * The records of the GiST resource manager (14). Main data unless said otherwise; block references are:
 *   PAGE_UPDATE  0 the page, data = u16 deleted[ntodelete], tuples to insert   1 left child whose split this ends
 *   DELETE       0 the page
 *   PAGE_SPLIT   0 left child whose split this ends   1 to npage: the pages, initialized, data = int count, tuples
 *   PAGE_DELETE  0 the leaf   1 its parent
 *   PAGE_REUSE   none: it only matters to queries on a hot standby
 *   ASSIGN_LSN   none
 *
 * Source: access/gistxlog.h (16, 17, 18 alike).
 */
import { bytes, lsn64, struct, u16, u32, u8 } from '@understory/base'

export const XLOG_GIST_PAGE_UPDATE = 0x00
export const XLOG_GIST_DELETE = 0x10
export const XLOG_GIST_PAGE_REUSE = 0x20
export const XLOG_GIST_PAGE_SPLIT = 0x30
export const XLOG_GIST_PAGE_DELETE = 0x60
export const XLOG_GIST_ASSIGN_LSN = 0x70

export const gistxlogPageUpdate = struct(4, {
  ntodelete: u16,
  ntoinsert: u16,
})

/** u16 offsets[ntodelete] follow. */
export const gistxlogDelete = struct(8, {
  snapshotConflictHorizon: u32,
  ntodelete: u16,
  isCatalogRel: u8,
  pad1: u8,
})

export const gistxlogPageSplit = struct(24, {
  origrlink: u32,
  pad4: bytes(4),
  orignsn: lsn64,
  origleaf: u8,
  pad1: u8,
  npage: u16,
  markfollowright: u8,
  pad3: bytes(3),
})

export const gistxlogPageDelete = struct(10, {
  deleteXid: bytes(8), // FullTransactionId
  downlinkOffset: u16,
})
