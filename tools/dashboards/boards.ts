/**
 * Grafana dashboards of the chart, in the classic JSON that every version loads. `npm run docs:dashboards` writes them
 * to deploy/helm/understory/files/dashboards; tests execute every query against a real time-series database.
 */
import {
  AnnotationQueryBuilder,
  DashboardBuilder,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  RowBuilder,
  VariableRefresh,
} from '@grafana/grafana-foundation-sdk/dashboard'
import type { Dashboard } from '@grafana/grafana-foundation-sdk/dashboard'
import {
  LegendDisplayMode,
  LegendPlacement,
  VizLegendOptionsBuilder,
} from '@grafana/grafana-foundation-sdk/common'
import { DataqueryBuilder } from '@grafana/grafana-foundation-sdk/prometheus'
import { PanelBuilder } from '@grafana/grafana-foundation-sdk/timeseries'

export interface Query {
  readonly expr: string
  readonly legend: string
}
export interface PanelPlan {
  readonly title: string
  readonly help: string
  /** As Grafana names it. */
  readonly unit: string
  readonly queries: readonly Query[]
}
export interface RowPlan {
  readonly title: string
  readonly panels: readonly PanelPlan[]
}
export interface BoardPlan {
  readonly uid: string
  readonly title: string
  readonly help: string
  readonly rows: readonly RowPlan[]
}

const OF_TENANT = 'tenant=~"$tenant"'
const rate = (series: string, labels = OF_TENANT): string => `rate(${series}{${labels}}[$__rate_interval])`
const quantile = (share: number, histogram: string, by = ''): string =>
  `histogram_quantile(${share}, sum by (le${by === '' ? '' : `, ${by}`}) (rate(${histogram}_bucket[$__rate_interval])))`
/** Median and 99th percentile. */
const latency = (title: string, help: string, histogram: string): PanelPlan => ({
  title,
  help,
  unit: 's',
  queries: [
    { expr: quantile(0.5, histogram), legend: 'p50' },
    { expr: quantile(0.99, histogram), legend: 'p99' },
  ],
})
const one = (title: string, help: string, unit: string, expr: string, legend: string): PanelPlan => ({
  title,
  help,
  unit,
  queries: [{ expr, legend }],
})

/** Marks on both boards: when a switch of full_page_writes ended. */
const SWITCH_MARK = 'sum by (direction) (increase(understory_control_fpw_switches_total[1m])) > 0'

