// Goal: redo and the tracker of checkpoints go over the ends of transaction ids, multixact ids and members as Postgres
// does, truncations included, with more than 2^31 members live.
// Method: a real cluster brought right before the ends, work that goes over them, then all its WAL redone and tracked.
import { describe, expect, test } from 'vitest'
import { readControlFile } from '../../test/data-directory.ts'
import {
  NEARLY_ALL_MEMBERS,
  NEAR_WRAPAROUND_SETTINGS,
  bringNearWraparound,
  goOverTheEnds,
} from '../../test/near-wraparound.ts'
import { formatCounts, recordHistory, verifyHistory } from '../../test/verify-server.ts'
import { track, trackerStateOf } from '../cluster/checkpoint-tracker.ts'
import type { TrackerState } from '../cluster/checkpoint-tracker.ts'
import { recordTypeName } from './dispatch.ts'
import { xl_multixact_truncate } from './multixact/records.ts'

const isSmall = (value: number): boolean => value < 10_000
const countersOf = (state: TrackerState): Partial<TrackerState> => ({
  nextXidEpoch: state.nextXidEpoch,
  nextXid: state.nextXid,
  nextMulti: state.nextMulti,
  nextMultiOffset: state.nextMultiOffset,
  oldestXid: state.oldestXid,
  oldestMulti: state.oldestMulti,
  oldestCommitTsXid: state.oldestCommitTsXid,
  newestCommitTsXid: state.newestCommitTsXid,
})

describe.each([16, 17, 18] as const)('PostgreSQL %i', (major) => {
  test('ids and members wrap around without a difference', { timeout: 120_000 }, async () => {
    await using history = await recordHistory({
      major,
      settings: NEAR_WRAPAROUND_SETTINGS,
      prepare: (server) => bringNearWraparound(server, NEARLY_ALL_MEMBERS),
      workload: goOverTheEnds,
    })
    const verifier = verifyHistory(history, { concurrent: true })
    console.info(formatCounts(verifier))
    expect(verifier.differences).toEqual([])

    // The tracker, before the shutdown checkpoint says everything at once.
    const state = trackerStateOf(history.control)
    const end = readControlFile(history.dataDirectory)
    const truncations: number[] = []
    for (const record of history.records()) {
      if (record.recordLsn === end.checkpointLsn) break
      track(state, record, { major })
      if (recordTypeName(record, history.settings) === 'MultiXact/TRUNCATE_ID') {
        const oldest = xl_multixact_truncate.endTruncMemb.get(record.view, record.mainDataOffset)
        truncations.push((state.nextMultiOffset - oldest) >>> 0)
      }
    }
    expect(countersOf(state)).toEqual(countersOf(trackerStateOf(end)))

    // It went over every end, and truncated while more than half of the members were live.
    expect(state).toMatchObject({ nextXidEpoch: 1, nextXid: expect.toSatisfy(isSmall) })
    expect(state).toMatchObject({
      nextMulti: expect.toSatisfy(isSmall),
      nextMultiOffset: expect.toSatisfy(isSmall),
    })
    expect(truncations).toEqual([
      expect.toSatisfy((live: number) => live > 2 ** 31),
      expect.toSatisfy(isSmall),
    ])
  })
})
