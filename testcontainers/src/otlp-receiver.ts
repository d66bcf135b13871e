/**
 * Takes OTLP over HTTP as a collector would, and keeps what came, decoded as far as tests look at it. The messages are
 * those of opentelemetry-proto 1.x; fields that are not named here are skipped.
 */
import { createServer } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { gunzipSync } from 'node:zlib'
import { BinaryReader } from '@bufbuild/protobuf/wire'

export type Attributes = Readonly<Record<string, string | number | boolean>>

export interface ReceivedSpan {
  readonly service: string
  readonly instance: string
  readonly name: string
  readonly traceId: string
  readonly spanId: string
  /** Empty for the root of a trace. */
  readonly parentSpanId: string
  /** 1 internal, 2 server, 3 client. */
  readonly kind: number
  readonly startMs: number
  readonly endMs: number
  readonly attributes: Attributes
  /** 0 unset, 2 error. */
  readonly statusCode: number
}

export interface ReceivedMetric {
  readonly name: string
  readonly unit: string
  readonly kind: 'gauge' | 'counter' | 'histogram'
  readonly points: readonly ReceivedPoint[]
}
export interface ReceivedPoint {
  readonly attributes: Attributes
  /** Of a histogram its sum. */
  readonly value: number
  readonly count: number
  readonly bucketCounts: readonly number[]
  readonly edges: readonly number[]
}

export interface ReceivedLog {
  readonly service: string
  readonly instance: string
  readonly event: string
  readonly severity: string
  readonly attributes: Attributes
}

export interface OtlpReceiver extends AsyncDisposable {
  /** For OTEL_EXPORTER_OTLP_ENDPOINT. */
  readonly endpoint: string
  readonly spans: readonly ReceivedSpan[]
  readonly logs: readonly ReceivedLog[]
  /** The last points of an instance. */
  metricsOf(instance: string): readonly ReceivedMetric[]
  /** How often it sent any. */
  exportsOf(instance: string): number
  readonly instances: readonly string[]
}

