// Goal: looks are quick where something began, and bounded in number where anything is missing. Method: a table of
// times.
import { expect, test } from 'vitest'
import { ReconcileInterval } from './reconcile-interval.ts'

test('a few timelines are looked at every second where all is well, many share 20 looks a second', () => {
  const pace = new ReconcileInterval()
  expect([1, 20, 100, 1_000].map((count) => pace.pauseMs(true, 0, count))).toEqual([
    1_000, 1_000, 5_000, 50_000,
  ])
})

test('what has been missing for long is looked at less often, and what begins at once again', () => {
  const pace = new ReconcileInterval()
  expect([0, 1_000, 10_000, 600_000].map((nowMs) => pace.pauseMs(false, nowMs, 3))).toEqual([
    100, 100, 500, 1_000,
  ])
  pace.reset()
  expect(pace.pauseMs(false, 601_000, 3)).toBe(100)
  expect(pace.pauseMs(true, 700_000, 3)).toBe(1_000)
  expect(pace.pauseMs(false, 900_000, 3)).toBe(100)
})
