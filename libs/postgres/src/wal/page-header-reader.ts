/**
 * Owns the header of the page at hand while its bytes arrive, and what every page of a WAL stream must say: version,
 * system, Postgres timeline, segment size.
 *
 * Source: xlogreader.c XLogReaderValidatePageHeader (16, 17, 18).
 */
import { LSN_ZERO, advance, fail, formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { XLOG_BLCKSZ, XLP_ALL_FLAGS, XLP_LONG_HEADER } from './constants.ts'
import {
  LONG_PAGE_HEADER_BYTES,
  SHORT_PAGE_HEADER_BYTES,
  WAL_PAGE_MAGIC,
  XLogLongPageHeader,
  XLogPageHeader,
  majorOfMagic,
} from './pages.ts'
import type { PgMajor } from './pages.ts'

export interface PageIdentity {
  readonly segmentBytes: number
  /** Without it the first header decides. */
  readonly major?: PgMajor | undefined
  readonly systemId?: bigint | undefined
  readonly timelineId?: number | undefined
}

export class PageHeaderReader {
  readonly #identity: PageIdentity
  readonly #bytes = new Uint8Array(LONG_PAGE_HEADER_BYTES)
  readonly #view = new DataView(this.#bytes.buffer)
  #have = 0
  #pageLsn: Lsn = LSN_ZERO
  #major: PgMajor | undefined
  #magic: number

  constructor(identity: PageIdentity) {
    const { major } = identity
    this.#identity = identity
    this.#major = major
    this.#magic = major === undefined ? 0 : WAL_PAGE_MAGIC[major]
  }

  /** The version, once a header was seen or if it was given. */
  get major(): PgMajor | undefined {
    return this.#major
  }
  /** The flags of the header. */
  get info(): number {
    return XLogPageHeader.info.get(this.#view, 0)
  }
  /** How much of a record the page continues, by its header. */
  get remLen(): number {
    return XLogPageHeader.remLen.get(this.#view, 0)
  }

  /** Takes bytes of `chunk` from `at` on; returns how many. What the header lacks then comes with the next chunk. */
  take(chunk: Uint8Array, at: number): number {
    let taken = 0
    // A long header is known by its first part.
    for (let lacking = this.#lacking; lacking > 0; lacking = this.#lacking) {
      const size = Math.min(chunk.length - at - taken, lacking)
      if (size === 0) break
      this.#bytes.set(chunk.subarray(at + taken, at + taken + size), this.#have)
      this.#have += size
      taken += size
    }
    return taken
  }
  get #lacking(): number {
    const isLong = this.#have >= SHORT_PAGE_HEADER_BYTES && (this.info & XLP_LONG_HEADER) !== 0
    return (isLong ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES) - this.#have
  }
  get isComplete(): boolean {
    return this.#lacking === 0
  }

  /**
   * Checks the complete header, which ends at `endLsn`; returns its length. What is taken next is of the next page.
   * Errors: `bad_wal`, `unknown_wal`.
   */
  check(endLsn: Lsn): number {
    const headerBytes = this.#have
    const pageLsn = advance(endLsn, -headerBytes)
    this.#have = 0
    this.#pageLsn = pageLsn
    this.#checkVersion()
    const view = this.#view
    const info = this.info
    if ((info & ~XLP_ALL_FLAGS) !== 0) throw this.damage(`has invalid flags ${info.toString(16)}`)
    const long = pageLsn % this.#identity.segmentBytes === 0
    if (long !== (headerBytes === LONG_PAGE_HEADER_BYTES)) throw this.damage('has a header of the wrong kind')
    if (view.getUint32(8, true) + view.getUint32(12, true) * 0x1_0000_0000 !== pageLsn) {
      const said = `${view.getUint32(12, true).toString(16)}/${view.getUint32(8, true).toString(16)}`
      throw this.damage(`says that it is at ${said}`)
    }
    const timelineId = XLogPageHeader.timelineId.get(view, 0)
    if (this.#identity.timelineId !== undefined && timelineId !== this.#identity.timelineId) {
      throw this.damage(`is of Postgres timeline ${timelineId}, not ${this.#identity.timelineId}`)
    }
    if (long) this.#checkLong()
    return headerBytes
  }

  #checkVersion(): void {
    const magic = XLogPageHeader.magic.get(this.#view, 0)
    const major = majorOfMagic(magic)
    if (major === undefined) {
      const name = magic.toString(16).toUpperCase().padStart(4, '0')
      throw fail('unknown_wal', `unknown WAL page magic ${name} at ${formatLsn(this.#pageLsn)}`, {
        hint: 'Versions 16, 17 and 18 are supported.',
      })
    }
    if (this.#major === undefined) {
      this.#major = major
      this.#magic = magic
    }
    if (magic !== this.#magic) throw this.damage(`is of version ${major}, not ${this.#major}`)
  }

  #checkLong(): void {
    const view = this.#view
    const wanted = this.#identity
    const systemId = XLogLongPageHeader.systemId.get(view, 0)
    if (wanted.systemId !== undefined && systemId !== wanted.systemId)
      throw this.damage(`is of system ${systemId}, not ${wanted.systemId}`)
    const segmentBytes = XLogLongPageHeader.segmentBytes.get(view, 0)
    if (segmentBytes !== wanted.segmentBytes)
      throw this.damage(`has segments of ${segmentBytes} bytes, not ${wanted.segmentBytes}`)
    const blockBytes = XLogLongPageHeader.blockBytes.get(view, 0)
    if (blockBytes !== XLOG_BLCKSZ)
      throw this.damage(`has WAL blocks of ${blockBytes} bytes, not ${XLOG_BLCKSZ}`)
  }

  /** The error for a page whose header was checked last; `what` completes "WAL page at …". */
  damage(what: string): Error {
    return fail('bad_wal', `WAL page at ${formatLsn(this.#pageLsn)} ${what}`)
  }
}
