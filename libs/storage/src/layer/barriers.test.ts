// Goal: the newest barrier that covers a key is found, in a number of steps that grows with the logarithm of their
// count. Method: random barriers against a plain search through all of them; a table that was truncated very often.
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Barriers, FORK_ALL, barrierKey } from './barriers.ts'
import { blockKey } from '../key/key.ts'

interface Model {
  readonly fork: number
  readonly at: number
  readonly fromBlock: number
}

/** What a search through all of them gives. */
function expected(models: readonly Model[], fork: number, block: number, at: number): number {
  const covering = models.filter(
    (model) =>
      model.at <= at && (model.fork === FORK_ALL || (model.fork === fork && model.fromBlock <= block)),
  )
  return Math.max(LSN_ZERO, ...covering.map((model) => model.at))
}

test('the newest barrier is the one that a search through all of them finds', () => {
  const barrier = fc.record({
    fork: fc.constantFrom(0, 0, 0, 0, 1, FORK_ALL),
    // Two may lie at one position.
    stepBytes: fc.integer({ min: 0, max: 3 }),
    fromBlock: fc.oneof(fc.integer({ min: 0, max: 8 }), fc.integer({ min: 0, max: 0xffff_ffff })),
  })
  fc.assert(
    fc.property(fc.array(barrier, { maxLength: 60 }), (steps) => {
      const barriers = new Barriers()
      const models: Model[] = []
      let at = 1
      for (const { fork, stepBytes, fromBlock } of steps) {
        at += stepBytes
        const from = fork === FORK_ALL ? 0 : fromBlock
        models.push({ fork, at, fromBlock: from })
        barriers.add(barrierKey(1663, 5, 7, fork), at as Lsn, from)
      }
      const blocks = [0, 1, 3, 8, 0xffff_ffff, ...models.map(({ fromBlock }) => fromBlock)]
      for (const fork of [0, 1, 2]) {
        for (const block of blocks) {
          for (let where = 0; where <= at + 1; where++) {
            const found = barriers.newest(blockKey(1663, 5, 7, fork, block), where as Lsn)
            expect(found).toBe(expected(models, fork, block, where))
          }
        }
      }
    }),
    { numRuns: 300 },
  )
})

test('a table that was truncated 50,000 times costs a look-up a few dozen steps', () => {
  const barriers = new Barriers()
  // Each truncation leaves more than the one before, so that the first block is covered by none.
  for (let i = 1; i <= 50_000; i++) barriers.add(barrierKey(1663, 5, 7, 0), i as Lsn, i)
  let steps = 0
  // Compared with a barrier, it counts.
  const counted = (value: number): number =>
    ({
      valueOf: () => {
        steps++
        return value
      },
    }) as unknown as number
  for (const [block, at, found] of [
    [0, 50_000, LSN_ZERO],
    [7, 25_000, 7],
    [24_999, 25_000, 24_999],
  ] as const) {
    steps = 0
    expect(barriers.newest(blockKey(1663, 5, 7, 0, counted(block)), counted(at) as Lsn)).toBe(found)
    expect(steps).toBeGreaterThan(10)
    expect(steps).toBeLessThan(150)
  }
})
