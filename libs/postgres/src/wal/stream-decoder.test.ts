// Goal: the decoder gives back exactly the records that were laid into WAL, however the bytes are cut, and
// answers damage with a typed error. Method: WAL made by encodeRecord and placeRecord, random cuts and random
// flips.
import { LSN_ZERO, UnderstoryError, advance, isErrorCode, lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  DecodedRecord,
  RM_LOGICALMSG_ID,
  RM_XLOG_ID,
  WalStreamDecoder,
  XLOG_NOOP,
  XLOG_OVERWRITE_CONTRECORD,
  XLOG_SWITCH,
  XLP_FIRST_IS_CONTRECORD,
  XLP_FIRST_IS_OVERWRITE_CONTRECORD,
  XLogPageHeader,
  crc32c,
  decodeRecord,
  encodeRecord,
  placeRecord,
  walFileName,
  parseWalFileName,
  readRecordsOfSegments,
} from './index.ts'
import type { WalIdentity, WalStreamOptions } from './index.ts'

const MIB = 1024 * 1024
const wal: WalIdentity = { major: 17, systemId: 7_000_000_000_000_000_001n, timelineId: 3, segmentBytes: MIB }

interface Made {
  readonly recordLsn: Lsn
  readonly nextLsn: Lsn
  readonly bytes: Uint8Array
}

/** WAL that grows record by record. */
class WalMaker {
  readonly startLsn: Lsn
  readonly records: Made[] = []
  endLsn: Lsn
  prevLsn: Lsn
  #parts: Uint8Array[] = []

  constructor(startLsn: Lsn, prevLsn: Lsn = LSN_ZERO) {
    this.startLsn = startLsn
    this.endLsn = startLsn
    this.prevLsn = prevLsn
  }
  add(mainData: Uint8Array, rmid = RM_LOGICALMSG_ID, info = 0): Made {
    const bytes = encodeRecord({ rmid, info, prevLsn: this.prevLsn, mainData })
    const placed = placeRecord(this.endLsn, bytes, wal)
    this.raw(placed.bytes)
    this.prevLsn = placed.recordLsn
    const made = { recordLsn: placed.recordLsn, nextLsn: this.endLsn, bytes }
    this.records.push(made)
    return made
  }
  /** XLOG_SWITCH: the rest of the segment stays unread. */
  addSwitch(): void {
    const made = this.add(new Uint8Array(0), RM_XLOG_ID, XLOG_SWITCH)
    const left = MIB - (this.endLsn % MIB || MIB)
    this.raw(new Uint8Array(left).fill(0xaa))
    this.records[this.records.length - 1] = { ...made, nextLsn: this.endLsn }
  }
  raw(bytes: Uint8Array): void {
    this.#parts.push(bytes)
    this.endLsn = advance(this.endLsn, bytes.length)
  }
  get bytes(): Uint8Array {
    return Buffer.concat(this.#parts)
  }
}

const pattern = (size: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: size }, (_, i) => (i * 31 + seed) & 0xff)

function decodeAll(
  maker: { startLsn: Lsn; bytes: Uint8Array },
  cuts: readonly number[],
  options: Partial<WalStreamOptions> = {},
): Made[] {
  const decoder = new WalStreamDecoder({ startLsn: maker.startLsn, segmentBytes: MIB, ...options })
  const found: Made[] = []
  const { bytes } = maker
  let at = 0
  for (let i = 0; at < bytes.length; i++) {
    const size = Math.min(
      cuts.length === 0 ? bytes.length : (cuts[i % cuts.length] as number),
      bytes.length - at,
    )
    decoder.push(advance(maker.startLsn, at), Uint8Array.from(bytes.subarray(at, at + size)))
    at += size
    while (decoder.next()) {
      // Plain comparisons: thousands of matcher calls a run are slow.
      if (decoder.recordEndLsn !== decoder.nextLsn) throw new Error('record end is not the record just given')
      if (decoder.position < decoder.nextLsn) throw new Error('record given before its padding came')
      const copy = Uint8Array.from(decoder.bytes.subarray(decoder.start, decoder.start + decoder.length))
      found.push({ recordLsn: decoder.recordLsn, nextLsn: decoder.nextLsn, bytes: copy })
    }
    if (decoder.position !== advance(maker.startLsn, at)) throw new Error('chunk not taken in')
  }
  return found
}

