export { prometheusLabel, prometheusName } from './prometheus-name.ts'
export { OBJECT_STORE_OPERATIONS, PROCESS_METRICS } from './process-metrics.ts'
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
