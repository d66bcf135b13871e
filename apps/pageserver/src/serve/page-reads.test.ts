// Goal: what a read costs is its own: no page is redone for nothing, and no page's time has that of others in it.
// Method: a reader by hand, over a clock that moves only when a page is redone.
import type { Lsn } from '@understory/base'
import { realClock } from '@understory/env'
import { PAGE_BEYOND_END, PAGE_FOUND, blockKey } from '@understory/storage'
import { expect, test } from 'vitest'
import type { ShardReader } from '../state/shard-reader.ts'
import { LatencyHistogram } from '../telemetry/latency-histogram.ts'
import { readPages } from './page-reads.ts'
import type { ReadableShard } from './page-reads.ts'

const OWNER = { shard: { number: 0, count: 1, stripeBlocks: 8 } }

function open(blocks: number) {
  let nowMs = 0
  const redone: number[] = []
  const reader = {
    owner: OWNER,
    settings: { dataChecksums: false },
    isHomeOf: () => true,
    readSize: async () => blocks,
    readPage: async (key: { block: number }) => {
      redone.push(key.block)
      nowMs += 10
      return 'made'
    },
  } as unknown as ShardReader
  const latency = new LatencyHistogram()
  const waitFor = async (): Promise<void> => void (nowMs += 2)
  const shard: ReadableShard = { reader, readableLsn: 0 as Lsn, latency, waitFor }
  const read = (...wanted: number[]) =>
    readPages(
      shard,
      wanted.map((block) => ({ key: blockKey(1663, 5, 16384, 0, block), lsn: 8 as Lsn })),
      { ...realClock, nowMs: () => nowMs },
      new AbortController().signal,
    )
  return { read, latency, redone }
}

test('a page of a request counts its wait and its own redo, not the pages before it', async () => {
  const one = open(10)
  for (let i = 0; i < 8; i++) await one.read(1)
  const many = open(10)
  await many.read(0, 1, 2, 3, 4, 5, 6, 7)
  expect(many.latency.pairs()).toEqual(one.latency.pairs())
})

test('a page beyond the end of its relation is not redone', async () => {
  const { read, redone } = open(2)
  expect([...(await read(1, 2, 3)).statuses]).toEqual([PAGE_FOUND, PAGE_BEYOND_END, PAGE_BEYOND_END])
  expect(redone).toEqual([1])
})
