// Goal: a truncation removes exactly the segments that Postgres removes, wherever on the circle of ids it falls.
// Method: any two ends and any page, against a model that counts the circle out; through the records themselves.
import fc from 'fast-check'
import { lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { makeRecord } from '../../test/made-record.ts'
import {
  ENTRIES_PER_PAGE,
  isRemovedBefore,
  lastPageOf,
  membersSegments,
  truncationPlaces,
} from '../../test/slru-model.ts'
import { truncateRecord } from '../../test/slru-records.ts'
import { PAGE_SIZE } from '../page/bufpage.ts'
import type { PgMajor } from '../wal/pages.ts'
import { recordEffects } from './dispatch.ts'
import type { RemovedPages } from './slru-truncation.ts'
import type { EffectSink, RedoSettings, SlruKind } from './types.ts'
import { RedoVerifier } from '../verify/redo-verifier.ts'

const RUNS = { numRuns: 3_000 }
const MAJORS: readonly PgMajor[] = [16, 17, 18]
const settingsOf = (major: PgMajor): RedoSettings => ({ major, dataChecksums: false, walLogHints: false })

function removedBy(kind: SlruKind, start: number, end: number, major: PgMajor): RemovedPages {
  let removed: RemovedPages | undefined
  const sink: Partial<EffectSink> = {
    slruTruncate: (other, isRemoved) => {
      if (other === kind) removed = isRemoved
    },
  }
  const record = makeRecord({ ...truncateRecord(kind, start, end, major), nextLsn: lsn(0x1000) })
  recordEffects(record, sink as EffectSink, settingsOf(major))
  return removed!
}
const pageOf = (kind: SlruKind, entry: number): number => Math.floor(entry / ENTRIES_PER_PAGE[kind])

test.each(['pg_xact', 'pg_commit_ts', 'pg_multixact/offsets'] as const)(
  'a truncation of %s removes the segments that lie wholly before the cutoff on the circle',
  (kind) => {
    fc.assert(
      fc.property(truncationPlaces(kind), fc.constantFrom(...MAJORS), ({ start, end, probe }, major) => {
        // Of offsets the page of the multixact before the first that is kept; multixact 0 does not exist.
        const isOffsets = kind === 'pg_multixact/offsets'
        const kept = isOffsets ? Math.max(1, end) : end
        const cutoff = pageOf(kind, isOffsets ? (kept === 1 ? 0xffff_ffff : kept - 1) : kept)
        const isRemoved = removedBy(kind, start, kept, major)
        for (const page of [probe, end, start].map((entry) => pageOf(kind, entry)))
          expect(isRemoved(page)).toBe(isRemovedBefore(kind, cutoff, page))
      }),
      RUNS,
    )
  },
)

test('a truncation of members removes from its start to its end, however much lies between', () => {
  const kind = 'pg_multixact/members'
  const places = truncationPlaces(kind)
  fc.assert(
    fc.property(places, fc.constantFrom(...MAJORS), ({ start, end, probe }, major) => {
      const removed = new Set(membersSegments(start, end))
      const isRemoved = removedBy(kind, start, end, major)
      for (const page of [probe, start, end].map((entry) => pageOf(kind, entry)))
        expect(isRemoved(page)).toBe(removed.has(Math.floor(page / 32)))
    }),
    { numRuns: 100 },
  )
})

test('the verifier forgets what a truncation removed, in the files that it began from too', () => {
  const kinds = Object.keys(ENTRIES_PER_PAGE) as SlruKind[]
  const drawn = fc
    .constantFrom(...kinds)
    .chain((kind) => fc.record({ kind: fc.constant(kind), places: truncationPlaces(kind) }))
  fc.assert(
    fc.property(drawn, ({ kind, places: { start, end, probe } }) => {
      const bytes = new Uint8Array(PAGE_SIZE).fill(7)
      const page = pageOf(kind, probe)
      const verifier = new RedoVerifier(settingsOf(17), {
        readBlock: () => undefined,
        readSlruPage: (other, number) => (other === kind && number === page ? bytes : undefined),
        slruPages: () => [page],
        readRelationMap: () => undefined,
      })
      const cutoff = Math.max(1, end)
      verifier.redo(makeRecord({ ...truncateRecord(kind, start, cutoff, 17), nextLsn: lsn(0x1000) }))
      const isRemoved = removedBy(kind, start, cutoff, 17)(page)
      expect(verifier.slruPage(kind, page)).toBe(isRemoved ? undefined : bytes)
    }),
    RUNS,
  )
})

test('the ends of the page numbers are where they are taken to be', () => {
  expect(Object.keys(ENTRIES_PER_PAGE).map((kind) => lastPageOf(kind as SlruKind))).toEqual([
    131_071, 2_097_151, 2_625_285, 5_244_160,
  ])
})
