// Goal: each alert fires when it should and is silent when it should. Method: its rule over made-up series, by
// vmalert-tool.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryDirectory, testRules, victoriaMetricsMissing } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { ROOT } from '../run-command.ts'
import { ALERTS, runbookOf } from './alerts.ts'

interface Case {
  /** Series and values, one a minute. */
  readonly fires: Readonly<Record<string, string>>
  readonly silent: Readonly<Record<string, string>>
  /** Labels of the alert that fires, without its severity. */
  readonly labels: Readonly<Record<string, string>>
  readonly summary: string
}

const OF_TIMELINE = '{tenant="shop",timeline="main"}'
const MIB = 1024 * 1024
const BUCKET = 'understory_safekeeper_fsync_duration_seconds_bucket'
const OPERATIONS = 'understory_objectstore_operation_duration_seconds_count'
const AT = { tenant: 'shop', timeline: 'main' }

const CASES: Readonly<Record<string, Case>> = {
  UnderstoryCommitsStalled: {
    fires: {
      [`understory_compute_quorum_lag_bytes${OF_TIMELINE}`]: '100x40',
      [`understory_compute_wal_committed_bytes_total${OF_TIMELINE}`]: '5000x40',
    },
    silent: {
      [`understory_compute_quorum_lag_bytes${OF_TIMELINE}`]: '100x40',
      [`understory_compute_wal_committed_bytes_total${OF_TIMELINE}`]: '0+1000x40',
    },
    labels: AT,
    summary: 'commits of tenant shop wait for a majority of its safekeepers',
  },
  UnderstorySafekeeperAway: {
    fires: { [`understory_control_safekeepers_away${OF_TIMELINE}`]: '1x40' },
    silent: { [`understory_control_safekeepers_away${OF_TIMELINE}`]: '0 1 1 1 0x36' },
    labels: AT,
    summary: '1 safekeepers of tenant shop are away: one more may stop its commits',
  },
  UnderstoryComputeNotOpen: {
    fires: {
      'understory_control_computes{phase="away"}': '2x40',
      'understory_control_computes{phase="open"}': '1x40',
    },
    silent: {
      'understory_control_computes{phase="away"}': '0x40',
      'understory_control_computes{phase="open"}': '1x40',
    },
    labels: { phase: 'away' },
    summary: '2 databases take no SQL: their computes are away',
  },
  UnderstorySlowSync: {
    fires: {
      [`${BUCKET}{node="sk-1",le="0.1"}`]: '0x40',
      [`${BUCKET}{node="sk-1",le="0.2"}`]: '0+100x40',
      [`${BUCKET}{node="sk-1",le="+Inf"}`]: '0+100x40',
    },
    silent: {
      [`${BUCKET}{node="sk-1",le="0.1"}`]: '0+100x40',
      [`${BUCKET}{node="sk-1",le="0.2"}`]: '0+100x40',
      [`${BUCKET}{node="sk-1",le="+Inf"}`]: '0+100x40',
    },
    labels: { node: 'sk-1' },
    summary: 'the disk of sk-1 takes 199ms for a write and sync',
  },
  UnderstoryShardStopped: {
    fires: { 'understory_pageserver_shards{node="ps-1",state="stopped"}': '1x40' },
    silent: {
      'understory_pageserver_shards{node="ps-1",state="stopped"}': '0x40',
      'understory_pageserver_shards{node="ps-1",state="serving"}': '4x40',
    },
    labels: { node: 'ps-1', state: 'stopped' },
    summary: '1 shards of ps-1 have stopped and ingest nothing',
  },
  UnderstoryShardStalled: {
    fires: { 'understory_pageserver_shards{node="ps-1",state="stalled"}': '2x40' },
    silent: {
      'understory_pageserver_shards{node="ps-1",state="stalled"}': '0x40',
      'understory_pageserver_shards{node="ps-1",state="serving"}': '4x40',
    },
    labels: { node: 'ps-1', state: 'stalled' },
    summary: '2 shards of ps-1 are stalled by trouble outside',
  },
  UnderstoryIngestLag: {
    fires: {
      'understory_safekeeper_ingest_lag_bytes{tenant="shop",timeline="main",shard="0",node="sk-1"}': `${512 * MIB}x40`,
    },
    silent: {
      'understory_safekeeper_ingest_lag_bytes{tenant="shop",timeline="main",shard="0",node="sk-1"}': `${MIB}x40`,
    },
    labels: { ...AT, shard: '0' },
    summary: 'shard 0 of tenant shop is 512MiB of WAL behind',
  },
  UnderstoryOffloadLag: {
    fires: {
      'understory_safekeeper_offload_lag_bytes{tenant="shop",timeline="main",node="sk-1"}': `${2048 * MIB}x40`,
      'understory_safekeeper_offload_lag_bytes{tenant="shop",timeline="main",node="sk-2"}': `${4096 * MIB}x40`,
    },
    // One safekeeper that has seen it stored is enough.
    silent: {
      'understory_safekeeper_offload_lag_bytes{tenant="shop",timeline="main",node="sk-1"}': `${MIB}x40`,
      'understory_safekeeper_offload_lag_bytes{tenant="shop",timeline="main",node="sk-2"}': `${4096 * MIB}x40`,
    },
    labels: AT,
    summary: '2GiB of committed WAL of tenant shop are not in the object store',
  },
  UnderstoryFullPageWritesDrift: {
    fires: { [`understory_control_fpw_drift${OF_TIMELINE}`]: '1x40' },
    silent: { [`understory_control_fpw_drift${OF_TIMELINE}`]: '0 1 0x38' },
    labels: AT,
    summary: 'the WAL of tenant shop shows another full_page_writes than was asked for',
  },
  UnderstoryDiskNearlyFull: {
    fires: {
      'understory_disk_usage_bytes{node="sk-1"}': '90x40',
      'understory_disk_limit_bytes{node="sk-1"}': '100x40',
    },
    silent: {
      'understory_disk_usage_bytes{node="sk-1"}': '80x40',
      'understory_disk_limit_bytes{node="sk-1"}': '100x40',
    },
    labels: { node: 'sk-1' },
    summary: 'the disk of sk-1 is 90% full',
  },
  UnderstoryObjectStoreFailing: {
    fires: {
      [`${OPERATIONS}{node="ps-1",error_type="timeout"}`]: '0+60x40',
      [`${OPERATIONS}{node="ps-1"}`]: '0+20x40',
    },
    silent: {
      [`${OPERATIONS}{node="ps-1",error_type="timeout"}`]: '0+1x40',
      [`${OPERATIONS}{node="ps-1"}`]: '0+60x40',
    },
    labels: { node: 'ps-1' },
    summary: '75% of the operations of ps-1 on the object store fail',
  },
  UnderstoryBrokerAway: {
    fires: { 'understory_control_broker_away{node="cp-1"}': '1x40' },
    silent: { 'understory_control_broker_away{node="cp-1"}': '0 1 1 0x38' },
    labels: {},
    summary: 'the broker does not answer: nodes at new addresses are not found, and no new tenant is placed',
  },
  UnderstoryCallsRefused: {
    fires: { 'understory_rpc_refused_total{node="sk-1",reason="wrong_token"}': '0+60x40' },
    silent: { 'understory_rpc_refused_total{node="sk-1",reason="wrong_token"}': '0 1 2 3 4 5x35' },
    labels: { node: 'sk-1', reason: 'wrong_token' },
    summary: 'sk-1 refuses 1 calls a second: wrong_token',
  },
}

