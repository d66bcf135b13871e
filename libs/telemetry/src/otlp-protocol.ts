/**
 * The messages between the service's thread and the one that exports. Everything is plain data that can be cloned.
 */
import type { LogRecord } from '@understory/env'
import type { CellSnapshot } from './meter.ts'
import type { OtlpSettings, Signal } from './otlp-settings.ts'
import type { SpanRecord } from './traces.ts'
import type { MetricSpec } from './table.ts'

/** The data that the thread is started with. */
export interface OtlpStart {
  readonly service: string
  readonly instance: string
  readonly version: string
  /** Of the service's monotonic clock, on which spans are timed. */
  readonly timeOriginMs: number
  /** Undefined where nothing is sent, and `/metrics` alone is rendered. */
  readonly settings: OtlpSettings | undefined
}

export interface SeriesSnapshot {
  readonly spec: MetricSpec
  readonly cells: readonly CellSnapshot[]
}

/** From the service. */
export type ToOtlp =
  | { readonly kind: 'span'; readonly span: SpanRecord }
  | { readonly kind: 'log'; readonly record: LogRecord }
  /** Answers `collect`. */
  | { readonly kind: 'collected'; readonly id: number; readonly series: readonly SeriesSnapshot[] }
  | { readonly kind: 'render'; readonly id: number }
  | { readonly kind: 'stop' }

/** To the service. */
export type FromOtlp =
  | { readonly kind: 'collect'; readonly id: number }
  /** So many spans and log records were taken in. */
  | { readonly kind: 'took'; readonly count: number }
  | { readonly kind: 'failed'; readonly signal: Signal; readonly problem: string }
  | { readonly kind: 'rendered'; readonly id: number; readonly page: string }
  | { readonly kind: 'notRendered'; readonly id: number; readonly problem: string }
  | { readonly kind: 'stopped' }
