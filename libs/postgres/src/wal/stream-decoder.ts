/**
 * Cuts a WAL byte stream into records. Fed with chunks of any size, in order; gives each complete record as
 * contiguous bytes without page headers: in place where it lies within one page and one chunk, otherwise put
 * together in a buffer of its own. Holds at most the record in flight; of records whose body is not wanted
 * (`keepsBody`) no more than a page, whatever their length.
 *
 *   decoder.push(chunkLsn, chunk)
 *   while (decoder.next()) use(decoder.bytes, decoder.start, decoder.length, decoder.recordLsn)
 *
 * Promises
 * - A record counts as complete when all bytes up to `nextLsn` have arrived: padding, and after XLOG_SWITCH
 *   the rest of the segment. So `recordEndLsn` is always a position that was received and at which a stream
 *   may end.
 * - Everything is checked that stock Postgres checks: page headers, lengths, the chain of xl_prev, CRCs; and
 *   of an overwritten contrecord that the record which replaces it says so.
 * - Errors are refused `bad_wal` or `unknown_wal` and name the position. After an error the decoder is of no
 *   more use.
 *
 * Source: xlogreader.c XLogDecodeNextRecord, ValidXLogRecordHeader, XLogReaderValidatePageHeader;
 * xlogrecovery.c VerifyOverwriteContrecord (16, 17, 18).
 */
import { LSN_ZERO, advance, alignUp8, assert, formatLsn, lsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  RECORD_BYTES_MAX,
  RECORD_CRC_OFFSET,
  RECORD_HEADER_BYTES,
  RM_MAX_BUILTIN_ID,
  RM_MIN_CUSTOM_ID,
  RM_XLOG_ID,
  WAL_SEGMENT_BYTES,
  XLOG_BLCKSZ,
  XLOG_OVERWRITE_CONTRECORD,
  XLOG_SWITCH,
  XLP_ALL_FLAGS,
  XLP_FIRST_IS_CONTRECORD,
  XLP_FIRST_IS_OVERWRITE_CONTRECORD,
  XLP_LONG_HEADER,
  XLR_BLOCK_ID_DATA_SHORT,
  XLR_INFO_MASK,
} from './constants.ts'
import {
  LONG_PAGE_HEADER_BYTES,
  SHORT_PAGE_HEADER_BYTES,
  WAL_PAGE_MAGIC,
  XLogLongPageHeader,
  XLogPageHeader,
  majorOfMagic,
} from './pages.ts'
import { crcUpdate } from './crc.ts'
import type { PgMajor } from './pages.ts'
import { XLogRecord, signedRecordCrc } from './record-header.ts'

export interface WalStreamOptions {
  /** Where the stream starts: the start of a record, or a page boundary before one. */
  readonly startLsn: Lsn
  /**
   * `startLsn` is a page boundary that may lie inside a record: begin with the first record that starts after
   * it.
   */
  readonly findFirst?: boolean
  /** Start of the record before `startLsn`, if known: checked against the first record's xl_prev. */
  readonly prevLsn?: Lsn
  readonly segmentBytes?: number
  /**
   * Refuse pages of another version, system or Postgres timeline. Without `major` the first page header
   * decides.
   */
  readonly major?: PgMajor
  readonly systemId?: bigint
  readonly timelineId?: number
  readonly recordBytesMax?: number
  /** False: record CRCs are not computed, because an earlier stage has done so. */
  readonly verifyCrc?: boolean
  /**
   * False for a resource manager whose records are not looked at: those above 8 KiB are checked as they pass and given
   * with their header alone (`isHeaderAlone`). True for all by default.
   */
  readonly keepsBody?: (rmid: number) => boolean
}

const SCRATCH_BYTES = 8 * 1024
/** A larger buffer is given back after the record that needed it. */
const SCRATCH_KEPT_BYTES = 1024 * 1024
const NO_BYTES = new Uint8Array(0)
const NO_VIEW = new DataView(NO_BYTES.buffer)

