// Goal: one commit and one page read are each one trace over all processes they pass through; OTLP and /metrics say the
// same; with telemetry off nothing of it runs.
// Method: real clusters. One sends everything to a receiver that decodes OTLP; one is off and counts, by V8's own
// coverage, which parts of the telemetry were called. The same counting on the first kind shows that it can find
// something.
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { startOtlpReceiver, temporaryDirectory } from '@understory/testcontainers'
import type { OtlpReceiver, ReceivedMetric, ReceivedSpan } from '@understory/testcontainers'
import { OPEN } from '@understory/telemetry'
import type { LabelValues, MetricSpec } from '@understory/telemetry'
import { expect, test } from 'vitest'
import { TABLES } from '../../tools/metrics-page.ts'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const INTERNAL = 1
const SERVER = 2
const CLIENT = 3

const METRICS_FLAGS = ['--metrics-listen', '127.0.0.1:0']
const ALL_FLAGS = { safekeeper: METRICS_FLAGS, pageserver: METRICS_FLAGS, 'compute-proxy': METRICS_FLAGS }

const exporting = ({ endpoint }: OtlpReceiver) => ({
  OTEL_EXPORTER_OTLP_ENDPOINT: endpoint,
  OTEL_TRACES_SAMPLER: 'always_on',
  OTEL_METRIC_EXPORT_INTERVAL: '500',
  OTEL_BSP_SCHEDULE_DELAY: '100',
})

const write = (road: Road, rows: number): Promise<void> =>
  road.withClient(async (client) => {
    await client.query('create table if not exists notes (id serial primary key, body text)')
    for (let i = 0; i < rows; i++) await client.query('insert into notes (body) values ($1)', [`note ${i}`])
  })

/** The whole tree of one trace is looked up by names. */
class Trace {
  readonly spans: readonly ReceivedSpan[]

  constructor(all: readonly ReceivedSpan[], traceId: string) {
    this.spans = all.filter((span) => span.traceId === traceId)
  }
  get root(): ReceivedSpan | undefined {
    return this.spans.find(({ parentSpanId }) => parentSpanId === '')
  }
  childrenOf(parent: ReceivedSpan | undefined, name: RegExp): ReceivedSpan[] {
    return this.spans.filter((span) => span.parentSpanId === parent?.spanId && name.test(span.name))
  }
}

/** The first trace with such a root of which `isWhole` has found everything. */
async function traceOf<T>(
  receiver: OtlpReceiver,
  rootName: string,
  look: (trace: Trace) => T | undefined,
): Promise<T> {
  return until(`a whole trace of "${rootName}"`, () => {
    for (const { name, parentSpanId, traceId } of receiver.spans) {
      if (name !== rootName || parentSpanId !== '') continue
      const found = look(new Trace(receiver.spans, traceId))
      if (found !== undefined) return found
    }
    return undefined
  })
}

function expectWithin(inner: ReceivedSpan, outer: ReceivedSpan, slackMs: number): void {
  expect(inner.startMs).toBeGreaterThanOrEqual(outer.startMs - slackMs)
  expect(inner.endMs).toBeLessThanOrEqual(outer.endMs + slackMs)
  expect(inner.endMs).toBeGreaterThanOrEqual(inner.startMs)
}

