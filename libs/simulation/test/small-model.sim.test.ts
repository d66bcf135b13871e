/**
 * Goal: election and commit are right in every state of a small world, and in the schedule that a small world cannot
 * reach. Method: breadth first over all of two proposers, three acceptors, two terms and two entries.
 */
import { expect, test } from 'vitest'
import { figure8 } from '../src/figure-8.ts'
import { exhaust } from '../src/small-model.ts'
/** Seconds on a free machine; another's tests may run beside it. */
const BUSY_MS = 600_000

test(
  'every state of two proposers, three acceptors, two terms and two entries is safe',
  { timeout: BUSY_MS },
  () => {
    const bounds = { proposersCount: 2, acceptorsCount: 3, termMax: 2, entriesMax: 2 }
    // The published specification, whose elections take a step more and whose streams hold nothing, has 61,249.
    expect(exhaust(bounds)).toMatchObject({ statesCount: 74_336, depth: 26 })
  },
)

test('entries of an older term are not committed by reaching a majority alone (figure 8 of the Raft paper)', () => {
  expect(figure8()).toEqual([2])
})
