/** Measures the shards of a pageserver on the way of WAL and reads; gauges.ts has the rest. */
import type { MailboxOptions } from '@understory/actor'
import type { Clock } from '@understory/env'
import { formatKey } from '@understory/storage'
import type { Key, LayerOwner, ReadPlan } from '@understory/storage'
import type { Cell, HistogramCell, Span, SpanAttributes, Telemetry, Traces } from '@understory/telemetry'
import type { LayerFetchReason, METRICS, MailboxName, RetriedWork, SubscriptionEnd } from './metrics.ts'

export type PageserverTelemetry = Telemetry<typeof METRICS>

const SERVED = { kind: 'server' } as const
/** Pages of one request that get spans of their own. */
const PAGE_SPANS_MAX = 16

/** Of reads of all shards. */
interface ReadCells {
  readonly duration: HistogramCell
  readonly wait: HistogramCell
  readonly layers: HistogramCell
  readonly redoDuration: HistogramCell
  readonly redoRecords: HistogramCell
}

export const labelsOf = ({ tenantId, timelineId, shard }: LayerOwner) => ({
  tenant: tenantId,
  timeline: timelineId,
  shard: String(shard.number),
})

export class PageserverObserver {
  readonly telemetry: PageserverTelemetry
  readonly #observers = new Map<string, ShardObserver>()
  readonly #readCells: ReadCells

  constructor(telemetry: PageserverTelemetry) {
    this.telemetry = telemetry
    const { metrics } = telemetry
    this.#readCells = {
      duration: metrics.getPageDuration.of({}),
      wait: metrics.getPageWait.of({}),
      layers: metrics.getPageLayers.of({}),
      redoDuration: metrics.redoDuration.of({}),
      redoRecords: metrics.redoRecords.of({}),
    }
  }

  /** One for each shard, however often it is attached again. */
  ofShard(owner: LayerOwner): ShardObserver {
    const name = Object.values(labelsOf(owner)).join('/')
    const known = this.#observers.get(name) ?? new ShardObserver(this.telemetry, owner)
    this.#observers.set(name, known)
    return known
  }

  /** Its series end. */
  forget(owner: LayerOwner): void {
    this.#observers.delete(Object.values(labelsOf(owner)).join('/'))
    this.telemetry.meter.forget(labelsOf(owner))
  }

  /** The reads of one request; `traceparent` where its sender follows them. */
  readsBegin(owner: LayerOwner, pagesCount: number, traceparent: string | undefined): ReadsObserver {
    const { traces } = this.telemetry
    const span = traces?.enter(traceparent, 'getpage', SERVED)
    span?.set({ ...labelsOf(owner), pages: pagesCount })
    return new ReadsObserver(this.ofShard(owner), this.#readCells, span)
  }
}

/** What a shard reports. Calls are cheap and never throw. */
export class ShardObserver {
  readonly #traces: Traces | undefined
  readonly #labels: Readonly<Record<string, string>>
  readonly #stored: Cell
  readonly #imageSize: Cell
  readonly #drift: Cell
  readonly #made: { readonly threshold: Cell; readonly bound: Cell }
  readonly #ingestDuration: HistogramCell
  readonly #chainLength: HistogramCell
  readonly #imageLag: HistogramCell
  readonly #jobDuration: HistogramCell
  readonly #jobPages: HistogramCell
  readonly #uploadDuration: HistogramCell
  readonly #subscriptionEnds: Readonly<Record<SubscriptionEnd, Cell>>
  readonly #mailboxes: Pick<PageserverTelemetry['metrics'], 'mailboxWait' | 'mailboxRun'>
  readonly #retries: PageserverTelemetry['metrics']['retries']
  readonly #layersFetched: Readonly<Record<LayerFetchReason, Cell>>
  readonly #layersEvicted: Cell
  readonly #layerPartsRead: Cell
  readonly #uploads: { readonly done: Cell; readonly failed: Cell }
  readonly found: Cell
  readonly absent: Cell

