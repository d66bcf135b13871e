/**
 * What a truncation of an SLRU removes, counted out in whole numbers from what Postgres's source says, segment by
 * segment: slru.c SlruMayDeleteSegment, clog.c CLOGPagePrecedes, commit_ts.c CommitTsPagePrecedes, multixact.c
 * MultiXactOffsetPagePrecedes and PerformMembersTruncation (18.6). For tests of what does the same by arithmetic.
 */
import fc from 'fast-check'
import type { SlruKind } from '../src/redo/types.ts'

const CIRCLE = 2n ** 32n
const HALF = 2n ** 31n
const PAGES_PER_SEGMENT = 32
const FIRST_NORMAL_XID = 3n
const FIRST_MULTI = 1n

export const ENTRIES_PER_PAGE: Readonly<Record<SlruKind, number>> = {
  pg_xact: 32_768,
  'pg_multixact/offsets': 2_048,
  'pg_multixact/members': 1_636,
  pg_commit_ts: 819,
}
export const lastPageOf = (kind: SlruKind): number => Math.floor(0xffff_ffff / ENTRIES_PER_PAGE[kind])
export const lastSegmentOf = (kind: SlruKind): number => Math.floor(lastPageOf(kind) / PAGES_PER_SEGMENT)

const onCircle = (value: bigint): bigint => ((value % CIRCLE) + CIRCLE) % CIRCLE

/** A signed difference of 32 bits is below zero: from 1 to 2^31 steps lead from `a` to `b`. */
const isBehind = (a: bigint, b: bigint): boolean => {
  const steps = onCircle(b - a)
  return steps >= 1n && steps <= HALF
}
/** TransactionIdPrecedes: ids below 3 are before all others. */
const xidPrecedes = (a: bigint, b: bigint): boolean =>
  a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID ? a < b : isBehind(a, b)

function pagePrecedes(kind: SlruKind, a: number, b: number): boolean {
  const entries = BigInt(ENTRIES_PER_PAGE[kind])
  const isOfXids = kind !== 'pg_multixact/offsets'
  const added = (isOfXids ? FIRST_NORMAL_XID : FIRST_MULTI) + 1n
  const first = onCircle(BigInt(a) * entries + added)
  const other = onCircle(BigInt(b) * entries + added)
  const precedes = isOfXids ? xidPrecedes : isBehind
  return precedes(first, other) && precedes(first, onCircle(other + entries - 1n))
}

/** SimpleLruTruncate of any SLRU but members. */
export function isRemovedBefore(kind: SlruKind, cutoffPage: number, page: number): boolean {
  const first = page - (page % PAGES_PER_SEGMENT)
  return (
    pagePrecedes(kind, first, cutoffPage) && pagePrecedes(kind, first + PAGES_PER_SEGMENT - 1, cutoffPage)
  )
}

/** The segments that PerformMembersTruncation walks over, in its order. */
export function* membersSegments(startOffset: number, endOffset: number): Generator<number, void, void> {
  const segmentOf = (offset: number): number => Math.floor(offset / 1_636 / PAGES_PER_SEGMENT)
  const end = segmentOf(endOffset)
  for (
    let segment = segmentOf(startOffset);
    segment !== end;
    segment = segment === lastSegmentOf('pg_multixact/members') ? 0 : segment + 1
  )
    yield segment
}

const SIDES = [0, 2 ** 31]

/** Any id or offset, half of them near 0, where the circle closes, or opposite of it. */
const anyEntry = (kind: SlruKind): fc.Arbitrary<number> =>
  fc.oneof(fc.integer({ min: 0, max: 0xffff_ffff }), entryNear(kind, 0))

/** An id or offset within three segments of `entry`, or of what lies opposite of it. */
function entryNear(kind: SlruKind, entry: number): fc.Arbitrary<number> {
  const distance = 3 * PAGES_PER_SEGMENT * ENTRIES_PER_PAGE[kind]
  return fc
    .tuple(fc.constantFrom(...SIDES), fc.integer({ min: -distance, max: distance }))
    .map(([side, steps]) => (entry + side + steps) >>> 0)
}

/** Two ends of a truncation, and a third place that may lie anywhere, often near one of them or opposite of one. */
export const truncationPlaces = (
  kind: SlruKind,
): fc.Arbitrary<{ readonly start: number; readonly end: number; readonly probe: number }> =>
  fc.tuple(anyEntry(kind), anyEntry(kind)).chain(([start, end]) =>
    fc.record({
      start: fc.constant(start),
      end: fc.oneof(fc.constant(end), entryNear(kind, start)),
      probe: fc.oneof(anyEntry(kind), entryNear(kind, start), entryNear(kind, end)),
    }),
  )
