// Gaps between commits are found where commits were owed, and only there.
import { expect, test } from 'vitest'
import { countWithin, gapsWithin, without } from './availability.ts'

test('a gap counts from the last commit, and from the beginning of an obligation', () => {
  const commitsMs = [10, 20, 90, 100]
  expect(gapsWithin(commitsMs, [{ fromMs: 0, toMs: 100 }], 50)).toEqual([
    { fromMs: 20, toMs: 90, lengthMs: 70 },
  ])
  expect(gapsWithin(commitsMs, [{ fromMs: 25, toMs: 60 }], 30)).toEqual([
    { fromMs: 25, toMs: 60, lengthMs: 35 },
  ])
  expect(gapsWithin([], [{ fromMs: 0, toMs: 9 }], 5)).toEqual([{ fromMs: 0, toMs: 9, lengthMs: 9 }])
})

test('a gap that a release of obligation cuts is two', () => {
  const obliged = without({ fromMs: 0, toMs: 100 }, [{ fromMs: 30, toMs: 60 }])
  expect(obliged).toEqual([
    { fromMs: 0, toMs: 30 },
    { fromMs: 60, toMs: 100 },
  ])
  expect(gapsWithin([5, 95], obliged, 20).map(({ lengthMs }) => lengthMs)).toEqual([35, 25])
})

test('overlapping releases, and those that reach beyond the whole', () => {
  const taken = [
    { fromMs: 90, toMs: 200 },
    { fromMs: 10, toMs: 50 },
    { fromMs: 20, toMs: 30 },
  ]
  expect(without({ fromMs: 0, toMs: 100 }, taken)).toEqual([
    { fromMs: 0, toMs: 10 },
    { fromMs: 50, toMs: 90 },
  ])
  expect(countWithin([1, 2, 3], { fromMs: 1, toMs: 3 })).toBe(1)
})