const sizes = fc.array(
  fc.oneof(fc.nat(60), fc.nat(400), fc.integer({ min: 7900, max: 8300 }), fc.nat(40_000)),
  { minLength: 1, maxLength: 60 },
)
const cuts = fc
  .array(fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 20_000 })), {
    minLength: 1,
    maxLength: 20,
  })
  .map((sizes) => [...sizes, 9_001])
const starts = fc.constantFrom(
  0x10_0000,
  0x10_0028,
  0x1f_e018,
  0x12_4000,
  0x12_4018,
  0x12_5ff8,
  0x20_0000_0000_0000 - 0x80_0000,
)

describe('the decoder', () => {
  test('gives every record back, however the stream is cut', () => {
    fc.assert(
      fc.property(starts, sizes, cuts, fc.nat(80), (start, recordSizes, chunkSizes, switchAt) => {
        const maker = new WalMaker(lsn(start))
        recordSizes.forEach((size, i) => (i === switchAt ? maker.addSwitch() : maker.add(pattern(size, i))))
        expect(decodeAll(maker, chunkSizes)).toEqual(maker.records)
        expect(decodeAll(maker, [], { ...wal, prevLsn: LSN_ZERO })).toEqual(maker.records)
        // Without bodies the same records end in the same places.
        const passed = decodeAll(maker, chunkSizes, { keepsBody: () => false })
        expect(passed.map(({ recordLsn, nextLsn }) => [recordLsn, nextLsn])).toEqual(
          maker.records.map(({ recordLsn, nextLsn }) => [recordLsn, nextLsn]),
        )
        passed.forEach(({ bytes }, i) => {
          const whole = (maker.records[i] as Made).bytes
          const isSame = Buffer.compare(bytes, whole.subarray(0, bytes.length)) === 0
          if (!isSame || (bytes.length !== whole.length && (bytes.length !== 24 || whole.length <= 8192)))
            throw new Error(`record of ${whole.length} bytes was given with ${bytes.length}`)
        })
      }),
      { numRuns: 40 },
    )
  })

  test('of a large record whose body is not wanted every flipped bit is found, and no body is kept', () => {
    const maker = new WalMaker(lsn(0x10_0000))
    for (const size of [100, 100_000, 50]) maker.add(pattern(size, 1))
    const { bytes } = maker
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, mask) => {
        const bad = Uint8Array.from(bytes)
        bad[at] = (bad[at] as number) ^ mask
        const outcome = (keepsBody: boolean): string => {
          try {
            const found = decodeAll({ startLsn: maker.startLsn, bytes: bad }, [5000], {
              keepsBody: () => keepsBody,
            })
            return found.map(({ nextLsn }) => nextLsn).join()
          } catch (error) {
            return String(error)
          }
        }
        expect(outcome(false)).toBe(outcome(true))
      }),
      { numRuns: 300 },
    )
  })

  test('answers flipped bits with a typed error and never gives a wrong record', () => {
    const maker = new WalMaker(lsn(0x10_0000))
    for (let i = 0; i < 60; i++) maker.add(pattern((i * 997) % 3000, i))
    const { bytes } = maker
    const good = new Map(maker.records.map((record) => [record.recordLsn, record]))
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, mask) => {
        const bad = Uint8Array.from(bytes)
        bad[at] = (bad[at] as number) ^ mask
        try {
          for (const record of decodeAll({ startLsn: maker.startLsn, bytes: bad }, [5000])) {
            expect(good.get(record.recordLsn)).toEqual(record)
          }
        } catch (error) {
          expect(error).toBeInstanceOf(UnderstoryError)
          expect(isErrorCode(error, 'bad_wal') || isErrorCode(error, 'unknown_wal')).toBe(true)
        }
      }),
      { numRuns: 500 },
    )
  })

  test('finds the first record of a page that begins inside another', () => {
    const maker = new WalMaker(lsn(0x10_0000))
    for (const size of [100, 30_000, 50, 8_100, 20]) maker.add(pattern(size, 1))
    for (let page = 8192; page < maker.bytes.length; page += 8192) {
      const startLsn = advance(maker.startLsn, page)
      const found = decodeAll({ startLsn, bytes: maker.bytes.subarray(page) }, [1000], { findFirst: true })
      expect(found).toEqual(maker.records.filter((record) => record.recordLsn >= startLsn))
    }
    const beyond = { startLsn: advance(maker.startLsn, 8192), bytes: maker.bytes.subarray(8192) }
    expect(() => decodeAll(beyond, [])).toThrow('begins with the rest of a record')
  })

  test('accepts a contrecord that was overwritten, if the next record says which', () => {
    const overwritten = (says: (cutLsn: Lsn) => Lsn): { maker: WalMaker; bytes: Uint8Array } => {
      const maker = new WalMaker(lsn(0x10_0000))
      maker.add(pattern(100, 1))
      const cut = encodeRecord({
        rmid: RM_LOGICALMSG_ID,
        info: 0,
        prevLsn: maker.prevLsn,
        mainData: pattern(20_000, 2),
      })
      const placed = placeRecord(maker.endLsn, cut, wal)
      maker.raw(placed.bytes.subarray(0, 8192 - (maker.endLsn % 8192)))
      const data = new Uint8Array(16)
      new DataView(data.buffer).setBigUint64(0, BigInt(says(placed.recordLsn)), true)
      maker.add(data, RM_XLOG_ID, XLOG_OVERWRITE_CONTRECORD)
      const bytes = Uint8Array.from(maker.bytes)
      XLogPageHeader.info.set(new DataView(bytes.buffer), 8192, XLP_FIRST_IS_OVERWRITE_CONTRECORD)
      return { maker, bytes }
    }
    const { maker, bytes } = overwritten((cutLsn) => cutLsn)
    expect(decodeAll({ startLsn: maker.startLsn, bytes }, [3000])).toEqual(maker.records)
    const wrong = overwritten((cutLsn) => advance(cutLsn, 8))
    expect(() => decodeAll({ startLsn: wrong.maker.startLsn, bytes: wrong.bytes }, [])).toThrow(
      'is cut off, but',
    )
  })

  test('names what is wrong', () => {
    const maker = new WalMaker(lsn(0x10_0000))
    maker.add(pattern(10_000, 1))
    maker.add(pattern(10, 1), RM_XLOG_ID, XLOG_NOOP)
    const patched = (edit: (view: DataView) => void): { startLsn: Lsn; bytes: Uint8Array } => {
      const bytes = Uint8Array.from(maker.bytes)
      edit(new DataView(bytes.buffer))
      return { startLsn: maker.startLsn, bytes }
    }
    const at15 = patched((view) => XLogPageHeader.magic.set(view, 0, 0xd110))
    expect(() => decodeAll(at15, [])).toThrow('unknown WAL page magic D110 at 0/100000')
    expect(() => decodeAll(maker, [], { major: 18 })).toThrow('is of version 17, not 18')
    expect(() => decodeAll(maker, [], { systemId: 1n })).toThrow('is of system 7000000000000000001, not 1')
    expect(() => decodeAll(maker, [], { timelineId: 1 })).toThrow('is of Postgres timeline 3, not 1')
    expect(() => decodeAll(maker, [], { segmentBytes: 2 * MIB })).toThrow('header of the wrong kind')
    expect(() => decodeAll(maker, [], { prevLsn: lsn(8) })).toThrow('incorrect previous-record link 0/0')
    expect(() => decodeAll(maker, [], { recordBytesMax: 9000 })).toThrow('invalid length of 10029')
    expect(() =>
      decodeAll(
        patched((view) => view.setUint8(3000, 1)),
        [],
      ),
    ).toThrow('incorrect checksum in the WAL record at 0/100028')
    expect(() =>
      decodeAll(
        patched((view) => XLogPageHeader.info.set(view, 8192, 0)),
        [],
      ),
    ).toThrow('does not continue the record')
    expect(() =>
      decodeAll(
        patched((view) => XLogPageHeader.remLen.set(view, 8192, 9)),
        [],
      ),
    ).toThrow('resumes with 9 bytes')
    expect(() =>
      decodeAll(
        patched((view) => XLogPageHeader.pageAddr.set(view, 8192, lsn(5))),
        [],
      ),
    ).toThrow('says that it is at 0/5')
    expect(() =>
      decodeAll(
        patched((view) => XLogPageHeader.info.set(view, 8192, XLP_FIRST_IS_CONTRECORD | 0x80)),
        [],
      ),
    ).toThrow('invalid flags 81')
    expect(() => new WalStreamDecoder({ startLsn: lsn(0x10_0020), segmentBytes: MIB })).toThrow(
      'no WAL record can start at 0/100020',
    )
    const decoder = new WalStreamDecoder({ startLsn: lsn(0x10_0000) })
    expect(() => decoder.push(lsn(0x10_0008), new Uint8Array(8))).toThrow(
      'WAL follows at 0/100008 where 0/100000 was expected',
    )
  })
})

