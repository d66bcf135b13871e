/**
 * Goal: the end of a transaction with many subtransactions or dropped relations reaches each shard in small parts that
 * mean the same as the whole. Method: drawn records of every kind, split for several shards; every page of pg_xact and
 * pg_commit_ts, every effect and the tracker are compared with what the whole record does. Then one with two million.
 */
import { lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { track, trackerStateOf, xidNote } from '@understory/postgres/cluster'
import type { TrackerState } from '@understory/postgres/cluster'
import { PAGE_SIZE, pageOf } from '@understory/postgres/page'
import { recordEffects, redoSlru } from '@understory/postgres/redo'
import type { EffectSink, RedoSettings, SlruKind } from '@understory/postgres/redo'
import { DecodedRecord, RM_XACT_ID, decodeRecord, encodeRecord } from '@understory/postgres/wal'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { slruKind, slruNumber } from '../key/key.ts'
import { shardOfSlruPage } from '../key/shard.ts'
import { readShardEntries } from './shard-stream.ts'
import { ShardSplitter } from './shard-splitter.ts'

const LAYOUT = { count: 3, stripeBlocks: 8 }
const AT = lsn(0x4000_0000)
const ENDS_AT = lsn(0x5000_0000)
/** XLOG_XACT_*: commit, abort, and the same of prepared transactions. */
const OPCODES = [0x00, 0x20, 0x30, 0x40] as const
const HAS_INFO = 0x80

interface XactEnd {
  readonly opcode: (typeof OPCODES)[number]
  readonly xid: number
  readonly subxacts: ArrayLike<number>
  readonly relsCount: number
  readonly invalsCount: number
  readonly originId: number
}

/** xl_xact_commit or xl_xact_abort with everything that may follow (xactdesc.c, ParseCommitRecord). */
function makeXactEnd({ opcode, xid, subxacts, relsCount, invalsCount, originId }: XactEnd): Uint8Array {
  const isPrepared = opcode === 0x30 || opcode === 0x40
  const main = new Uint8Array(64 + subxacts.length * 4 + relsCount * 12 + invalsCount * 16)
  const view = new DataView(main.buffer)
  view.setBigInt64(0, 790_000_000_000_000n, true)
  let xinfo = 1
  let at = 12
  const u32 = (value: number): void => {
    view.setUint32(at, value, true)
    at += 4
  }
  u32(5)
  u32(1663)
  if (subxacts.length > 0) {
    xinfo |= 2
    u32(subxacts.length)
    for (let i = 0; i < subxacts.length; i++) u32(subxacts[i] as number)
  }
  if (relsCount > 0) {
    xinfo |= 4
    u32(relsCount)
    for (let i = 0; i < relsCount; i++) {
      u32(1663)
      u32(5)
      u32(20_000 + i)
    }
  }
  if (invalsCount > 0) {
    xinfo |= 8
    u32(invalsCount)
    at += invalsCount * 16
  }
  if (isPrepared) {
    xinfo |= 0x10 | 0x80
    u32(xid)
    main.set(Buffer.from('gid\0'), at)
    at += 4
  }
  if (originId !== 0) {
    xinfo |= 0x20
    view.setBigUint64(at, 0x1234_5678n, true)
    view.setBigInt64(at + 8, 780_000_000_000_000n, true)
    at += 16
  }
  view.setUint32(8, xinfo, true)
  return encodeRecord({
    rmid: RM_XACT_ID,
    info: opcode | HAS_INFO,
    xid: isPrepared ? 0 : xid,
    prevLsn: lsn(0x3fff_0000),
    mainData: main.subarray(0, at),
    originId,
  })
}

function decoded(bytes: Uint8Array, recordLsn: Lsn = AT, nextLsn: Lsn = ENDS_AT): DecodedRecord {
  const record = new DecodedRecord()
  decodeRecord(record, bytes, 0, recordLsn, nextLsn)
  return record
}

/** What a record does beyond SLRU pages, each once: as text, by the shards that get it. */
function effectsOf(record: DecodedRecord, settings: RedoSettings): { all: Set<string>; pages: Set<string> } {
  const all = new Set<string>()
  const pages = new Set<string>()
  const note =
    (name: string) =>
    (...args: unknown[]): void =>
      void all.add(
        `${name} ${args.map((arg) => JSON.stringify(arg, (_, v: unknown) => (typeof v === 'bigint' ? `${v}` : v))).join()}`,
      )
  const sink = new Proxy({} as EffectSink, {
    get: (_, name) =>
      name === 'slruPage'
        ? (kind: SlruKind, page: number) => void pages.add(`${kind} ${page}`)
        : note(String(name)),
  })
  recordEffects(record, sink, settings)
  return { all, pages }
}

const newPage = () => pageOf(new Uint8Array(PAGE_SIZE))

const trackerBefore = (trackCommitTimestamp: boolean): TrackerState => ({
  ...trackerStateOf({
    checkpoint: {
      timelineId: 1,
      nextXid: 3n,
      nextOid: 1,
      nextMulti: 1,
      nextMultiOffset: 0,
      oldestXid: 3,
      oldestXidDb: 1,
      oldestMulti: 1,
      oldestMultiDb: 1,
      oldestCommitTsXid: 3,
      newestCommitTsXid: 3,
      fullPageWrites: true,
      redoLsn: AT,
      timeSeconds: 0,
    },
    checkpointLsn: AT,
  } as unknown as Parameters<typeof trackerStateOf>[0]),
  trackCommitTimestamp,
})

interface Outcome {
  readonly pages: Map<string, Uint8Array>
  readonly effects: Set<string>[]
  readonly tracker: TrackerState
  readonly longest: number
  readonly totalBytes: number
}

function splitAndApply(bytes: Uint8Array, settings: RedoSettings): Outcome {
  const pages = new Map<string, Uint8Array>()
  const effects: Set<string>[] = []
  const tracker = trackerBefore(settings.trackCommitTimestamp === true)
  let longest = 0
  let totalBytes = 0
  const splitter = new ShardSplitter(LAYOUT, settings)
  splitter.want(new Set(Array(LAYOUT.count).keys()))
  splitter.split(decoded(bytes))
  for (const [number, batch] of splitter.take()) {
    const heard = new Set<string>()
    totalBytes += batch.length
    for (const entry of readShardEntries(batch)) {
      expect(entry.nextLsn).toBe(ENDS_AT)
      if (entry.kind === 'xid') xidNote(tracker, entry.xid)
      if (entry.kind !== 'record') continue
      longest = Math.max(longest, entry.record.length)
      const part = decoded(Uint8Array.from(entry.record), entry.recordLsn, entry.nextLsn)
      expect([part.rmid, part.recordLsn]).toEqual([RM_XACT_ID, AT])
      for (const { key } of entry.keys) {
        const kind = slruKind(key.spcOid)
        expect(shardOfSlruPage(LAYOUT, slruNumber(kind), key.block)).toBe(number)
        const page = newPage()
        const before = pages.get(`${kind} ${key.block}`)
        if (before !== undefined) page.bytes.set(before)
        redoSlru(part, kind, key.block, page, settings)
        pages.set(`${kind} ${key.block}`, page.bytes)
      }
      if (entry.hasEffects) for (const effect of effectsOf(part, settings).all) heard.add(effect)
      if (number === 0) track(tracker, part, settings)
    }
    effects.push(heard)
  }
  return { pages, effects, tracker, longest, totalBytes }
}

const xacts = fc.record({
  opcode: fc.constantFrom(...OPCODES),
  xid: fc.constantFrom(1_000, 32_767, 4_294_900_000),
  gaps: fc.array(
    fc.oneof(
      { weight: 100, arbitrary: fc.integer({ min: 1, max: 30 }) },
      { weight: 1, arbitrary: fc.constant(40_000) },
    ),
    { maxLength: 6_000, size: 'max' },
  ),
  relsCount: fc.constantFrom(0, 3, 4_097),
  invalsCount: fc.constantFrom(0, 5_000),
  originId: fc.constantFrom(0, 7),
})

test('the parts of a large end of a transaction mean the same as the whole', () => {
  let inPartsCount = 0
  fc.assert(
    fc.property(
      xacts,
      fc.boolean(),
      fc.constantFrom(16, 17, 18),
      ({ gaps, ...end }, trackCommitTimestamp, major) => {
        let last: number = end.xid
        const subxacts = gaps.map((gap) => (last = (last + gap) % 2 ** 32 < 3 ? 3 : (last + gap) % 2 ** 32))
        const bytes = makeXactEnd({ ...end, subxacts })
        const settings: RedoSettings = {
          major,
          dataChecksums: false,
          walLogHints: false,
          trackCommitTimestamp,
        }
        const whole = decoded(bytes)
        const wanted = effectsOf(whole, settings)
        const { pages, effects, tracker, longest } = splitAndApply(bytes, settings)
        expect([...pages.keys()].toSorted()).toEqual([...wanted.pages].toSorted())
        for (const [name, content] of pages) {
          const [kind, number] = name.split(' ') as [SlruKind, string]
          const page = newPage()
          redoSlru(whole, kind, Number(number), page, settings)
          expect(Buffer.compare(content, page.bytes), name).toBe(0)
        }
        const isForAll = (effect: string): boolean => effect.startsWith('relationDrop')
        const forFirst = [...wanted.all]
        expect([...(effects[0] as Set<string>)].toSorted()).toEqual(forFirst.toSorted())
        for (const others of effects.slice(1))
          expect([...others].filter(isForAll).toSorted()).toEqual(forFirst.filter(isForAll).toSorted())
        const wantedTracker = trackerBefore(trackCommitTimestamp)
        track(wantedTracker, whole, settings)
        expect(tracker).toEqual(wantedTracker)
        if (bytes.length < 16 * 1024) return
        inPartsCount++
        expect(longest).toBeLessThan(4 * 32_768 + 13 * 4_096)
      },
    ),
    { numRuns: 25 },
  )
  expect(inPartsCount).toBeGreaterThan(5)
})

test('two million subtransactions go to the pages that they are on', () => {
  const count = 2_000_000
  const subxacts = Uint32Array.from({ length: count }, (_, i) => 1_001 + i)
  const bytes = makeXactEnd({ opcode: 0, xid: 1_000, subxacts, relsCount: 0, invalsCount: 0, originId: 0 })
  const settings: RedoSettings = { major: 17, dataChecksums: false, walLogHints: false }
  const startMs = performance.now()
  const { pages, longest, totalBytes } = splitAndApply(bytes, settings)
  const tookMs = performance.now() - startMs
  process.stderr.write(
    `a commit of ${count} subtransactions (${bytes.length} bytes): ${pages.size} pages in ${tookMs.toFixed(0)} ms, the longest part ${longest} bytes, ${totalBytes} in all\n`,
  )
  expect(pages.size).toBe(Math.ceil((1_001 + count) / 32_768))
  expect(longest).toBeLessThan(140_000)
  expect(totalBytes).toBeLessThan(bytes.length * 1.1)
  let committed = 0
  for (const page of pages.values()) for (const byte of page) committed += byte === 0x55 ? 4 : 0
  expect(committed).toBeGreaterThan(count - 8)
})
