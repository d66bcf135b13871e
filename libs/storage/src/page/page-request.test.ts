// Goal: a page request that asks for too much, or is cut short, is refused before anything is reserved for it.
import type { Lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { PAGE_REQUESTS_COUNT_MAX, encodePageRequests, readPageRequests } from './page-request.ts'
import { blockKey } from '../key/key.ts'

const requests = (count: number): Buffer =>
  encodePageRequests(
    Array.from({ length: count }, (_, block) => ({ key: blockKey(1663, 5, 16384, 0, block), lsn: 8 as Lsn })),
  )

test('as many pages as an answer has room for can be asked for, and no more', () => {
  expect(readPageRequests(requests(PAGE_REQUESTS_COUNT_MAX))).toHaveLength(PAGE_REQUESTS_COUNT_MAX)
  expect(() => readPageRequests(requests(PAGE_REQUESTS_COUNT_MAX + 1))).toThrow(
    expect.objectContaining({
      code: 'bad_argument',
      message: 'page request asks for 4001 pages, the limit is 4000',
      hint: 'Split it into several requests.',
    }),
  )
})

test('a message full of page requests is refused before memory is taken for it', () => {
  const flood = Buffer.alloc(26 * 1_200_000)
  const before = process.memoryUsage().heapUsed
  expect(() => readPageRequests(flood)).toThrow('page request asks for 1200000 pages')
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(16 * 1024 * 1024)
})

test('a request that is cut short is refused', () => {
  expect(() => readPageRequests(requests(2).subarray(1))).toThrow('not a multiple of 26')
})