test('segments are read to their end or to where no record follows', () => {
  const maker = new WalMaker(lsn(MIB))
  for (let i = 0; i < 200; i++) maker.add(pattern(9_000, i))
  const bytes = new Uint8Array(3 * MIB)
  bytes.set(maker.bytes)
  const segment = (n: number): Uint8Array | undefined =>
    n <= 3 ? bytes.subarray((n - 1) * MIB, n * MIB) : undefined
  const starts = (options: { startLsn: Lsn; from?: 'exact' | 'after'; endLsn?: Lsn }): Lsn[] =>
    Array.from(
      readRecordsOfSegments(segment, { segmentBytes: MIB, ...options }),
      (record) => record.recordLsn,
    )
  const all = maker.records.map((record) => record.recordLsn)
  expect(starts({ startLsn: lsn(MIB) })).toEqual(all)
  expect(starts({ startLsn: all[7] as Lsn })).toEqual(all.slice(7))
  expect(starts({ startLsn: advance(all[7] as Lsn, 8), from: 'after' })).toEqual(all.slice(8))
  expect(starts({ startLsn: lsn(MIB), endLsn: maker.records[9]?.nextLsn as Lsn })).toEqual(all.slice(0, 10))
  expect(() => starts({ startLsn: lsn(MIB), endLsn: lsn(4 * MIB) })).toThrow('invalid length of 0')
})

