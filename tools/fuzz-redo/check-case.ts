/**
 * The promise of redo for any record and any page, checked on one case: a page or a refusal that names LSN, record type
 * and block; the record unchanged, nothing around the page changed; nothing read around the record or beyond the page;
 * no record of a type that changes its page passed over in silence.
 */
import { UnderstoryError, formatLsn } from '@understory/base'
import { PAGE_SIZE, pageOf } from '@understory/postgres/page'
import {
  recordEffects,
  recordTypeName,
  redoRecordOnPage,
  redoSlru,
  redoVisibilityClear,
} from '@understory/postgres/redo'
import type { EffectSink, RedoSettings } from '@understory/postgres/redo'
import { DecodedRecord, decodeRecord } from '@understory/postgres/wal'
import type { BlockRef } from '@understory/postgres/wal'
import { guardPage } from './guarded-page.ts'
import { cutRecord, mutatePage, mutateRecord } from './mutate.ts'
import type { RedoCase } from './mutate.ts'
import type { Corpus, Sample } from './samples.ts'

const MARGIN_BYTES = 64
const REFUSALS = new Set(['bad_wal', 'bad_page', 'unknown_wal'])
/** A page of the visibility map covers so many heap blocks: its header's 24 bytes left out, four blocks a byte. */
const HEAPBLOCKS_PER_PAGE = (PAGE_SIZE - 24) * 4

export interface CaseCounts {
  records: number
  /** Blocks and SLRU pages that redo was asked for. */
  blocks: number
  pages: number
  refused: number
  undecodable: number
}
export const newCaseCounts = (): CaseCounts => ({
  records: 0,
  blocks: 0,
  pages: 0,
  refused: 0,
  undecodable: 0,
})

/** A promise that was not kept. */
export class Fault extends Error {}

/** Two surroundings of the same bytes: what differs in the results was read beyond them. */
const SURROUNDS = [0xa5, 0x5a] as const
const whole = new DecodedRecord()
const records = SURROUNDS.map(() => new DecodedRecord()) as [DecodedRecord, DecodedRecord]

function surrounded(bytes: Uint8Array, fill: number): Uint8Array {
  const around = new Uint8Array(bytes.length + 2 * MARGIN_BYTES).fill(fill)
  around.set(bytes, MARGIN_BYTES)
  return around
}

/** The refusal's text, or 'page'; anything else is a fault. `place`: what the message has to name. */
function outcomeOf(work: () => string, places: readonly string[]): string {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof UnderstoryError)) throw error
    if (!REFUSALS.has(error.code)) throw new Fault(`refused with ${error.code}: ${error.message}`)
    const missing = places.find((place) => !error.message.includes(place))
    if (missing !== undefined) throw new Fault(`the refusal does not name ${missing}: ${error.message}`)
    return error.message
  }
}

const sampleOf = (corpus: Corpus, { type, sample }: Pick<RedoCase, 'type' | 'sample'>): Sample => {
  const samples = corpus.types[type % corpus.types.length] as readonly Sample[]
  return samples[sample % samples.length] as Sample
}

export const typeOf = (corpus: Corpus, drawn: RedoCase): string => sampleOf(corpus, drawn).type

/** Throws a `Fault`, or an error of redo that is not a refusal. */
export function checkCase(corpus: Corpus, drawn: RedoCase, counts: CaseCounts): void {
  counts.records++
  const sample = sampleOf(corpus, drawn)
  const { settings, recordLsn, nextLsn } = sample
  const bytes = Uint8Array.from(sample.record)
  decodeRecord(whole, sample.record, 0, recordLsn, nextLsn)
  mutateRecord(bytes, whole, drawn.ofRecord)
  const around = SURROUNDS.map((fill) => surrounded(bytes, fill)) as [Uint8Array, Uint8Array]
  const lsn = formatLsn(recordLsn)
  const decoded = records.map((record, i) =>
    outcomeOf(() => {
      decodeRecord(record, around[i] as Uint8Array, MARGIN_BYTES, recordLsn, nextLsn)
      return 'decoded'
    }, [lsn]),
  )
  // A length that reaches into the surroundings is the decoder's to accept: it may be the rest of a chunk.
  if (decoded[0] !== 'decoded' || records[0].totLen !== bytes.length) {
    counts.undecodable++
    return
  }
  for (const record of records) cutRecord(record, drawn.cuts)
  const type = recordTypeName(records[0], settings)
  checkEffects(sample, records[0], drawn, counts, [lsn, type])
  for (let i = 0; i < records[0].blockCount; i++) checkBlock(corpus, sample, drawn, i, counts, [lsn, type])
  for (const [i, copy] of around.entries()) {
    const same = Buffer.compare(copy, surrounded(bytes, SURROUNDS[i] as number)) === 0
    if (!same) throw new Fault(`redo of ${type} changed the record`)
  }
}

