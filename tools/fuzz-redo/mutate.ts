/** Changes of records and pages, as fast-check draws and shrinks them. All of them stay within what they change. */
import fc from 'fast-check'
import { PAGE_SIZE } from '@understory/postgres/page'
import type { BlockRef, DecodedRecord } from '@understory/postgres/wal'

const RECORD_SPOTS = ['info', 'headers', 'main', 'data', 'anywhere'] as const
const PAGE_SPOTS = ['header', 'line', 'tuple', 'special', 'anywhere'] as const
const CHANGES = ['flip', 'u8', 'u16', 'u32', 'interesting'] as const
/** Numbers at which bounds are: of bytes, of offsets within a page, of line pointers, of block numbers. */
const INTERESTING = [0, 1, 2, 7, 8, 23, 24, 28, 127, 128, 255, 256, 291, 292, 407, 408, 2042, 8151] as const
const INTERESTING_HIGH = [8168, 8176, 8184, 8191, 8192, 8193, 0x7fff, 0x8000, 0xfffe, 0xffff] as const
const INTERESTING_WIDE = [0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff] as const

export interface Mutation {
  readonly spot: (typeof RECORD_SPOTS)[number] | (typeof PAGE_SPOTS)[number]
  /** Taken modulo the length of the spot. */
  readonly at: number
  readonly change: (typeof CHANGES)[number]
  readonly value: number
}

const mutation = (spots: readonly Mutation['spot'][]): fc.Arbitrary<Mutation> =>
  fc.record({
    spot: fc.constantFrom(...spots),
    at: fc.nat(0xffff),
    change: fc.constantFrom(...CHANGES),
    value: fc.oneof(
      fc.nat(0xffff_ffff),
      fc.constantFrom(...INTERESTING, ...INTERESTING_HIGH, ...INTERESTING_WIDE),
    ),
  })

export interface Cut {
  /** Which of the record's pieces of data: its blocks' by index, then the main data. */
  readonly piece: number
  readonly bytes: number
}

export interface RedoCase {
  readonly type: number
  readonly sample: number
  readonly ofRecord: readonly Mutation[]
  readonly ofPages: readonly Mutation[]
  /** Data that end early. */
  readonly cuts: readonly Cut[]
  /** The pages of another sample in place of its own, where given. */
  readonly otherPages: number | undefined
}

export const redoCase: fc.Arbitrary<RedoCase> = fc.record({
  type: fc.nat(0xffff),
  sample: fc.nat(0xffff),
  ofRecord: fc.array(mutation(RECORD_SPOTS), { maxLength: 4 }),
  ofPages: fc.array(mutation(PAGE_SPOTS), { maxLength: 4 }),
  cuts: fc.array(fc.record({ piece: fc.nat(33), bytes: fc.nat(64) }), { maxLength: 1 }),
  otherPages: fc.option(fc.nat(0xffff), { nil: undefined, freq: 8 }),
})

function change(view: DataView, at: number, { change: how, value }: Mutation): void {
  const left = view.byteLength - at
  if (how === 'u32' && left >= 4) view.setUint32(at, value, true)
  else if ((how === 'u16' || how === 'interesting') && left >= 2) view.setUint16(at, value & 0xffff, true)
  else if (how === 'flip') view.setUint8(at, view.getUint8(at) ^ (1 << (value & 7)))
  else view.setUint8(at, value & 0xff)
}

/** Changes the bytes of a record; `decoded` says where its parts are. */
export function mutateRecord(
  bytes: Uint8Array,
  decoded: DecodedRecord,
  mutations: readonly Mutation[],
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const dataStart =
    decoded.blockCount === 0 ? decoded.mainDataOffset : (decoded.blocks[0] as BlockRef).imageOffset
  for (const one of mutations) {
    let [from, to] = [0, bytes.length]
    if (one.spot === 'info') [from, to] = [16, 18]
    else if (one.spot === 'headers') [from, to] = [24, dataStart - decoded.start]
    else if (one.spot === 'main') from = decoded.mainDataOffset - decoded.start
    else if (one.spot === 'data')
      [from, to] = [dataStart - decoded.start, decoded.mainDataOffset - decoded.start]
    if (to > from) change(view, from + (one.at % (to - from)), one)
  }
}

/** Lets pieces of the record's data end early, as if their lengths said so. */
export function cutRecord(record: DecodedRecord, cuts: readonly Cut[]): void {
  for (const { piece, bytes } of cuts) {
    const at = piece % (record.blockCount + 1)
    if (at === record.blockCount) {
      record.mainDataLength = Math.max(0, record.mainDataLength - bytes)
    } else {
      const ref = record.blocks[at] as BlockRef
      ref.dataLength = Math.max(0, ref.dataLength - bytes)
      ref.hasData = ref.dataLength > 0
    }
  }
}

export function mutatePage(bytes: Uint8Array, mutations: readonly Mutation[]): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, PAGE_SIZE)
  for (const one of mutations) {
    const lines = Math.max(1, (Math.min(view.getUint16(12, true), PAGE_SIZE) - 24) >> 2)
    let at = one.at % PAGE_SIZE
    if (one.spot === 'header') at = 8 + (one.at % 16)
    else if (one.spot === 'line') at = 24 + (one.at % (lines * 4))
    else if (one.spot === 'tuple') {
      const line = 24 + (one.at % lines) * 4
      at = Math.min(
        (view.getUint32(Math.min(line, PAGE_SIZE - 4), true) & 0x7fff) + (one.value % 32),
        PAGE_SIZE - 1,
      )
    } else if (one.spot === 'special') {
      const special = Math.min(view.getUint16(16, true), PAGE_SIZE - 8)
      at = special + (one.at % (PAGE_SIZE - special))
    }
    change(view, at, one)
  }
}
