// Goal: an image comes out as the page that went in, whichever way it was stored; a damaged one is refused.
// Method: records with one image built by hand, as XLogRecordAssemble does.
import { zstdCompressSync } from 'node:zlib'
import { isErrorCode, lsn } from '@understory/base'
import fc from 'fast-check'
import { compressSync } from 'lz4-napi'
import { describe, expect, test } from 'vitest'
import { PAGE_SIZE } from '../page/index.ts'
import {
  BKPBLOCK_HAS_DATA,
  BKPBLOCK_HAS_IMAGE,
  BKPBLOCK_SAME_REL,
  BKPBLOCK_WILL_INIT,
  BKPIMAGE_APPLY,
  BKPIMAGE_COMPRESS_LZ4,
  BKPIMAGE_COMPRESS_PGLZ,
  BKPIMAGE_COMPRESS_ZSTD,
  BKPIMAGE_HAS_HOLE,
  BlockRef,
  DecodedRecord,
  decodeRecord,
  pglzDecompress,
  restoreBlockImage,
} from './index.ts'

const HOLE_OFFSET = 200
const HOLE_LENGTH = 5000

function samplePage(hasHole: boolean): Uint8Array {
  const page = Uint8Array.from({ length: PAGE_SIZE }, (_, i) => (i % 64 < 40 ? 65 + (i % 7) : (i * i) & 0xff))
  if (hasHole) page.fill(0, HOLE_OFFSET, HOLE_OFFSET + HOLE_LENGTH)
  return page
}

/** pglz with literals only, and one long overlapping match at the end if the input ends in a run. */
function pglzStore(source: Uint8Array): Uint8Array {
  const out: number[] = []
  let runLength = 0
  while (
    runLength < source.length - 1 &&
    runLength < 273 &&
    source[source.length - 1 - runLength] === source[source.length - 2 - runLength]
  )
    runLength++
  const literals = runLength >= 18 ? source.length - runLength : source.length
  for (let i = 0; i < literals; i += 8) {
    const items = source.subarray(i, Math.min(i + 8, literals))
    const isLast = i + 8 > literals || (i + 8 === literals && literals === source.length)
    const hasMatch = literals < source.length && isLast
    out.push(hasMatch ? 1 << items.length : 0, ...items)
    if (hasMatch) out.push(0x0f, 1, runLength - 18)
  }
  if (literals < source.length && literals % 8 === 0) out.push(1, 0x0f, 1, runLength - 18)
  return Uint8Array.from(out)
}

interface Image {
  readonly bytes: Uint8Array
  readonly info: number
  readonly hole?: readonly [number, number]
}

/** Header, block 0 with an image, block 3 of the same relation with data, main data. */
function recordWith({ bytes, info, hole = [0, 0] }: Image): Uint8Array {
  const isCompressed =
    (info & (BKPIMAGE_COMPRESS_PGLZ | BKPIMAGE_COMPRESS_LZ4 | BKPIMAGE_COMPRESS_ZSTD)) !== 0
  const parts: number[] = [
    0,
    BKPBLOCK_HAS_IMAGE,
    0,
    0,
    bytes.length & 0xff,
    bytes.length >> 8,
    hole[0] & 0xff,
    hole[0] >> 8,
    info,
  ]
  if (isCompressed && hole[1] > 0) parts.push(hole[1] & 0xff, hole[1] >> 8)
  parts.push(1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0)
  parts.push(3, BKPBLOCK_SAME_REL | BKPBLOCK_HAS_DATA | BKPBLOCK_WILL_INIT | 1, 2, 0, 5, 0, 0, 0)
  parts.push(253, 7, 0, 252, 9, 0, 0, 0, 255, 1)
  const record = Buffer.concat([Buffer.alloc(24), Buffer.from(parts), bytes, Buffer.from('DDM')])
  record.writeUInt32LE(record.length, 0)
  return record
}

function decode(bytes: Uint8Array): DecodedRecord {
  const record = new DecodedRecord()
  decodeRecord(record, bytes, 0, lsn(0x100_0028), lsn(0x100_0100))
  return record
}

const holed = (page: Uint8Array): Uint8Array =>
  Buffer.concat([page.subarray(0, HOLE_OFFSET), page.subarray(HOLE_OFFSET + HOLE_LENGTH)])
const ways: Readonly<Record<string, { info: number; store: (raw: Uint8Array) => Uint8Array }>> = {
  plain: { info: 0, store: (raw) => raw },
  pglz: { info: BKPIMAGE_COMPRESS_PGLZ, store: pglzStore },
  lz4: { info: BKPIMAGE_COMPRESS_LZ4, store: (raw) => compressSync(Buffer.from(raw)).subarray(4) },
  zstd: { info: BKPIMAGE_COMPRESS_ZSTD, store: (raw) => zstdCompressSync(raw) },
}