test('commits, page reads and switches are traces, and OTLP has what /metrics shows', async () => {
  await using receiver = await startOtlpReceiver()
  await using road = await startRoad({ environment: exporting(receiver), flags: ALL_FLAGS })
  await write(road, 20)

  const commit = await traceOf(receiver, 'commit', (trace) => {
    const { root } = trace
    const appends = trace.childrenOf(root, /^append safekeeper-/).map((append) => {
      const [taken] = trace.childrenOf(append, /^append$/)
      const [fsync] = trace.childrenOf(taken, /^fsync$/)
      return { append, taken, fsync }
    })
    const [receive] = trace.childrenOf(root, /^receive$/)
    const [quorum] = trace.childrenOf(root, /^quorum$/)
    const [reply] = trace.childrenOf(root, /^standby reply$/)
    const isWhole = appends.length === 3 && appends.every(({ fsync }) => fsync !== undefined)
    return isWhole && root && receive && quorum && reply
      ? { root, appends, receive, quorum, reply }
      : undefined
  })
  const { root, appends, receive, quorum, reply } = commit
  expect(root).toMatchObject({ service: 'understory-compute', kind: INTERNAL, statusCode: 0 })
  for (const span of [receive, quorum, reply]) {
    expect(span.instance).toBe(root.instance)
    expectWithin(span, root, 0.1)
  }
  expect(receive.endMs).toBeLessThanOrEqual(quorum.endMs)
  expect(reply.startMs).toBeGreaterThanOrEqual(quorum.endMs - 0.1)
  for (const { append, taken, fsync } of appends) {
    expect(append).toMatchObject({ service: 'understory-compute', kind: CLIENT })
    expect(taken).toMatchObject({ service: 'understory-safekeeper', kind: SERVER })
    expect(`append ${taken?.instance}`).toBe(append.name)
    // One machine: its processes share a clock, but report it each by their own offset.
    if (taken !== undefined && fsync !== undefined) {
      expectWithin(taken, append, 5)
      expectWithin(fsync, taken, 0.1)
    }
  }
  expect(new Set(appends.map(({ append }) => append.name)).size).toBe(3)

  await road.verify()
  const read = await traceOf(receiver, 'page read', (trace) => {
    const [getPage] = trace.childrenOf(trace.root, /^getpage$/)
    const [page] = trace.childrenOf(getPage, /^page$/)
    const [layers] = trace.childrenOf(page, /^layers$/)
    const [redo] = trace.childrenOf(page, /^redo$/)
    return trace.root && getPage && page && layers && redo
      ? { root: trace.root, getPage, page, layers, redo }
      : undefined
  })
  expect(read.root).toMatchObject({ service: 'understory-compute', kind: CLIENT })
  expect(read.getPage).toMatchObject({ service: 'understory-pageserver', kind: SERVER })
  expectWithin(read.getPage, read.root, 5)
  expectWithin(read.page, read.getPage, 0.1)
  expect(read.redo.startMs).toBeGreaterThanOrEqual(read.layers.endMs - 0.1)
  expect(read.page.attributes['layers']).toBeGreaterThanOrEqual(1)

  const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
  const page = { database: 1, relation: 1259, block: 0 }
  const traceparent = `00-${traceId}-00f067aa0ba902b7-01`
  await road.client.getPage(road.tenant, page, { traceparent })
  await until("the pageserver's part of the program's trace", () =>
    receiver.spans.find((span) => span.traceId === traceId && span.parentSpanId === '00f067aa0ba902b7'),
  )

  await road.client.switchFullPageWrites(road.tenant, 'off')
  const change = await traceOf(receiver, 'fpw switch', (trace) => {
    const [images] = trace.childrenOf(trace.root, /^image_generation$/)
    const calls = trace.childrenOf(images, /SetImageGeneration$/)
    const served = calls.flatMap((call) => trace.childrenOf(call, /SetImageGeneration$/))
    return served.length >= 2 ? { calls, served } : undefined
  })
  expect(
    change.calls.every(({ kind, service }) => kind === CLIENT && service === 'understory-control-plane'),
  ).toBe(true)
  expect(new Set(change.served.map(({ instance }) => instance))).toEqual(
    new Set(['pageserver-1', 'pageserver-2']),
  )
  expect(change.served.every(({ kind }) => kind === SERVER)).toBe(true)

  for (const node of [...road.cluster.safekeepers, ...road.cluster.pageservers, road.cluster.controlPlane])
    await expectAgreement(receiver, node.nodeId, node.log())
  await until('log records of every kind of service', () => {
    const services = new Set(receiver.logs.map(({ service }) => service))
    return services.size >= 5 ? true : undefined
  })
  const started = receiver.logs.filter(({ event }) => event === 'started')
  expect(started.map(({ instance }) => instance)).toEqual(
    expect.arrayContaining(['safekeeper-1', 'pageserver-1']),
  )
  expect(started.every(({ severity }) => severity === 'INFO')).toBe(true)
})

