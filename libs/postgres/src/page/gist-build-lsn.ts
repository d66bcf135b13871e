/**
 * Pages whose pd_lsn on the primary is none of the WAL's. Up to 16 a sorted build of a GiST index writes its pages with
 * GistBuildLSN and logs them after that, so that the primary's file keeps it until the page is changed, while redo
 * gives the LSN of the record. Source: 16, access/gist.h; access/gist/gistbuild.c,
 * gist_indexsortbuild_flush_ready_pages.
 */
import { lsn } from '@understory/base'
import { PAGE_SIZE, getPageLsn } from './bufpage.ts'
import type { Page } from './bufpage.ts'

const GistBuildLSN = lsn(1)
const GIST_PAGE_ID = 0xff81
/** GISTPageOpaqueData.gist_page_id: the last field of the special space, which ends with the page. */
const GIST_PAGE_ID_OFFSET = PAGE_SIZE - 2

export const hasGistBuildLsn = (page: Page): boolean =>
  page.view.getUint16(GIST_PAGE_ID_OFFSET, true) === GIST_PAGE_ID && getPageLsn(page) === GistBuildLSN