test('a decoded record shows what was encoded', () => {
  for (const size of [0, 1, 255, 256, 70_000]) {
    const data = pattern(size, 5)
    const bytes = encodeRecord({ rmid: 21, info: 0x10, xid: 77, prevLsn: lsn(0x5_0000_0028), mainData: data })
    const record = new DecodedRecord()
    decodeRecord(record, bytes, 0, lsn(0x5_0000_0100), lsn(0x5_0000_0200))
    expect(record).toMatchObject({
      rmid: 21,
      info: 0x10,
      xid: 77,
      prevLsn: 0x5_0000_0028,
      blockCount: 0,
      mainDataLength: size,
    })
    expect(record.bytes.subarray(record.mainDataOffset)).toEqual(data)
  }
})

test('random bytes decode or are refused', () => {
  const record = new DecodedRecord()
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 300 }), fc.boolean(), (bytes, fixLength) => {
      if (fixLength && bytes.length >= 4)
        new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, bytes.length, true)
      try {
        decodeRecord(record, bytes, 0, lsn(100), lsn(200))
      } catch (error) {
        expect(isErrorCode(error, 'bad_wal')).toBe(true)
        return
      }
      expect(record.mainDataOffset + record.mainDataLength).toBe(record.totLen)
    }),
    { numRuns: 2000 },
  )
})

test('crc32c agrees with its published check value on both paths', () => {
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe306_9283)
  const bytes = pattern(1000, 3)
  let piecewise = 0
  for (let i = 0; i < 1000; i += 25) piecewise = crc32c(bytes, i, i + 25, piecewise)
  expect(piecewise).toBe(crc32c(bytes))
})

test('names of WAL files go both ways', () => {
  expect(walFileName(1, 0x105, 16 * MIB)).toBe('000000010000000100000005')
  expect(parseWalFileName('00000002000000010000000A', 16 * MIB)).toEqual({
    timelineId: 2,
    segment: 0x10a,
    startLsn: 0x1_0a00_0000,
  })
  expect(parseWalFileName('000000020000000100000100', 16 * MIB)).toBeUndefined()
  expect(parseWalFileName('00000002.history', 16 * MIB)).toBeUndefined()
})