/** The metrics that a healthy cluster has no reason to report. */
const SELDOM = new Set([
  'understory.compute.leads_lost',
  'understory.compute.membership.changes',
  'understory.compute.wal.rate_limit',
  'understory.control.membership.changes',
  'understory.control.membership.change.duration',
  // Segments are stored once 16 MiB of WAL are committed.
  'understory.safekeeper.offload.segments',
  // Counters of trouble: no call is refused and nothing is tried again in a healthy cluster.
  'understory.pageserver.retries',
  'understory.pageserver.subscription.ended',
  'understory.safekeeper.subscription.refused',
])

test('every metric of the tables is reported by a cluster that works', async () => {
  await using receiver = await startOtlpReceiver()
  await using road = await startRoad({
    environment: exporting(receiver),
    // Soon layers, so that there are uploads.
    flags: { pageserver: ['--open-layer-age-s', '1'] },
    imageThresholdRecords: 8,
  })
  await road.client.switchFullPageWrites(road.tenant, 'off')
  await road.client.waitForFullPageWrites(road.tenant)
  await write(road, 20)
  await road.query('create table chains (id int primary key, n int)')
  await road.query('insert into chains values (1, 0)')
  await road.withClient(async (client) => {
    for (let i = 0; i < 200; i++) await client.query('update chains set n = n + 1')
  })
  await road.verify()
  const counts = (): Map<string, number> =>
    new Map(
      receiver.instances
        .flatMap((instance) => receiver.metricsOf(instance))
        .map(({ name, points }) => [name, points.length]),
    )
  const wanted = Object.values(TABLES).flatMap((table) => Object.values(table))
  let missing: string[] = []
  await until('every metric', () => {
    const seen = counts()
    missing = wanted.map(({ name }) => name).filter((name) => !seen.has(name) && !SELDOM.has(name))
    return missing.length === 0 ? true : undefined
  }).catch((cause: unknown) => {
    throw new Error(`no process reports ${missing.join(', ')}`, { cause })
  })
  for (const name of ['ingest batch', 'image batch', 'upload'])
    await traceOf(receiver, name, ({ root }) =>
      root?.service === 'understory-pageserver' ? root : undefined,
    )
  const tables = new Map(wanted.map((spec) => [spec.name, spec]))
  for (const instance of receiver.instances)
    for (const { name, unit, kind, points } of receiver.metricsOf(instance)) {
      const spec = tables.get(name)
      expect({ name, unit, kind }).toEqual({ name: spec?.name, unit: spec?.unit, kind: spec?.kind })
      for (const { attributes } of points)
        for (const [label, value] of Object.entries(attributes)) {
          if (label === 'node') continue
          const values: LabelValues = (spec as MetricSpec).labels[label] ?? []
          if (values !== OPEN) expect(values, `${name} ${label}`).toContain(value)
        }
    }
})

/** Once nothing moves, both ways have the same series with the same values. */
async function expectAgreement(receiver: OtlpReceiver, node: string, log: string): Promise<void> {
  const port = Number(/"metricsPort":(\d+)/.exec(log)?.[1])
  expect(port, log).toBeGreaterThan(0)
  let difference = ''
  await until(`OTLP and /metrics of ${node} to agree`, async () => {
    const before = receiver.exportsOf(node)
    await until('another export', () => (receiver.exportsOf(node) > before ? true : undefined))
    const page = readPage(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text())
    const sent = translate(receiver.metricsOf(node))
    difference = [...new Set([...page.keys(), ...sent.keys()])]
      .filter((series) => !isAlive(series) && page.get(series) !== sent.get(series))
      .map((series) => `${series}: ${page.get(series)} on the page, ${sent.get(series)} sent`)
      .join('\n')
    return difference === '' ? true : undefined
  }).catch((error: unknown) => {
    throw new Error(`OTLP and /metrics differ:\n${difference}`, { cause: error })
  })
  const page = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  expect(readPage(page).size).toBeGreaterThan(30)
  expect(page).toContain('nodejs_eventloop_delay_p99_seconds')
}

/** The series that move during the look: the process itself, and the calls and reads that looking at it causes. */
const isAlive = (series: string): boolean =>
  /^(target_info|nodejs_|v8js_|process_|understory_disk_|rpc_|understory_objectstore_)/.test(series)

