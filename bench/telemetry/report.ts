/** The figures of telemetry's cost: the shape of `--json`, and the table for people. */
import type { PgbenchFigures } from '../commit/pgbench.ts'
import { median } from '../commit/report.ts'

type Figures = PgbenchFigures & { readonly cpuSeconds: number }

export interface Pair {
  readonly off: Figures
  readonly on: Figures
}

export interface TelemetryReport {
  readonly postgresMajor: number
  readonly machine: string
  readonly settings: Readonly<Record<string, string | number | undefined>>
  /** The points that the collector got over all runs. */
  readonly exportedBytes: number
  readonly pairs: readonly Pair[]
}

/** The value below which a share of all lies. */
function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}

export function renderTelemetry({
  postgresMajor,
  machine,
  settings,
  exportedBytes,
  pairs,
}: TelemetryReport): string {
  const { script, clients, seconds, share, control } = settings
  const row = (name: string, of: (figures: Figures) => number, digits: number): string => {
    const changes = pairs.map(({ off, on }) => (of(on) / of(off) - 1) * 100)
    const percent = (value: number): string => `${value >= 0 ? '+' : ''}${value.toFixed(1)} %`
    const cells = [
      median(pairs.map(({ off }) => of(off))).toFixed(digits),
      median(pairs.map(({ on }) => of(on))).toFixed(digits),
      percent(median(changes)),
      `${percent(quantile(changes, 0.25))} … ${percent(quantile(changes, 0.75))}`,
      `${percent(Math.min(...changes))} … ${percent(Math.max(...changes))}`,
    ]
    return `  ${name.padEnd(22)}${cells.map((cell, i) => cell.padStart(i < 3 ? 11 : 22)).join('')}`
  }
  const heads = ['off', 'on', 'change', 'half of all pairs', 'all pairs']
  return [
    `PostgreSQL ${postgresMajor}, ${machine}, pgbench ${script}, ${clients} clients, ${pairs.length} interleaved pairs of ${seconds} s, traces of ${share} of the commits`,
    `medians; the change is the median of the pairs'${control === 'yes' ? '; OFF ON BOTH SIDES, for comparison' : ''}`,
    '',
    `  ${''.padEnd(22)}${heads.map((head, i) => head.padStart(i < 3 ? 11 : 22)).join('')}`,
    row('transactions a second', ({ tps }) => tps, 0),
    row('p50, ms', ({ p50Ms }) => p50Ms, 2),
    row('p99, ms', ({ p99Ms }) => p99Ms, 2),
    row('CPU ms a transaction', ({ cpuSeconds, transactions }) => (cpuSeconds / transactions) * 1000, 3),
    '',
    `the collector was sent ${(exportedBytes / 1024 / 1024).toFixed(1)} MiB`,
    '',
  ].join('\n')
}
