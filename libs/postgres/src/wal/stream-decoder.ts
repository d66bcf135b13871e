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
 * - Everything is checked that stock Postgres checks: page headers (page-header-reader.ts), CRCs, lengths, the chain
 *   of xl_prev, and of an overwritten contrecord that the record which replaces it says so (record-chain.ts).
 * - Errors are refused `bad_wal` or `unknown_wal` and name the position. After an error the decoder is of no
 *   more use.
 *
 * Owns the chunk at hand and the position in it; a record that spans pages or chunks is in record-assembly.ts.
 *
 * Source: xlogreader.c XLogDecodeNextRecord (16, 17, 18).
 */
import { LSN_ZERO, advance, alignUp8, assert, formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  RECORD_BYTES_MAX,
  RECORD_CRC_OFFSET,
  RECORD_HEADER_BYTES,
  RM_XLOG_ID,
  WAL_SEGMENT_BYTES,
  XLOG_BLCKSZ,
  XLOG_SWITCH,
  XLP_FIRST_IS_CONTRECORD,
  XLP_FIRST_IS_OVERWRITE_CONTRECORD,
  XLR_INFO_MASK,
} from './constants.ts'
import { PageHeaderReader } from './page-header-reader.ts'
import { LONG_PAGE_HEADER_BYTES, SHORT_PAGE_HEADER_BYTES } from './pages.ts'
import type { PgMajor } from './pages.ts'
import { RecordAssembly } from './record-assembly.ts'
import { RecordChain } from './record-chain.ts'
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

  readonly #segmentBytes: number
  readonly #verifyCrc: boolean
  readonly #header: PageHeaderReader
  readonly #assembly: RecordAssembly
  readonly #chain: RecordChain
  #finding: boolean

  // The chunk, and the position in it. Offsets are int32; the LSN of a position is #chunkLsn + #at.
  #chunk: Uint8Array = NO_BYTES
  #view: DataView = NO_VIEW
  #chunkLsn: Lsn
  #at = 0
  #pageOffset: number
  /** The page's header is still to be read. */
  #headerDue: boolean
  /**
   * Bytes to pass over unread: padding, the rest of a switched segment, a record that began before the
   * stream.
   */
  #skip = 0
  /** The assembled record is complete, waiting for #skip to be passed. */
  #pending = false

  constructor(options: WalStreamOptions) {
    const { startLsn, prevLsn, recordBytesMax = RECORD_BYTES_MAX, verifyCrc = true } = options
    const { segmentBytes = WAL_SEGMENT_BYTES, major, systemId, timelineId } = options
    this.#segmentBytes = segmentBytes
    this.#verifyCrc = verifyCrc
    this.#header = new PageHeaderReader({ segmentBytes, major, systemId, timelineId })
    this.#assembly = new RecordAssembly(verifyCrc, options.keepsBody ?? (() => true))
    this.#chain = new RecordChain(prevLsn, recordBytesMax)
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
    return this.#header.major
  }
  /** Start of the last complete record seen, or 0/0. */
  get lastRecordLsn(): Lsn {
    return this.#chain.lastRecordLsn
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
    if (!this.#assembly.isActive && !this.#pending) this.#assembly.release()
    for (;;) {
      if (this.#skip > 0 && !this.#passOver()) return this.#starve()
      if (this.#pending) return this.#emitAssembled()
      if (this.#headerDue) {
        if (!this.#readPageHeader()) return this.#starve()
        continue
      }
      if (this.#avail === 0) return this.#starve()
      if (!this.#assembly.isActive) {
        if (this.#emitInPlace()) return true
        this.#assembly.begin(this.position)
      }
      this.#assemble()
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
    const view = this.#view
    const totLen = XLogRecord.totLen.get(view, start)
    if (totLen < RECORD_HEADER_BYTES || totLen > room || totLen + (-totLen & 7) > room) return false
    const recordLsn = advance(this.#chunkLsn, start)
    this.#chain.checkHeader(view, start, recordLsn)
    if (isSwitch(view, start)) return false
    this.#advance(totLen + (-totLen & 7))
    if (this.#verifyCrc) checkCrc(view, start, recordLsn, signedRecordCrc(this.#chunk, view, start, totLen))
    this.#emit(this.#chunk, view, start, totLen, recordLsn)
    this.isHeaderAlone = false
    return true
  }

  #assemble(): void {
    const assembly = this.#assembly
    const size = Math.min(this.#avail, XLOG_BLCKSZ - this.#pageOffset, assembly.missing)
    assembly.take(this.#chunk, this.#view, this.#at, size)
    this.#advance(size)
    if (assembly.missing > 0) return
    if (assembly.isHeader) {
      this.#chain.checkHeader(assembly.view, 0, assembly.lsn)
      assembly.expectBody()
      if (assembly.missing > 0) return
    }
    assembly.finish()
    this.#pending = true
    const position = this.position
    const segmentLeft = isSwitch(assembly.view, 0) ? -position % this.#segmentBytes : 0
    this.#skip = segmentLeft < 0 ? segmentLeft + this.#segmentBytes : alignUp8(position) - position
  }

  #emitAssembled(): true {
    const { bytes, view, length, lsn, isHeaderAlone } = this.#assembly
    this.#pending = false
    if (this.#verifyCrc) checkCrc(view, 0, lsn, this.#assembly.crc)
    this.#emit(bytes, view, 0, length, lsn)
    this.isHeaderAlone = isHeaderAlone
    return true
  }

  #emit(bytes: Uint8Array, view: DataView, start: number, length: number, recordLsn: Lsn): void {
    this.#chain.append(view, start, length, recordLsn)
    this.bytes = bytes
    this.start = start
    this.length = length
    this.recordLsn = recordLsn
    this.nextLsn = this.position
    this.recordEndLsn = this.nextLsn
  }

  /** True once the whole header is read and checked. */
  #readPageHeader(): boolean {
    this.#at += this.#header.take(this.#chunk, this.#at)
    if (!this.#header.isComplete) return false
    this.#headerDue = false
    this.#pageOffset = this.#header.check(this.position)
    this.#placeRecordStart()
    return true
  }

  /** The header must agree with what is known of the record in flight. */
  #placeRecordStart(): void {
    const header = this.#header
    const assembly = this.#assembly
    const { info, remLen } = header
    const isContrecord = (info & XLP_FIRST_IS_CONTRECORD) !== 0
    if (this.#finding) {
      if (isContrecord) {
        const room = XLOG_BLCKSZ - this.#pageOffset
        this.#finding = remLen > room
        this.#skip = Math.min(remLen + (-remLen & 7), room)
        return
      }
      this.#finding = false
    }
    if (!assembly.isActive) {
      if (isContrecord) throw header.damage('begins with the rest of a record, but the record before ended')
      return
    }
    if ((info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) !== 0) {
      this.#chain.cutOff(assembly.lsn)
      assembly.drop()
      return
    }
    const inFlight = (): string => `the record at ${formatLsn(assembly.lsn)}`
    if (!isContrecord) throw header.damage(`does not continue ${inFlight()}`)
    const { left } = assembly
    if (remLen === 0 || remLen !== left)
      throw header.damage(`resumes with ${remLen} bytes of ${inFlight()}, not ${left}`)
  }
}

function checkCrc(view: DataView, start: number, recordLsn: Lsn, crc: number): void {
  if (view.getInt32(start + RECORD_CRC_OFFSET, true) !== crc)
    throw fail('bad_wal', `incorrect checksum in the WAL record at ${formatLsn(recordLsn)}`)
}

const isSwitch = (view: DataView, at: number): boolean =>
  XLogRecord.rmid.get(view, at) === RM_XLOG_ID &&
  (XLogRecord.info.get(view, at) & ~XLR_INFO_MASK) === XLOG_SWITCH
