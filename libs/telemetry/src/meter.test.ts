// Goal: cells count right, series are capped, names and pages are what Prometheus has. Method: tables of small cases.
import { fail } from '@understory/base'
import { expect, test } from 'vitest'
import { Meter } from './meter.ts'
import { mergePages } from './metrics-pages.ts'
import { readOtlpSettings } from './otlp-settings.ts'
import { PendingDurations } from './pending-durations.ts'
import { prometheusName } from './prometheus-name.ts'
import { OPEN } from './table.ts'
import type { MetricTable } from './table.ts'
import { readTraceparent } from './trace-context.ts'
import { Traces } from './traces.ts'
import type { SpanRecord } from './traces.ts'

const TABLE = {
  bytes: {
    name: 'a.bytes',
    unit: 'By',
    kind: 'counter',
    labels: { tenant: OPEN, way: ['in', 'out'] },
    help: 'h',
  },
  size: { name: 'a.size', unit: 'By', kind: 'gauge', labels: { tenant: OPEN }, help: 'h' },
  time: { name: 'a.time', unit: 's', kind: 'histogram', labels: {}, help: 'h', edges: [0.001, 0.01, 0.1] },
} as const satisfies MetricTable

const seriesOf = async (meter: Meter, name: string) => {
  const found = (await meter.collect()).find(({ spec }) => spec.name === name)
  return [...(found?.cells ?? [])]
}

test('a value at an edge counts below it, one above the last edge counts in the last bucket', () => {
  const cell = new Meter().instruments(TABLE).time.of({})
  for (const value of [0, 0.001, 0.0011, 0.1, 5]) cell.record(value)
  cell.recordMs(10)
  expect([...cell.counts]).toEqual([2, 2, 1, 1])
  expect(cell.count).toBe(6)
  expect(cell.sum).toBeCloseTo(5.1121)
})

test('series over the cap fall together, but never across closed labels, and are counted', async () => {
  const meter = new Meter(2)
  const { bytes, size } = meter.instruments(TABLE)
  meter.onCollect(() => {
    for (const tenant of ['a', 'b', 'c']) size.observe({ tenant }, 1)
  })
  bytes.of({ tenant: 'a', way: 'in' }).add(1)
  bytes.of({ tenant: 'b', way: 'in' }).add(2)
  bytes.of({ tenant: 'c', way: 'in' }).add(4)
  bytes.of({ tenant: 'd', way: 'in' }).add(8)
  bytes.of({ tenant: 'd', way: 'out' }).add(16)
  const cells = await seriesOf(meter, 'a.bytes')
  expect(cells.map(({ labels, ...cell }) => [labels, 'value' in cell ? cell.value : 0])).toEqual([
    [{ tenant: 'a', way: 'in' }, 1],
    [{ tenant: 'b', way: 'in' }, 2],
    [{ tenant: 'other', way: 'in' }, 12],
    [{ tenant: 'other', way: 'out' }, 16],
  ])
  expect((await seriesOf(meter, 'a.size')).map(({ labels }) => labels)).toEqual([
    { tenant: 'a' },
    { tenant: 'b' },
  ])
  expect(meter.dropped).toBeGreaterThanOrEqual(4)
})

test('a gauge that is not observed any more is not there, and neither is a forgotten series', async () => {
  const meter = new Meter()
  const { size, bytes } = meter.instruments(TABLE)
  const stop = meter.onCollect(() => size.observe({ tenant: 'a' }, 1))
  bytes.of({ tenant: 'a', way: 'in' }).add(1)
  bytes.of({ tenant: 'b', way: 'in' }).add(1)
  expect(await seriesOf(meter, 'a.size')).toHaveLength(1)
  stop()
  expect(await seriesOf(meter, 'a.size')).toHaveLength(0)
  meter.forget({ tenant: 'a' })
  expect((await seriesOf(meter, 'a.bytes')).map(({ labels }) => labels['tenant'])).toEqual(['b'])
})

test('a count that is kept elsewhere ends with its subject, and beyond the cap is a sum', async () => {
  const meter = new Meter(2)
  const { bytes } = meter.instruments(TABLE)
  let tenants = ['a', 'b', 'c', 'd']
  meter.onCollect(() => {
    for (const [i, tenant] of tenants.entries()) bytes.observe({ tenant, way: 'in' }, 2 ** i)
  })
  const points = async () =>
    (await seriesOf(meter, 'a.bytes')).map(({ labels, ...cell }) => [
      labels['tenant'],
      'value' in cell ? cell.value : 0,
    ])
  for (let i = 0; i < 2; i++) {
    expect(await points()).toEqual([
      ['a', 1],
      ['b', 2],
      ['other', 12],
    ])
  }
  tenants = ['a']
  expect(await points()).toEqual([['a', 1]])
})

test('one collector that fails does not keep the others from being collected', async () => {
  const meter = new Meter()
  const { size } = meter.instruments(TABLE)
  meter.onCollect(() => Promise.reject(fail('unavailable', 'not now')))
  meter.onCollect(() => size.observe({ tenant: 'a' }, 1))
  const failures: unknown[] = []
  await meter.collect((error) => failures.push(error))
  expect(failures).toHaveLength(1)
  expect(await seriesOf(meter, 'a.size')).toHaveLength(1)
})

test.for([
  ['understory.wal', 'By', 'counter', 'understory_wal_bytes_total'],
  ['understory.wal.bytes', 'By', 'counter', 'understory_wal_bytes_total'],
  ['understory.wal.limit', 'By/s', 'gauge', 'understory_wal_limit_bytes_per_second'],
  ['understory.things', '{thing}', 'counter', 'understory_things_total'],
  ['understory.things', '{thing}', 'gauge', 'understory_things'],
  ['nodejs.eventloop.utilization', '1', 'gauge', 'nodejs_eventloop_utilization_ratio'],
  ['rpc.server.call.duration', 's', 'histogram', 'rpc_server_call_duration_seconds'],
] as const)('%s in %s, a %s, is %s in Prometheus', ([name, unit, kind, expected]) => {
  expect(prometheusName({ name, unit, kind })).toBe(expected)
})

