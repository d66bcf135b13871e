// Goal: writers are slowed by the lag of the shards smoothly, and never to less than the floor. Method: properties.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { WAL_RATE_FLOOR, walRateMax } from './wal-rate.ts'

const limits = fc.integer({ min: 1 << 20, max: 2 ** 40 })
/** In limits: from none to several. */
const shares = fc.double({ min: 0, max: 4, noNaN: true })

/** Milliseconds for a byte. */
const pauseMs = (lagBytes: number, limitBytes: number): number => 1_000 / walRateMax(lagBytes, limitBytes)
const FLOOR_PAUSE_MS = 1_000 / WAL_RATE_FLOOR

test('up to half of the limit nothing is slowed', () => {
  fc.assert(
    fc.property(limits, fc.double({ min: 0, max: 0.5, noNaN: true }), (limit, share) => {
      expect(walRateMax(share * limit, limit)).toBe(Infinity)
    }),
  )
})

test('beyond half of the limit something is, and from the limit on the floor is left exactly', () => {
  fc.assert(
    fc.property(limits, fc.double({ min: 0.51, max: 4, noNaN: true }), (limit, share) => {
      expect(walRateMax(share * limit, limit)).toBeLessThan(Infinity)
      if (share >= 1) expect(walRateMax(share * limit, limit)).toBe(WAL_RATE_FLOOR)
    }),
  )
})

test('the rate is never below the floor', () => {
  fc.assert(
    fc.property(limits, shares, (limit, share) => {
      expect(walRateMax(share * limit, limit)).toBeGreaterThanOrEqual(WAL_RATE_FLOOR)
    }),
  )
})

test('more lag never makes it faster, and a higher limit never slower', () => {
  fc.assert(
    fc.property(limits, shares, shares, (limit, a, b) => {
      const [less, more] = [Math.min(a, b) * limit, Math.max(a, b) * limit]
      expect(walRateMax(more, limit)).toBeLessThanOrEqual(walRateMax(less, limit))
      expect(walRateMax(more, 2 * limit)).toBeGreaterThanOrEqual(walRateMax(more, limit))
    }),
  )
})

test('there is no step: a hundredth of the limit changes the pause for a byte by a seventh of the longest', () => {
  fc.assert(
    fc.property(limits, (limit) => {
      for (let share = 0.4; share < 1.1; share += 0.001) {
        const step = pauseMs((share + 0.01) * limit, limit) - pauseMs(share * limit, limit)
        expect(step).toBeLessThan(FLOOR_PAUSE_MS / 7)
        // Of the pause itself, too, once there is one to speak of.
        if (share > 0.55) expect(step).toBeLessThan(pauseMs(share * limit, limit) / 3)
      }
    }),
    { numRuns: 20 },
  )
})
