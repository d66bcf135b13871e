/**
 * Goal: levels stay few, bytes are written seldom, and what is below the horizon goes. Method: a plain simulation of
 * levels.
 */
import type { Lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { planCompaction } from './plan-compaction.ts'
import type { Level } from './plan-compaction.ts'

const MIB = 1024 * 1024
const level = (mib: number, lsnMax: number): Level => ({
  sizeBytes: mib * MIB,
  lsnMax: lsnMax as Lsn,
  isImported: false,
})
const lsn = (value: number): Lsn => value as Lsn

test('four neighbours of a class become one, the smaller ones between them too, and larger ones stay', () => {
  expect(planCompaction([], lsn(0))).toBeUndefined()
  expect(planCompaction([level(20, 1), level(20, 2), level(20, 3)], lsn(0))).toBeUndefined()
  expect(
    planCompaction(
      [level(300, 1), level(20, 2), level(2, 3), level(20, 4), level(20, 5), level(20, 6)],
      lsn(0),
    ),
  ).toEqual({ from: 1, to: 6 })
  // The smallest class that is full comes first.
  expect(
    planCompaction(
      [20, 20, 20, 20, 2, 2, 2, 2].map((mib, i) => level(mib, i)),
      lsn(0),
    ),
  ).toEqual({ from: 4, to: 8 })
  // A larger one between them keeps them apart.
  expect(
    planCompaction([level(2, 1), level(2, 2), level(20, 3), level(2, 4), level(2, 5)], lsn(0)),
  ).toBeUndefined()
})

test('the bottom takes in what is below the horizon once that outweighs it', () => {
  const levels = [level(100, 10), level(60, 20), level(30, 30), level(20, 40)]
  expect(planCompaction(levels, lsn(9))).toBeUndefined()
  expect(planCompaction(levels, lsn(35))).toBeUndefined()
  expect(planCompaction(levels, lsn(40))).toEqual({ from: 0, to: 4 })
  // Not for little.
  expect(planCompaction([level(1, 1), level(2, 2)], lsn(5))).toBeUndefined()
})

test('the base is merged only with what lies below the horizon', () => {
  const levels = [20, 20, 20, 20].map((mib, i) => level(mib, 10 + i))
  expect(planCompaction(levels, lsn(10))).toBeUndefined()
  expect(planCompaction(levels, lsn(13))).toEqual({ from: 0, to: 4 })
  const imported = { ...level(20, 10), isImported: true }
  const mixed = [level(99, 9), imported, ...levels.slice(1)]
  expect(planCompaction(mixed, lsn(12))).toBeUndefined()
  expect(planCompaction([...mixed, level(20, 14)], lsn(12))).toEqual({ from: 2, to: 6 })
})

test('over a long time levels, and how often a byte is written, grow with the logarithm', () => {
  const bytes = 20 * MIB
  const count = 2000
  let levels: Level[] = []
  let written = 0
  let most = 0
  for (let i = 0; i < count; i++) {
    levels.push({ sizeBytes: bytes, lsnMax: lsn(i), isImported: false })
    written += bytes
    for (
      let plan = planCompaction(levels, lsn(0));
      plan !== undefined;
      plan = planCompaction(levels, lsn(0))
    ) {
      const merged = levels.slice(plan.from, plan.to)
      const sizeBytes = merged.reduce((sum, one) => sum + one.sizeBytes, 0)
      written += sizeBytes
      levels = [
        ...levels.slice(0, plan.from),
        { sizeBytes, lsnMax: (merged.at(-1) as Level).lsnMax, isImported: false },
        ...levels.slice(plan.to),
      ]
    }
    most = Math.max(most, levels.length)
  }
  expect(most).toBeLessThanOrEqual(18)
  expect(written / (bytes * count)).toBeLessThan(7)
})
