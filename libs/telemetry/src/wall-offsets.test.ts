import { expect, test } from 'vitest'
import { WallOffsets } from './wall-offsets.ts'

test('a wall clock that is set is followed from the next trace on', () => {
  let differenceMs = 0.4
  const offsets = new WallOffsets(() => differenceMs)
  expect(offsets.of('a')).toBe(0)
  differenceMs = 50
  expect([offsets.of('a'), offsets.of('b'), offsets.of('a')]).toEqual([0, 50, 0])
  // A difference below its whole milliseconds does not count as drift.
  differenceMs = 51
  expect(offsets.of('c')).toBe(50)
  for (let i = 0; i < 1_000; i++) offsets.of(`later ${i}`)
  expect(offsets.of('a')).toBe(50)
})
