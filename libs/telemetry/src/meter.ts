/**
 * Instruments over plain numbers. What a service counts on its way costs an addition or a search in a short list of
 * edges; everything else is read at a collection (`onCollect`). There is one meter a process, and both
 * collectors, OTLP and `/metrics`, read the same cells.
 *
 * A series is a cell. Series of one metric are capped: beyond that they fall together into one whose open labels are
 * `other` (counters and histograms) or are left out (gauges, whose sum would mean nothing), and are counted as dropped.
 */
import { assert } from '@understory/base'
import { OPEN } from './table.ts'
import type { LabelTable, MetricSpec, MetricTable } from './table.ts'

/** Series of one metric, by default. */
export const SERIES_COUNT_MAX = 2_000
/** The value of open labels of the series beyond the cap. */
const OTHER = 'other'

export type Labels<L extends LabelTable> = {
  readonly [K in keyof L]: L[K] extends readonly (infer V)[] ? V : string
}
/** Labels of which some may be missing: those that say what went wrong. */
type GivenLabels<L extends LabelTable> = Omit<Labels<L>, 'error.type'> & { readonly 'error.type'?: string }
export type SeriesLabels = Readonly<Record<string, string>>

/** One value. */
export class Cell {
  readonly labels: SeriesLabels
  value = 0

  constructor(labels: SeriesLabels) {
    this.labels = labels
  }
  add(amount: number): void {
    this.value += amount
  }
}

/** Counts by upper edges. A value that equals an edge counts below it. */
export class HistogramCell {
  readonly labels: SeriesLabels
  readonly edges: readonly number[]
  /** One more than edges: the last has none. */
  readonly counts: Float64Array
  sum = 0
  count = 0

  constructor(labels: SeriesLabels, edges: readonly number[]) {
    this.labels = labels
    this.edges = edges
    this.counts = new Float64Array(edges.length + 1)
  }

  record(value: number): void {
    const { edges, counts } = this
    let low = 0
    let high = edges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((edges[middle] as number) >= value) high = middle
      else low = middle + 1
    }
    counts[low] = (counts[low] as number) + 1
    this.sum += value
    this.count++
  }
  /** Durations are measured in milliseconds and exported in seconds. */
  recordMs(durationMs: number): void {
    this.record(durationMs / 1000)
  }
}

type AnyCell = Cell | HistogramCell

/** A cell as of a moment, as plain data. */
export type CellSnapshot =
  | { readonly labels: SeriesLabels; readonly value: number }
  | {
      readonly labels: SeriesLabels
      readonly counts: Float64Array
      readonly sum: number
      readonly count: number
    }

export const snapshotOf = (cell: AnyCell): CellSnapshot =>
  cell instanceof HistogramCell
    ? { labels: cell.labels, counts: cell.counts, sum: cell.sum, count: cell.count }
    : { labels: cell.labels, value: cell.value }

/** The series of one metric. */
export class Series<C extends AnyCell = AnyCell> {
  readonly spec: MetricSpec
  readonly #make: (labels: SeriesLabels) => C
  readonly #cells = new Map<string, C>()
  /** Keys of the series that were observed in this collection. */
  readonly #observedKeys = new Set<string>()
  readonly #names: readonly string[]
  readonly #meter: Meter

  constructor(spec: MetricSpec, meter: Meter, make: (labels: SeriesLabels) => C) {
    this.spec = spec
    this.#meter = meter
    this.#make = make
    this.#names = Object.keys(spec.labels)
  }

  get cells(): Iterable<C> {
    return this.#cells.values()
  }

  find(labels: SeriesLabels): C {
    const key = this.#keyOf(labels)
    const known = this.#cells.get(key)
    if (known !== undefined) return known
    if (this.#cells.size < this.#meter.seriesCountMax) return this.#add(key, labels)
    this.#meter.dropped++
    const together: Record<string, string> = { ...labels }
    for (const [name, values] of Object.entries(this.spec.labels))
      if (values === OPEN && name in labels) together[name] = OTHER
    const otherKey = this.#keyOf(together)
    return this.#cells.get(otherKey) ?? this.#add(otherKey, together)
  }

  /** Takes a value that is kept elsewhere. A series that is not observed again at the next collection is removed. */
  observe(this: Series<Cell>, labels: SeriesLabels, value: number): void {
    const key = this.#keyOf(labels)
    const hasOwn = this.#cells.has(key) || this.#cells.size < this.#meter.seriesCountMax
    if (this.spec.kind === 'gauge' && !hasOwn) {
      this.#meter.dropped++
      return
    }
    const cell = this.find(labels)
    // Beyond the cap it is one of several.
    cell.value = hasOwn ? value : cell.value + value
    this.#observedKeys.add(this.#keyOf(cell.labels))
  }

  /** A collection begins. */
  begin(): void {
    for (const key of this.#observedKeys) this.#cells.delete(key)
    this.#observedKeys.clear()
  }

  #add(key: string, labels: SeriesLabels): C {
    const cell = this.#make(labels)
    this.#cells.set(key, cell)
    return cell
  }
  #keyOf(labels: SeriesLabels): string {
    return this.#names.map((name) => labels[name] ?? '').join('\n')
  }

