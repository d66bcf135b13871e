/** Reads a variable-length byte range from front to back, bounds-checked; its one error says where the bytes ended. */
import { fail } from './errors.ts'
import type { ErrorCode } from './errors.ts'
import { lsnFromHalves } from './lsn.ts'
import type { Lsn } from './lsn.ts'

export class Cursor {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly end: number
  readonly #what: string
  readonly #code: ErrorCode
  at: number

  /** Reads `bytes[at, end)`. `what` names the thing in errors, which carry `code`. */
  constructor(
    bytes: Uint8Array,
    what: string,
    code: ErrorCode = 'bad_file',
    at = 0,
    end: number = bytes.length,
  ) {
    this.bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.at = at
    this.end = end
    this.#what = what
    this.#code = code
  }

  get remaining(): number {
    return this.end - this.at
  }

  #take(size: number): number {
    const at = this.at
    if (size < 0 || at + size > this.end) {
      throw fail(this.#code, `${this.#what} ends at byte ${this.end}, but ${size} bytes are needed at ${at}`)
    }
    this.at = at + size
    return at
  }

  u8(): number {
    return this.view.getUint8(this.#take(1))
  }
  u16(): number {
    return this.view.getUint16(this.#take(2), true)
  }
  u32(): number {
    return this.view.getUint32(this.#take(4), true)
  }
  u64(): bigint {
    return this.view.getBigUint64(this.#take(8), true)
  }
  lsn(): Lsn {
    const at = this.#take(8)
    return lsnFromHalves(this.view.getUint32(at + 4, true), this.view.getUint32(at, true))
  }
  skip(size: number): void {
    this.#take(size)
  }
  /** Borrows from the underlying bytes. */
  take(size: number): Uint8Array {
    const at = this.#take(size)
    return this.bytes.subarray(at, at + size)
  }
}
