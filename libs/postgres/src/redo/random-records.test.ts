/**
 * With any contents of a record and a page redo ends, and with a refusal if it does not like them: never with another
 * error.
 */
import fc from 'fast-check'
import { UnderstoryError, lsn } from '@understory/base'
import { expect, test } from 'vitest'
import { makeRecord } from '../../test/made-record.ts'
import { PAGE_SIZE, pageOf } from '../page/bufpage.ts'
import type { PgMajor } from '../wal/pages.ts'
import { recordEffects, redoRecordOnPage, redoSlru } from './dispatch.ts'
import type { EffectSink, RedoSettings, SlruKind } from './types.ts'
import { maxXidOf } from './xact/parse.ts'

const bytesOf = (maxLength: number) =>
  fc
    .uint8Array({ maxLength, size: 'max' })
    .map((bytes) => (bytes.length % 3 === 0 ? bytes.map((b) => b & 7) : bytes))

/** A page whose header can be believed and whose line pointers point somewhere into it. */
const page = fc
  .record({
    lines: fc.array(fc.tuple(fc.integer({ min: 60, max: 1010 }), fc.integer({ min: 0, max: 60 })), {
      maxLength: 40,
    }),
    special: fc.constantFrom(0, 8, 16),
    content: fc.infiniteStream(fc.nat(255)),
  })
  .map(({ lines, special, content }) => {
    const made = pageOf(new Uint8Array(PAGE_SIZE))
    for (let i = 24; i < PAGE_SIZE; i++)
      made.bytes[i] = i % 5 === 0 ? (content.next().value as number) : i & 3
    const lower = 24 + lines.length * 4
    let upper = PAGE_SIZE - special
    lines.forEach(([at, length], i) => {
      made.view.setUint32(24 + i * 4, ((length * 8) << 17) | (1 << 15) | (at * 8), true)
      upper = Math.min(upper, at * 8)
      made.view.setUint16(at * 8 + 6, length * 8, true)
    })
    made.view.setUint16(12, lower, true)
    made.view.setUint16(14, Math.max(lower, upper), true)
    made.view.setUint16(16, PAGE_SIZE - special, true)
    made.view.setUint16(18, PAGE_SIZE | 4, true)
    return made
  })

const block = fc.record({ data: bytesOf(200), blockNumber: fc.nat(0xffff_fffe) })
const records = fc.record({
  rmid: fc.nat(21),
  op: fc.nat(15),
  mainData: bytesOf(400),
  blocks: fc.array(block, { minLength: 1, maxLength: 5 }),
  major: fc.constantFrom<PgMajor>(16, 17, 18),
  xid: fc.nat(0xffff_ffff),
  firstId: fc.nat(3),
})

function refusedOrDone(work: () => void): void {
  try {
    work()
  } catch (error) {
    expect(error).toBeInstanceOf(UnderstoryError)
  }
}

test('redo of random records on random pages ends in a page or a refusal', () => {
  fc.assert(
    fc.property(records, page, ({ rmid, op, mainData, blocks, major, xid, firstId }, start) => {
      const settings: RedoSettings = {
        major,
        dataChecksums: false,
        walLogHints: false,
        trackCommitTimestamp: true,
      }
      const record = makeRecord({
        rmid,
        info: op << 4,
        nextLsn: lsn(0x10_0000),
        xid,
        main: mainData,
        blocks: blocks.map(({ data, blockNumber }, i) => ({ blockId: firstId + i, blockNumber, data })),
      })
      for (let i = 0; i < record.blockCount; i++) {
        const copy = pageOf(start.bytes.slice())
        refusedOrDone(() => redoRecordOnPage(record, i, copy, settings))
      }
      const noBlocks = makeRecord({ rmid, info: op << 4, nextLsn: lsn(0x10_0000), xid, main: mainData })
      const sink = new Proxy(
        {},
        {
          get: (_, name) => (kind: SlruKind, number: number) => {
            if (name === 'slruPage')
              redoSlru(noBlocks, kind, number, pageOf(new Uint8Array(PAGE_SIZE)), settings)
          },
        },
      ) as EffectSink
      refusedOrDone(() => recordEffects(noBlocks, sink, settings))
      refusedOrDone(() => maxXidOf(record, major))
    }),
    { numRuns: 3000 },
  )
})
