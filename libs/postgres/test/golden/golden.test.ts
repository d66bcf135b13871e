// Goal: page images restore to what the Postgres that compressed them had on disk, with every method and with holes.
// Method: small WAL of source builds (see capture.ts); each block's one image is redone and compared with the file.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { parseLsn } from '@understory/base'
import { describe, expect, test } from 'vitest'
import { PAGE_SIZE, pageOf } from '../../src/page/bufpage.ts'
import { redoRecordOnPage } from '../../src/redo/dispatch.ts'
import {
  BKPIMAGE_COMPRESS_LZ4,
  BKPIMAGE_COMPRESS_PGLZ,
  BKPIMAGE_COMPRESS_ZSTD,
} from '../../src/wal/constants.ts'
import { BKPIMAGE_COMPRESSED, decodeRecord } from '../../src/wal/decode-record.ts'
import type { PgMajor } from '../../src/wal/pages.ts'
import { DecodedRecord } from '../../src/wal/record.ts'
import type { BlockRef, RelFile } from '../../src/wal/record.ts'
import { WalStreamDecoder } from '../../src/wal/stream-decoder.ts'

interface Golden {
  readonly major: PgMajor
  readonly version: string
  readonly method: 'off' | 'pglz' | 'lz4' | 'zstd'
  readonly startLsn: string
  readonly changeLsn: string
  readonly relation: RelFile
  readonly blocks: number
}

const FLAGS = {
  off: 0,
  pglz: BKPIMAGE_COMPRESS_PGLZ,
  lz4: BKPIMAGE_COMPRESS_LZ4,
  zstd: BKPIMAGE_COMPRESS_ZSTD,
} as const

const read = (name: string): Uint8Array => readFileSync(join(import.meta.dirname, name))
const goldens = JSON.parse(Buffer.from(read('golden.json')).toString()) as Golden[]

function* recordsOf({ major, method, startLsn, changeLsn }: Golden): Generator<DecodedRecord> {
  const start = parseLsn(startLsn)
  const decoder = new WalStreamDecoder({ startLsn: start, findFirst: true, major })
  decoder.push(start, gunzipSync(read(`images-${major}-${method}.wal.gz`)))
  const record = new DecodedRecord()
  while (decoder.next()) {
    decodeRecord(record, decoder.bytes, decoder.start, decoder.recordLsn, decoder.nextLsn)
    if (record.recordLsn >= parseLsn(changeLsn)) yield record
  }
}

describe.each(goldens)('images of PostgreSQL $version, wal_compression $method', (golden) => {
  test('restore to the bytes on its disk, with a hole and without', () => {
    const file = gunzipSync(read(`images-${golden.major}-${golden.method}.pages.gz`))
    const settings = { major: golden.major, dataChecksums: false, walLogHints: false }
    const restored = new Set<number>()
    let holes = 0
    let compressed = 0
    for (const record of recordsOf(golden)) {
      for (let i = 0; i < record.blockCount; i++) {
        const ref = record.blocks[i] as BlockRef
        if (ref.relNumber !== golden.relation.relNumber || ref.fork !== 0) continue
        const page = pageOf(new Uint8Array(PAGE_SIZE).fill(0xee))
        expect(redoRecordOnPage(record, i, page, settings)).toBe('restored')
        const at = ref.blockNumber * PAGE_SIZE
        expect(Buffer.from(page.bytes).equals(file.subarray(at, at + PAGE_SIZE))).toBe(true)
        restored.add(ref.blockNumber)
        if (ref.holeLength > 0) holes++
        if ((ref.bimgInfo & BKPIMAGE_COMPRESSED) !== 0) {
          expect(ref.bimgInfo & BKPIMAGE_COMPRESSED).toBe(FLAGS[golden.method])
          compressed++
        }
      }
    }
    expect(restored.size).toBe(golden.blocks)
    expect(holes).toBeGreaterThan(0)
    expect(holes).toBeLessThan(restored.size)
    expect(compressed).toBe(golden.method === 'off' ? 0 : restored.size)
  })
})

test('there is a golden file of every method for two versions', () => {
  expect(goldens.map(({ major, method }) => `${major} ${method}`)).toEqual(
    [17, 18].flatMap((major) => Object.keys(FLAGS).map((method) => `${major} ${method}`)),
  )
})
