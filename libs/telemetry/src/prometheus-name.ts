/**
 * The name of a series as Prometheus has it after OTLP: dots become underscores, the unit is appended, and a counter
 * ends in `_total`. `/metrics` uses the same names, so one dashboard serves both ways.
 */
import type { MetricKind } from './table.ts'

const UNITS: Readonly<Record<string, string>> = {
  s: 'seconds',
  By: 'bytes',
  'By/s': 'bytes_per_second',
}

/** Without `_bucket`, `_sum` and `_count` of a histogram. */
export function prometheusName({
  name,
  unit,
  kind,
}: {
  readonly name: string
  readonly unit: string
  readonly kind: MetricKind
}): string {
  const parts = name.split(/[^A-Za-z0-9]+/).filter((part) => part !== '')
  const suffix =
    unit === '1' ? (kind === 'gauge' ? 'ratio' : '') : unit.startsWith('{') ? '' : (UNITS[unit] ?? unit)
  if (suffix !== '' && !parts.includes(suffix)) parts.push(suffix)
  if (kind === 'counter') return [...parts.filter((part) => part !== 'total'), 'total'].join('_')
  return parts.join('_')
}

/** Attribute names become label names the same way. */
export const prometheusLabel = (name: string): string => name.replaceAll(/[^A-Za-z0-9_]/g, '_')
