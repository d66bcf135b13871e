// Goal: with any contents of a record and a page, redo ends in a page or in a refusal that says where. Method: the
// fuzzer with a fixed seed on records of a real server.
import { expect, test } from 'vitest'
import { fuzz } from './fuzz.ts'
import { guardPage } from './guarded-page.ts'
import { gatherCorpus } from './samples.ts'

test('mutated records of a real server never crash redo or the decoder', { timeout: 300_000 }, async () => {
  const corpus = await gatherCorpus(17)
  const report = fuzz(corpus, { recordsCount: 4000, seed: 1 })
  expect(report.faults).toEqual([])
  expect(corpus.types.length).toBeGreaterThan(90)
  expect(report.redo.pages).toBeGreaterThan(500)
  expect(report.redo.refused).toBeGreaterThan(500)
  expect(report.streamRecords).toBeGreaterThan(1000)
})

test('a read, a write and a move beyond the page are noticed', () => {
  const { page, beyond } = guardPage(new Uint8Array(8192))
  expect(page.bytes[8191]).toBe(0)
  page.bytes[8191] = 1
  page.bytes.copyWithin(0, 8000, 8192)
  expect(beyond).toEqual([])
  expect(page.bytes[8192]).toBeUndefined()
  page.bytes[-1] = 1
  page.bytes.copyWithin(8100, 0, 200)
  expect(beyond).toEqual(['read 8192', 'write -1', 'copyWithin 8300'])
})