const FULL_PAGE_WRITES: BoardPlan = {
  uid: 'understory-fpw',
  title: 'Understory: FPW and image generation',
  help: 'What switching full_page_writes off does: WAL, page images, chains, commits and page reads before and after.',
  rows: [
    {
      title: 'The switch and what it does to the WAL',
      panels: [
        one(
          'full_page_writes',
          'Timelines in each state. Switches are marked on every panel.',
          'short',
          `sum by (state) (understory_control_fpw_state{${OF_TENANT}})`,
          '{{state}}',
        ),
        one(
          'WAL from Postgres',
          'Falls with the page images.',
          'Bps',
          `sum by (tenant) (${rate('understory_compute_wal_received_bytes_total')})`,
          '{{tenant}}',
        ),
        {
          title: 'Page images',
          help: 'Off: those in the WAL end, and the storage makes its own where a chain gets long.',
          unit: 'ops',
          queries: [
            { expr: `sum(${rate('understory_pageserver_wal_images_total')})`, legend: 'in the WAL' },
            {
              expr: `sum(${rate('understory_pageserver_images_generated_total')})`,
              legend: 'by the storage',
            },
          ],
        },
        one(
          'Share of page images in the WAL',
          'Bytes of images among the WAL that shards store.',
          'percentunit',
          `sum(${rate('understory_pageserver_wal_image_size_bytes_total')}) / sum(${rate('understory_pageserver_wal_stored_bytes_total')})`,
          'images',
        ),
      ],
    },
    {
      title: 'Commits and reads',
      panels: [
        latency(
          'Commit at the quorum',
          'From WAL received from Postgres until a majority of safekeepers has flushed it.',
          'understory_compute_commit_duration_seconds',
        ),
        latency(
          'Page read',
          'One page, until it is rebuilt.',
          'understory_pageserver_getpage_duration_seconds',
        ),
        {
          title: 'Records redone for a page read',
          help: 'Bounded by the threshold while the storage makes images.',
          unit: 'short',
          queries: [
            { expr: quantile(0.5, 'understory_pageserver_redo_records'), legend: 'p50' },
            { expr: quantile(0.99, 'understory_pageserver_redo_records'), legend: 'p99' },
          ],
        },
        latency('Redo of a page', 'For a read.', 'understory_pageserver_redo_duration_seconds'),
      ],
    },
    {
      title: 'Chains and images',
      panels: [
        {
          title: 'Longest chain',
          help: 'Records since the last image of a page; the bound is twice the threshold.',
          unit: 'short',
          queries: [
            {
              expr: `max by (shard) (understory_pageserver_chain_max{${OF_TENANT}})`,
              legend: 'shard {{shard}}',
            },
            { expr: `max(understory_pageserver_chain_threshold{${OF_TENANT}})`, legend: 'threshold' },
          ],
        },
        one(
          'Pages by chain length',
          'As they are now.',
          'short',
          `sum by (records) (understory_pageserver_chain_pages{${OF_TENANT}})`,
          '{{records}} records',
        ),
        {
          title: 'Pages that wait for an image',
          help: 'Past the threshold, and not made yet.',
          unit: 'short',
          queries: [
            { expr: `sum(understory_pageserver_image_queue{${OF_TENANT}})`, legend: 'pages' },
            {
              expr: `max(understory_pageserver_image_wait_seconds{${OF_TENANT}})`,
              legend: 'longest wait, s',
            },
          ],
        },
        latency(
          'Lag of images',
          'From a page passing the threshold until its image is there.',
          'understory_pageserver_image_lag_seconds',
        ),
        one(
          'Drift',
          'Times that full_page_writes went off in the WAL without a request for it.',
          'short',
          `sum(increase(understory_pageserver_fpw_drift_total{${OF_TENANT}}[$__rate_interval]))`,
          'events',
        ),
        one(
          'How long a switch takes',
          'Mean of those that ended.',
          's',
          'sum by (direction) (understory_control_fpw_switch_duration_seconds_sum) / sum by (direction) (understory_control_fpw_switch_duration_seconds_count)',
          '{{direction}}',
        ),
      ],
    },
  ],
}

