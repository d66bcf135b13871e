/**
 * The measured process: reads a crashed data directory, decodes its WAL, and decodes and redoes it in the WAL's order,
 * as stock recovery does. (A pageserver redoes page by page, so that a page's records meet it in the processor's
 * cache.) One thread. The WAL is read before, the files of relations while redo runs. Writes its figures to stdout as
 * JSON.
 *
 *   node --expose-gc measure.ts DIRECTORY MAJOR
 */
import { PAGE_SIZE, pageOf } from '@understory/postgres/page'
import type { Page } from '@understory/postgres/page'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { PerformanceObserver } from 'node:perf_hooks'
import { advance, assert, isErrorCode, segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import { parseControlFile } from '@understory/postgres/cluster'
import { recordEffects, redoRecordOnPage, redoSlru, redoVisibilityClear } from '@understory/postgres/redo'
import type { EffectSink, RedoSettings } from '@understory/postgres/redo'
import {
  DecodedRecord,
  FORK_FSM,
  FORK_VM,
  WAL_SEGMENT_BYTES,
  WalStreamDecoder,
  decodeRecord,
  walFileName,
} from '@understory/postgres/wal'
import type { BlockRef, PgMajor } from '@understory/postgres/wal'
import { PageStore } from './page-store.ts'
import type { Measured, Phase } from './report.ts'

/** Four heap blocks a byte of a map page, its header left out. */
const HEAPBLOCKS_PER_PAGE = (PAGE_SIZE - 24) * 4

interface Wal {
  readonly startLsn: Lsn
  readonly segments: readonly { readonly startLsn: Lsn; readonly bytes: Uint8Array }[]
}

function readWal(directory: string, startLsn: Lsn): Wal {
  const segments: { startLsn: Lsn; bytes: Uint8Array }[] = []
  for (let segment = segmentOf(startLsn, WAL_SEGMENT_BYTES); ; segment++) {
    try {
      const bytes = readFileSync(join(directory, 'pg_wal', walFileName(1, segment, WAL_SEGMENT_BYTES)))
      const from = segmentStart(segment, WAL_SEGMENT_BYTES)
      const skip = Math.max(0, startLsn - from)
      segments.push({ startLsn: advance(from, skip), bytes: bytes.subarray(skip) })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { startLsn, segments }
      throw error
    }
  }
}

/** Calls `each` for every record up to where the WAL ends, which a crash leaves in zeros. Returns the WAL's bytes. */
function forEachRecord(wal: Wal, major: PgMajor, each: (record: DecodedRecord) => void): number {
  const decoder = new WalStreamDecoder({ startLsn: wal.startLsn, major })
  const record = new DecodedRecord()
  for (const { startLsn, bytes } of wal.segments) {
    decoder.push(startLsn, bytes)
    for (;;) {
      try {
        if (!decoder.next()) break
      } catch (error) {
        if (isErrorCode(error, 'bad_wal') || isErrorCode(error, 'unknown_wal'))
          return decoder.recordEndLsn - wal.startLsn
        throw error
      }
      decodeRecord(record, decoder.bytes, decoder.start, decoder.recordLsn, decoder.nextLsn)
      each(record)
    }
  }
  return decoder.recordEndLsn - wal.startLsn
}

let gcCount = 0
let gcMs = 0
const gcSeen = new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    gcCount++
    gcMs += entry.duration
  }
})
gcSeen.observe({ entryTypes: ['gc'] })

/** Entries of the observer arrive a turn later. */
const turn = (): Promise<void> => new Promise((resolve) => void setTimeout(resolve, 10))

async function phase(work: () => { records: number; blocks: number; bytes: number }): Promise<Phase> {
  assert(globalThis.gc !== undefined, () => 'started without --expose-gc')
  globalThis.gc()
  await turn()
  ;[gcCount, gcMs] = [0, 0]
  const before = process.memoryUsage()
  const cpu = process.cpuUsage()
  const startedMs = performance.now()
  const done = work()
  const elapsedSeconds = (performance.now() - startedMs) / 1000
  const { user, system } = process.cpuUsage(cpu)
  const after = process.memoryUsage()
  await turn()
  return {
    ...done,
    elapsedSeconds,
    cpuSeconds: (user + system) / 1e6,
    heapGrowthBytes: after.heapUsed - before.heapUsed,
    gcCount,
    gcMs,
  }
}

function decodeAll(wal: Wal, major: PgMajor): ReturnType<Parameters<typeof phase>[0]> {
  let records = 0
  let blocks = 0
  const bytes = forEachRecord(wal, major, (record) => {
    records++
    blocks += record.blockCount
  })
  return { records, blocks, bytes }
}

const ignore = (): void => {}