export class WalStreamDecoder {
  /** The record: `bytes[start, start + length)`. Borrowed until the next call of `next` or `push`. */
  bytes: Uint8Array = NO_BYTES
  start = 0
  length = 0
  /** The body was not kept (`keepsBody`). */
  isHeaderAlone = false
  recordLsn: Lsn = LSN_ZERO
  /** Its end, aligned: the position that Postgres reports and puts into pd_lsn. */
  nextLsn: Lsn = LSN_ZERO
  /** End of the last complete record seen; `startLsn` before the first. */
  recordEndLsn: Lsn
  /** Start of the last complete record seen, or 0/0. */
  lastRecordLsn: Lsn

  readonly #segmentBytes: number
  readonly #systemId: bigint | undefined
  readonly #timelineId: number | undefined
  readonly #recordBytesMax: number
  readonly #verifyCrc: boolean
  readonly #keepsBody: (rmid: number) => boolean
  #major: PgMajor | undefined
  #magic: number
  #prevKnown: boolean
  #finding: boolean

  // The chunk, and the position in it. Offsets are int32; the LSN of a position is #chunkLsn + #at.
  #chunk: Uint8Array = NO_BYTES
  #view: DataView = NO_VIEW
  #chunkLsn: Lsn
  #at = 0
  #pageOffset: number
  /** The page's header is still to be read. */
  #headerDue: boolean
  readonly #header = new Uint8Array(LONG_PAGE_HEADER_BYTES)
  readonly #headerView = new DataView(this.#header.buffer)
  #headerHave = 0
  /**
   * Bytes to pass over unread: padding, the rest of a switched segment, a record that began before the
   * stream.
   */
  #skip = 0

  // The record being put together.
  #scratch = new Uint8Array(SCRATCH_BYTES)
  #scratchView = new DataView(this.#scratch.buffer)
  #gathering = false
  #have = 0
  /** 24 until the header is there, then xl_tot_len. */
  #need = 0
  #gatherLsn: Lsn = LSN_ZERO
  /** The body passes by: only its CRC is kept, as a register (`crcUpdate`). */
  #isPassing = false
  #passedCrc = -1
  /** Complete in the scratch buffer, waiting for #skip to be passed. */
  #pending = false
  /** Start of the record that a missing contrecord cut off: the next record must say so. */
  #overwrittenLsn: Lsn | undefined

  constructor(options: WalStreamOptions) {
    const { startLsn, prevLsn } = options
    this.#segmentBytes = options.segmentBytes ?? WAL_SEGMENT_BYTES
    this.#systemId = options.systemId
    this.#timelineId = options.timelineId
    this.#recordBytesMax = options.recordBytesMax ?? RECORD_BYTES_MAX
    this.#verifyCrc = options.verifyCrc ?? true
    this.#keepsBody = options.keepsBody ?? (() => true)
    this.#major = options.major
    this.#magic = options.major === undefined ? 0 : WAL_PAGE_MAGIC[options.major]
    this.#prevKnown = prevLsn !== undefined
    this.lastRecordLsn = prevLsn ?? LSN_ZERO
    this.recordEndLsn = startLsn
    this.#chunkLsn = startLsn
    this.#pageOffset = startLsn % XLOG_BLCKSZ
    this.#headerDue = this.#pageOffset === 0
    this.#finding = options.findFirst ?? false
    if (this.#finding ? this.#pageOffset !== 0 : !this.#isRecordStart(startLsn)) {
      throw fail('bad_lsn', `no WAL record can start at ${formatLsn(startLsn)}`)
    }
  }

  #isRecordStart(at: Lsn): boolean {
    const segmentOffset = at % this.#segmentBytes
    const headerBytes = segmentOffset < XLOG_BLCKSZ ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES
    return at % 8 === 0 && (this.#pageOffset === 0 || this.#pageOffset >= headerBytes)
  }

  /** The version, once a page header was seen or if it was given. */
  get major(): PgMajor | undefined {
    return this.#major
  }
  /** End of what was taken in so far. */
  get position(): Lsn {
    return advance(this.#chunkLsn, this.#at)
  }
  get #avail(): number {
    return this.#chunk.length - this.#at
  }

