/**
 * Fixed binary layouts as tables. A field is `{ offset, get(view, at), set(view, at, value) }`, where `at` is the
 * start of the struct in the view; little-endian throughout, as on every platform that Postgres ships for here.
 * The fields must fill `size` without gap or overlap (padding is named `pad…`), which is checked once, at load.
 */
import { assert } from './assert.ts'
import { lsnFromHalves, lsnHigh, lsnLow } from './lsn.ts'
import type { Lsn } from './lsn.ts'

export interface Field<T> {
  readonly size: number
  readonly offset: number
  get(view: DataView, at: number): T
  set(view: DataView, at: number, value: T): void
}

type Make<T> = (offset: number) => Field<T>
interface FieldType<T> {
  readonly size: number
  readonly make: Make<T>
}

const type = <T>(size: number, make: Make<T>): FieldType<T> => ({ size, make })

export const u8: FieldType<number> = type(1, (offset) => ({
  size: 1,
  offset,
  get: (v, at) => v.getUint8(at + offset),
  set: (v, at, x) => v.setUint8(at + offset, x),
}))
export const i8: FieldType<number> = type(1, (offset) => ({
  size: 1,
  offset,
  get: (v, at) => v.getInt8(at + offset),
  set: (v, at, x) => v.setInt8(at + offset, x),
}))
export const u16: FieldType<number> = type(2, (offset) => ({
  size: 2,
  offset,
  get: (v, at) => v.getUint16(at + offset, true),
  set: (v, at, x) => v.setUint16(at + offset, x, true),
}))
export const u32: FieldType<number> = type(4, (offset) => ({
  size: 4,
  offset,
  get: (v, at) => v.getUint32(at + offset, true),
  set: (v, at, x) => v.setUint32(at + offset, x, true),
}))
export const i32: FieldType<number> = type(4, (offset) => ({
  size: 4,
  offset,
  get: (v, at) => v.getInt32(at + offset, true),
  set: (v, at, x) => v.setInt32(at + offset, x, true),
}))
export const u64: FieldType<bigint> = type(8, (offset) => ({
  size: 8,
  offset,
  get: (v, at) => v.getBigUint64(at + offset, true),
  set: (v, at, x) => v.setBigUint64(at + offset, x, true),
}))
export const i64: FieldType<bigint> = type(8, (offset) => ({
  size: 8,
  offset,
  get: (v, at) => v.getBigInt64(at + offset, true),
  set: (v, at, x) => v.setBigInt64(at + offset, x, true),
}))
/** XLogRecPtr as a little-endian uint64: WAL records, control file, our own formats. */
export const lsn64: FieldType<Lsn> = type(8, (offset) => ({
  size: 8,
  offset,
  get: (v, at) => lsnFromHalves(v.getUint32(at + offset + 4, true), v.getUint32(at + offset, true)),
  set: (v, at, x) => {
    v.setUint32(at + offset + 4, lsnHigh(x), true)
    v.setUint32(at + offset, lsnLow(x), true)
  },
}))
/** PageXLogRecPtr: two uint32, high half first. */
export const pageLsn: FieldType<Lsn> = type(8, (offset) => ({
  size: 8,
  offset,
  get: (v, at) => lsnFromHalves(v.getUint32(at + offset, true), v.getUint32(at + offset + 4, true)),
  set: (v, at, x) => {
    v.setUint32(at + offset, lsnHigh(x), true)
    v.setUint32(at + offset + 4, lsnLow(x), true)
  },
}))
/** Raw bytes: `get` borrows from the view's buffer. */
export const bytes = (size: number): FieldType<Uint8Array> =>
  type(size, (offset) => ({
    size,
    offset,
    get: (v, at) => new Uint8Array(v.buffer, v.byteOffset + at + offset, size),
    set: (v, at, x) => new Uint8Array(v.buffer, v.byteOffset + at + offset, size).set(x.subarray(0, size)),
  }))

// A shape's element types are erased on the way in and restored by `Fields`.
// oxlint-disable-next-line no-explicit-any
type Shape = Record<string, FieldType<any>>
type Fields<S extends Shape> = { readonly [K in keyof S]: S[K] extends FieldType<infer T> ? Field<T> : never }
export type Struct<S extends Shape> = Fields<S> & { readonly SIZE: number }

/** `size` is stated apart from the fields so that a wrong table fails at load. */
export function struct<S extends Shape>(size: number, shape: S): Struct<S> {
  const fields: Record<string, unknown> = { SIZE: size }
  let offset = 0
  for (const [name, fieldType] of Object.entries(shape)) {
    fields[name] = fieldType.make(offset)
    offset += fieldType.size
  }
  assert(offset === size, () => `struct fields sum to ${offset} bytes, not ${size}`)
  return fields as Struct<S>
}