/** Redoes every record in its order, with what it does to visibility maps and SLRUs. */
function redoAll(
  wal: Wal,
  store: PageStore,
  settings: RedoSettings,
): ReturnType<Parameters<typeof phase>[0]> {
  let records = 0
  let blocks = 0
  let current = new DecodedRecord()
  const slru = new Map<string, Map<number, Page>>()
  const sink: EffectSink = {
    visibilityClear: (rel, heapBlock) => {
      const mapBlock = Math.floor(heapBlock / HEAPBLOCKS_PER_PAGE)
      redoVisibilityClear(current, store.page(rel, FORK_VM, mapBlock), mapBlock, settings)
    },
    slruPage: (kind, number, init) => {
      let pages = slru.get(kind)
      if (pages === undefined) slru.set(kind, (pages = new Map<number, Page>()))
      let page = pages.get(number)
      if (page === undefined) pages.set(number, (page = pageOf(new Uint8Array(PAGE_SIZE))))
      if (init) page.bytes.fill(0)
      redoSlru(current, kind, number, page, settings)
    },
    slruTruncate: ignore,
    relationCreate: ignore,
    relationTruncate: ignore,
    relationDrop: ignore,
    databaseCopy: ignore,
    databaseCreate: ignore,
    databaseDrop: ignore,
    relationMap: ignore,
    twoPhasePrepare: ignore,
    twoPhaseRemove: ignore,
    tablespaceCreate: ignore,
    tablespaceDrop: ignore,
    originAdvance: ignore,
    originDrop: ignore,
  }
  const bytes = forEachRecord(wal, settings.major, (record) => {
    records++
    current = record
    for (let i = 0; i < record.blockCount; i++) {
      const ref = record.blocks[i] as BlockRef
      if (ref.fork === FORK_FSM && !ref.applyImage) continue
      blocks++
      redoRecordOnPage(record, i, store.page(ref, ref.fork, ref.blockNumber), settings)
    }
    recordEffects(record, sink, settings)
  })
  return { records, blocks, bytes }
}

const ONE_CALLS = 2_000_000

/** One record on one page, over and over: what a call costs beside the work. Nanoseconds a call. */
function oneRecord(
  wal: Wal,
  directory: string,
  settings: RedoSettings,
): { nanoseconds: number; type: string } {
  const store = new PageStore(directory)
  const sample = { bytes: new Uint8Array(0), recordLsn: wal.startLsn, nextLsn: wal.startLsn }
  const page = pageOf(new Uint8Array(PAGE_SIZE))
  const before = new Uint8Array(24)
  let best = 0
  forEachRecord(wal, settings.major, (record) => {
    const ref = record.blocks[0] as BlockRef
    if (best > 0) return
    // What can be done again once the page's header is as before: an insert takes the same place each time.
    const operation = record.info & 0xf0
    const isLock = record.rmid === 10 && operation === 0x60
    const isDelete = record.rmid === 10 && operation === 0x10
    const isInsert = record.rmid === 10 && operation === 0x00
    if ((isLock || isDelete || isInsert) && !ref.applyImage) {
      const real = store.page(ref, ref.fork, ref.blockNumber)
      page.bytes.set(real.bytes)
      if (redoRecordOnPage(record, 0, page, settings) === 'redone') {
        page.bytes.set(real.bytes)
        sample.bytes = Uint8Array.from(record.bytes.subarray(record.start, record.start + record.totLen))
        sample.recordLsn = record.recordLsn
        sample.nextLsn = record.nextLsn
        best = 1
        return
      }
    }
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i] as BlockRef
      if (block.fork === FORK_FSM && !block.applyImage) continue
      redoRecordOnPage(record, i, store.page(block, block.fork, block.blockNumber), settings)
    }
  })
  if (best === 0) return { nanoseconds: Number.NaN, type: 'none' }
  before.set(page.bytes.subarray(0, 24))
  // pd_lsn, or the page would be new enough.
  before.fill(0, 0, 8)
  const record = new DecodedRecord()
  const run = (calls: number): number => {
    const startedMs = performance.now()
    for (let i = 0; i < calls; i++) {
      page.bytes.set(before)
      decodeRecord(record, sample.bytes, 0, sample.recordLsn, sample.nextLsn)
      redoRecordOnPage(record, 0, page, settings)
    }
    return ((performance.now() - startedMs) * 1e6) / calls
  }
  run(100_000)
  return { nanoseconds: run(ONE_CALLS), type: 'decode and redo of one heap record' }
}

const [directory = '', majorText] = process.argv.slice(2)
const major = Number(majorText) as PgMajor
const control = parseControlFile(readFileSync(join(directory, 'global', 'pg_control')))
const settings: RedoSettings = {
  major,
  dataChecksums: control.dataChecksums,
  walLogHints: control.walLogHints,
  trackCommitTimestamp: control.trackCommitTimestamp,
}
const wal = readWal(directory, control.checkpoint.redoLsn)
// The first round of each warms the code up, as a thread that has run for seconds is.
decodeAll(wal, major)
const decode = await phase(() => decodeAll(wal, major))
const cold = new PageStore(directory)
const first = await phase(() => redoAll(wal, cold, settings))
const pages = cold.pagesCount
const warm = new PageStore(directory)
const redo = await phase(() => redoAll(wal, warm, settings))
const measured: Measured = { decode, first, redo, pages, one: oneRecord(wal, directory, settings) }
process.stdout.write(JSON.stringify(measured))
gcSeen.disconnect()
