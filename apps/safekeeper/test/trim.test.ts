/**
 * Goal: a safekeeper that is killed at any moment after it trimmed WAL opens again with everything that was committed.
 * Method: random records, of up to several segments, commits and trims on real files; a copy of the folder stands for
 * the kill.
 */
import { cp, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { advance, minLsn, segmentOf, segmentStart } from '@understory/base'
import { realClock, realDisk, silentLog, realRng } from '@understory/env'
import { memoryObjectStore } from '@understory/object-store'
import fc from 'fast-check'
import { expect, onTestFinished, test } from 'vitest'
import { Timelines } from '../src/timeline/timelines.ts'
import { unlimitedQuota } from '../src/timeline/node-quota.ts'
import { REF, create, folder, start } from './peers.ts'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, WalMaker } from './wal-maker.ts'

const { walSegmentBytes: segmentBytes } = IDENTITY

/** How much of a segment a record has, and how many segments before the commit position stay. */
const STEP = fc.record({ segments: fc.double({ min: 0.001, max: 3, noNaN: true }), kept: fc.nat(2) })

test('a folder that was copied after any trim opens with what was committed', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(STEP, { minLength: 1, maxLength: 5 }), async (steps) => {
      const at = await folder()
      const safekeeper = await start('sk', at, { store: memoryObjectStore() })
      await create(safekeeper)
      const timeline = safekeeper.timelines.get(REF)
      const leader = new SingleProposer(safekeeper.client)
      onTestFinished(() => leader.close())
      const maker = new WalMaker()
      maker.endLsn = await leader.lead(REF, IDENTITY, 1)
      for (const [i, { segments, kept }] of steps.entries()) {
        const beginLsn = maker.endLsn
        const wal = maker.record(Math.ceil(segments * segmentBytes))
        for (let from = 0; from < wal.length; from += 200_000)
          await leader.append(advance(beginLsn, from), wal.subarray(from, from + 200_000))
        await leader.flushed(maker.endLsn)
        await leader.commit(maker.endLsn)
        const segment = segmentOf(timeline.commitLsn, segmentBytes) - kept
        const wantedLsn = segmentStart(Math.max(0, segment), segmentBytes)
        const beforeLsn = timeline.oldestLsn
        await timeline.trim(wantedLsn)
        // There is room for the control file, so that all of it goes but the segment that a start looks at.
        const neededLsn = segmentStart(segmentOf(advance(timeline.commitLsn, -1), segmentBytes), segmentBytes)
        const goneLsn = minLsn(wantedLsn, neededLsn)
        expect(timeline.oldestLsn).toBe(Math.max(beforeLsn, goneLsn))
        // The rest may lie within the last record.
        await timeline.check(() => Promise.resolve())
        const copy = join(at, `killed-${i}`)
        await mkdir(copy)
        await cp(join(at, 'sk'), copy, { recursive: true })
        const after = new Timelines({
          disk: realDisk,
          log: silentLog,
          dataDir: copy,
          quota: unlimitedQuota(realClock),
          clock: realClock,
          rng: realRng,
        })
        await after.openAll()
        expect(after.get(REF).state.flushLsn).toBe(maker.endLsn)
        await after.close()
      }
      await safekeeper.stop()
    }),
    // Shrinking would take minutes; the steps that failed are short as they are.
    { numRuns: 8, endOnFailure: true },
  )
}, 120_000)