const OVERVIEW: BoardPlan = {
  uid: 'understory-overview',
  title: 'Understory: overview',
  help: 'Commits, quorum, pages, object store and saturation of the whole installation.',
  rows: [
    {
      title: 'Is it well?',
      panels: [
        one(
          'Computes',
          'Databases by what they are doing.',
          'short',
          'sum by (phase) (understory_control_computes)',
          '{{phase}}',
        ),
        one(
          'Nodes',
          'Processes that are announced.',
          'short',
          'sum by (kind) (understory_control_nodes)',
          '{{kind}}',
        ),
        one(
          'Safekeepers away',
          'Members of a timeline that are not announced.',
          'short',
          `sum by (tenant) (understory_control_safekeepers_away{${OF_TENANT}})`,
          '{{tenant}}',
        ),
        one(
          'Log lines',
          'By level; errors need an operator.',
          'ops',
          'sum by (node, level) (rate(understory_log_records_total[$__rate_interval]))',
          '{{node}} {{level}}',
        ),
      ],
    },
    {
      title: 'Commits and quorum',
      panels: [
        one(
          'WAL committed',
          'Flushed by a majority.',
          'Bps',
          `sum by (tenant) (${rate('understory_compute_wal_committed_bytes_total')})`,
          '{{tenant}}',
        ),
        latency(
          'Commit at the quorum',
          'From WAL received from Postgres until a majority has flushed it.',
          'understory_compute_commit_duration_seconds',
        ),
        one(
          'Quorum lag',
          'WAL handed in that no majority has.',
          'bytes',
          `max by (tenant) (understory_compute_quorum_lag_bytes{${OF_TENANT}})`,
          '{{tenant}}',
        ),
        one(
          'Commits held back',
          'To slow writers while a shard is far behind.',
          's',
          `max by (tenant) (understory_compute_commit_held_seconds{${OF_TENANT}})`,
          '{{tenant}}',
        ),
        one(
          'Lag of each safekeeper',
          'WAL that it has not flushed.',
          'bytes',
          `max by (safekeeper) (understory_compute_safekeeper_lag_bytes{${OF_TENANT}})`,
          '{{safekeeper}}',
        ),
        one(
          'Append, p99',
          'Received until durable.',
          's',
          quantile(0.99, 'understory_safekeeper_append_duration_seconds', 'node'),
          '{{node}}',
        ),
        one(
          'Write and sync, p99',
          'Of a group of appends.',
          's',
          quantile(0.99, 'understory_safekeeper_fsync_duration_seconds', 'node'),
          '{{node}}',
        ),
        one(
          'Elections',
          'Won by computes.',
          'short',
          `sum by (kind) (increase(understory_compute_elections_total{${OF_TENANT}}[$__rate_interval]))`,
          '{{kind}}',
        ),
        one(
          'WAL on safekeepers',
          'Kept on their disks.',
          'bytes',
          `sum by (node) (understory_safekeeper_wal_usage_bytes{${OF_TENANT}})`,
          '{{node}}',
        ),
      ],
    },
    {
      title: 'Pages',
      panels: [
        one(
          'Ingest lag',
          'Committed WAL that a shard has not ingested.',
          'bytes',
          `max by (node, shard) (understory_pageserver_ingest_lag_bytes{${OF_TENANT}})`,
          '{{node}} shard {{shard}}',
        ),
        one(
          'Pages read',
          'By outcome.',
          'ops',
          `sum by (outcome) (${rate('understory_pageserver_getpage_pages_total')})`,
          '{{outcome}}',
        ),
        latency(
          'Page read',
          'One page, until it is rebuilt.',
          'understory_pageserver_getpage_duration_seconds',
        ),
        latency(
          'Waiting for WAL',
          'Of reads at an LSN that is not ingested yet.',
          'understory_pageserver_getpage_wait_duration_seconds',
        ),
        one(
          'Layers',
          'Bytes.',
          'bytes',
          `sum by (node) (understory_pageserver_layer_usage_bytes{${OF_TENANT}})`,
          '{{node}}',
        ),
        one(
          'Shards',
          'A stopped one ingests nothing.',
          'short',
          'sum by (node, state) (understory_pageserver_shards)',
          '{{node}} {{state}}',
        ),
      ],
    },
    {
      title: 'Object store',
      panels: [
        one(
          'Operations',
          'By kind.',
          'ops',
          'sum by (operation) (rate(understory_objectstore_operation_duration_seconds_count[$__rate_interval]))',
          '{{operation}}',
        ),
        one(
          'Operations, p99',
          'Failed ones too.',
          's',
          quantile(0.99, 'understory_objectstore_operation_duration_seconds', 'operation'),
          '{{operation}}',
        ),
        one(
          'Bytes',
          'Read and written.',
          'Bps',
          'sum by (direction) (rate(understory_objectstore_io_bytes_total[$__rate_interval]))',
          '{{direction}}',
        ),
        {
          title: 'Not in the object store yet',
          help: 'WAL that shards have not stored as layers, and that safekeepers have not stored as segments.',
          unit: 'bytes',
          queries: [
            { expr: `max(understory_pageserver_remote_lag_bytes{${OF_TENANT}})`, legend: 'layers' },
            { expr: `max(understory_safekeeper_offload_lag_bytes{${OF_TENANT}})`, legend: 'WAL' },
          ],
        },
        one(
          'Uploads',
          'Of layers.',
          'ops',
          'sum by (outcome) (rate(understory_pageserver_uploads_total[$__rate_interval]))',
          '{{outcome}}',
        ),
      ],
    },
    {
      title: 'Saturation',
      panels: [
        one(
          'Event loop, p99 delay',
          'Since the collection before.',
          's',
          'max by (node) (nodejs_eventloop_delay_p99_seconds)',
          '{{node}}',
        ),
        one(
          'Event loop, busy',
          'Share of the time.',
          'percentunit',
          'max by (node) (nodejs_eventloop_utilization_ratio)',
          '{{node}}',
        ),
        one(
          'CPU',
          'All threads.',
          'short',
          'sum by (node) (rate(process_cpu_time_seconds_total[$__rate_interval]))',
          '{{node}}',
        ),
        one('Memory', 'Resident.', 'bytes', 'max by (node) (process_memory_usage_bytes)', '{{node}}'),
        one(
          'Disk',
          'Share used of the file system of the data folder.',
          'percentunit',
          'max by (node) (understory_disk_usage_bytes / understory_disk_limit_bytes)',
          '{{node}}',
        ),
        one(
          'Calls served, p99',
          'Unary ones and streams.',
          's',
          quantile(0.99, 'rpc_server_call_duration_seconds', 'rpc_method'),
          '{{rpc_method}}',
        ),
      ],
    },
  ],
}

