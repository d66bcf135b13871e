// Goal: redo leaves every page as a real Postgres left it, and the verifier notices if it does not. Method: see
// verify.ts: WAL with after-images of a history that provokes every record type, redone beside the server; then the
// same WAL with one byte changed where a fault would show.
import { describe, expect, test } from 'vitest'
import { BUSY_AUTOVACUUM, runConcurrentWorkload, runRedoWorkload } from '../../test/redo-workload.ts'
import { formatCounts, recordHistory, verifyHistory } from '../../test/verify-server.ts'
import type { ServerHistory } from '../../test/verify-server.ts'
import { RM_HEAP2_ID, RM_HEAP_ID } from '../wal/constants.ts'
import type { PgMajor } from '../wal/pages.ts'
import type { DecodedRecord } from '../wal/record.ts'
import {
  XLH_DELETE_ALL_VISIBLE_CLEARED,
  XLOG_HEAP_DELETE,
  XLOG_HEAP_OPMASK,
  XLOG_HEAP_UPDATE,
  xl_heap_delete,
  xl_heap_update,
} from './heap/records.ts'
import { XLOG_HEAP2_VISIBLE, xl_heap_visible } from './heap2/records.ts'
import type { RedoVerifier } from '../verify/redo-verifier.ts'

const EVERY_VERSION = [
  'Heap/INSERT',
  'Heap/INSERT+INIT',
  'Heap/DELETE',
  'Heap/UPDATE',
  'Heap/UPDATE+INIT',
  'Heap/HOT_UPDATE',
  'Heap/HEAP_CONFIRM',
  'Heap/LOCK',
  'Heap/INPLACE',
  'Heap2/VISIBLE',
  'Heap2/MULTI_INSERT',
  'Heap2/MULTI_INSERT+INIT',
  'Heap2/LOCK_UPDATED',
  'Btree/INSERT_LEAF',
  'Btree/INSERT_UPPER',
  'Btree/INSERT_POST',
  'Btree/SPLIT_L',
  'Btree/SPLIT_R',
  'Btree/DEDUP',
  'Btree/DELETE',
  'Btree/VACUUM',
  'Btree/MARK_PAGE_HALFDEAD',
  'Btree/UNLINK_PAGE',
  'Btree/NEWROOT',
  'Sequence/LOG',
] as const
const SINCE_17 = ['Heap2/PRUNE_ON_ACCESS', 'Heap2/PRUNE_VACUUM_SCAN', 'Heap2/PRUNE_VACUUM_CLEANUP'] as const
/** Record types that must have been redone and compared. */
const COMPARED: Readonly<Record<PgMajor, readonly string[]>> = {
  16: [...EVERY_VERSION, 'Heap2/PRUNE', 'Heap2/VACUUM', 'Heap2/FREEZE_PAGE'],
  17: [...EVERY_VERSION, ...SINCE_17],
  18: [...EVERY_VERSION, ...SINCE_17],
}

function expectEqual(verifier: RedoVerifier, major: PgMajor): void {
  expect(verifier.differences).toEqual([])
  const missing = COMPARED[major].filter((type) => (verifier.counts.get(type)?.compared ?? 0) === 0)
  expect(missing).toEqual([])
  for (const [type, counts] of verifier.counts) expect(counts.skipped, `${type} skipped`).toBe(0)
  console.info(formatCounts(verifier))
}

/**
 * The first record, from `from` on, of which `choose` gives the position of a byte to change, with that byte changed.
 */
function withFault(
  history: ServerHistory,
  mask: number,
  choose: (record: DecodedRecord) => number | undefined,
): ServerHistory {
  return {
    ...history,
    *records() {
      let done = false
      for (const record of history.records()) {
        const at = done ? undefined : choose(record)
        if (at !== undefined) {
          record.bytes[at] = (record.bytes[at] as number) ^ mask
          done = true
        }
        yield record
      }
    },
  }
}

const operation = (record: DecodedRecord): number => record.info & XLOG_HEAP_OPMASK

describe.each([16, 17, 18] as const)('PostgreSQL %i', (major) => {
  test(
    'pages, maps and transaction status are redone as the server wrote them',
    { timeout: 240_000 },
    async () => {
      await using history = await recordHistory({ major, workload: runRedoWorkload })
      expectEqual(verifyHistory(history), major)
    },
  )

  test('so they are with data checksums', { timeout: 240_000 }, async () => {
    await using history = await recordHistory({ major, dataChecksums: true, workload: runRedoWorkload })
    expectEqual(verifyHistory(history), major)
  })

  test(
    'so they are by sessions side by side, with vacuum and full-page images',
    { timeout: 240_000 },
    async () => {
      const settings = { ...BUSY_AUTOVACUUM, full_page_writes: true, shared_buffers: '4MB' }
      await using history = await recordHistory({ major, settings, workload: runConcurrentWorkload })
      const verifier = verifyHistory(history, { concurrent: true })
      expect(verifier.differences).toEqual([])
      expect(verifier.counts.get('Heap/HOT_UPDATE')?.restored).toBeGreaterThan(0)
      expect(verifier.counts.get('Heap2/VISIBLE')?.compared).toBeGreaterThan(0)
    },
  )
})

test(
  'a wrong byte on a page and a wrong bit of the visibility map are noticed',
  { timeout: 240_000 },
  async () => {
    await using history = await recordHistory({ major: 17, workload: runRedoWorkload })

    // Of a tuple on the page: seen in the record's own after-image.
    const wrongXmax = withFault(history, 0x01, (record) =>
      record.rmid === RM_HEAP_ID && operation(record) === XLOG_HEAP_UPDATE
        ? record.mainDataOffset + xl_heap_update.oldXmax.offset
        : undefined,
    )
    expect(verifyHistory(wrongXmax).differences[0]?.what).toContain('Heap/UPDATE')

    // Of bits that no after-image shows: seen in the file of the map.
    const keptBits = withFault(history, XLH_DELETE_ALL_VISIBLE_CLEARED, (record) => {
      const at = record.mainDataOffset + xl_heap_delete.flags.offset
      const clears =
        record.rmid === RM_HEAP_ID &&
        operation(record) === XLOG_HEAP_DELETE &&
        ((record.bytes[at] as number) & XLH_DELETE_ALL_VISIBLE_CLEARED) !== 0
      return clears ? at : undefined
    })
    expect(verifyHistory(keptBits).differenceCount).toBeGreaterThan(0)

    const wrongBits = withFault(history, 0x02, (record) =>
      record.rmid === RM_HEAP2_ID && operation(record) === XLOG_HEAP2_VISIBLE
        ? record.mainDataOffset + xl_heap_visible.flags.offset
        : undefined,
    )
    expect(verifyHistory(wrongBits).differenceCount).toBeGreaterThan(0)
  },
)
