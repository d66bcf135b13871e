/**
 * The promise of the stream decoder for any bytes: records before the first changed byte come out as they are, then
 * records or a refusal that names a position, and every record that comes out decodes or is refused.
 */
import fc from 'fast-check'
import { UnderstoryError, advance } from '@understory/base'
import {
  DecodedRecord,
  WalStreamDecoder,
  XLOG_BLCKSZ,
  decodeRecord,
  recordCrc,
} from '@understory/postgres/wal'
import { Fault } from './check-case.ts'
import type { Corpus } from './samples.ts'

const STRETCH_PAGES = 4

export interface StreamCase {
  readonly page: number
  readonly chunks: readonly number[]
  readonly changes: readonly { readonly at: number; readonly value: number; readonly length: number }[]
  readonly verifyCrc: boolean
}

export const streamCase: fc.Arbitrary<StreamCase> = fc.record({
  page: fc.nat(0xffff),
  chunks: fc.array(fc.integer({ min: 1, max: 9000 }), { minLength: 1, maxLength: 8 }),
  changes: fc.array(
    fc.record({
      at: fc.oneof(
        fc.nat(STRETCH_PAGES * XLOG_BLCKSZ - 1),
        // Page headers: rarely hit, and what most depends on.
        fc.tuple(fc.nat(STRETCH_PAGES - 1), fc.nat(39)).map(([page, at]) => page * XLOG_BLCKSZ + at),
      ),
      value: fc.nat(255),
      length: fc.constantFrom(1, 1, 1, 2, 4, 8, 64),
    }),
    { maxLength: 3 },
  ),
  verifyCrc: fc.boolean(),
})

interface Out {
  readonly records: { readonly lsn: number; readonly crc: number }[]
  readonly refusal: string | undefined
}

const record = new DecodedRecord()

function decode(corpus: Corpus, drawn: StreamCase, from: number, bytes: Uint8Array): Out {
  const startLsn = advance(corpus.walLsn, from)
  const records: Out['records'] = []
  try {
    const decoder = new WalStreamDecoder({ startLsn, findFirst: true, verifyCrc: drawn.verifyCrc })
    for (let at = 0, i = 0; at < bytes.length; i++) {
      const size = Math.min(drawn.chunks[i % drawn.chunks.length] as number, bytes.length - at)
      decoder.push(advance(startLsn, at), bytes.subarray(at, at + size))
      at += size
      while (decoder.next()) {
        if (records.length > bytes.length / 24) throw new Fault('more records than bytes for them')
        records.push({ lsn: decoder.recordLsn, crc: recordCrc(decoder.bytes, decoder.start, decoder.length) })
        decodeRecord(record, decoder.bytes, decoder.start, decoder.recordLsn, decoder.nextLsn)
      }
    }
  } catch (error) {
    if (!(error instanceof UnderstoryError)) throw error
    if (error.code !== 'bad_wal' && error.code !== 'unknown_wal')
      throw new Fault(`refused with ${error.code}`)
    if (!/[0-9A-F]+\/[0-9A-F]+/.test(error.message)) throw new Fault(`names no position: ${error.message}`)
    return { records, refusal: error.message }
  }
  return { records, refusal: undefined }
}

/** Returns the number of records that came out. */
export function checkStream(corpus: Corpus, drawn: StreamCase): number {
  const from = (drawn.page % (corpus.wal.length / XLOG_BLCKSZ - STRETCH_PAGES)) * XLOG_BLCKSZ
  const real = corpus.wal.subarray(from, from + STRETCH_PAGES * XLOG_BLCKSZ)
  const bytes = Uint8Array.from(real)
  let first = bytes.length
  for (const { at, value, length } of drawn.changes) {
    const end = Math.min(at + length, bytes.length)
    for (let i = at; i < end; i++) {
      if (bytes[i] === value) continue
      bytes[i] = value
      first = Math.min(first, i)
    }
  }
  const expected = decode(corpus, { ...drawn, verifyCrc: true }, from, real)
  const found = decode(corpus, drawn, from, bytes)
  if (expected.refusal !== undefined) throw new Fault(`real WAL is refused: ${expected.refusal}`)
  for (const [i, { lsn, crc }] of expected.records.entries()) {
    const end = expected.records[i + 1]?.lsn ?? Infinity
    if (end - corpus.walLsn - from > first) break
    if (found.records[i]?.lsn !== lsn || found.records[i].crc !== crc)
      throw new Fault(`record ${i}, which ends before the first change, is not the same`)
  }
  return found.records.length
}
