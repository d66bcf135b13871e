// Goal: ingest removes exactly the SLRU pages that Postgres's truncation removes, however many are live.
// Method: a shard's state with pages anywhere on the circle of ids, truncation records made by hand, Postgres's rule as
// a model.
import fc from 'fast-check'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import { encodeRecord } from '@understory/postgres/wal'
import type { RedoSettings, SlruKind } from '@understory/postgres/redo'
import { KEY_SLRU_PAGE, classRange, ShardStreamWriter, slruKey } from '@understory/storage'
import { expect, test } from 'vitest'
import {
  ENTRIES_PER_PAGE,
  isRemovedBefore,
  membersSegments,
  truncationPlaces,
} from '../../../../libs/postgres/test/slru-model.ts'
import { truncateRecord } from '../../../../libs/postgres/test/slru-records.ts'
import { Ingest } from './ingest.ts'
import { ShardState } from '../state/shard-state.ts'

const [BEFORE, RECORD, END] = [0x900 as Lsn, 0x1000 as Lsn, 0x1100 as Lsn]

class StateWithSettings extends ShardState {
  override get settings(): RedoSettings {
    return { major: 17, dataChecksums: false, walLogHints: false }
  }
}

/** The pages that are left of `pages` after a truncation from entry `start` to entry `end`. */
async function pagesLeft(
  kind: SlruKind,
  pages: readonly number[],
  start: number,
  end: number,
): Promise<readonly number[]> {
  const state = new StateWithSettings({
    tenantId: 'a'.repeat(32) as TenantId,
    timelineId: 'b'.repeat(32) as TimelineId,
    shard: { number: 0, count: 1, stripeBlocks: 8 },
  })
  await state.load([], RECORD)
  for (const page of pages) state.putBytes(slruKey(kind, page), BEFORE, new Uint8Array(8192))
  const { rmid, info, main } = truncateRecord(kind, start, end, 17)
  const writer = new ShardStreamWriter()
  writer.record(1, RECORD, END, [], encodeRecord({ rmid, info, prevLsn: BEFORE, mainData: main }))
  const ingest = new Ingest(state, {
    settings: { enabled: false, thresholdRecords: 32 },
    queue: () => undefined,
    sawFullPageWrites: () => undefined,
    read: (attempt) => attempt(),
  })
  await ingest.apply(writer.take(), END)
  const left: number[] = []
  for await (const { block } of state.scan(classRange(KEY_SLRU_PAGE), END)) left.push(block)
  return left
}

const pageOf = (kind: SlruKind, entry: number): number => Math.floor(entry / ENTRIES_PER_PAGE[kind])

test('a truncation of members keeps live pages where more than 2^31 members are live', async () => {
  const kind = 'pg_multixact/members'
  const live = [210_000_000, 1_000_000_000, 2_400_000_000, 2_600_000_000].map((entry) => pageOf(kind, entry))
  const gone = pageOf(kind, 150_000_000)
  expect(await pagesLeft(kind, [gone, ...live], 100_000_000, 200_000_000)).toEqual(live)
})

test(
  'a truncation of any SLRU leaves what Postgres leaves, anywhere on the circle',
  { timeout: 60_000 },
  async () => {
    const kinds = Object.keys(ENTRIES_PER_PAGE) as SlruKind[]
    const drawn = fc.constantFrom(...kinds).chain((kind) =>
      fc.record({
        kind: fc.constant(kind),
        places: truncationPlaces(kind),
        others: fc.array(truncationPlaces(kind)),
      }),
    )
    await fc.assert(
      fc.asyncProperty(drawn, async ({ kind, places, others }) => {
        const [start, end] = [places.start, Math.max(1, places.end)]
        const entries = [places, ...others].flatMap((each) => [each.start, each.end, each.probe])
        const pages = [...new Set(entries.map((entry) => pageOf(kind, entry)))]
        const removedSegments = new Set(kind === 'pg_multixact/members' ? membersSegments(start, end) : [])
        const cutoff = pageOf(
          kind,
          kind === 'pg_multixact/offsets' ? (end === 1 ? 0xffff_ffff : end - 1) : end,
        )
        const isRemoved = (page: number): boolean =>
          kind === 'pg_multixact/members'
            ? removedSegments.has(Math.floor(page / 32))
            : isRemovedBefore(kind, cutoff, page)
        const left = new Set(await pagesLeft(kind, pages, start, end))
        for (const page of pages) expect([page, left.has(page)]).toEqual([page, !isRemoved(page)])
      }),
      { numRuns: 150 },
    )
  },
)
