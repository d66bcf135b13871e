/** Reads records out of whole WAL segments, for tests. */
import { LSN_MAX, advance, isErrorCode, offsetInSegment, segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import { WAL_SEGMENT_BYTES, XLOG_BLCKSZ } from './constants.ts'
import { decodeRecord } from './decode-record.ts'
import { DecodedRecord } from './record.ts'
import { WalStreamDecoder } from './stream-decoder.ts'
import type { WalStreamOptions } from './stream-decoder.ts'

export interface SegmentReadOptions extends Omit<WalStreamOptions, 'startLsn' | 'findFirst'> {
  /**
   * The start of a record, a page boundary, or nothing special: then the first record after its page's start.
   */
  readonly startLsn: Lsn
  /**
   * `exact` (the default): a record starts at `startLsn`. `after`: begin with the first record at or after
   * it.
   */
  readonly from?: 'exact' | 'after'
  /** A record end: reading stops there. Without it, reading ends where no valid record follows. */
  readonly endLsn?: Lsn
}

/**
 * Returns the records of the segments that `segmentBytesOf` hands out, until it has no more. One record object
 * is filled again and again: it is valid until the next step. Errors as of `WalStreamDecoder`; without
 * `endLsn` zeros, or bytes of a recycled file, mark the end instead.
 */
export function* readRecordsOfSegments(
  segmentBytesOf: (segment: number) => Uint8Array | undefined,
  options: SegmentReadOptions,
): Generator<DecodedRecord, void, void> {
  const { startLsn, endLsn = LSN_MAX, from = 'exact', ...rest } = options
  const size = options.segmentBytes ?? WAL_SEGMENT_BYTES
  const findFirst = from === 'after'
  const first = findFirst ? advance(startLsn, -(startLsn % XLOG_BLCKSZ)) : startLsn
  const decoder = new WalStreamDecoder({ ...rest, startLsn: first, findFirst })
  const record = new DecodedRecord()
  for (let segment = segmentOf(first, size); decoder.recordEndLsn < endLsn; segment++) {
    const bytes = segmentBytesOf(segment)
    if (bytes === undefined) return
    const skip = decoder.position === first ? offsetInSegment(first, size) : 0
    decoder.push(advance(segmentStart(segment, size), skip), bytes.subarray(skip))
    for (;;) {
      const step = stepOrEnd(decoder, endLsn === LSN_MAX)
      if (step === 'end') return
      if (step === 'starved') break
      if (decoder.recordLsn < startLsn) continue
      decodeRecord(record, decoder.bytes, decoder.start, decoder.recordLsn, decoder.nextLsn)
      yield record
      if (decoder.recordEndLsn >= endLsn) return
    }
  }
}

function stepOrEnd(decoder: WalStreamDecoder, isOpenEnded: boolean): 'record' | 'starved' | 'end' {
  try {
    return decoder.next() ? 'record' : 'starved'
  } catch (error) {
    if (isOpenEnded && (isErrorCode(error, 'bad_wal') || isErrorCode(error, 'unknown_wal'))) return 'end'
    throw error
  }
}
