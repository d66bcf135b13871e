/**
 * Goal: WAL that is not durable takes a bounded part of the process's memory however many timelines are written to, and
 * each of them gets the same. Method: flushes over files whose writes end when the test says so.
 */
import { advance, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { GroupFlush } from './group-flush.ts'
import { FairShare } from './wal-memory.ts'

const KIB = 1024
const MESSAGE_BYTES = 64 * KIB
const [BYTES_MAX, PART_BYTES_MAX] = [2048 * KIB, 1024 * KIB]
const START = 0x1000000 as Lsn

/** A timeline's flush that is given messages until it is full; its writes hang until `settle`. */
class Writer {
  readonly #writes: PromiseWithResolvers<void>[] = []
  #endLsn = START
  heldBytes = 0
  readonly flush: GroupFlush

  constructor(share: FairShare) {
    const write = async (_: Lsn, chunks: readonly Uint8Array[]): Promise<void> => {
      const hung = Promise.withResolvers<void>()
      this.#writes.push(hung)
      await hung.promise
      for (const { length } of chunks) this.heldBytes -= length
    }
    this.flush = new GroupFlush(
      {
        files: { write },
        share,
        observer: undefined,
        onFlushed: () => this.flush.start(),
        onFailed: () => {},
      },
      START,
    )
  }

  /** Hands in one message where there is room. */
  offer(): boolean {
    if (this.flush.isFull) return false
    this.#endLsn = advance(this.#endLsn, MESSAGE_BYTES)
    this.flush.enqueue(advance(this.#endLsn, -MESSAGE_BYTES), new Uint8Array(MESSAGE_BYTES), this.#endLsn)
    this.heldBytes += MESSAGE_BYTES
    this.flush.start()
    return true
  }

  fill(): void {
    while (this.offer());
  }

  /** Ends the write that runs. */
  async settle(error?: Error): Promise<void> {
    const room = this.flush.room()
    const write = this.#writes.shift()
    if (error === undefined) write?.resolve()
    else write?.reject(error)
    await room
  }
}

const writers = (share: FairShare, count: number): Writer[] =>
  Array.from({ length: count }, () => new Writer(share))
const heldBytes = (all: readonly Writer[]): number => all.reduce((sum, writer) => sum + writer.heldBytes, 0)

test('one timeline on its own takes its most, and no more than that and a message', () => {
  const [writer] = writers(new FairShare(BYTES_MAX, PART_BYTES_MAX), 1)
  writer?.fill()
  expect(writer?.heldBytes).toBe(PART_BYTES_MAX + MESSAGE_BYTES)
})

test('timelines that come at once stay within the budget, and get equal parts of it', () => {
  const all = writers(new FairShare(BYTES_MAX, PART_BYTES_MAX), 16)
  for (let gave = true; gave;) gave = all.map((writer) => writer.offer()).includes(true)
  expect(heldBytes(all)).toBe(BYTES_MAX + 16 * MESSAGE_BYTES)
  for (const writer of all) expect(writer.heldBytes).toBe(BYTES_MAX / 16 + MESSAGE_BYTES)
})

test('a timeline that comes late gets its part, and the others make room as they flush', async () => {
  const all = writers(new FairShare(BYTES_MAX, PART_BYTES_MAX), 4)
  const [late, ...early] = all as [Writer, ...Writer[]]
  for (const writer of early) writer.fill()
  late.fill()
  expect(late.heldBytes).toBe(BYTES_MAX / 4 + MESSAGE_BYTES)
  for (let round = 0; round < 3; round++) {
    for (const writer of early) {
      await writer.settle()
      writer.fill()
    }
  }
  for (const writer of all) expect(writer.heldBytes).toBeLessThanOrEqual(BYTES_MAX / 4 + MESSAGE_BYTES)
})

test.each([
  ['flushed', (writer: Writer) => writer.settle()],
  ['refused by the disk', (writer: Writer) => writer.settle(fail('disk_failed', 'the disk is broken'))],
  [
    'dropped while it was written',
    async (writer: Writer) => {
      const dropped = writer.flush.drop(START)
      await writer.settle(fail('disk_failed', 'the disk is broken'))
      await dropped
    },
  ],
  [
    'left at the end of its timeline',
    async (writer: Writer) => {
      writer.flush.stop()
      await writer.settle()
    },
  ],
])('memory of WAL that was %s is for the others', async (_, release) => {
  const share = new FairShare(BYTES_MAX, BYTES_MAX)
  const [writer, other] = writers(share, 2) as [Writer, Writer]
  writer.offer()
  other.offer()
  expect(share.partBytes).toBe(BYTES_MAX / 2)
  await release(writer)
  await expect.poll(() => share.partBytes).toBe(BYTES_MAX)
})
