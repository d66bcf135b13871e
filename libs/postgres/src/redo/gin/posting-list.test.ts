/** A segment says the same TIDs after encoding and decoding, with any values; merging keeps order. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeSegment, encodeSegment, mergeTids, segmentBytes } from './posting-list.ts'

const tid = fc
  .tuple(fc.nat(0xffff_fffe), fc.integer({ min: 1, max: 2047 }))
  .map(([block, offset]) => block * 2048 + offset)
const tids = fc
  .uniqueArray(tid, { minLength: 1, maxLength: 300 })
  .map((list) => Float64Array.from(list).sort())

test('a segment keeps its TIDs', () => {
  fc.assert(
    fc.property(tids, (list) => {
      const bytes = new Uint8Array(16_384)
      const view = new DataView(bytes.buffer)
      const size = encodeSegment(list, list.length, bytes, view)
      expect(size % 2).toBe(0)
      expect(segmentBytes(view, 0, size)).toBe(size)
      const decoded = new Float64Array(8192)
      expect(decodeSegment(bytes, view, 0, decoded)).toBe(list.length)
      expect([...decoded.subarray(0, list.length)]).toEqual([...list])
    }),
  )
})

test('merged lists hold each TID once, in order', () => {
  fc.assert(
    fc.property(tids, tids, (a, b) => {
      const merged = new Float64Array(1000)
      const count = mergeTids(a, a.length, b, b.length, merged)
      expect([...merged.subarray(0, count)]).toEqual([...new Set([...a, ...b])].sort((x, y) => x - y))
    }),
  )
})
