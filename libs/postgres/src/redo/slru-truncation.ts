/**
 * Which pages of an SLRU a truncation removes. Postgres removes whole segment files, never a part of one.
 *
 * Two rules. Three of the SLRUs hold less than half of their number space at a time, so that "before the cutoff" means
 * within half a circle. Members may fill nearly all of theirs: they are removed from one end to another.
 *
 * Source: access/transam/slru.c SlruMayDeleteSegment, clog.c CLOGPagePrecedes, commit_ts.c CommitTsPagePrecedes,
 * multixact.c MultiXactOffsetPagePrecedes and PerformMembersTruncation (15.18, 18.6 alike but for the page number's
 * type).
 */

/** Whether a truncation removes this page. */
export type RemovedPages = (page: number) => boolean

const SLRU_PAGES_PER_SEGMENT = 32

const segmentOf = (page: number): number => Math.floor(page / SLRU_PAGES_PER_SEGMENT)

/**
 * CLOGPagePrecedes and its kin: the first entry of page `a` is before every entry of page `b`, on a circle of 2^32.
 * Postgres also adds a few to both, to keep clear of the special ids, which changes no outcome.
 */
function pagePrecedes(a: number, b: number, entriesPerPage: number): boolean {
  const difference = (Math.imul(a, entriesPerPage) - Math.imul(b, entriesPerPage)) | 0
  return difference < 0 && ((difference - (entriesPerPage - 1)) | 0) < 0
}

/** SimpleLruTruncate: segments of which the first and the last page precede `cutoffPage`. */
export const pagesBefore =
  (cutoffPage: number, entriesPerPage: number): RemovedPages =>
  (page) => {
    const first = segmentOf(page) * SLRU_PAGES_PER_SEGMENT
    const last = first + SLRU_PAGES_PER_SEGMENT - 1
    return pagePrecedes(first, cutoffPage, entriesPerPage) && pagePrecedes(last, cutoffPage, entriesPerPage)
  }

/**
 * PerformMembersTruncation: segments from that of `startPage` up to that of `endPage`, which stays, round the circle.
 */
export function pagesFromTo(startPage: number, endPage: number): RemovedPages {
  const start = segmentOf(startPage)
  const end = segmentOf(endPage)
  return (page) => {
    const segment = segmentOf(page)
    return start <= end ? segment >= start && segment < end : segment >= start || segment < end
  }
}

export const allPages: RemovedPages = () => true
