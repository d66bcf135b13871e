// Goal: nothing of a newer program's document is lost by an older one that changes it. Method: any JSON with fields
// taken out at any depth, as a checked copy has it, is whole again.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { keepUnknown } from './keep-unknown.ts'

/** A copy in which some fields of objects are missing. */
function strip(value: unknown, isKept: () => boolean): unknown {
  if (Array.isArray(value)) return value.map((item) => strip(item, isKept))
  if (typeof value !== 'object' || value === null) return value
  const kept = Object.entries(value).filter(() => isKept())
  return Object.fromEntries(kept.map(([name, item]) => [name, strip(item, isKept)]))
}

test('every field that was left out is there again, at every depth', () => {
  const value = fc.jsonValue({ maxDepth: 5, noUnicodeString: true }).filter((json) => !hasProto(json))
  fc.assert(
    fc.property(value, fc.infiniteStream(fc.boolean()), (raw, chances) => {
      const isKept = (): boolean => chances.next().value as boolean
      expect(keepUnknown(raw, strip(raw, isKept))).toEqual(raw)
    }),
    { numRuns: 500 },
  )
})

test('what the reader checked wins, defaults included', () => {
  const raw = { version: 1, timelines: [{ name: 'main', policy: { keep: 7 } }], later: true }
  const parsed = { version: 1, timelines: [{ name: 'other', shards: 2 }], isDeleted: false }
  expect(keepUnknown<unknown>(raw, parsed)).toEqual({
    version: 1,
    timelines: [{ name: 'other', shards: 2, policy: { keep: 7 } }],
    later: true,
    isDeleted: false,
  })
})

const hasProto = (json: unknown): boolean => JSON.stringify(json).includes('"__proto__"')
