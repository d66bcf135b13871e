// Clock, chance, retry and log: small promises, each checked once.
import { describe, expect, test } from 'vitest'
import { fail } from '@understory/base'
import {
  type Clock,
  backoffMs,
  jsonLog,
  realClock,
  realRng,
  retry,
  seededRng,
  withDeadline,
} from '@understory/env'

/** Sleeps take no time and are written down. */
function instantClock(): { clock: Clock; sleptMs: number[] } {
  const sleptMs: number[] = []
  return { sleptMs, clock: { ...realClock, wallMs: () => 0, sleep: async (ms) => void sleptMs.push(ms) } }
}

describe('withDeadline', () => {
  test('gives the result, the time-out or the cancellation, and fires the signal of the work', async () => {
    expect(await withDeadline(realClock, 1000, 'add', undefined, async () => 5)).toBe(5)
    let inner: AbortSignal | undefined
    const never = (signal: AbortSignal): Promise<never> => {
      inner = signal
      return new Promise(() => undefined)
    }
    const keepAlive = setInterval(() => undefined, 1000)
    await expect(withDeadline(realClock, 1, 'wait', undefined, never)).rejects.toMatchObject({
      code: 'timeout',
    })
    clearInterval(keepAlive)
    expect(inner?.aborted).toBe(true)
    const controller = new AbortController()
    const waiting = withDeadline(realClock, 60_000, 'wait', controller.signal, never)
    controller.abort()
    await expect(waiting).rejects.toMatchObject({ code: 'cancelled' })
    await expect(withDeadline(realClock, 1, 'wait', controller.signal, never)).rejects.toMatchObject({
      code: 'cancelled',
    })
  })

  test('sleep ends early on the signal', async () => {
    const controller = new AbortController()
    const sleeping = realClock.sleep(60_000, controller.signal)
    controller.abort()
    await expect(sleeping).rejects.toMatchObject({ code: 'cancelled' })
  })
})

describe('retry', () => {
  test('tries again what may be tried again, up to the bound', async () => {
    const { clock, sleptMs } = instantClock()
    const seams = { clock, rng: seededRng(1) }
    let calls = 0
    const third = async (): Promise<string> => {
      if (++calls < 3) throw fail('unavailable', 'not yet')
      return 'here'
    }
    expect(await retry(seams, {}, third)).toBe('here')
    expect(sleptMs.length).toBe(2)
    calls = -10
    await expect(retry(seams, { attemptsMax: 4 }, third)).rejects.toMatchObject({ code: 'unavailable' })
    expect(calls).toBe(-6)
    calls = 0
    const wrong = async (): Promise<string> => {
      calls++
      throw fail('bad_argument', 'no')
    }
    await expect(retry(seams, {}, wrong)).rejects.toMatchObject({ code: 'bad_argument' })
    expect(calls).toBe(1)
  })

  test('pauses grow to their maximum', () => {
    const rng = seededRng(3)
    for (let attempt = 1; attempt < 60; attempt++) {
      const full = Math.min(1000, 10 * 2 ** (attempt - 1))
      const pauseMs = backoffMs(rng, attempt, { baseMs: 10, pauseMsMax: 1000 })
      expect(pauseMs).toBeGreaterThanOrEqual(full / 2)
      expect(pauseMs).toBeLessThanOrEqual(full)
    }
  })
})

describe('chance', () => {
  test('a seed is a sequence', () => {
    const draw = (seed: number): number[] => {
      const rng = seededRng(seed)
      return [rng.u32(), rng.below(10), rng.fraction(), ...rng.bytes(4)]
    }
    expect(draw(7)).toEqual(draw(7))
    expect(draw(7)).not.toEqual(draw(8))
    expect(draw(7)).not.toEqual(draw(7 + 2 ** 32))
  })

  test.each([
    ['seeded', seededRng(5)],
    ['real', realRng],
  ])('%s: bounds and an even spread', (_name, rng) => {
    const counts = [0, 0, 0]
    for (let draw = 0; draw < 3000; draw++) {
      const index = rng.below(3)
      counts[index] = (counts[index] as number) + 1
    }
    for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(200)
    const fractions = Array.from({ length: 2000 }, () => rng.fraction())
    expect(Math.min(...fractions)).toBeGreaterThanOrEqual(0)
    expect(Math.max(...fractions)).toBeLessThan(1)
    expect(fractions.reduce((a, b) => a + b) / 2000).toBeCloseTo(0.5, 1)
    expect(() => rng.below(0)).toThrow('limit 0')
    expect(rng.bytes(5).length).toBe(5)
  })
})

test('the log writes one JSON line with what is bound, and nothing secret or unprintable', () => {
  const lines: string[] = []
  const clock = instantClock().clock
  const log = jsonLog({ level: 'info', clock, write: (line) => lines.push(line) }).child({ tenant: 'ab' })
  log.debug('hidden')
  log.info('page_read', { page: new Uint8Array(8192), xid: 5n })
  log.error('sync_failed', { error: fail('disk_full', 'could not write', { hint: 'Free some space.' }) })
  expect(lines.map((line) => JSON.parse(line))).toEqual([
    {
      time: '1970-01-01T00:00:00.000Z',
      level: 'info',
      event: 'page_read',
      tenant: 'ab',
      page: '8192 bytes',
      xid: '5',
    },
    {
      time: '1970-01-01T00:00:00.000Z',
      level: 'error',
      event: 'sync_failed',
      tenant: 'ab',
      error: { code: 'disk_full', message: 'could not write. Free some space.' },
    },
  ])
  expect(lines.every((line) => line.endsWith('\n'))).toBe(true)
})
