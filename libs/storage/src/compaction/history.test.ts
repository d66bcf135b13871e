/**
 * Goal: history never ends before its window is over, and soon after it. Method: a random run against all that was
 * noted.
 */
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { NO_HISTORY, historyUpTo, horizonOf, noteHistory } from './history.ts'
import type { History } from './history.ts'

const WINDOW_MS = 64_000

test('the horizon is the end of WAL that is as old as the window, to a part of it, over any pauses', () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ ms: fc.integer({ min: 0, max: 30_000 }), bytes: fc.nat(3) }), {
        size: 'max',
        maxLength: 200,
      }),
      (steps) => {
        let history: History = NO_HISTORY
        let sinceMs = 0
        let nowMs = 0
        let lsn = 0x1000
        const all: { lsn: number; atMs: number }[] = []
        for (const { ms, bytes } of steps) {
          nowMs += ms
          sinceMs += ms
          lsn += bytes
          all.push({ lsn, atMs: nowMs })
          const noted = noteHistory(history, lsn as Lsn, sinceMs, WINDOW_MS)
          if (noted !== history) sinceMs = 0
          history = noted
          const horizon = horizonOf(history, sinceMs, WINDOW_MS)
          // All WAL below it was there a window ago.
          const then = all.findLast(({ atMs }) => atMs <= nowMs - WINDOW_MS)
          expect(horizon).toBeLessThanOrEqual(then?.lsn ?? LSN_ZERO)
          // WAL that was ingested well before that is below it.
          const before = all.findLast(({ atMs }) => atMs <= nowMs - WINDOW_MS - 1_000 - 30_000)
          if (before !== undefined) expect(horizon).toBeGreaterThanOrEqual(before.lsn)
          expect(history.samples.length).toBeLessThanOrEqual(68)
        }
      },
    ),
  )
})

test('WAL that was discarded is not part of it', () => {
  const history: History = {
    clockMs: 9,
    samples: [
      { lsn: 1 as Lsn, atMs: 3 },
      { lsn: 5 as Lsn, atMs: 7 },
    ],
  }
  expect(historyUpTo(history, 4 as Lsn)).toEqual({ clockMs: 9, samples: [{ lsn: 1, atMs: 3 }] })
})
