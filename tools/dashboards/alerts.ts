/**
 * Alert rules of the chart, each with a page in docs/runbooks. `npm run docs:dashboards` writes them to
 * deploy/helm/understory/files/alerts.yaml, as Prometheus takes them.
 */

export interface Alert {
  readonly name: string
  readonly severity: 'critical' | 'warning'
  readonly expr: string
  readonly for: string
  /** The problem, with the labels of the series. */
  readonly summary: string
  /** Without thresholds: what there must be data of for the rule to mean anything. */
  readonly series: readonly string[]
}

/** The chart puts its own place for them here. */
const RUNBOOKS = 'docs/runbooks/'
const MIB = 1024 * 1024

export const ALERTS: readonly Alert[] = [
  {
    name: 'UnderstoryCommitsStalled',
    severity: 'critical',
    expr: 'understory_compute_quorum_lag_bytes > 0 and on (tenant, timeline) rate(understory_compute_wal_committed_bytes_total[1m]) == 0',
    for: '30s',
    summary: 'commits of tenant {{ $labels.tenant }} wait for a majority of its safekeepers',
    series: ['understory_compute_quorum_lag_bytes', 'rate(understory_compute_wal_committed_bytes_total[1m])'],
  },
  {
    name: 'UnderstorySafekeeperAway',
    severity: 'warning',
    expr: 'understory_control_safekeepers_away > 0',
    for: '5m',
    summary:
      '{{ $value }} safekeepers of tenant {{ $labels.tenant }} are away: one more may stop its commits',
    series: ['understory_control_safekeepers_away'],
  },
  {
    name: 'UnderstoryComputeNotOpen',
    severity: 'critical',
    expr: 'sum by (phase) (understory_control_computes{phase!="open"}) > 0',
    for: '5m',
    summary: '{{ $value }} databases take no SQL: their computes are {{ $labels.phase }}',
    series: ['understory_control_computes{phase!="open"}'],
  },
  {
    name: 'UnderstorySlowSync',
    severity: 'warning',
    expr: 'histogram_quantile(0.99, sum by (le, node) (rate(understory_safekeeper_fsync_duration_seconds_bucket[5m]))) > 0.1',
    for: '10m',
    summary: 'the disk of {{ $labels.node }} takes {{ $value | humanizeDuration }} for a write and sync',
    series: ['sum by (le, node) (rate(understory_safekeeper_fsync_duration_seconds_bucket[5m]))'],
  },
  {
    name: 'UnderstoryShardStopped',
    severity: 'critical',
    expr: 'understory_pageserver_shards{state="stopped"} > 0',
    for: '1m',
    summary: '{{ $value }} shards of {{ $labels.node }} have stopped and ingest nothing',
    series: ['understory_pageserver_shards{state="stopped"}'],
  },
  {
    name: 'UnderstoryShardStalled',
    severity: 'critical',
    expr: 'understory_pageserver_shards{state="stalled"} > 0',
    for: '5m',
    summary: '{{ $value }} shards of {{ $labels.node }} are stalled by trouble outside',
    series: ['understory_pageserver_shards{state="stalled"}'],
  },
  {
    name: 'UnderstoryIngestLag',
    severity: 'warning',
    expr: `max by (tenant, timeline, shard) (understory_safekeeper_ingest_lag_bytes) > ${256 * MIB}`,
    for: '5m',
    summary:
      'shard {{ $labels.shard }} of tenant {{ $labels.tenant }} is {{ $value | humanize1024 }}B of WAL behind',
    series: ['understory_safekeeper_ingest_lag_bytes'],
  },
  {
    name: 'UnderstoryOffloadLag',
    severity: 'warning',
    expr: `min by (tenant, timeline) (understory_safekeeper_offload_lag_bytes) > ${1024 * MIB}`,
    for: '15m',
    summary:
      '{{ $value | humanize1024 }}B of committed WAL of tenant {{ $labels.tenant }} are not in the object store',
    series: ['understory_safekeeper_offload_lag_bytes'],
  },
  {
    name: 'UnderstoryFullPageWritesDrift',
    severity: 'warning',
    expr: 'understory_control_fpw_drift > 0',
    for: '2m',
    summary: 'the WAL of tenant {{ $labels.tenant }} shows another full_page_writes than was asked for',
    series: ['understory_control_fpw_drift'],
  },
  {
    name: 'UnderstoryDiskNearlyFull',
    severity: 'warning',
    expr: 'understory_disk_usage_bytes / understory_disk_limit_bytes > 0.85',
    for: '5m',
    summary: 'the disk of {{ $labels.node }} is {{ $value | humanizePercentage }} full',
    series: ['understory_disk_usage_bytes / understory_disk_limit_bytes'],
  },
  {
    name: 'UnderstoryObjectStoreFailing',
    severity: 'critical',
    expr: 'sum by (node) (rate(understory_objectstore_operation_duration_seconds_count{error_type!=""}[5m])) / sum by (node) (rate(understory_objectstore_operation_duration_seconds_count[5m])) > 0.5',
    for: '5m',
    summary:
      '{{ $value | humanizePercentage }} of the operations of {{ $labels.node }} on the object store fail',
    series: ['sum by (node) (rate(understory_objectstore_operation_duration_seconds_count[5m]))'],
  },
  {
    name: 'UnderstoryBrokerAway',
    severity: 'warning',
    expr: 'max(understory_control_broker_away) > 0',
    for: '5m',
    summary: 'the broker does not answer: nodes at new addresses are not found, and no new tenant is placed',
    series: ['max(understory_control_broker_away)'],
  },
  {
    name: 'UnderstoryCallsRefused',
    severity: 'warning',
    expr: 'sum by (node, reason) (rate(understory_rpc_refused_total[5m])) > 0.1',
    for: '5m',
    summary: '{{ $labels.node }} refuses {{ $value | humanize }} calls a second: {{ $labels.reason }}',
    series: ['rate(understory_rpc_refused_total[5m])'],
  },
]

/** Its page below docs/runbooks. */
export const runbookOf = ({ name }: Alert): string =>
  `${name
    .replace('Understory', '')
    .replaceAll(/([a-z])([A-Z])/g, '$1-$2')
    .toLowerCase()}.md`

/** As a rule file of Prometheus. */
export const rulesOf = (alerts: readonly Alert[]): object => ({
  groups: [
    {
      name: 'understory',
      rules: alerts.map((alert) => ({
        alert: alert.name,
        expr: alert.expr,
        for: alert.for,
        labels: { severity: alert.severity },
        annotations: { summary: alert.summary, runbook_url: RUNBOOKS + runbookOf(alert) },
      })),
    },
  ],
})