const RULES = join(ROOT, 'deploy/helm/understory/files/alerts.yaml')
const EVAL_TIME = '30m'

const seriesOf = (values: Readonly<Record<string, string>>): object[] =>
  Object.entries(values).map(([series, each]) => ({ series, values: each }))

async function check(
  name: string,
  input: Readonly<Record<string, string>>,
  expected: readonly object[],
): Promise<string> {
  await using folder = await temporaryDirectory({ prefix: 'rules' })
  const file = join(folder.path, 'test.yaml')
  const content = {
    rule_files: [RULES],
    evaluation_interval: '1m',
    tests: [
      {
        interval: '1m',
        input_series: seriesOf(input),
        alert_rule_test: [
          { eval_time: EVAL_TIME, groupname: 'understory', alertname: name, exp_alerts: expected },
        ],
      },
    ],
  }
  await writeFile(file, stringify(content))
  return await testRules(file)
}

const missing = await victoriaMetricsMissing()
describe.skipIf(missing !== undefined)(
  `alert rules${missing === undefined ? '' : ` (${missing})`}`,
  { timeout: 120_000 },
  () => {
    test('there is a case for each', () => {
      expect(Object.keys(CASES).toSorted()).toEqual(ALERTS.map(({ name }) => name).toSorted())
    })

    test.each(ALERTS)('$name fires, and is silent', async (rule) => {
      const { name, severity } = rule
      const { fires, silent, labels, summary } = CASES[name] as Case
      const annotations = { summary, runbook_url: `docs/runbooks/${runbookOf(rule)}` }
      const alert = { exp_labels: { ...labels, severity }, exp_annotations: annotations }
      await check(name, fires, [alert])
      await check(name, silent, [])
      // The tool reports a wrong expectation.
      await expect(check(name, silent, [alert])).rejects.toThrow()
    })
  },
)
