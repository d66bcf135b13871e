// Goal: verify looks at every live page of the SLRUs and at no other, wherever on the circle of ids a cluster stands.
// Method: ends of the live ranges drawn at random, against a walk over every page between them.
import fc from 'fast-check'
import { slruPageOf } from '@understory/postgres/cluster'
import type { ControlFileValues } from '@understory/postgres/cluster'
import { PAGE_SIZE } from '@understory/postgres/page'
import { expect, test } from 'vitest'
import { livePages, maskOffsets } from './slru-pages.ts'

const CIRCLE = 2 ** 32

interface Counters {
  readonly oldestXid: number
  readonly nextXid: bigint
  readonly oldestMulti: number
  readonly nextMulti: number
  readonly nextMultiOffset: number
  readonly oldestCommitTsXid: number
  readonly newestCommitTsXid: number
}
const controlOf = (counters: Counters): ControlFileValues =>
  ({ checkpoint: counters, trackCommitTimestamp: true }) as unknown as ControlFileValues

async function placesOf(counters: Counters, oldestOffset: number): Promise<string[]> {
  const offsets = new Uint8Array(PAGE_SIZE)
  new DataView(offsets.buffer).setUint32((counters.oldestMulti % 2048) * 4, oldestOffset, true)
  const places: string[] = []
  for await (const { kind, page } of livePages(controlOf(counters), () => Promise.resolve(offsets)))
    places.push(`${kind} ${page}`)
  return places
}

test('live pages are those of the entries between the oldest and the next, round the circle', async () => {
  const start = fc.oneof(
    fc.integer({ min: 3, max: CIRCLE - 1 }),
    fc.integer({ min: CIRCLE - 40_000, max: CIRCLE - 1 }),
  )
  const length = fc.integer({ min: 0, max: 60_000 })
  const kinds = ['pg_xact', 'pg_multixact/offsets', 'pg_multixact/members', 'pg_commit_ts'] as const
  await fc.assert(
    fc.asyncProperty(start, length, async (first, count) => {
      const next = (first + count) % CIRCLE
      // Xids 0 to 2 are never given out: the newest to have a time stamp is none of them.
      fc.pre(next === first || next > 3)
      const counters: Counters = {
        oldestXid: first,
        nextXid: (7n << 32n) | BigInt(next),
        oldestMulti: first,
        nextMulti: next,
        nextMultiOffset: next,
        oldestCommitTsXid: first,
        newestCommitTsXid: (next + CIRCLE - 1) % CIRCLE,
      }
      const expected = new Set<string>()
      for (let i = 0; i < count; i++)
        for (const kind of kinds) expected.add(`${kind} ${slruPageOf(kind, (first + i) % CIRCLE)}`)
      expect(new Set(await placesOf(counters, first))).toEqual(expected)
    }),
    { numRuns: 40 },
  )
})

test('a next multixact of 0 is the first one: nothing is live where that is the oldest, too', async () => {
  const counters: Counters = {
    oldestXid: 700,
    nextXid: 701n,
    oldestMulti: 1,
    nextMulti: 0,
    nextMultiOffset: 99,
    oldestCommitTsXid: 0,
    newestCommitTsXid: 0,
  }
  expect(await placesOf(counters, 50)).toEqual(['pg_xact 0'])
  expect(await placesOf({ ...counters, oldestMulti: 0xffff_fff0 }, 50)).toEqual([
    'pg_xact 0',
    'pg_multixact/offsets 2097151',
    'pg_multixact/offsets 0',
    'pg_multixact/members 0',
  ])
})

test('offsets are compared for live multixacts alone, and there is none of number 0', () => {
  const control = controlOf({
    oldestXid: 3,
    nextXid: 4n,
    oldestMulti: 0xffff_fffe,
    nextMulti: 3,
    nextMultiOffset: 9,
    oldestCommitTsXid: 0,
    newestCommitTsXid: 0,
  })
  const left = (page: number): number[] => {
    const bytes = new Uint8Array(PAGE_SIZE).fill(0xff)
    maskOffsets(bytes, page, control)
    return [...new Uint32Array(bytes.buffer)].flatMap((offset, i) => (offset === 0 ? [] : [i]))
  }
  expect(left(0)).toEqual([1, 2])
  expect(left(2 ** 21 - 1)).toEqual([2046, 2047])
})