test('pages of several processes are one, each family once', () => {
  const page = (node: string): string =>
    `# HELP a h\n# TYPE a gauge\na{node="${node}"} 1\n# HELP b h\n# TYPE b counter\nb{node="${node}"} 2\n`
  expect(mergePages([page('x'), page('y')])).toBe(
    '# HELP a h\n# TYPE a gauge\na{node="x"} 1\na{node="y"} 1\n' +
      '# HELP b h\n# TYPE b counter\nb{node="x"} 2\nb{node="y"} 2\n',
  )
})

test('positions are timed in their order, through growth, until there are too many', () => {
  const pending = new PendingDurations()
  const cell = new Meter().instruments(TABLE).time.of({})
  for (let i = 1; i <= 5000; i++) pending.begin(i, 0)
  pending.settle(100, 5, cell)
  expect(cell.count).toBe(100)
  for (let i = 5001; i <= 5050; i++) pending.begin(i, 0)
  pending.settle(Infinity, 5, cell)
  expect(cell.count).toBe(4096 + 50)
  expect(cell.counts[1]).toBe(4096 + 50)
})

test.for([
  ['00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', true],
  ['00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00', false],
  ['00-00000000000000000000000000000000-00f067aa0ba902b7-01', false],
  ['01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', false],
  ['nonsense', false],
  ['', false],
] as const)('trace context "%s" is followed: %s', ([text, isFollowed]) => {
  expect(readTraceparent(text) !== undefined).toBe(isFollowed)
})

test('exactly one trace of so many is recorded, the first among them, and children follow', () => {
  const records: SpanRecord[] = []
  let next = 0
  const traces = new Traces({
    share: 0.25,
    nowMs: () => 0,
    randomHex: (digits) => (++next).toString(16).padStart(digits, '0'),
    record: (span) => records.push(span),
  })
  const recorded = Array.from({ length: 12 }, () => traces.root('a') !== undefined)
  expect(recorded.filter(Boolean)).toHaveLength(3)
  expect(recorded[0]).toBe(true)
  const root = traces.root('always', { isAlwaysRecorded: true })
  const child = root?.child('child')
  const followed = traces.follow(child?.traceparent, 'elsewhere', { kind: 'server' })
  for (const span of [followed, child, root]) span?.end()
  child?.end('again')
  expect(records.map(({ name, parentSpanId }) => [name, parentSpanId])).toEqual([
    ['elsewhere', child?.context.spanId],
    ['child', root?.context.spanId],
    ['always', undefined],
  ])
  expect(new Set(records.map(({ context }) => context.traceId)).size).toBe(1)
})

test('what a peer leaves out is left out here too, and begun where it says nothing', () => {
  const traces = new Traces({
    share: 1,
    nowMs: () => 0,
    randomHex: (digits) => '1'.repeat(digits),
    record: () => undefined,
  })
  const context = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7'
  const traceOf = (traceparent: string | undefined) => traces.enter(traceparent, 'a')?.context.traceId
  expect(traceOf(`${context}-01`)).toBe('4bf92f3577b34da6a3ce929d0e0e4736')
  expect(traceOf(`${context}-00`)).toBeUndefined()
  for (const none of [undefined, '', 'nonsense']) expect(traceOf(none)).toBe('1'.repeat(32))
})

test('the standard variables decide what goes out, and what cannot be is refused', () => {
  const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c:4318' }
  expect(readOtlpSettings({})).toBeUndefined()
  expect(readOtlpSettings({ ...endpoint, OTEL_SDK_DISABLED: 'true' })).toBeUndefined()
  expect([...(readOtlpSettings(endpoint)?.signals ?? [])]).toEqual(['metrics', 'traces', 'logs'])
  expect([...(readOtlpSettings({ ...endpoint, OTEL_LOGS_EXPORTER: 'none' })?.signals ?? [])]).toEqual([
    'metrics',
    'traces',
  ])
  expect(readOtlpSettings({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://c/t' })?.signals).toEqual(
    new Set(['traces']),
  )
  expect(readOtlpSettings({ ...endpoint, OTEL_TRACES_SAMPLER: 'always_on' })?.traceShare).toBe(1)
  expect(readOtlpSettings({ ...endpoint, OTEL_TRACES_SAMPLER_ARG: '0.5' })?.traceShare).toBe(0.5)
  const variables = ['METRICS_EXPORTER', 'TRACES_SAMPLER', 'METRIC_EXPORT_INTERVAL', 'EXPORTER_OTLP_PROTOCOL']
  const empty = Object.fromEntries(variables.map((name) => [`OTEL_${name}`, '']))
  expect(readOtlpSettings({ ...endpoint, ...empty })).toEqual(readOtlpSettings(endpoint))
  for (const wrong of [
    { OTEL_EXPORTER_OTLP_ENDPOINT: 'collector:4318' },
    { OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' },
    { OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'http/json' },
    { OTEL_TRACES_SAMPLER_ARG: '2' },
    { OTEL_TRACES_SAMPLER: 'jaeger_remote' },
    { OTEL_METRIC_EXPORT_INTERVAL: 'soon' },
    { OTEL_METRICS_EXPORTER: 'prometheus' },
  ])
    expect(() => readOtlpSettings({ ...endpoint, ...wrong })).toThrow(Object.keys(wrong)[0])
})
