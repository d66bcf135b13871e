/**
 * One shard's part of a timeline's committed WAL, batch by batch. A batch ends at a record end and has some MiB, but a
 * record may be larger: then its batch goes in several messages. The body of a record that no shard looks at is never in
 * memory as a whole, so that a logical message of a gigabyte costs no more than its time.
 */
import { advance, assert, formatLsn, minLsn } from '@understory/base'
import type { Lsn, ShardIdentity } from '@understory/base'
import { DecodedRecord, RM_LOGICALMSG_ID, decodeHeader, decodeRecord } from '@understory/postgres/wal'
import type { WalStreamDecoder } from '@understory/postgres/wal'
import { ShardSplitter, ShardStreamWriter } from '@understory/storage'
import { decoderAt } from '../timeline/end-of-wal.ts'
import type { Timeline } from '../timeline/timeline.ts'

const BATCH_BYTES_MAX = 1024 * 1024
/** WAL taken at a time; other timelines get a turn between. */
const READ_BYTES_MAX = 256 * 1024
/** After so much WAL a batch is given though it is empty: a large record is no silence. */
const BATCH_WAL_BYTES_MAX = 16 * 1024 * 1024
/** Of entries in one message. */
const FRAGMENT_BYTES_MAX = 4 * 1024 * 1024

export interface ShardBatch {
  readonly startLsn: Lsn
  readonly endLsn: Lsn
  readonly commitLsn: Lsn
  readonly entries: Uint8Array
}

/** Parts of a batch's entries for a message each, in order; one where there are none. They borrow. */
export function* fragmentsOf(entries: Uint8Array): Generator<Uint8Array, void, void> {
  let at = 0
  do {
    yield entries.subarray(at, at + FRAGMENT_BYTES_MAX)
    at += FRAGMENT_BYTES_MAX
  } while (at < entries.length)
}

export class ShardBatches {
  readonly #timeline: Timeline
  readonly #decoder: WalStreamDecoder
  readonly #record = new DecodedRecord()
  readonly #writer = new ShardStreamWriter()
  readonly #splitter: ShardSplitter
  /** End of what was given out: a record end. */
  position: Lsn
  /** End of what the decoder took in. */
  #readLsn: Lsn
  /** Why there are no more batches, where what came before it was still to be given. */
  #problem: Error | undefined

  constructor(timeline: Timeline, shard: ShardIdentity, startLsn: Lsn, trackCommitTimestamp: boolean) {
    this.#timeline = timeline
    this.position = startLsn
    this.#readLsn = startLsn
    const place = { startLsn, findFirst: startLsn === timeline.timelineStartLsn }
    this.#decoder = decoderAt(timeline.identity, place, (rmid) => rmid !== RM_LOGICALMSG_ID)
    const settings = {
      major: timeline.identity.major,
      dataChecksums: false,
      walLogHints: false,
      trackCommitTimestamp,
    }
    this.#splitter = new ShardSplitter(shard, settings, this.#writer)
  }

  /**
   * What is committed beyond `position`, or as much of it as a batch holds. There must be some. Within a large record it
   * may be nothing. Error: refused `bad_wal`, `unknown_wal`, once everything before that was given.
   */
  async next(): Promise<ShardBatch> {
    if (this.#problem !== undefined) throw this.#problem
    const startLsn = this.position
    const fromLsn = this.#readLsn
    const { commitLsn } = this.#timeline
    while (
      this.position < commitLsn &&
      this.#writer.length < BATCH_BYTES_MAX &&
      this.#readLsn - fromLsn < BATCH_WAL_BYTES_MAX
    ) {
      const to = minLsn(commitLsn, advance(this.#readLsn, READ_BYTES_MAX))
      assert(to > this.#readLsn, () => `committed WAL ends within a record at ${formatLsn(commitLsn)}`)
      const wal = await this.#timeline.read(this.#readLsn, to)
      try {
        this.#take(wal, to)
      } catch (error) {
        if (this.position === startLsn) throw error
        this.#problem = error instanceof Error ? error : new Error(String(error), { cause: error })
        break
      }
    }
    return { startLsn, endLsn: this.position, commitLsn, entries: this.#writer.take() }
  }

  #take(wal: Uint8Array, toLsn: Lsn): void {
    const decoder = this.#decoder
    const record = this.#record
    decoder.push(this.#readLsn, wal)
    this.#readLsn = toLsn
    while (decoder.next()) {
      const { bytes, start, recordLsn, nextLsn } = decoder
      if (decoder.isHeaderAlone) {
        decodeHeader(record, bytes, start, recordLsn, nextLsn)
        this.#splitter.splitHeader(record)
      } else {
        decodeRecord(record, bytes, start, recordLsn, nextLsn)
        this.#splitter.split(record)
      }
      this.position = nextLsn
    }
  }
}
