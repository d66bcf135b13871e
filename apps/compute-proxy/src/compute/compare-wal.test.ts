// Goal: WAL counts as equal where all of it is, and in no other case (I2). Method: segment files made by hand, and a
// donor that has the same bytes but for one.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { walFileName } from '@understory/postgres/wal'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { compareWal } from './compare-wal.ts'
import type { LocalWal, ReadDonor } from './compare-wal.ts'

const SEGMENT_BYTES = 1024 * 1024
const FIRST = 7 * SEGMENT_BYTES
const BYTES = Buffer.from(Array.from({ length: 3 * SEGMENT_BYTES }, (_, i) => (i * 31 + (i >> 8)) & 0xff))

async function local(change: Partial<LocalWal> = {}) {
  const folder = await temporaryDirectory()
  await mkdir(join(folder.path, 'pg_wal'))
  for (let i = 0; i < 3; i++) {
    const name = walFileName(1, 7 + i, SEGMENT_BYTES)
    await writeFile(
      join(folder.path, 'pg_wal', name),
      BYTES.subarray(i * SEGMENT_BYTES, (i + 1) * SEGMENT_BYTES),
    )
  }
  const wal: LocalWal = {
    pgdata: folder.path,
    pgTimelineId: 1,
    segmentBytes: SEGMENT_BYTES,
    startLsn: lsn(FIRST),
    confirmedLsn: lsn(FIRST + SEGMENT_BYTES + 500),
    flushLsn: lsn(FIRST + BYTES.length),
    ...change,
  }
  return { wal, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() }
}

/** In pieces that end anywhere; `differsAt` counts from the first byte. */
function donor(differsAt = -1, length = BYTES.length) {
  const read: Lsn[] = []
  const readDonor: ReadDonor = async function* (startLsn, endLsn) {
    read.push(startLsn)
    const bytes = Buffer.from(BYTES)
    if (differsAt >= 0) bytes[differsAt] = (bytes[differsAt] as number) ^ 1
    for (let at = startLsn - FIRST; at < Math.min(endLsn - FIRST, length); at += 100_003)
      yield bytes.subarray(at, Math.min(at + 100_003, endLsn - FIRST, length))
  }
  return { read, readDonor }
}

const END = lsn(FIRST + 2 * SEGMENT_BYTES + 77)

test('equal WAL is equal, from what was confirmed on and a part before', async () => {
  await using at = await local()
  const { read, readDonor } = donor()
  expect(await compareWal(at.wal, END, readDonor)).toBeUndefined()
  expect(read).toEqual([lsn(FIRST + SEGMENT_BYTES + 77)])
})

test.each([
  ['just behind what was confirmed', SEGMENT_BYTES + 500],
  ['within what was confirmed', SEGMENT_BYTES + 100],
  ['in the last byte', 2 * SEGMENT_BYTES + 76],
])('a byte that differs %s is a difference', async (_, differsAt) => {
  await using at = await local()
  expect(await compareWal(at.wal, END, donor(differsAt).readDonor)).toMatch(
    'is not what the safekeepers have',
  )
})

test('what lies behind the end of the log does not count', async () => {
  await using at = await local()
  expect(await compareWal(at.wal, END, donor(2 * SEGMENT_BYTES + 77).readDonor)).toBeUndefined()
})

test.each<[string, Partial<LocalWal>, RegExp]>([
  ['a log that ends before what was confirmed', { confirmedLsn: lsn(END + 8) }, /which was confirmed/],
  ['a log that Postgres has not written so far', { flushLsn: lsn(END - 8) }, /Postgres has written up to/],
  ['a segment that Postgres has not', { pgTimelineId: 2 }, /has no file/],
])('%s is a difference', async (_, change, problem) => {
  await using at = await local(change)
  expect(await compareWal(at.wal, END, donor().readDonor)).toMatch(problem)
})

test('a donor that gives less is a difference', async () => {
  await using at = await local()
  expect(await compareWal(at.wal, END, donor(-1, 2 * SEGMENT_BYTES).readDonor)).toMatch(
    'a safekeeper returned WAL to',
  )
})
