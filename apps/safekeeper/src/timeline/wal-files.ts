/**
 * The WAL of one timeline as Postgres's own segment files: full length from the start, zeros behind the end, so that
 * `pg_waldump` reads them. One writer, any number of readers.
 *
 * Promises: what `write` wrote is durable when it resolves, names included. After `truncate` nothing from there on is
 * left, durably. A failed write leaves what was durable as it was; after one that failed for want of room, `truncate`
 * at the end of that makes it possible to write again.
 */
import { join } from 'node:path'
import {
  advance,
  assert,
  bytesBetween,
  formatLsn,
  isErrorCode,
  minLsn,
  offsetInSegment,
  fail,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Disk, DiskFile } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { parseWalFileName, walFileName } from '@understory/postgres/wal'

const READERS_KEPT = 4

interface Reader {
  readonly opening: Promise<DiskFile>
  users: number
  /** Closed by its last user. */
  isRetired: boolean
}

/** A file that was only read has nothing to lose; one that never opened has failed its user. */
const closeQuietly = (reader: Reader): Promise<void> =>
  reader.opening.then((file) => file.close()).catch(() => undefined)

export class WalFiles {
  readonly #disk: Disk
  readonly #folder: string
  readonly #identity: PostgresIdentity
  /** Open for writing. The last one is kept open. */
  readonly #writers = new Map<number, DiskFile>()
  /** Open for reading, the last used one at the end. */
  readonly #readers = new Map<number, Reader>()
  #isClosed = false

  constructor(disk: Disk, folder: string, identity: PostgresIdentity) {
    this.#disk = disk
    this.#folder = folder
    this.#identity = identity
  }

  #path(segment: number): string {
    return join(
      this.#folder,
      walFileName(this.#identity.pgTimelineId, segment, this.#identity.walSegmentBytes),
    )
  }

