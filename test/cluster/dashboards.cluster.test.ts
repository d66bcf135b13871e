/**
 * Goal: every panel of the dashboards, and the series under every alert, have data. Method: a real cluster with a load,
 * page reads and a live switch of full_page_writes sends OTLP to a real time-series database, which every query is put
 * to.
 */
import { isErrorCode } from '@understory/base'
import { startVictoriaMetrics, victoriaMetricsMissing } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { ALERTS } from '../../tools/dashboards/alerts.ts'
import { BOARDS, expressionsOf } from '../../tools/dashboards/boards.ts'
import { startRoad, until } from './cluster-support.ts'

/** As Grafana fills them in. */
const filled = (expr: string): string =>
  expr.replaceAll('$__rate_interval', '1m').replaceAll('$tenant', '.*').replaceAll('$__interval', '15s')

const missing = await victoriaMetricsMissing()
describe.skipIf(missing !== undefined)(`dashboards${missing === undefined ? '' : ` (${missing})`}`, () => {
  test('every query of a panel and every series of an alert has data', async () => {
    await using database = await startVictoriaMetrics()
    await using road = await startRoad({
      imageThresholdRecords: 8,
      environment: {
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: database.metricsEndpoint,
        OTEL_METRIC_EXPORT_INTERVAL: '1000',
      },
    })
    await road.loadTpcb()
    const queries = [...BOARDS.flatMap(expressionsOf), ...ALERTS.flatMap(({ series }) => series)].map(filled)
    expect(queries.length).toBeGreaterThan(60)
    let empty: readonly string[] = queries
    await road.underLoad(async (load) => {
      await load.moreCommits(200)
      await road.client.switchFullPageWrites(road.tenant, 'off')
      await road.client.waitForFullPageWrites(road.tenant)
      await load.moreCommits(300)
    })
    await until('every query to have data', async () => {
      // Reads every page.
      await road.expectVerified()
      const answers = await Promise.all(
        empty.map(async (query) => [query, (await database.query(query)).length] as const),
      )
      empty = answers.filter(([, count]) => count === 0).map(([query]) => query)
      return empty.length === 0 ? true : undefined
    }).catch((error: unknown) => {
      throw isErrorCode(error, 'timeout')
        ? new Error(`no data: ${empty.join('; ')}`, { cause: error })
        : error
    })
  })
})