function readPage(page: string): Map<string, number> {
  const lines = page.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(
    lines.map((line) => {
      const [, name = '', labels = '', value = ''] = /^([a-zA-Z0-9_:]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? []
      return [`${name}{${labels.split(',').toSorted().join(',')}}`, Number(value)]
    }),
  )
}

/** As a collector names them for Prometheus: written again here, as the other side of the test. */
function translate(metrics: readonly ReceivedMetric[]): Map<string, number> {
  const units: Record<string, string> = { By: '_bytes', s: '_seconds' }
  const series = new Map<string, number>()
  for (const { name, unit, kind, points } of metrics) {
    const suffix = kind === 'gauge' && unit === '1' ? '_ratio' : (units[unit] ?? '')
    const base = `${name.replaceAll('.', '_')}${suffix}`
    const label = (attributes: Record<string, unknown>): string =>
      Object.entries(attributes)
        .map(([key, value]) => `${key.replaceAll('.', '_')}="${String(value)}"`)
        .toSorted()
        .join(',')
    for (const { attributes, value, count, bucketCounts, edges } of points) {
      if (kind !== 'histogram') {
        series.set(`${base}${kind === 'counter' ? '_total' : ''}{${label(attributes)}}`, value)
        continue
      }
      let below = 0
      for (const [i, bucket] of bucketCounts.entries()) {
        below += bucket
        const le = i < edges.length ? String(edges[i]) : '+Inf'
        series.set(`${base}_bucket{${label({ ...attributes, le })}}`, below)
      }
      series.set(`${base}_sum{${label(attributes)}}`, value)
      series.set(`${base}_count{${label(attributes)}}`, count)
    }
  }
  return series
}

/** The functions on the way of a commit or a read, and the start of the thread that exports. */
const INSTRUMENTS =
  /\/libs\/telemetry\/src\/|[/-]observer\.ts$|\/commit-trace\.ts$|\/libs\/object-store\/src\/observed\.ts$/
/** Called at the start to find whether telemetry is configured, or in a call whether there is an observer at all. */
const ASKED = new Set([
  'delay',
  'startTelemetry',
  'readOtlpSettings',
  'isExported',
  'observeStore',
  'observeCall',
  'clientInterceptors',
])

/** The functions of the telemetry that were called in the processes of one app. */
async function calledIn(folder: string, app: string): Promise<string[]> {
  const called = new Set<string>()
  for (const file of await readdir(folder)) {
    const { result } = JSON.parse(await readFile(join(folder, file), 'utf8')) as {
      result: { url: string; functions: { functionName: string; ranges: { count: number }[] }[] }[]
    }
    if (!result.some(({ url }) => url.endsWith(`apps/${app}/src/main.ts`))) continue
    // On or off, the service's own heap never has the SDK.
    expect(result.filter(({ url }) => url.includes('/node_modules/@opentelemetry/'))).toEqual([])
    for (const { url, functions } of result.filter((script) => INSTRUMENTS.test(script.url)))
      for (const { functionName, ranges } of functions)
        if (functionName !== '' && !ASKED.has(functionName) && (ranges[0]?.count ?? 0) > 0)
          called.add(`${url.split('/').at(-1)} ${functionName}`)
  }
  return [...called]
}

test.for([
  ['off', false],
  ['on', true],
] as const)('with telemetry %s the hot path calls its instruments: %s', async ([, isOn]) => {
  await using receiver = await startOtlpReceiver()
  await using coverage = await temporaryDirectory({ prefix: 'coverage' })
  const counting = { NODE_V8_COVERAGE: coverage.path }
  await using road = await startRoad({
    environment: isOn ? { ...exporting(receiver), ...counting } : counting,
  })
  await write(road, 20)
  await road.verify()
  await road.stop()
  for (const app of ['safekeeper', 'pageserver', 'compute-proxy']) {
    const called = await calledIn(coverage.path, app)
    if (!isOn) expect(called, app).toEqual([])
    else expect(called, app).toEqual(expect.arrayContaining(['otlp-thread.ts OtlpThread', 'meter.ts record']))
  }
})
