// Goal: the end of local WAL is where its unbroken chain of records ends, with any bytes behind it.
// Method: made records over a segment boundary; then zeros, a damaged record, and what a recycled file had before.
import { advance, lsn, segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import { RM_XLOG_ID, XLOG_NOOP, encodeRecord, placeRecord } from '@understory/postgres/wal'
import { expect, test } from 'vitest'
import { endOfLocalWal } from './local-wal.ts'

const SEGMENT_BYTES = 16 << 20
const WAL = { major: 17, systemId: 1n, timelineId: 1, segmentBytes: SEGMENT_BYTES } as const
const START = lsn(2 * SEGMENT_BYTES - 20_000)

/** Files as they are on disk, and where each record of them ends. */
function makeWal(
  startLsn: Lsn,
  records: number,
  dataBytes = 3_000,
): { files: Map<number, Uint8Array>; ends: Lsn[] } {
  const files = new Map<number, Uint8Array>()
  const ends: Lsn[] = []
  let [atLsn, prevLsn] = [startLsn, lsn(startLsn - 64)]
  for (let i = 0; i < records; i++) {
    const mainData = new Uint8Array(dataBytes).fill(i + 1)
    const placed = placeRecord(
      atLsn,
      encodeRecord({ rmid: RM_XLOG_ID, info: XLOG_NOOP, prevLsn, mainData }),
      WAL,
    )
    for (let done = 0; done < placed.bytes.length; done++) {
      const at = advance(atLsn, done)
      const segment = segmentOf(at, SEGMENT_BYTES)
      const file = files.get(segment) ?? new Uint8Array(SEGMENT_BYTES)
      files.set(segment, file)
      file[at - segmentStart(segment, SEGMENT_BYTES)] = placed.bytes[done] as number
    }
    prevLsn = placed.recordLsn
    atLsn = placed.nextLsn
    ends.push(atLsn)
  }
  return { files, ends }
}

const endOf = (files: ReadonlyMap<number, Uint8Array>, prevLsn?: Lsn): Promise<Lsn> =>
  endOfLocalWal(async (segment) => files.get(segment), {
    segmentBytes: SEGMENT_BYTES,
    startLsn: START,
    prevLsn,
  })

test('the chain is followed over a segment boundary, to its end', async () => {
  const { files, ends } = makeWal(START, 12)
  expect(segmentOf(ends.at(-1) as Lsn, SEGMENT_BYTES)).toBe(segmentOf(START, SEGMENT_BYTES) + 1)
  expect(await endOf(files, lsn(START - 64))).toBe(ends.at(-1))
  expect(await endOf(files)).toBe(ends.at(-1))
  // Another chain is none of ours.
  expect(await endOf(files, lsn(START - 128))).toBe(START)
})

test('it ends before a damaged record, a missing segment, and what a recycled file had', async () => {
  const { files, ends } = makeWal(START, 12)
  const boundary = segmentStart(segmentOf(START, SEGMENT_BYTES) + 1, SEGMENT_BYTES)
  const last = ends.findLast((end) => end <= boundary) as Lsn
  const [first, second] = [...files.keys()] as [number, number]
  expect(await endOf(new Map([[first, files.get(first) as Uint8Array]]))).toBe(last)
  const recycled = makeWal(lsn(START + 4 * SEGMENT_BYTES), 12).files
  const old = [...recycled.values()][1] as Uint8Array
  expect(await endOf(new Map([...files, [second, old]]))).toBe(last)
  const damaged = (files.get(first) as Uint8Array).slice()
  const at = (ends[2] as Lsn) - segmentStart(first, SEGMENT_BYTES) + 100
  damaged[at] = (damaged[at] as number) ^ 1
  expect(await endOf(new Map([...files, [first, damaged]]))).toBe(ends[2])
  expect(await endOf(new Map())).toBe(START)
})

test('a large record counts once all of it is there, and is right', async () => {
  const { files, ends } = makeWal(START, 3, 100_000)
  expect(await endOf(files)).toBe(ends[2])
  const second = segmentOf(START, SEGMENT_BYTES) + 1
  const damaged = (files.get(second) as Uint8Array).slice()
  const at = (ends[1] as Lsn) - segmentStart(second, SEGMENT_BYTES) - 5_000
  damaged[at] = (damaged[at] as number) ^ 1
  expect(await endOf(new Map([...files, [second, damaged]]))).toBe(ends[0])
})