  /** Forgets the series that have these labels: their subject is gone. */
  forget(labels: SeriesLabels): void {
    for (const [key, cell] of this.#cells)
      if (Object.entries(labels).every(([name, value]) => cell.labels[name] === value))
        this.#cells.delete(key)
  }
}

export interface Counter<L extends LabelTable> {
  /** To be kept where it counts often. */
  of(labels: GivenLabels<L>): Cell
  /** For a count that is kept elsewhere: while collecting only; a series that is not observed is removed. */
  observe(labels: GivenLabels<L>, value: number): void
}
export interface Gauge<L extends LabelTable> {
  /** While collecting only; a series that is not observed is removed. */
  observe(labels: GivenLabels<L>, value: number): void
}
export interface Histogram<L extends LabelTable> {
  of(labels: GivenLabels<L>): HistogramCell
}

type InstrumentOf<S extends MetricSpec> = S['kind'] extends 'counter'
  ? Counter<S['labels']>
  : S['kind'] extends 'gauge'
    ? Gauge<S['labels']>
    : Histogram<S['labels']>
export type Instruments<T extends MetricTable> = { readonly [K in keyof T]: InstrumentOf<T[K]> }

export class Meter {
  readonly seriesCountMax: number
  /** Series that did not get a cell of their own. */
  dropped = 0
  readonly #series: Series[] = []
  readonly #collectors = new Set<() => void | Promise<void>>()
  #collecting: Promise<readonly Series[]> | undefined

  constructor(seriesCountMax: number = SERIES_COUNT_MAX) {
    this.seriesCountMax = seriesCountMax
  }

  instruments<T extends MetricTable>(table: T): Instruments<T> {
    const made = Object.entries(table).map(([key, spec]) => [key, this.#instrument(spec)])
    return Object.fromEntries(made) as Instruments<T>
  }

  #instrument(spec: MetricSpec): Counter<LabelTable> | Gauge<LabelTable> | Histogram<LabelTable> {
    if (spec.kind === 'histogram') {
      const edges = spec.edges
      assert(edges !== undefined, () => `histogram ${spec.name} has no edges`)
      const series = this.#add(new Series(spec, this, (labels) => new HistogramCell(labels, edges)))
      return { of: (labels) => series.find(labels as SeriesLabels) }
    }
    const series = this.#add(new Series(spec, this, (labels) => new Cell(labels)))
    return {
      of: (labels: object) => series.find(labels as SeriesLabels),
      observe: (labels: object, value: number) => series.observe(labels as SeriesLabels, value),
    }
  }
  #add<C extends AnyCell>(series: Series<C>): Series<C> {
    this.#series.push(series as unknown as Series)
    return series
  }

  /** Called at each collection, to observe; returns how to stop that. */
  onCollect(collector: () => void | Promise<void>): () => void {
    this.#collectors.add(collector)
    return () => this.#collectors.delete(collector)
  }

  /** Series with these labels end: a timeline or shard is gone from here. */
  forget(labels: SeriesLabels): void {
    for (const series of this.#series) series.forget(labels)
  }

  /**
   * Everything, as of now. Collections under way at once are one: what they read is the same. A collector that fails is
   * left out, since the others must be collected all the same; `onFailure` gets its error.
   */
  collect(onFailure: (error: unknown) => void = () => undefined): Promise<readonly Series[]> {
    this.#collecting ??= this.#collect(onFailure).finally(() => {
      this.#collecting = undefined
    })
    return this.#collecting
  }
  async #collect(onFailure: (error: unknown) => void): Promise<readonly Series[]> {
    for (const series of this.#series) series.begin()
    const outcomes = await Promise.allSettled([...this.#collectors].map(async (collector) => collector()))
    for (const outcome of outcomes) if (outcome.status === 'rejected') onFailure(outcome.reason)
    return this.#series
  }
}
