// Goal: the control plane keeps no connection to a process that is gone. Method: a clock that is set by hand.
import { expect, test } from 'vitest'
import { ClientCache } from './client-cache.ts'

test('a client whose address is not asked for any more is closed, the others stay', () => {
  const closed: string[] = []
  let nowMs = 0
  const cache = new ClientCache({ nowMs: () => nowMs }, (address) => ({
    address,
    close: () => void closed.push(address),
  }))
  const gone = cache.at('gone:1')
  const living = cache.at('living:1')
  for (; nowMs < 14 * 60_000; nowMs += 1_000) expect(cache.at('living:1')).toBe(living)
  expect(closed).toEqual([])
  for (; nowMs < 17 * 60_000; nowMs += 1_000) expect(cache.at('living:1')).toBe(living)
  expect(closed).toEqual(['gone:1'])
  expect(cache.at('gone:1')).not.toBe(gone)
  cache.close()
  expect(closed.toSorted()).toEqual(['gone:1', 'gone:1', 'living:1'])
})