function pageFor(corpus: Corpus, sample: Sample, drawn: RedoCase, index: number): Uint8Array {
  const other =
    drawn.otherPages === undefined
      ? sample
      : sampleOf(corpus, { type: drawn.otherPages, sample: drawn.otherPages })
  const real = other.pages[index] ?? other.pages[0] ?? sample.pages[index]
  const page = Uint8Array.from(real ?? new Uint8Array(PAGE_SIZE))
  mutatePage(page, drawn.ofPages)
  return page
}

function checkBlock(
  corpus: Corpus,
  sample: Sample,
  drawn: RedoCase,
  index: number,
  counts: CaseCounts,
  names: readonly string[],
): void {
  counts.blocks++
  const start = pageFor(corpus, sample, drawn, index)
  const { blockId, blockNumber } = records[0].blocks[index] as BlockRef
  const places = [...names, `block ${blockId} `, `block ${blockNumber}`]
  const results = SURROUNDS.map((fill, i) => {
    const around = surrounded(start, fill)
    const page = pageOf(around.subarray(MARGIN_BYTES, MARGIN_BYTES + PAGE_SIZE))
    const outcome = outcomeOf(
      () => redoRecordOnPage(records[i] as DecodedRecord, index, page, sample.settings),
      places,
    )
    const margins = [around.subarray(0, MARGIN_BYTES), around.subarray(MARGIN_BYTES + PAGE_SIZE)]
    if (margins.some((margin) => margin.some((byte) => byte !== fill)))
      throw new Fault('written beyond the page')
    return { outcome, page }
  })
  const [one, other] = results as [(typeof results)[0], (typeof results)[0]]
  const isDone = one.outcome === 'redone' || one.outcome === 'restored'
  if (one.outcome !== other.outcome)
    throw new Fault(`read beyond the record: ${one.outcome}, then ${other.outcome}`)
  if (!isDone) {
    if (one.outcome !== 'newer' && one.outcome !== 'absent') counts.refused++
    return
  }
  if (Buffer.compare(one.page.bytes, other.page.bytes) !== 0)
    throw new Fault('read beyond the record: pages differ')
  counts.pages++
  const guarded = guardPage(Uint8Array.from(start))
  redoRecordOnPage(records[0], index, guarded.page, sample.settings)
  if (guarded.beyond.length > 0) throw new Fault(`beyond the page: ${guarded.beyond.slice(0, 3).join(', ')}`)
}

/** Effects, and redo of the SLRU and map pages that they name. */
function checkEffects(
  sample: Sample,
  record: DecodedRecord,
  drawn: RedoCase,
  counts: CaseCounts,
  names: readonly string[],
): void {
  const { settings } = sample
  let effectsCount = 0
  const heard = (): void => {
    if (++effectsCount > record.totLen) throw new Fault(`${effectsCount} effects of ${record.totLen} bytes`)
  }
  const jobs: (() => void)[] = []
  const sink: EffectSink = {
    visibilityClear: (_, heapBlock) => {
      heard()
      const mapBlock = Math.floor(heapBlock / HEAPBLOCKS_PER_PAGE)
      jobs.push(() => {
        const page = pageOf(new Uint8Array(PAGE_SIZE).fill(0xff))
        redoVisibilityClear(record, page, mapBlock, settings)
      })
    },
    slruPage: (kind, number) => {
      heard()
      if (jobs.length < 8) jobs.push(() => redoSlruOf(sample, record, kind, number, drawn, settings))
    },
    slruTruncate: heard,
    relationCreate: heard,
    relationTruncate: heard,
    relationDrop: heard,
    databaseCopy: heard,
    databaseCreate: heard,
    databaseDrop: heard,
    relationMap: heard,
    twoPhasePrepare: heard,
    twoPhaseRemove: heard,
    tablespaceCreate: heard,
    tablespaceDrop: heard,
    originAdvance: heard,
    originDrop: heard,
  }
  const done = outcomeOf(() => {
    recordEffects(record, sink, settings)
    return 'done'
  }, names)
  if (done !== 'done') counts.refused++
  for (const job of jobs) {
    counts.blocks++
    const outcome = outcomeOf(() => {
      job()
      return 'page'
    }, names)
    if (outcome === 'page') counts.pages++
    else counts.refused++
  }
}

function redoSlruOf(
  sample: Sample,
  record: DecodedRecord,
  kind: Parameters<typeof redoSlru>[1],
  number: number,
  drawn: RedoCase,
  settings: RedoSettings,
): void {
  const real = sample.slru.find((page) => page.kind === kind && page.page === number)
  const bytes = Uint8Array.from(real?.bytes ?? new Uint8Array(PAGE_SIZE))
  mutatePage(bytes, drawn.ofPages)
  const { page, beyond } = guardPage(bytes)
  redoSlru(record, kind, number, page, settings)
  if (beyond.length > 0) throw new Fault(`beyond the page of ${kind}: ${beyond.slice(0, 3).join(', ')}`)
}
