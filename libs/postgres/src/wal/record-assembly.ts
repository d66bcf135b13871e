/**
 * Owns the record that is being put together because it does not lie within one page and one chunk: its bytes without
 * page headers or, where its body is not wanted, its header and the CRC of what passed.
 */
import { LSN_ZERO } from '@understory/base'
import type { Lsn } from '@understory/base'
import { RECORD_CRC_OFFSET, RECORD_HEADER_BYTES } from './constants.ts'
import { crcUpdate } from './crc.ts'
import { XLogRecord, signedRecordCrc } from './record-header.ts'

const BUFFER_BYTES = 8 * 1024
/** A larger buffer is given back after the record that needed it. */
const BUFFER_KEPT_BYTES = 1024 * 1024

export class RecordAssembly {
  readonly #verifyCrc: boolean
  readonly #keepsBody: (rmid: number) => boolean
  #bytes = new Uint8Array(BUFFER_BYTES)
  #view = new DataView(this.#bytes.buffer)
  #isActive = false
  #have = 0
  /** 24 until the header is there, then xl_tot_len. */
  #need = 0
  #lsn: Lsn = LSN_ZERO
  /** The body passes by: only its CRC is kept, as a register (`crcUpdate`). */
  #isPassing = false
  #passedCrc = -1

  constructor(verifyCrc: boolean, keepsBody: (rmid: number) => boolean) {
    this.#verifyCrc = verifyCrc
    this.#keepsBody = keepsBody
  }

  /** Some of a record is here, and some is still to come. */
  get isActive(): boolean {
    return this.#isActive
  }
  /** Where the record starts. */
  get lsn(): Lsn {
    return this.#lsn
  }
  /** Bytes that are still to come: of the header first, then of the record. */
  get missing(): number {
    return this.#need - this.#have
  }
  /** Bytes of the whole record that are still to come. Its first 8 bytes never straddle a page: xl_tot_len is known. */
  get left(): number {
    return XLogRecord.totLen.get(this.#view, 0) - this.#have
  }
  /** Whether no more than the header was asked for yet. */
  get isHeader(): boolean {
    return this.#need === RECORD_HEADER_BYTES
  }
  /** Whether the body passes by. */
  get isHeaderAlone(): boolean {
    return this.#isPassing
  }
  /** The record from offset 0 on; borrowed until the next `begin`. */
  get bytes(): Uint8Array {
    return this.#bytes
  }
  get view(): DataView {
    return this.#view
  }
  /** Of `bytes`. */
  get length(): number {
    return this.#isPassing ? RECORD_HEADER_BYTES : this.#need
  }

  begin(at: Lsn): void {
    this.#isActive = true
    this.#isPassing = false
    this.#have = 0
    this.#need = RECORD_HEADER_BYTES
    this.#lsn = at
  }

  /** Takes `chunk[at, at + size)`, at most what is missing. */
  take(chunk: Uint8Array, view: DataView, at: number, size: number): void {
    if (!this.#isPassing) this.#keep(chunk, at, size)
    else if (this.#verifyCrc) this.#passedCrc = crcUpdate(chunk, view, at, at + size, this.#passedCrc)
    this.#have += size
  }
  #keep(chunk: Uint8Array, at: number, size: number): void {
    // Grows with what has arrived, not with what a length promises.
    if (this.#have + size > this.#bytes.length) this.#resize(Math.min(this.#need, 2 * (this.#have + size)))
    this.#bytes.set(chunk.subarray(at, at + size), this.#have)
  }

  /** The header is here and was checked: what is missing from now on is the body. */
  expectBody(): void {
    this.#need = XLogRecord.totLen.get(this.#view, 0)
    this.#isPassing = this.#need > BUFFER_BYTES && !this.#keepsBody(XLogRecord.rmid.get(this.#view, 0))
    this.#passedCrc = -1
  }

  /** All of it is here. */
  finish(): void {
    this.#isActive = false
  }

  /** CRC of the record that is finished, as a signed number. */
  get crc(): number {
    if (!this.#isPassing) return signedRecordCrc(this.#bytes, this.#view, 0, this.#need)
    return ~crcUpdate(this.#bytes, this.#view, 0, RECORD_CRC_OFFSET, this.#passedCrc)
  }

  /** The rest of the record never comes. */
  drop(): void {
    this.#isActive = false
    this.#isPassing = false
    this.#have = 0
  }

  /** Gives a large buffer back. Nothing of it may be borrowed or on its way. */
  release(): void {
    if (this.#bytes.length > BUFFER_KEPT_BYTES) this.#resize(BUFFER_BYTES)
  }
  #resize(size: number): void {
    const before = this.#bytes
    this.#bytes = new Uint8Array(size)
    this.#bytes.set(before.subarray(0, Math.min(this.#have, size)))
    this.#view = new DataView(this.#bytes.buffer)
  }
}