export const BOARDS: readonly BoardPlan[] = [FULL_PAGE_WRITES, OVERVIEW]

const WIDTH = 12
const HEIGHT = 8
const LEGEND = new VizLegendOptionsBuilder()
  .showLegend(true)
  .displayMode(LegendDisplayMode.List)
  .placement(LegendPlacement.Bottom)
const DATASOURCE = { type: 'prometheus', uid: '${datasource}' }

function panel({ title, help, unit, queries }: PanelPlan): PanelBuilder {
  const built = new PanelBuilder()
    .title(title)
    .description(help)
    .unit(unit)
    .min(0)
    .span(WIDTH)
    .height(HEIGHT)
    .datasource(DATASOURCE)
    .legend(LEGEND)
  for (const { expr, legend } of queries)
    built.withTarget(new DataqueryBuilder().expr(expr).legendFormat(legend).range())
  return built
}

export function buildBoard({ uid, title, help, rows }: BoardPlan): Dashboard {
  const board = new DashboardBuilder(title)
    .uid(uid)
    .description(help)
    .tags(['understory'])
    .readonly()
    .refresh('30s')
    .time({ from: 'now-1h', to: 'now' })
    .withVariable(new DatasourceVariableBuilder('datasource').label('Data source').type('prometheus'))
    .withVariable(
      new QueryVariableBuilder('tenant')
        .label('Tenant')
        .datasource(DATASOURCE)
        .query('label_values(understory_control_fpw_state, tenant)')
        .refresh(VariableRefresh.OnTimeRangeChanged)
        .includeAll(true)
        .allValue('.*')
        .multi(true),
    )
    .annotation(
      new AnnotationQueryBuilder()
        .name('full_page_writes switched')
        .datasource(DATASOURCE)
        .enable(true)
        .iconColor('orange')
        .expr(SWITCH_MARK),
    )
  for (const row of rows) {
    board.withRow(new RowBuilder(row.title))
    for (const plan of row.panels) board.withPanel(panel(plan))
  }
  return board.build()
}

/** Every expression of a board, its annotation too. */
export const expressionsOf = ({ rows }: BoardPlan): readonly string[] => [
  SWITCH_MARK,
  ...rows.flatMap(({ panels }) => panels.flatMap(({ queries }) => queries.map(({ expr }) => expr))),
]
