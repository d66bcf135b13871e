// Goal: the percentiles and the maximum equal those of a list that is sorted again each time.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ChainLedger } from './chain-ledger.ts'

test('summary equals that of the sorted counts', () => {
  const step = fc.record({
    page: fc.integer({ min: 0, max: 9 }),
    to: fc.option(fc.integer({ min: 0, max: 5 }), { freq: 4 }),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const ledger = new ChainLedger()
      const counts = new Map<number, number>()
      for (const { page, to } of steps) {
        if (to === null) {
          counts.set(page, (counts.get(page) ?? 0) + 1)
          expect(ledger.add(page)).toBe(counts.get(page))
        } else {
          counts.set(page, to)
          ledger.reset(page, to)
        }
        const sorted = [...counts.values()].filter((count) => count > 0).sort((a, b) => a - b)
        const percentile = (share: number): number => sorted[Math.ceil(sorted.length * share) - 1] ?? 0
        const expected = {
          pages: sorted.length,
          p50: percentile(0.5),
          p99: percentile(0.99),
          max: sorted.at(-1) ?? 0,
        }
        expect(ledger.summary()).toEqual(expected)
      }
    }),
  )
})