  constructor({ metrics, traces }: PageserverTelemetry, owner: LayerOwner) {
    const labels = labelsOf(owner)
    this.#traces = traces
    this.#labels = labels
    this.#stored = metrics.walStored.of(labels)
    this.#imageSize = metrics.walImageSize.of(labels)
    this.#drift = metrics.fpwDrift.of(labels)
    this.#made = {
      threshold: metrics.imagesGenerated.of({ ...labels, trigger: 'threshold' }),
      bound: metrics.imagesGenerated.of({ ...labels, trigger: 'bound' }),
    }
    const ended = metrics.subscriptionsEnded
    this.#subscriptionEnds = {
      behind: ended.of({ ...labels, reason: 'behind' }),
      silent: ended.of({ ...labels, reason: 'silent' }),
      failed: ended.of({ ...labels, reason: 'failed' }),
    }
    this.#ingestDuration = metrics.ingestDuration.of({})
    this.#chainLength = metrics.chainLength.of({})
    this.#imageLag = metrics.imageLag.of({})
    this.#jobDuration = metrics.imageJobDuration.of({})
    this.#jobPages = metrics.imageJobPages.of({})
    this.#uploadDuration = metrics.uploadDuration.of({})
    this.#mailboxes = metrics
    this.#retries = metrics.retries
    this.#layersFetched = {
      hot: metrics.layersFetched.of({ reason: 'hot' }),
      merge: metrics.layersFetched.of({ reason: 'merge' }),
      damaged: metrics.layersFetched.of({ reason: 'damaged' }),
    }
    this.#layersEvicted = metrics.layersEvicted.of({})
    this.#layerPartsRead = metrics.layerPartsRead.of({})
    this.#uploads = {
      done: metrics.uploads.of({ outcome: 'done' }),
      failed: metrics.uploads.of({ outcome: 'failed' }),
    }
    this.found = metrics.getPages.of({ ...labels, outcome: 'found' })
    this.absent = metrics.getPages.of({ ...labels, outcome: 'absent' })
  }

  /** What a mailbox needs so that its jobs are measured. */
  watchMailbox(mailbox: MailboxName, clock: Clock): Required<Pick<MailboxOptions, 'clock' | 'observe'>> {
    const wait = this.#mailboxes.mailboxWait.of({ mailbox })
    const run = this.#mailboxes.mailboxRun.of({ mailbox })
    const observe = (waitedMs: number, ranMs: number): void => {
      wait.recordMs(waitedMs)
      run.recordMs(ranMs)
    }
    return { clock, observe }
  }
  /** A batch whose entries have so many bytes was taken in. */
  ingested(durationMs: number, entriesBytes: number): void {
    this.#ingestDuration.recordMs(durationMs)
    this.#stored.add(entriesBytes)
    this.#span('ingest batch', durationMs, { 'wal.bytes': entriesBytes })
  }
  /** A full-page image came in the WAL. */
  walImage(bytes: number): void {
    this.#imageSize.add(bytes)
  }
  /** An image ended a chain of so many records. */
  chainEnded(recordsCount: number): void {
    if (recordsCount > 0) this.#chainLength.record(recordsCount)
  }
  imageMade(trigger: 'threshold' | 'bound'): void {
    this.#made[trigger].add(1)
  }
  /** Since the page had passed the threshold. */
  imageLagged(durationMs: number): void {
    this.#imageLag.recordMs(durationMs)
  }
  imageJob(durationMs: number, pagesCount: number): void {
    this.#jobDuration.recordMs(durationMs)
    this.#jobPages.record(pagesCount)
    this.#span('image batch', durationMs, { pages: pagesCount })
  }
  subscriptionEnded(reason: SubscriptionEnd): void {
    this.#subscriptionEnds[reason].add(1)
  }
  drifted(): void {
    this.#drift.add(1)
  }
  uploaded(durationMs: number): void {
    this.#uploads.done.add(1)
    this.#uploadDuration.recordMs(durationMs)
    // There are few.
    this.#span('upload', durationMs, {}, true)
  }
  /** Work failed for trouble outside, and is tried again. */
  retried(work: RetriedWork): void {
    this.#retries.of({ work }).add(1)
  }
  layerFetched(reason: LayerFetchReason): void {
    this.#layersFetched[reason].add(1)
  }
  layerEvicted(): void {
    this.#layersEvicted.add(1)
  }
  /** A request for a part of a layer's object begins. */
  layerPartRead(): void {
    this.#layerPartsRead.add(1)
  }
  uploadFailed(): void {
    this.#uploads.failed.add(1)
  }

  /** Records work that has ended just now as a trace of its own. */
  #span(name: string, durationMs: number, attributes: SpanAttributes, isAlwaysRecorded = false): void {
    if (this.#traces === undefined) return
    const startMs = performance.now() - durationMs
    const span = this.#traces.root(name, { startMs, isAlwaysRecorded })
    span?.set({ ...this.#labels, ...attributes })
    span?.end()
  }
}

/** What one read of a page took, in its parts. */
export interface PageProbe {
  /** The values were found: so many records on top of the base. */
  planned(plan: ReadPlan): void
  /** Their bytes are in memory. */
  loaded(): void
  /** They are applied. */
  applied(): void
}

export class ReadsObserver implements PageProbe {
  readonly #shard: ShardObserver
  readonly #cells: ReadCells
  readonly #span: Span | undefined
  readonly #startMs = performance.now()
  #waitedMs = 0
  #pageMs = this.#startMs
  #pageSpan: Span | undefined
  #pagesCount = 0
  /** Of the step that runs. */
  #stepMs = this.#startMs

  constructor(shard: ShardObserver, cells: ReadCells, span: Span | undefined) {
    this.#shard = shard
    this.#cells = cells
    this.#span = span
  }

  /** The LSN of the reads is ingested. */
  waited(): void {
    const nowMs = performance.now()
    this.#waitedMs = nowMs - this.#startMs
    this.#cells.wait.recordMs(this.#waitedMs)
    this.#span?.child('wait for lsn', { startMs: this.#startMs }).end(undefined, nowMs)
  }

  pageBegins(key: Key): void {
    this.#pageMs = performance.now()
    this.#stepMs = this.#pageMs
    if (this.#span === undefined || this.#pagesCount++ >= PAGE_SPANS_MAX) return
    this.#pageSpan = this.#span.child('page', { startMs: this.#stepMs, attributes: { key: formatKey(key) } })
  }

  planned({ base, records }: ReadPlan): void {
    const layers = new Set(records.map(({ layer }) => layer))
    if (base !== undefined) layers.add(base.layer)
    this.#cells.layers.record(layers.size)
    this.#cells.redoRecords.record(records.length)
    this.#pageSpan?.set({ layers: layers.size, records: records.length, 'has.base': base !== undefined })
  }

  loaded(): void {
    const nowMs = performance.now()
    this.#pageSpan?.child('layers', { startMs: this.#stepMs }).end(undefined, nowMs)
    this.#stepMs = nowMs
  }

  applied(): void {
    const nowMs = performance.now()
    this.#cells.redoDuration.recordMs(nowMs - this.#stepMs)
    this.#pageSpan?.child('redo', { startMs: this.#stepMs }).end(undefined, nowMs)
  }

  /** The wait counts for each page, the pages before it in its request do not. */
  pageEnded(isFound: boolean): void {
    const nowMs = performance.now()
    this.#cells.duration.recordMs(this.#waitedMs + nowMs - this.#pageMs)
    const { found, absent } = this.#shard
    if (isFound) found.add(1)
    else absent.add(1)
    this.#pageSpan?.set({ found: isFound })
    this.#pageSpan?.end(undefined, nowMs)
    this.#pageSpan = undefined
  }

  ended(errorType?: string): void {
    this.#span?.end(errorType)
  }
}
