/**
 * Log sequence numbers: byte positions in a timeline's WAL.
 *
 * An `Lsn` is a `number`, exact up to 2^53 bytes (8 PiB of WAL). Bitwise operators keep the low 32 bits
 * only: on a whole LSN they are used for nothing but these. Positions are half-open: a start is inclusive, an end
 * exclusive.
 */
import { assert } from './assert.ts'
import { fail } from './errors.ts'

declare const brand: unique symbol
export type Lsn = number & { readonly [brand]: 'Lsn' }

export const LSN_MAX = Number.MAX_SAFE_INTEGER as Lsn
/** 0/0, which Postgres calls InvalidXLogRecPtr. */
export const LSN_ZERO = 0 as Lsn

/** Brands a byte position that is known to be in range. */
export function lsn(position: number): Lsn {
  assert(Number.isSafeInteger(position) && position >= 0, () => `lsn ${position} is out of range`)
  return position as Lsn
}

/** From the two 32-bit halves in which Postgres stores an LSN on disk. */
export function lsnFromHalves(high: number, low: number): Lsn {
  if (high >= 0x20_0000) throw fail('bad_lsn', `lsn ${high.toString(16)}/${low.toString(16)} is beyond 2^53`)
  return (high * 0x1_0000_0000 + low) as Lsn
}

/** From the uint64 of a network message. Errors: `bad_lsn` beyond 2^53. */
export function lsnFromBigint(position: bigint): Lsn {
  if (position < 0n || position > 0x1f_ffff_ffff_ffffn)
    throw fail('bad_lsn', `lsn ${position} is beyond 2^53`)
  return Number(position) as Lsn
}

export const lsnToBigint = (at: Lsn): bigint => BigInt(at)
export const lsnHigh = (at: Lsn): number => Math.floor(at / 0x1_0000_0000)
/** ToUint32 is exact for every whole number: the remainder by 2^32, without a division. */
export const lsnLow = (at: Lsn): number => at >>> 0

/** From text such as `16/B374D848`. Errors: `bad_lsn`. */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text)
  if (match === null) {
    throw fail('bad_lsn', `malformed lsn "${text}"`, {
      hint: 'Write it as two hexadecimal numbers, such as 16/B374D848.',
    })
  }
  return lsnFromHalves(Number.parseInt(match[1] as string, 16), Number.parseInt(match[2] as string, 16))
}

/** As Postgres prints it: `16/B374D848`. */
export function formatLsn(at: Lsn): string {
  return `${lsnHigh(at).toString(16).toUpperCase()}/${lsnLow(at).toString(16).toUpperCase()}`
}

export const advance = (at: Lsn, bytes: number): Lsn => (at + bytes) as Lsn
export const bytesBetween = (from: Lsn, to: Lsn): number => to - from
/** Rounds up to a multiple of 8; `& 7` only looks at the low bits, so it is right beyond 2^31. */
export const alignUp8 = (at: Lsn): Lsn => (at + (-at & 7)) as Lsn
export const maxLsn = (a: Lsn, b: Lsn): Lsn => (a > b ? a : b)
export const minLsn = (a: Lsn, b: Lsn): Lsn => (a < b ? a : b)

/** Number of the WAL segment that holds this byte. */
export const segmentOf = (at: Lsn, segmentBytes: number): number => Math.floor(at / segmentBytes)
export const offsetInSegment = (at: Lsn, segmentBytes: number): number => at % segmentBytes
export const segmentStart = (segment: number, segmentBytes: number): Lsn => lsn(segment * segmentBytes)
