export { Cell, HistogramCell, Meter } from './meter.ts'
export type { Counter, Gauge, Histogram, Instruments, Labels } from './meter.ts'
export { fetchPages } from './metrics-pages.ts'
export { PendingDurations } from './pending-durations.ts'
export { prometheusLabel, prometheusName } from './prometheus-name.ts'
export { OBJECT_STORE_OPERATIONS, PROCESS_METRICS } from './process-metrics.ts'
export type { RpcCall, RpcCalls } from './rpc-observer.ts'
export {
  CALL_SECONDS,
  FINE_SECONDS,
  LONG_SECONDS,
  OPEN,
  POWERS_OF_TWO,
  SHARD,
  TIMELINE,
  WRITE_BYTES,
} from './table.ts'
export type { LabelTable, LabelValues, MetricKind, MetricSpec, MetricTable } from './table.ts'
export { startTelemetry } from './telemetry.ts'
export type { StoreOperation, StoreOperations, Telemetry, TelemetryParts } from './telemetry.ts'
export type { Span, SpanAttributes, SpanOptions, Traces } from './traces.ts'
