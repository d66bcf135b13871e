/**
 * Goal: recent WAL takes a bounded part of the process's memory however many timelines are written to. Method: readers
 * whose files know what they are asked for.
 */
import { advance } from '@understory/base'
import type { Lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { IDENTITY } from '../../test/wal-maker.ts'
import { FairShare } from './wal-memory.ts'
import { WalReader } from './wal-reader.ts'

const KIB = 1024
const MESSAGE_BYTES = 64 * KIB
const START = 0x1000000 as Lsn

/** A reader that was given `count` messages, and whether their last `bytes` are in memory. */
function writtenReader(share: FairShare, count: number) {
  let fromFilesCount = 0
  const files = {
    read: async (startLsn: Lsn, endLsn: Lsn) => {
      fromFilesCount++
      return new Uint8Array(endLsn - startLsn)
    },
    releaseIdle: async () => {},
    close: async () => {},
  }
  const parts = { identity: IDENTITY, remote: undefined, share, oldestLsn: START, endLsn: START }
  const reader = new WalReader({ ...parts, files: files as never })
  let endLsn = START
  for (let i = 0; i < count; i++) {
    const atLsn = endLsn
    endLsn = advance(endLsn, MESSAGE_BYTES)
    reader.append(atLsn, new Uint8Array(MESSAGE_BYTES), endLsn)
  }
  const hasLast = async (bytes: number): Promise<boolean> => {
    const before = fromFilesCount
    await reader.read(advance(endLsn, -bytes), endLsn)
    return fromFilesCount === before
  }
  return { reader, hasLast }
}

test('a timeline keeps its part of recent WAL, and its last message at least', async () => {
  const alone = writtenReader(new FairShare(1024 * KIB, 512 * KIB), 16)
  expect(await alone.hasLast(512 * KIB)).toBe(true)
  expect(await alone.hasLast(513 * KIB)).toBe(false)

  const share = new FairShare(1024 * KIB, 512 * KIB)
  for (let i = 0; i < 7; i++) writtenReader(share, 1)
  const eighth = writtenReader(share, 16)
  expect(await eighth.hasLast(128 * KIB)).toBe(true)
  expect(await eighth.hasLast(129 * KIB)).toBe(false)
  for (let i = 0; i < 24; i++) writtenReader(share, 1)
  const last = writtenReader(share, 16)
  expect(await last.hasLast(MESSAGE_BYTES)).toBe(true)
  expect(await last.hasLast(MESSAGE_BYTES + 1)).toBe(false)
})

test.each([
  ['rests', (reader: WalReader) => reader.releaseIdle()],
  ['is closed', (reader: WalReader) => reader.close()],
])('the part of a timeline that %s is for the others', async (_, release) => {
  const share = new FairShare(1024 * KIB, 1024 * KIB)
  const { reader } = writtenReader(share, 1)
  writtenReader(share, 1)
  expect(share.partBytes).toBe(512 * KIB)
  await release(reader)
  expect(share.partBytes).toBe(1024 * KIB)
})
