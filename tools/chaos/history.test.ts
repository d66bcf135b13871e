// The checker finds each anomaly, and none in histories that some order of the transactions explains.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { checkHistory } from './history.ts'
import type { Append, Outcome, Read } from './history.ts'

const append = (value: number, outcome: Outcome, beganMs: number, endedMs: number): Append => ({
  key: 1,
  value,
  outcome,
  beganMs,
  endedMs,
})
const read = (items: readonly number[], beganMs: number, endedMs: number): Read => ({
  key: 1,
  items,
  beganMs,
  endedMs,
})
const kinds = (appends: readonly Append[], reads: readonly Read[], list: readonly number[]): string[] =>
  checkHistory({ appends, reads }, new Map([[1, list]])).map(({ kind }) => kind)

test('an acknowledged append that is gone is lost; an unknown one may be there or not', () => {
  expect(kinds([append(1, 'acknowledged', 0, 1)], [], [])).toEqual(['lost'])
  expect(kinds([append(1, 'unknown', 0, 1)], [], [])).toEqual([])
  expect(kinds([append(1, 'unknown', 0, 1)], [], [1])).toEqual([])
})

test('what was rolled back or never sent is a ghost', () => {
  expect(kinds([append(1, 'failed', 0, 1)], [], [1])).toEqual(['ghost'])
  expect(kinds([], [], [7])).toEqual(['ghost'])
})

test('a value is there once', () => {
  expect(kinds([append(1, 'acknowledged', 0, 1)], [], [1, 1])).toEqual(['twice'])
})

test('a value that a client has read stays', () => {
  const appends = [append(1, 'acknowledged', 0, 1), append(2, 'unknown', 2, 3)]
  expect(kinds(appends, [read([1, 2], 3, 4)], [1])).toEqual(['torn read'])
  expect(kinds(appends, [read([1, 2], 3, 4)], [1, 2])).toEqual([])
})

test('reads do not go back, and see what was acknowledged before they began', () => {
  const appends = [append(1, 'acknowledged', 0, 1), append(2, 'acknowledged', 2, 3)]
  expect(kinds(appends, [read([1], 4, 5)], [1, 2])).toEqual(['went back'])
  expect(kinds(appends, [read([1], 2.5, 5)], [1, 2])).toEqual([])
  const late = [append(1, 'acknowledged', 0, 9)]
  expect(kinds(late, [read([1], 1, 2), read([], 3, 4)], [1])).toEqual(['went back'])
  expect(kinds(late, [read([1], 1, 3), read([], 2, 4)], [1])).toEqual([])
})

test('an append does not get in front of what was there before it was sent', () => {
  const appends = [append(1, 'acknowledged', 0, 1), append(2, 'acknowledged', 2, 3)]
  expect(kinds(appends, [], [2, 1])).toEqual(['went back'])
})

test('an honest list with unknown outcomes passes, and without any one acknowledged item it does not', () => {
  const outcomes = fc.array(fc.constantFrom<Outcome>('acknowledged', 'unknown', 'failed'), { minLength: 1 })
  fc.assert(
    fc.property(outcomes, fc.integer({ min: 1 }), (drawn, salt) => {
      const appends = drawn.map((outcome, i) => append(i, outcome, 2 * i, 2 * i + 1))
      const isThere = (i: number): boolean =>
        drawn[i] === 'acknowledged' || (drawn[i] === 'unknown' && (i * salt) % 3 !== 0)
      const list = appends.map(({ value }) => value).filter(isThere)
      const reads = appends.map((_, i) =>
        read(
          list.filter((value) => value <= i),
          2 * i + 1,
          2 * i + 1.5,
        ),
      )
      expect(kinds(appends, reads, list)).toEqual([])
      for (const [i, outcome] of drawn.entries()) {
        if (outcome === 'acknowledged')
          expect(
            kinds(
              appends,
              [],
              list.filter((value) => value !== i),
            ),
          ).toContain('lost')
      }
    }),
    { numRuns: 50 },
  )
})