describe.each(Object.entries(ways))('an image stored %s', (name, { info, store }) => {
  // Literal-only pglz grows its input, and an image without a hole must be smaller than a page.
  test.each(name === 'pglz' ? [true] : [true, false])('comes out whole (hole: %s)', (hasHole) => {
    const page = samplePage(hasHole)
    const image: Image = hasHole
      ? {
          bytes: store(holed(page)),
          info: info | BKPIMAGE_HAS_HOLE | BKPIMAGE_APPLY,
          hole: [HOLE_OFFSET, HOLE_LENGTH],
        }
      : { bytes: store(page), info: info | BKPIMAGE_APPLY }
    const record = decode(recordWith(image))
    const ref = record.block(0) as BlockRef
    expect(ref).toMatchObject({
      spcOid: 1,
      dbOid: 2,
      relNumber: 3,
      blockNumber: 4,
      fork: 0,
      hasImage: true,
      applyImage: true,
      hasData: false,
    })
    expect(record.block(3)).toMatchObject({
      relNumber: 3,
      blockNumber: 5,
      fork: 1,
      hasImage: false,
      willInit: true,
      dataLength: 2,
    })
    expect(record.block(1)).toBeUndefined()
    expect(record).toMatchObject({ originId: 7, topXid: 9, mainDataLength: 1 })
    const restored = new Uint8Array(PAGE_SIZE).fill(0xee)
    restoreBlockImage(record, ref, restored)
    expect(Buffer.from(restored).equals(page)).toBe(true)
  })

  test('is refused when damaged', () => {
    const page = samplePage(true)
    const bytes = store(holed(page))
    const target = new Uint8Array(PAGE_SIZE)
    fc.assert(
      fc.property(
        fc.nat(bytes.length - 1),
        fc.integer({ min: 1, max: 255 }),
        fc.nat(bytes.length - 1),
        (at, mask, cut) => {
          const bad = Uint8Array.from(
            bytes.subarray(0, name === 'plain' ? bytes.length : bytes.length - (cut % 3 === 0 ? cut : 0)),
          )
          if (at < bad.length) bad[at] = (bad[at] as number) ^ mask
          try {
            const record = decode(
              recordWith({ bytes: bad, info: info | BKPIMAGE_HAS_HOLE, hole: [HOLE_OFFSET, HOLE_LENGTH] }),
            )
            restoreBlockImage(record, record.block(0) as BlockRef, target)
          } catch (error) {
            expect(isErrorCode(error, 'bad_wal')).toBe(true)
          }
        },
      ),
      { numRuns: 300 },
    )
  })
})

test('image headers that contradict themselves are refused', () => {
  const bytes = new Uint8Array(100)
  const cases: readonly Image[] = [
    { bytes, info: 0 }, // no hole, not compressed, not a page long
    { bytes, info: BKPIMAGE_HAS_HOLE, hole: [0, 0] },
    { bytes, info: BKPIMAGE_HAS_HOLE, hole: [101, 0] }, // the hole would end behind the page
    { bytes: new Uint8Array(PAGE_SIZE), info: BKPIMAGE_COMPRESS_LZ4 },
    { bytes: new Uint8Array(PAGE_SIZE + 10), info: BKPIMAGE_HAS_HOLE, hole: [10, 0] },
    { bytes, info: BKPIMAGE_COMPRESS_LZ4 | BKPIMAGE_HAS_HOLE, hole: [8000, 500] },
    { bytes, info: BKPIMAGE_COMPRESS_LZ4, hole: [5, 0] },
  ]
  for (const image of cases) expect(() => decode(recordWith(image))).toThrow('has an image of')
})

test('pglz copies overlapping matches and refuses impossible ones', () => {
  const run = new Uint8Array(301).fill(88)
  const stored = pglzStore(run)
  expect(stored.length).toBeLessThan(60)
  const out = new Uint8Array(301)
  expect(pglzDecompress(stored, 0, stored.length, out)).toBe(true)
  expect(out).toEqual(run)
  expect(pglzDecompress(stored, 0, stored.length - 1, out)).toBe(false)
  expect(pglzDecompress(stored, 0, stored.length, new Uint8Array(300))).toBe(true) // a match is cut at the end, as stock does
  expect(pglzDecompress(stored, 0, stored.length, new Uint8Array(302))).toBe(false)
  expect(pglzDecompress(Uint8Array.of(1, 0x00, 1), 0, 3, new Uint8Array(3))).toBe(false) // nothing to copy from
  expect(pglzDecompress(Uint8Array.of(2, 65, 0x00, 0), 0, 4, new Uint8Array(4))).toBe(false) // distance 0
})
