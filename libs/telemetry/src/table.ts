/**
 * Metrics as data: one table an app, and one of what every process has (process-metrics.ts). From a table come the
 * instruments, docs/metrics.md and the check that every dashboard and alert names a metric that there is.
 */

/** A label with values that the table cannot name; how many there are at most is capped (meter.ts). */
export const OPEN = 'open'
export type LabelValues = typeof OPEN | readonly string[]
export type LabelTable = Readonly<Record<string, LabelValues>>

/**
 *   counter    only rises while the process lives
 *   gauge      a value of now
 *   histogram  counts by upper edges, with sum and count
 */
export type MetricKind = 'counter' | 'gauge' | 'histogram'

export interface MetricSpec {
  /** As OpenTelemetry has it: dots, no unit, no `_total`. */
  readonly name: string
  /** UCUM: `s`, `By`, `1` for a share, `{things}` for a count. */
  readonly unit: string
  readonly kind: MetricKind
  readonly labels: LabelTable
  /** One line, lower case, no full stop. */
  readonly help: string
  /** Upper edges of a histogram, in its unit, ascending; the last bucket has none. */
  readonly edges?: readonly number[]
}

export type MetricTable = Readonly<Record<string, MetricSpec>>

/** Of calls between processes (OpenTelemetry's own for rpc). */
export const CALL_SECONDS: readonly number[] = [
  0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
]
/** Of what a commit or a page read waits for: 50 µs to 10 s, about 1.6 times the one before. */
export const FINE_SECONDS: readonly number[] = [
  0.000_05, 0.000_1, 0.000_15, 0.000_25, 0.000_4, 0.000_6, 0.001, 0.001_5, 0.002_5, 0.004, 0.006, 0.01, 0.015,
  0.025, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10,
]
/** Of work that people wait for: 10 ms to 10 minutes. */
export const LONG_SECONDS: readonly number[] = [
  0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600,
]
/** Counts: powers of two, for chain lengths and batches. */
export const POWERS_OF_TWO: readonly number[] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
/** Bytes of one write: 512 to 16 MiB. */
export const WRITE_BYTES: readonly number[] = [
  512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216,
]

/** Which timeline, and which shard of it. */
export const TIMELINE = { tenant: OPEN, timeline: OPEN } as const
export const SHARD = { ...TIMELINE, shard: OPEN } as const
