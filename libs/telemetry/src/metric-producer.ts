/** The meter's cells as OpenTelemetry's metric data: what every reader of the meter provider gets. */
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
import { Cell, HistogramCell } from './meter.ts'
import type { Meter, Series, SeriesLabels } from './meter.ts'

export const SCOPE = { name: 'understory' } as const

export const hrTime = (wallMs: number): HrTime => [
  Math.floor(wallMs / 1000),
  Math.round((wallMs % 1000) * 1_000_000),
]

export class MeterProducer implements MetricProducer {
  readonly #meter: Meter
  readonly #node: string
  readonly #wallMs: () => number
  readonly #startTime: HrTime

  /** Every point carries the label `node`, so that both ways tell apart processes in the same words. */
  constructor(meter: Meter, node: string, wallMs: () => number) {
    this.#meter = meter
    this.#node = node
    this.#wallMs = wallMs
    this.#startTime = hrTime(wallMs())
  }

  async collect(): Promise<CollectionResult> {
    const errors: unknown[] = []
    const series = await this.#meter.collect((error) => errors.push(error))
    const endTime = hrTime(this.#wallMs())
    const metrics = series.map((one) => this.#metricOf(one, endTime)).filter((metric) => metric !== undefined)
    return {
      resourceMetrics: { resource: emptyResource(), scopeMetrics: [{ scope: SCOPE, metrics }] },
      errors,
    }
  }

  #metricOf({ spec, cells }: Series, endTime: HrTime): MetricData | undefined {
    const { name, unit, help, kind } = spec
    const descriptor = { name, unit, description: help, valueType: ValueType.DOUBLE }
    const aggregationTemporality = AggregationTemporality.CUMULATIVE
    const all = [...cells]
    if (all.length === 0) return undefined
    if (kind === 'histogram') {
      const dataPoints = all
        .filter((cell) => cell instanceof HistogramCell)
        .map((cell) => this.#point(cell.labels, histogramOf(cell), endTime))
      return { descriptor, aggregationTemporality, dataPointType: DataPointType.HISTOGRAM, dataPoints }
    }
    const dataPoints = all
      .filter((cell) => cell instanceof Cell)
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

const histogramOf = ({ edges, counts, sum, count }: HistogramCell): Histogram => ({
  buckets: { boundaries: [...edges], counts: [...counts] },
  sum,
  count,
})
