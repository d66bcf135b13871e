/**
 * Files and pages of the SLRUs. Source: access/slru.h, clog.c, multixact.c, commit_ts.c (16, 17, 18 alike).
 */
import { PAGE_SIZE } from '../page/bufpage.ts'
import { CLOG_XACTS_PER_PAGE } from '../redo/clog/status.ts'
import { COMMIT_TS_XACTS_PER_PAGE } from '../redo/commit-ts/entry.ts'
import { MULTIXACT_MEMBERS_PER_PAGE, MULTIXACT_OFFSETS_PER_PAGE } from '../redo/multixact/redo.ts'
import type { SlruKind } from '../redo/types.ts'

export const SLRU_PAGES_PER_SEGMENT = 32
export const SLRU_SEGMENT_BYTES = SLRU_PAGES_PER_SEGMENT * PAGE_SIZE
export const SLRU_KINDS: readonly SlruKind[] = [
  'pg_xact',
  'pg_multixact/offsets',
  'pg_multixact/members',
  'pg_commit_ts',
]

/** The page that holds a transaction id's, multixact id's or member offset's entry. */
const entriesPerPage: Readonly<Record<SlruKind, number>> = {
  pg_xact: CLOG_XACTS_PER_PAGE,
  'pg_multixact/offsets': MULTIXACT_OFFSETS_PER_PAGE,
  'pg_multixact/members': MULTIXACT_MEMBERS_PER_PAGE,
  pg_commit_ts: COMMIT_TS_XACTS_PER_PAGE,
}
export const slruPageOf = (kind: SlruKind, entry: number): number => Math.floor(entry / entriesPerPage[kind])
export const slruSegmentOf = (page: number): number => Math.floor(page / SLRU_PAGES_PER_SEGMENT)

/**
 * `pg_xact/0000`: at least four hex digits, five for members far on. None of these has the long names of 17.
 */
export const slruSegmentPath = (kind: SlruKind, segment: number): string =>
  `${kind}/${segment.toString(16).toUpperCase().padStart(4, '0')}`

/** Undefined for a path that is not an SLRU segment's. */
export function parseSlruSegmentPath(path: string): { kind: SlruKind; segment: number } | undefined {
  const slash = path.lastIndexOf('/')
  const kind = SLRU_KINDS.find((candidate) => candidate === path.slice(0, slash))
  const name = path.slice(slash + 1)
  if (kind === undefined || !/^(?:[0-9A-F]{4}|[1-9A-F][0-9A-F]{4,5})$/.test(name)) return undefined
  return { kind, segment: Number.parseInt(name, 16) }
}
