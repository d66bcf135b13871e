/**
 * Owns the chain of records as far as it was seen, and checks each record against it: length, resource manager,
 * xl_prev, and of a record after one that was cut off that it says so.
 *
 * Source: xlogreader.c ValidXLogRecordHeader; xlogrecovery.c VerifyOverwriteContrecord (16, 17, 18).
 */
import { LSN_ZERO, fail, formatLsn, lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  RECORD_HEADER_BYTES,
  RM_MAX_BUILTIN_ID,
  RM_MIN_CUSTOM_ID,
  RM_XLOG_ID,
  XLOG_OVERWRITE_CONTRECORD,
  XLR_BLOCK_ID_DATA_SHORT,
  XLR_INFO_MASK,
} from './constants.ts'
import { XLogRecord } from './record-header.ts'

export class RecordChain {
  readonly #recordBytesMax: number
  #lastRecordLsn: Lsn
  #isLastKnown: boolean
  /** Start of the record that a missing contrecord cut off: the next record must say so. */
  #overwrittenLsn: Lsn | undefined

  /** `prevLsn` is the start of the record before the first, if known. */
  constructor(prevLsn: Lsn | undefined, recordBytesMax: number) {
    this.#recordBytesMax = recordBytesMax
    this.#isLastKnown = prevLsn !== undefined
    this.#lastRecordLsn = prevLsn ?? LSN_ZERO
  }

  /** Start of the last record that was appended, or 0/0. */
  get lastRecordLsn(): Lsn {
    return this.#lastRecordLsn
  }

  /** Checks the header at `view[at]` of the record that would be next. Error: `bad_wal`. */
  checkHeader(view: DataView, at: number, recordLsn: Lsn): void {
    const totLen = XLogRecord.totLen.get(view, at)
    if (totLen < RECORD_HEADER_BYTES || totLen > this.#recordBytesMax) {
      throw fail('bad_wal', `WAL record at ${formatLsn(recordLsn)} has an invalid length of ${totLen}`)
    }
    const rmid = XLogRecord.rmid.get(view, at)
    if (rmid > RM_MAX_BUILTIN_ID && rmid < RM_MIN_CUSTOM_ID) {
      throw fail(
        'bad_wal',
        `WAL record at ${formatLsn(recordLsn)} has an invalid resource manager id ${rmid}`,
      )
    }
    const high = view.getUint32(at + 12, true)
    const prevLsn = high * 0x1_0000_0000 + view.getUint32(at + 8, true)
    if (this.#isLastKnown ? prevLsn !== this.#lastRecordLsn : prevLsn >= recordLsn) {
      const found = high < 0x20_0000 ? formatLsn(lsn(prevLsn)) : `${high.toString(16)}/…`
      throw fail(
        'bad_wal',
        `WAL record at ${formatLsn(recordLsn)} has an incorrect previous-record link ${found}`,
        {
          detail: this.#isLastKnown
            ? `expected ${formatLsn(this.#lastRecordLsn)}`
            : 'it must lie before the record',
        },
      )
    }
  }

  /** The record that starts there never gets its rest: a page says so. */
  cutOff(recordLsn: Lsn): void {
    this.#overwrittenLsn = recordLsn
  }

  /** Appends a complete record, its header checked. Error: `bad_wal` where it does not say that one was cut off. */
  append(view: DataView, start: number, length: number, recordLsn: Lsn): void {
    if (this.#overwrittenLsn !== undefined) this.#checkOverwrite(view, start, length, recordLsn)
    this.#lastRecordLsn = recordLsn
    this.#isLastKnown = true
  }

  #checkOverwrite(view: DataView, start: number, length: number, recordLsn: Lsn): void {
    const cut = this.#overwrittenLsn as Lsn
    this.#overwrittenLsn = undefined
    const data = start + RECORD_HEADER_BYTES
    // Header, short data header, xl_overwrite_contrecord { overwritten_lsn, overwrite_time }.
    const says =
      XLogRecord.rmid.get(view, start) === RM_XLOG_ID &&
      (XLogRecord.info.get(view, start) & ~XLR_INFO_MASK) === XLOG_OVERWRITE_CONTRECORD &&
      length === RECORD_HEADER_BYTES + 2 + 16 &&
      view.getUint8(data) === XLR_BLOCK_ID_DATA_SHORT &&
      view.getUint32(data + 6, true) * 0x1_0000_0000 + view.getUint32(data + 2, true) === cut
    if (!says) {
      throw fail(
        'bad_wal',
        `WAL record at ${formatLsn(cut)} is cut off, but the record at ${formatLsn(recordLsn)} does not say so`,
      )
    }
  }
}
