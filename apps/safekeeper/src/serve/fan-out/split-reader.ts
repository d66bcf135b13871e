/**
 * Decodes a timeline's committed WAL from a position on and splits it for the shards of one layout: each record is
 * read, checked and decoded once for all of them. What it gives is cut at record ends and has some MiB, but a record
 * may be larger. The body of a record that no shard looks at is never in memory as a whole, so that a logical message
 * of a gigabyte costs no more than its time.
 */
import { advance, assert, formatLsn, minLsn } from '@understory/base'
import type { Lsn, ShardLayout } from '@understory/base'
import { DecodedRecord, RM_LOGICALMSG_ID, decodeHeader, decodeRecord } from '@understory/postgres/wal'
import type { WalStreamDecoder } from '@understory/postgres/wal'
import { ShardSplitter } from '@understory/storage'
import { decoderAt } from '../../timeline/end-of-wal.ts'
import type { Timeline } from '../../timeline/timeline.ts'

export interface CutLimits {
  /** Of one shard's entries, and of all shards' together. */
  readonly shardBytesMax: number
  readonly cutBytesMax: number
  /** WAL taken at a time; other timelines get a turn between. */
  readonly readBytesMax: number
  /** After so much WAL a cut is given though it is empty: a large record is not silence. */
  readonly cutWalBytesMax: number
}

/** The part of a timeline that a reader needs. */
export type ReadTimeline = Pick<Timeline, 'identity' | 'timelineStartLsn' | 'read'>

/** Committed WAL between two record ends, split. */
export interface WalCut {
  readonly startLsn: Lsn
  readonly endLsn: Lsn
  /** By number of the shards that were wanted; empty where nothing is for the shard. */
  readonly entries: ReadonlyMap<number, Uint8Array>
  /** Of all entries. */
  readonly bytes: number
  /** Whether commits write pg_commit_ts, as of `startLsn` and as of `endLsn`. */
  readonly tracksBefore: boolean
  readonly tracksAfter: boolean
}

export interface SplitReaderOptions {
  readonly layout: ShardLayout
  readonly startLsn: Lsn
  readonly trackCommitTimestamp: boolean
  readonly limits: CutLimits
}

export class SplitReader {
  readonly #timeline: ReadTimeline
  readonly #limits: CutLimits
  readonly #decoder: WalStreamDecoder
  readonly #record = new DecodedRecord()
  readonly #splitter: ShardSplitter
  #position: Lsn
  /** End of what the decoder took in. */
  #readLsn: Lsn
  /** Why there are no more cuts, where what came before it was still to be given. */
  #problem: Error | undefined

  /** `startLsn` is a record end; `trackCommitTimestamp` is as of there. */
  constructor(
    timeline: ReadTimeline,
    { layout, startLsn, trackCommitTimestamp, limits }: SplitReaderOptions,
  ) {
    this.#timeline = timeline
    this.#limits = limits
    this.#position = startLsn
    this.#readLsn = startLsn
    const place = { startLsn, findFirst: startLsn === timeline.timelineStartLsn }
    this.#decoder = decoderAt(timeline.identity, place, (rmid) => rmid !== RM_LOGICALMSG_ID)
    const { major } = timeline.identity
    this.#splitter = new ShardSplitter(layout, {
      major,
      dataChecksums: false,
      walLogHints: false,
      trackCommitTimestamp,
    })
  }

  /** End of what was given: a record end. */
  get position(): Lsn {
    return this.#position
  }
  get trackCommitTimestamp(): boolean {
    return this.#splitter.trackCommitTimestamp
  }

  /**
   * Returns the WAL before `limitLsn`, or as much of it as a cut holds, for `shards`. The limit is a record end beyond
   * `position` and committed. Within a large record the cut may be empty. Errors: `bad_wal`, `unknown_wal`, once
   * everything before that was given; of reading. The reader is of no use after an error.
   */
  async next(limitLsn: Lsn, shards: ReadonlySet<number>): Promise<WalCut> {
    if (this.#problem !== undefined) throw this.#problem
    const startLsn = this.#position
    const fromLsn = this.#readLsn
    const tracksBefore = this.trackCommitTimestamp
    this.#splitter.want(shards)
    while (this.#position < limitLsn && !this.#isFull(fromLsn)) {
      const to = minLsn(limitLsn, advance(this.#readLsn, this.#limits.readBytesMax))
      assert(to > this.#readLsn, () => `WAL up to ${formatLsn(limitLsn)} ends within a record`)
      const wal = await this.#timeline.read(this.#readLsn, to)
      try {
        this.#take(wal, to)
      } catch (error) {
        if (this.#position === startLsn) throw error
        this.#problem = error instanceof Error ? error : new Error(String(error), { cause: error })
        break
      }
    }
    const { bytes } = this.#splitter.written
    const entries = this.#splitter.take()
    const tracksAfter = this.trackCommitTimestamp
    return { startLsn, endLsn: this.#position, entries, bytes, tracksBefore, tracksAfter }
  }

  #isFull(fromLsn: Lsn): boolean {
    const { mostBytes, bytes } = this.#splitter.written
    const { shardBytesMax, cutBytesMax, cutWalBytesMax } = this.#limits
    return mostBytes >= shardBytesMax || bytes >= cutBytesMax || this.#readLsn - fromLsn >= cutWalBytesMax
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
      this.#position = nextLsn
    }
  }
}
