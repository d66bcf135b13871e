/** The points that a reader of the meter provider collected, in Prometheus's text format, version 0.0.4. */
import type { Attributes } from '@opentelemetry/api'
import { DataPointType } from '@opentelemetry/sdk-metrics'
import type { MetricData, ResourceMetrics } from '@opentelemetry/sdk-metrics'
import { prometheusLabel, prometheusName } from './prometheus-name.ts'
import type { MetricKind } from './table.ts'

export function renderPrometheus({ resource, scopeMetrics }: ResourceMetrics): string {
  const lines = [
    '# HELP target_info what OpenTelemetry calls the resource',
    '# TYPE target_info gauge',
    sample('target_info', resource.attributes, 1),
  ]
  for (const { metrics } of scopeMetrics) for (const metric of metrics) renderMetric(metric, lines)
  return `${lines.join('\n')}\n`
}

function renderMetric(metric: MetricData, lines: string[]): void {
  const kind = kindOf(metric)
  const name = prometheusName({ ...metric.descriptor, kind })
  lines.push(`# HELP ${name} ${escapeHelp(metric.descriptor.description)}`, `# TYPE ${name} ${kind}`)
  if (metric.dataPointType === DataPointType.EXPONENTIAL_HISTOGRAM) return
  if (metric.dataPointType !== DataPointType.HISTOGRAM) {
    for (const { attributes, value } of metric.dataPoints) lines.push(sample(name, attributes, value))
    return
  }
  for (const { attributes, value } of metric.dataPoints) {
    const { boundaries, counts } = value.buckets
    let below = 0
    for (const [i, edge] of [...boundaries, Infinity].entries()) {
      below += counts[i] ?? 0
      const le = edge === Infinity ? '+Inf' : String(edge)
      lines.push(sample(`${name}_bucket`, { ...attributes, le }, below))
    }
    lines.push(
      sample(`${name}_sum`, attributes, value.sum ?? 0),
      sample(`${name}_count`, attributes, value.count),
    )
  }
}

function kindOf(metric: MetricData): MetricKind {
  switch (metric.dataPointType) {
    case DataPointType.SUM:
      return metric.isMonotonic ? 'counter' : 'gauge'
    case DataPointType.GAUGE:
      return 'gauge'
    default:
      return 'histogram'
  }
}

function sample(name: string, attributes: Attributes, value: number): string {
  const labels = Object.entries(attributes)
    .filter(([, text]) => text !== undefined)
    .map(([label, text]) => `${prometheusLabel(label)}="${escapeValue(String(text))}"`)
  return labels.length === 0 ? `${name} ${value}` : `${name}{${labels.join(',')}} ${value}`
}

const escapeValue = (text: string): string =>
  text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
const escapeHelp = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')