export async function startOtlpReceiver(): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = []
  const logs: ReceivedLog[] = []
  const metrics = new Map<string, { readonly metrics: readonly ReceivedMetric[]; readonly exports: number }>()
  const take = (path: string, body: Buffer): void => {
    switch (path) {
      case '/v1/traces':
        return void spans.push(...readTraces(body))
      case '/v1/logs':
        return void logs.push(...readLogs(body))
      case '/v1/metrics':
        for (const { instance, metrics: sent } of readMetrics(body))
          metrics.set(instance, { metrics: sent, exports: (metrics.get(instance)?.exports ?? 0) + 1 })
    }
  }
  const server = createServer((request, response) => {
    bodyOf(request).then(
      (body) => {
        take(request.url ?? '', body)
        response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end()
      },
      () => response.writeHead(400).end(),
    )
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return {
    endpoint: `http://127.0.0.1:${port}`,
    spans,
    logs,
    metricsOf: (instance) => metrics.get(instance)?.metrics ?? [],
    exportsOf: (instance) => metrics.get(instance)?.exports ?? 0,
    get instances() {
      return [...metrics.keys()]
    },
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const part of request) parts.push(part as Buffer)
  const body = Buffer.concat(parts)
  return request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body
}

// Protobuf, by a table of the fields that are wanted.

type Field = 'string' | 'hex' | 'varint' | 'fixed64' | 'double' | 'bool' | 'fixed64s' | 'doubles' | Message
type Message = { readonly [field: number]: readonly [name: string, field: Field] }
type Decoded = { readonly [name: string]: unknown }

const WIRE_LENGTH_DELIMITED = 2

/** Messages are lists by their name, since any may be repeated; what else came last counts. */
function decode(bytes: Uint8Array, message: Message): Decoded {
  const reader = new BinaryReader(bytes)
  const decoded: Record<string, unknown> = {}
  while (reader.pos < reader.len) {
    const tag = reader.uint32()
    const [name, field] = message[tag >>> 3] ?? ['', undefined]
    if (field === undefined) {
      reader.skip(tag & 7, tag >>> 3)
    } else if (typeof field === 'object') {
      const items = (decoded[name] ??= []) as Decoded[]
      items.push(decode(reader.bytes(), field))
    } else if ((field === 'fixed64s' || field === 'doubles') && (tag & 7) === WIRE_LENGTH_DELIMITED) {
      const end = reader.uint32() + reader.pos
      const values: number[] = []
      while (reader.pos < end) values.push(field === 'doubles' ? reader.double() : Number(reader.fixed64()))
      decoded[name] = values
    } else {
      decoded[name] = scalar(reader, field)
    }
  }
  return decoded
}

function scalar(reader: BinaryReader, field: Exclude<Field, Message>): unknown {
  switch (field) {
    case 'string':
      return reader.string()
    case 'hex':
      return Buffer.from(reader.bytes()).toString('hex')
    case 'varint':
      return Number(reader.int64())
    case 'bool':
      return reader.bool()
    case 'double':
    case 'doubles':
      return reader.double()
    case 'fixed64':
    case 'fixed64s':
      return Number(reader.fixed64())
  }
}

const VALUE: Message = {
  1: ['string', 'string'],
  2: ['bool', 'bool'],
  3: ['int', 'varint'],
  4: ['double', 'double'],
}
const KEY_VALUE: Message = { 1: ['key', 'string'], 2: ['value', VALUE] }
const RESOURCE: Message = { 1: ['attributes', KEY_VALUE] }
const SPAN: Message = {
  1: ['traceId', 'hex'],
  2: ['spanId', 'hex'],
  4: ['parentSpanId', 'hex'],
  5: ['name', 'string'],
  6: ['kind', 'varint'],
  7: ['startNs', 'fixed64'],
  8: ['endNs', 'fixed64'],
  9: ['attributes', KEY_VALUE],
  15: ['status', { 3: ['code', 'varint'] }],
}
const NUMBER_POINT: Message = { 4: ['value', 'double'], 7: ['attributes', KEY_VALUE] }
const HISTOGRAM_POINT: Message = {
  4: ['count', 'fixed64'],
  5: ['value', 'double'],
  6: ['bucketCounts', 'fixed64s'],
  7: ['edges', 'doubles'],
  9: ['attributes', KEY_VALUE],
}
const METRIC: Message = {
  1: ['name', 'string'],
  3: ['unit', 'string'],
  5: ['gauge', { 1: ['points', NUMBER_POINT] }],
  7: ['sum', { 1: ['points', NUMBER_POINT] }],
  9: ['histogram', { 1: ['points', HISTOGRAM_POINT] }],
}
const LOG: Message = {
  3: ['severity', 'string'],
  6: ['attributes', KEY_VALUE],
  12: ['event', 'string'],
}
/** ExportTraceServiceRequest and its like: resource, scope, items. */
const exported = (item: Message): Message => ({
  1: ['resources', { 1: ['resource', RESOURCE], 2: ['scopes', { 2: ['items', item] }] }],
})

/** Empty where the field was not sent. */
const textOf = (value: unknown): string => (typeof value === 'string' ? value : '')
const list = (value: unknown): readonly Decoded[] => (value ?? []) as readonly Decoded[]

function attributesOf(decoded: Decoded | undefined): Attributes {
  const attributes: Record<string, string | number | boolean> = {}
  for (const { key, value } of list(decoded?.['attributes'])) {
    const [{ string, bool, int, double } = {}] = list(value)
    attributes[key as string] = (string ?? bool ?? int ?? double ?? '') as string | number | boolean
  }
  return attributes
}

function* itemsOf(
  body: Buffer,
  item: Message,
): Generator<{ resource: Attributes; items: readonly Decoded[] }> {
  for (const { resource, scopes } of list(decode(body, exported(item))['resources']))
    yield {
      resource: attributesOf(list(resource)[0]),
      items: list(scopes).flatMap(({ items }) => list(items)),
    }
}

const namesOf = (resource: Attributes) => ({
  service: String(resource['service.name']),
  instance: String(resource['service.instance.id']),
})

function* readTraces(body: Buffer): Generator<ReceivedSpan> {
  for (const { resource, items } of itemsOf(body, SPAN))
    for (const span of items)
      yield {
        ...namesOf(resource),
        name: textOf(span['name']),
        traceId: textOf(span['traceId']),
        spanId: textOf(span['spanId']),
        parentSpanId: textOf(span['parentSpanId']),
        kind: Number(span['kind'] ?? 0),
        startMs: Number(span['startNs']) / 1e6,
        endMs: Number(span['endNs']) / 1e6,
        attributes: attributesOf(span),
        statusCode: Number(list(span['status'])[0]?.['code'] ?? 0),
      }
}

function* readLogs(body: Buffer): Generator<ReceivedLog> {
  for (const { resource, items } of itemsOf(body, LOG))
    for (const log of items)
      yield {
        ...namesOf(resource),
        event: textOf(log['event']),
        severity: textOf(log['severity']),
        attributes: attributesOf(log),
      }
}

function* readMetrics(body: Buffer): Generator<{ instance: string; metrics: readonly ReceivedMetric[] }> {
  for (const { resource, items } of itemsOf(body, METRIC))
    yield { instance: namesOf(resource).instance, metrics: items.map(metricOf) }
}

function metricOf(metric: Decoded): ReceivedMetric {
  const [gauge] = list(metric['gauge'])
  const [sum] = list(metric['sum'])
  const [histogram] = list(metric['histogram'])
  const points = list((gauge ?? sum ?? histogram)?.['points']).map((point): ReceivedPoint => ({
    attributes: attributesOf(point),
    value: Number(point['value'] ?? 0),
    count: Number(point['count'] ?? 0),
    bucketCounts: (point['bucketCounts'] ?? []) as number[],
    edges: (point['edges'] ?? []) as number[],
  }))
  const kind = gauge === undefined ? (sum === undefined ? 'histogram' : 'counter') : 'gauge'
  return { name: textOf(metric['name']), unit: textOf(metric['unit']), kind, points }
}