  /** Numbers of the segments that are there, rising. */
  async segments(): Promise<number[]> {
    const found: number[] = []
    for (const { name, kind } of await this.#disk.list(this.#folder)) {
      if (kind !== 'file' || name.length !== 24) continue
      const parsed = parseWalFileName(name, this.#identity.walSegmentBytes)
      if (parsed !== undefined && parsed.timelineId === this.#identity.pgTimelineId)
        found.push(parsed.segment)
    }
    return found.sort((a, b) => a - b)
  }

  #assertOpen(): void {
    if (this.#isClosed) throw fail('unavailable', `WAL in "${this.#folder}" was closed`)
  }

  async #writer(segment: number): Promise<DiskFile> {
    this.#assertOpen()
    const open = this.#writers.get(segment)
    if (open !== undefined) return open
    const path = this.#path(segment)
    const isNew = (await this.#disk.stat(path)) === undefined
    const file = await this.#disk.open(path, 'createDurable')
    if ((await file.sizeBytes()) < this.#identity.walSegmentBytes) {
      await file.truncate(this.#identity.walSegmentBytes)
      await file.sync()
    }
    if (isNew) await this.#disk.syncDirectory(this.#folder)
    for (const [before, writer] of this.#writers) {
      this.#writers.delete(before)
      await writer.close()
    }
    this.#writers.set(segment, file)
    return file
  }

  /** The chunks one behind the other, in one call where they are in one segment. */
  async write(startLsn: Lsn, chunks: readonly Uint8Array[]): Promise<void> {
    try {
      await this.#write(startLsn, chunks)
    } catch (error) {
      // A file handle that failed once takes no more; one that found no room is replaced.
      if (isErrorCode(error, 'disk_full')) await this.#closeWriters()
      throw error
    }
  }

  async #closeWriters(): Promise<void> {
    const writers = [...this.#writers.values()]
    this.#writers.clear()
    for (const writer of writers) await writer.close()
  }

  async #write(startLsn: Lsn, chunks: readonly Uint8Array[]): Promise<void> {
    const { walSegmentBytes: segmentBytes } = this.#identity
    let at = startLsn
    let [part, partStart, partBytes]: [Uint8Array[], Lsn, number] = [[], at, 0]
    const writePart = async (): Promise<void> => {
      const file = await this.#writer(segmentOf(partStart, segmentBytes))
      await file.writeDurably(offsetInSegment(partStart, segmentBytes), part)
    }
    for (const chunk of chunks) {
      for (let done = 0; done < chunk.length;) {
        const room = segmentBytes - offsetInSegment(partStart, segmentBytes) - partBytes
        const size = Math.min(chunk.length - done, room)
        part.push(chunk.subarray(done, done + size))
        done += size
        partBytes += size
        at = advance(at, size)
        if (size < room) continue
        await writePart()
        ;[part, partStart, partBytes] = [[], at, 0]
      }
    }
    if (partBytes > 0) await writePart()
  }

  /** [fromLsn, toLsn) in parts of at most a segment. */
  *parts(fromLsn: Lsn, toLsn: Lsn): Generator<{ readonly startLsn: Lsn; readonly endLsn: Lsn }> {
    const { walSegmentBytes: segmentBytes } = this.#identity
    for (let startLsn = fromLsn; startLsn < toLsn;) {
      const endLsn = minLsn(toLsn, segmentStart(segmentOf(startLsn, segmentBytes) + 1, segmentBytes))
      yield { startLsn, endLsn }
      startLsn = endLsn
    }
  }

  /** Cuts everything from `toLsn` on: later segments go, the rest of its own becomes zeros. */
  async truncate(toLsn: Lsn): Promise<void> {
    const { walSegmentBytes: segmentBytes } = this.#identity
    const keptOffset = offsetInSegment(toLsn, segmentBytes)
    const cut = segmentOf(toLsn, segmentBytes)
    const firstGone = keptOffset === 0 ? cut : cut + 1
    // From the end, so that a crash in between leaves no gap.
    const gone = (await this.segments()).filter((segment) => segment >= firstGone).reverse()
    for (const segment of gone) {
      await this.#close(segment)
      await this.#disk.remove(this.#path(segment))
    }
    if (gone.length > 0) await this.#disk.syncDirectory(this.#folder)
    if (keptOffset === 0 || (await this.#disk.stat(this.#path(cut))) === undefined) return
    const writer = await this.#writer(cut)
    await writer.truncate(keptOffset)
    await writer.truncate(segmentBytes)
    await writer.sync()
  }

  /** Removes whole segments before `lsn`, from the beginning on, so that a crash in between leaves no gap. */
  async removeBefore(lsn: Lsn): Promise<void> {
    const gone = (await this.segments()).filter(
      (segment) => segment < segmentOf(lsn, this.#identity.walSegmentBytes),
    )
    for (const segment of gone) {
      await this.#close(segment)
      await this.#disk.remove(this.#path(segment))
    }
    if (gone.length > 0) await this.#disk.syncDirectory(this.#folder)
  }

  /** [startLsn, endLsn), all of it. Errors: `bad_file` where a segment is missing or short. */
  async read(startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    const { walSegmentBytes: segmentBytes } = this.#identity
    const bytes = new Uint8Array(bytesBetween(startLsn, endLsn))
    for (let done = 0; done < bytes.length;) {
      const at = advance(startLsn, done)
      const segment = segmentOf(at, segmentBytes)
      const end = minLsn(endLsn, segmentStart(segment + 1, segmentBytes))
      const part = bytes.subarray(done, done + bytesBetween(at, end))
      const got = await this.#readInto(segment, part, offsetInSegment(at, segmentBytes))
      if (got !== part.length)
        throw fail('bad_file', `WAL segment "${this.#path(segment)}" ends before ${formatLsn(end)}`)
      done += part.length
    }
    return bytes
  }

  async #readInto(segment: number, part: Uint8Array, offset: number): Promise<number> {
    const reader = await this.#acquire(segment)
    let failed = true
    try {
      const got = await (await reader.opening).readInto(part, offset)
      failed = false
      return got
    } finally {
      await this.#release(segment, reader, failed)
    }
  }

  /** The bytes of a segment that are there; undefined without one. */
  async readSegment(segment: number): Promise<Uint8Array | undefined> {
    const path = this.#path(segment)
    return (await this.#disk.stat(path)) === undefined ? undefined : this.#disk.readFile(path)
  }

  /** The open file of a segment, to be given back with `#release`. */
  async #acquire(segment: number): Promise<Reader> {
    this.#assertOpen()
    const kept = this.#readers.get(segment)
    const reader = kept ?? {
      opening: this.#disk.open(this.#path(segment), 'read'),
      users: 0,
      isRetired: false,
    }
    reader.users++
    this.#readers.delete(segment)
    this.#readers.set(segment, reader)
    const [oldest] = this.#readers.keys()
    if (this.#readers.size > READERS_KEPT && oldest !== undefined) await this.#retire(oldest)
    return reader
  }

  async #release(segment: number, reader: Reader, failed: boolean): Promise<void> {
    reader.users--
    if (failed && this.#readers.get(segment) === reader) await this.#retire(segment)
    else if (reader.isRetired && reader.users === 0) await closeQuietly(reader)
  }

  async #retire(segment: number): Promise<void> {
    const reader = this.#readers.get(segment)
    if (reader === undefined) return
    this.#readers.delete(segment)
    reader.isRetired = true
    if (reader.users === 0) await closeQuietly(reader)
  }

  async #close(segment: number): Promise<void> {
    const writer = this.#writers.get(segment)
    this.#writers.delete(segment)
    await writer?.close()
    await this.#retire(segment)
  }

  /** Closes every file; they are opened again when they are needed. Nothing may be written in the meantime. */
  async releaseIdle(): Promise<void> {
    for (const segment of new Set([...this.#writers.keys(), ...this.#readers.keys()]))
      await this.#close(segment)
  }

  /** Nothing can be read or written after it. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.releaseIdle()
    assert(this.#writers.size === 0, () => 'a segment was opened while the timeline closed')
  }
}