  /**
   * Hands in the bytes from `startLsn` on, borrowed until `next` returns false. Error: `bad_wal` where they
   * do not follow.
   */
  push(startLsn: Lsn, bytes: Uint8Array): void {
    assert(this.#avail === 0, () => `${this.#avail} bytes of the chunk before were not read`)
    const position = this.position
    if (startLsn !== position) {
      throw fail('bad_wal', `WAL follows at ${formatLsn(startLsn)} where ${formatLsn(position)} was expected`)
    }
    this.#chunk = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#chunkLsn = startLsn
    this.#at = 0
  }

  /** Moves to the next complete record. False: more bytes are needed; the chunk is released. */
  next(): boolean {
    if (this.#scratch.length > SCRATCH_KEPT_BYTES && !this.#gathering && !this.#pending)
      this.#resizeScratch(SCRATCH_BYTES)
    for (;;) {
      if (this.#skip > 0 && !this.#passOver()) return this.#starve()
      if (this.#pending) return this.#emitPending()
      if (this.#headerDue) {
        if (!this.#readPageHeader()) return this.#starve()
        continue
      }
      if (this.#avail === 0) return this.#starve()
      if (!this.#gathering) {
        if (this.#emitInPlace()) return true
        this.#beginGathering()
      }
      this.#gather()
    }
  }

  #starve(): false {
    this.#chunkLsn = this.position
    this.#chunk = NO_BYTES
    this.#view = NO_VIEW
    this.#at = 0
    return false
  }

  #advance(size: number): void {
    this.#at += size
    this.#pageOffset = (this.#pageOffset + size) % XLOG_BLCKSZ
    this.#headerDue = this.#pageOffset === 0
  }

  #passOver(): boolean {
    const size = Math.min(this.#skip, this.#avail)
    this.#advance(size)
    this.#skip -= size
    return this.#skip === 0
  }

  /** True if a whole record with its padding lies before us in this page and this chunk. */
  #emitInPlace(): boolean {
    const room = Math.min(this.#avail, XLOG_BLCKSZ - this.#pageOffset)
    if (room < RECORD_HEADER_BYTES) return false
    const start = this.#at
    const totLen = XLogRecord.totLen.get(this.#view, start)
    if (totLen < RECORD_HEADER_BYTES || totLen > room || totLen + (-totLen & 7) > room) return false
    const recordLsn = advance(this.#chunkLsn, start)
    this.#checkHeader(this.#view, start, recordLsn)
    if (isSwitch(this.#view, start)) return false
    this.#advance(totLen + (-totLen & 7))
    this.#emit(this.#chunk, this.#view, start, totLen, recordLsn, this.position)
    return true
  }

  #beginGathering(): void {
    this.#gathering = true
    this.#isPassing = false
    this.#have = 0
    this.#need = RECORD_HEADER_BYTES
    this.#gatherLsn = this.position
  }

  #gather(): void {
    const size = Math.min(this.#avail, XLOG_BLCKSZ - this.#pageOffset, this.#need - this.#have)
    if (this.#isPassing) this.#pass(size)
    else this.#keep(size)
    this.#have += size
    this.#advance(size)
    if (this.#have < this.#need) return
    if (this.#need === RECORD_HEADER_BYTES) {
      this.#checkHeader(this.#scratchView, 0, this.#gatherLsn)
      this.#need = XLogRecord.totLen.get(this.#scratchView, 0)
      this.#isPassing =
        this.#need > SCRATCH_BYTES && !this.#keepsBody(XLogRecord.rmid.get(this.#scratchView, 0))
      this.#passedCrc = -1
      if (this.#have < this.#need) return
    }
    this.#gathering = false
    this.#pending = true
    const position = this.position
    const segmentLeft = isSwitch(this.#scratchView, 0) ? -position % this.#segmentBytes : 0
    this.#skip = segmentLeft < 0 ? segmentLeft + this.#segmentBytes : alignUp8(position) - position
  }

  #keep(size: number): void {
    if (this.#have + size > this.#scratch.length) {
      // Grows with what has arrived, not with what a length promises.
      this.#resizeScratch(Math.min(this.#need, 2 * (this.#have + size)))
    }
    this.#scratch.set(this.#chunk.subarray(this.#at, this.#at + size), this.#have)
  }

  #pass(size: number): void {
    if (!this.#verifyCrc) return
    this.#passedCrc = crcUpdate(this.#chunk, this.#view, this.#at, this.#at + size, this.#passedCrc)
  }

  #resizeScratch(size: number): void {
    const before = this.#scratch
    this.#scratch = new Uint8Array(size)
    this.#scratch.set(before.subarray(0, Math.min(this.#have, size)))
    this.#scratchView = new DataView(this.#scratch.buffer)
  }

  #emitPending(): true {
    this.#pending = false
    const length = this.#isPassing ? RECORD_HEADER_BYTES : this.#need
    this.#emit(this.#scratch, this.#scratchView, 0, length, this.#gatherLsn, this.position)
    this.#isPassing = false
    return true
  }

  #emit(
    bytes: Uint8Array,
    view: DataView,
    start: number,
    totLen: number,
    recordLsn: Lsn,
    nextLsn: Lsn,
  ): void {
    if (this.#verifyCrc) {
      const expected = this.#isPassing
        ? ~crcUpdate(bytes, view, start, start + RECORD_CRC_OFFSET, this.#passedCrc)
        : signedRecordCrc(bytes, view, start, totLen)
      if (view.getInt32(start + RECORD_CRC_OFFSET, true) !== expected) {
        throw fail('bad_wal', `incorrect checksum in the WAL record at ${formatLsn(recordLsn)}`)
      }
    }
    if (this.#overwrittenLsn !== undefined) this.#checkOverwrite(view, start, totLen, recordLsn)
    this.bytes = bytes
    this.start = start
    this.length = totLen
    this.isHeaderAlone = this.#isPassing
    this.recordLsn = recordLsn
    this.nextLsn = nextLsn
    this.recordEndLsn = nextLsn
    this.lastRecordLsn = recordLsn
    this.#prevKnown = true
  }

  #checkHeader(view: DataView, at: number, recordLsn: Lsn): void {
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
    if (this.#prevKnown ? prevLsn !== this.lastRecordLsn : prevLsn >= recordLsn) {
      const found = high < 0x20_0000 ? formatLsn(lsn(prevLsn)) : `${high.toString(16)}/…`
      throw fail(
        'bad_wal',
        `WAL record at ${formatLsn(recordLsn)} has an incorrect previous-record link ${found}`,
        {
          detail: this.#prevKnown
            ? `expected ${formatLsn(this.lastRecordLsn)}`
            : 'it must lie before the record',
        },
      )
    }
  }

  #checkOverwrite(view: DataView, start: number, totLen: number, recordLsn: Lsn): void {
    const cut = this.#overwrittenLsn as Lsn
    this.#overwrittenLsn = undefined
    const data = start + RECORD_HEADER_BYTES
    // Header, short data header, xl_overwrite_contrecord { overwritten_lsn, overwrite_time }.
    const says =
      XLogRecord.rmid.get(view, start) === RM_XLOG_ID &&
      (XLogRecord.info.get(view, start) & ~XLR_INFO_MASK) === XLOG_OVERWRITE_CONTRECORD &&
      totLen === RECORD_HEADER_BYTES + 2 + 16 &&
      view.getUint8(data) === XLR_BLOCK_ID_DATA_SHORT &&
      view.getUint32(data + 6, true) * 0x1_0000_0000 + view.getUint32(data + 2, true) === cut
    if (!says) {
      throw fail(
        'bad_wal',
        `WAL record at ${formatLsn(cut)} is cut off, but the record at ${formatLsn(recordLsn)} does not say so`,
      )
    }
  }

  /** True once the whole header is read and checked. */
  #readPageHeader(): boolean {
    for (;;) {
      const long =
        this.#headerHave >= SHORT_PAGE_HEADER_BYTES &&
        (XLogPageHeader.info.get(this.#headerView, 0) & XLP_LONG_HEADER) !== 0
      const need = long ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES
      if (this.#headerHave === need) break
      const size = Math.min(this.#avail, need - this.#headerHave)
      if (size === 0) return false
      this.#header.set(this.#chunk.subarray(this.#at, this.#at + size), this.#headerHave)
      this.#headerHave += size
      this.#at += size
    }
    const headerBytes = this.#headerHave
    this.#headerHave = 0
    this.#headerDue = false
    this.#pageOffset = headerBytes
    this.#checkPageHeader(advance(this.position, -headerBytes), headerBytes)
    return true
  }

  #checkPageHeader(pageLsn: Lsn, headerBytes: number): void {
    const view = this.#headerView
    const magic = XLogPageHeader.magic.get(view, 0)
    const major = majorOfMagic(magic)
    if (major === undefined) {
      throw fail(
        'unknown_wal',
        `unknown WAL page magic ${magic.toString(16).toUpperCase().padStart(4, '0')} at ${formatLsn(pageLsn)}`,
        {
          hint: 'Versions 16, 17 and 18 are supported.',
        },
      )
    }
    if (this.#major === undefined) {
      this.#major = major
      this.#magic = magic
    }
    const damage = (what: string): Error => fail('bad_wal', `WAL page at ${formatLsn(pageLsn)} ${what}`)
    if (magic !== this.#magic) throw damage(`is of version ${major}, not ${this.#major}`)
    const info = XLogPageHeader.info.get(view, 0)
    if ((info & ~XLP_ALL_FLAGS) !== 0) throw damage(`has invalid flags ${info.toString(16)}`)
    const long = pageLsn % this.#segmentBytes === 0
    if (long !== (headerBytes === LONG_PAGE_HEADER_BYTES)) throw damage('has a header of the wrong kind')
    if (view.getUint32(8, true) + view.getUint32(12, true) * 0x1_0000_0000 !== pageLsn) {
      throw damage(
        `says that it is at ${view.getUint32(12, true).toString(16)}/${view.getUint32(8, true).toString(16)}`,
      )
    }
    const timelineId = XLogPageHeader.timelineId.get(view, 0)
    if (this.#timelineId !== undefined && timelineId !== this.#timelineId) {
      throw damage(`is of Postgres timeline ${timelineId}, not ${this.#timelineId}`)
    }
    if (long) this.#checkLongHeader(damage)
    this.#placeRecordStart(pageLsn, info, XLogPageHeader.remLen.get(view, 0), headerBytes, damage)
  }

  #checkLongHeader(damage: (what: string) => Error): void {
    const view = this.#headerView
    const systemId = XLogLongPageHeader.systemId.get(view, 0)
    if (this.#systemId !== undefined && systemId !== this.#systemId)
      throw damage(`is of system ${systemId}, not ${this.#systemId}`)
    const segmentBytes = XLogLongPageHeader.segmentBytes.get(view, 0)
    if (segmentBytes !== this.#segmentBytes)
      throw damage(`has segments of ${segmentBytes} bytes, not ${this.#segmentBytes}`)
    const blockBytes = XLogLongPageHeader.blockBytes.get(view, 0)
    if (blockBytes !== XLOG_BLCKSZ) throw damage(`has WAL blocks of ${blockBytes} bytes, not ${XLOG_BLCKSZ}`)
  }

  /** What the header says about the record in flight must be what we know of it. */
  #placeRecordStart(
    pageLsn: Lsn,
    info: number,
    remLen: number,
    headerBytes: number,
    damage: (what: string) => Error,
  ): void {
    const isContrecord = (info & XLP_FIRST_IS_CONTRECORD) !== 0
    if (this.#finding) {
      if (isContrecord) {
        const room = XLOG_BLCKSZ - headerBytes
        this.#finding = remLen > room
        this.#skip = Math.min(remLen + (-remLen & 7), room)
        return
      }
      this.#finding = false
    }
    if (!this.#gathering) {
      if (isContrecord) throw damage('begins with the rest of a record, but the record before ended')
      return
    }
    if ((info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) !== 0) {
      this.#overwrittenLsn = this.#gatherLsn
      this.#gathering = false
      this.#isPassing = false
      this.#have = 0
      return
    }
    if (!isContrecord) throw damage(`does not continue the record at ${formatLsn(this.#gatherLsn)}`)
    // A record's first 8 bytes never straddle a page, so xl_tot_len is known here.
    const left = XLogRecord.totLen.get(this.#scratchView, 0) - this.#have
    if (remLen === 0 || remLen !== left) {
      throw damage(`resumes with ${remLen} bytes of the record at ${formatLsn(this.#gatherLsn)}, not ${left}`)
    }
  }
}

const isSwitch = (view: DataView, at: number): boolean =>
  XLogRecord.rmid.get(view, at) === RM_XLOG_ID &&
  (XLogRecord.info.get(view, at) & ~XLR_INFO_MASK) === XLOG_SWITCH
