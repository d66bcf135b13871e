/**
 * Pages whose pd_lsn on the primary is none of the WAL's. Up to 16 a sorted build of a GiST index writes its pages with
 * GistBuildLSN and logs them after that, so that the primary's file keeps it until the page is changed, while redo gives the
 * LSN of the record. Source: 16, access/gist.h; access/gist/gistbuild.c, gist_indexsortbuild_flush_ready_pages.
 */
import { lsn } from '@understory/base'
import { PAGE_SIZE } from '../wal/record.ts'
import { getPageLsn } from './header.ts'

const GistBuildLSN = lsn(1)
const GIST_PAGE_ID = 0xff81
/** GISTPageOpaqueData.gist_page_id: the last field of the special space, which ends with the page. */
const GIST_PAGE_ID_OFFSET = PAGE_SIZE - 2

export function hasGistBuildLsn(page: Uint8Array): boolean {
  const id = (page[GIST_PAGE_ID_OFFSET] as number) | ((page[GIST_PAGE_ID_OFFSET + 1] as number) << 8)
  return id === GIST_PAGE_ID && getPageLsn(page) === GistBuildLSN
}
