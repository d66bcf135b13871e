/** Source: access/rmgrdesc/gistdesc.c, gist_identify (16, 17, 18 alike). */
import {
  XLOG_GIST_ASSIGN_LSN,
  XLOG_GIST_DELETE,
  XLOG_GIST_PAGE_DELETE,
  XLOG_GIST_PAGE_REUSE,
  XLOG_GIST_PAGE_SPLIT,
  XLOG_GIST_PAGE_UPDATE,
} from './records.ts'

const NAMES: Readonly<Record<number, string>> = {
  [XLOG_GIST_PAGE_UPDATE]: 'PAGE_UPDATE',
  [XLOG_GIST_DELETE]: 'DELETE',
  [XLOG_GIST_PAGE_REUSE]: 'PAGE_REUSE',
  [XLOG_GIST_PAGE_SPLIT]: 'PAGE_SPLIT',
  [XLOG_GIST_PAGE_DELETE]: 'PAGE_DELETE',
  [XLOG_GIST_ASSIGN_LSN]: 'ASSIGN_LSN',
}

export const identifyGist = (info: number): string | undefined => NAMES[info & 0xf0]
