/** Snapshots of the meter's cells as OpenTelemetry's metric data: what every reader of the meter provider gets. */
import { ValueType } from '@opentelemetry/api'
import type { HrTime } from '@opentelemetry/api'
import { emptyResource } from '@opentelemetry/resources'
import { AggregationTemporality, DataPointType } from '@opentelemetry/sdk-metrics'
import type {
  CollectionResult,
  DataPoint,
  Histogram,
  MetricData,
  MetricProducer,
} from '@opentelemetry/sdk-metrics'
import type { CellSnapshot, SeriesLabels } from './meter.ts'
import type { SeriesSnapshot } from './otlp-protocol.ts'

export const SCOPE = { name: 'understory' } as const

export const hrTime = (wallMs: number): HrTime => [
  Math.floor(wallMs / 1000),
  Math.round((wallMs % 1000) * 1_000_000),
]

export class MeterProducer implements MetricProducer {
  readonly #collect: () => Promise<readonly SeriesSnapshot[]>
  readonly #node: string
  readonly #wallMs: () => number
  readonly #startTime: HrTime

  /** Every point carries the label `node`, so that both ways distinguish processes in the same words. */
  constructor(collect: () => Promise<readonly SeriesSnapshot[]>, node: string, wallMs: () => number) {
    this.#collect = collect
    this.#node = node
    this.#wallMs = wallMs
    this.#startTime = hrTime(wallMs())
  }

  async collect(): Promise<CollectionResult> {
    const series = await this.#collect()
    const endTime = hrTime(this.#wallMs())
    const metrics = series.map((one) => this.#metricOf(one, endTime)).filter((metric) => metric !== undefined)
    return {
      resourceMetrics: { resource: emptyResource(), scopeMetrics: [{ scope: SCOPE, metrics }] },
      errors: [],
    }
  }

  #metricOf({ spec, cells }: SeriesSnapshot, endTime: HrTime): MetricData | undefined {
    const { name, unit, help, kind, edges = [] } = spec
    const descriptor = { name, unit, description: help, valueType: ValueType.DOUBLE }
    const aggregationTemporality = AggregationTemporality.CUMULATIVE
    if (cells.length === 0) return undefined
    if (kind === 'histogram') {
      const dataPoints = cells
        .filter((cell) => 'counts' in cell)
        .map((cell) => this.#point(cell.labels, histogramOf(cell, edges), endTime))
      return { descriptor, aggregationTemporality, dataPointType: DataPointType.HISTOGRAM, dataPoints }
    }
    const dataPoints = cells
      .filter((cell) => 'value' in cell)
      .map((cell) => this.#point(cell.labels, cell.value, endTime))
    return kind === 'counter'
      ? {
          descriptor,
          aggregationTemporality,
          dataPointType: DataPointType.SUM,
          isMonotonic: true,
          dataPoints,
        }
      : { descriptor, aggregationTemporality, dataPointType: DataPointType.GAUGE, dataPoints }
  }

  #point<T>(labels: SeriesLabels, value: T, endTime: HrTime): DataPoint<T> {
    return { startTime: this.#startTime, endTime, attributes: { ...labels, node: this.#node }, value }
  }
}

const histogramOf = (
  { counts, sum, count }: Extract<CellSnapshot, { counts: Float64Array }>,
  edges: readonly number[],
): Histogram => ({
  buckets: { boundaries: [...edges], counts: [...counts] },
  sum,
  count,
})
