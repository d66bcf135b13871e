/**
 * The OpenTelemetry SDK, set up: one meter provider for OTLP and `/metrics`, batches of spans and log records. It runs
 * in a thread of its own (otlp-worker.ts), and only where telemetry is on.
 *
 * A collector that is dead or slow costs what it was to get: queues are bounded, exports have a short time-out,
 * failures are counted and said once in a while. Nothing here is awaited by a service but `stop`, and that for a short
 * time.
 */
import { SpanKind, SpanStatusCode, TraceFlags } from '@opentelemetry/api'
import { ExportResultCode } from '@opentelemetry/core'
import type { ExportResult } from '@opentelemetry/core'
import { OTLPLogExporter } from '@opentelemetry/exporter-logs-otlp-proto'
import { OTLPMetricExporter } from '@opentelemetry/exporter-metrics-otlp-proto'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto'
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources'
import type { Resource } from '@opentelemetry/resources'
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs'
import { MeterProvider, MetricReader, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics'
import { BatchSpanProcessor } from '@opentelemetry/sdk-trace'
import type { ReadableSpan } from '@opentelemetry/sdk-trace'
import { logSink } from './log-records.ts'
import type { LogSink } from './log-records.ts'
import { MeterProducer, SCOPE, hrTime } from './metric-producer.ts'
import { EXPORT_TIMEOUT_MS_DEFAULT } from './otlp-settings.ts'
import type { OtlpStart, SeriesSnapshot } from './otlp-protocol.ts'
import type { OtlpSettings, Signal } from './otlp-settings.ts'
import { renderPrometheus } from './prometheus-page.ts'
import type { SpanKindName, SpanRecord } from './traces.ts'
import { WallOffsets } from './wall-offsets.ts'

const QUEUE_COUNT_MAX = 4096
const BATCH_COUNT_MAX = 512

export interface OtlpParts extends OtlpStart {
  readonly collect: () => Promise<readonly SeriesSnapshot[]>
  readonly onFailure: (signal: Signal, error: unknown) => void
}

export interface Otlp {
  /** Undefined where there is nowhere to send them. */
  readonly recordSpan: ((span: SpanRecord) => void) | undefined
  readonly recordLog: LogSink | undefined
  renderMetrics(): Promise<string>
  /** Sends what is left. Takes as long as the collector does. */
  stop(): Promise<void>
}

/** Collects when asked, for `/metrics`. */
class PageReader extends MetricReader {
  protected onShutdown(): Promise<void> {
    return Promise.resolve()
  }
  protected onForceFlush(): Promise<void> {
    return Promise.resolve()
  }
}

export function startOtlp(parts: OtlpParts): Otlp {
  const { collect, service, instance, version, settings } = parts
  const named = resourceFromAttributes({
    'service.namespace': 'understory',
    'service.name': service,
    'service.instance.id': instance,
    'service.version': version,
  })
  // The environment (OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME) counts more.
  const resource = named.merge(detectResources({ detectors: [envDetector] }))
  const producers = { metricProducers: [new MeterProducer(collect, instance, () => Date.now())] }
  const page = new PageReader(producers)
  const pushed = settings?.signals.has('metrics') === true ? [metricsReader(parts, settings, producers)] : []
  const meters = new MeterProvider({ resource, readers: [page, ...pushed] })
  const spans = settings?.signals.has('traces') === true ? spanProcessor(parts, settings) : undefined
  const logs =
    settings?.signals.has('logs') === true
      ? new LoggerProvider({ resource, processors: [logProcessor(parts, settings)] })
      : undefined
  return {
    recordSpan:
      spans === undefined ? undefined : (span) => spans.onEnd(readable(span, parts.timeOriginMs, resource)),
    recordLog: logs === undefined ? undefined : logSink(logs.getLogger(SCOPE.name)),
    renderMetrics: async () => {
      const { resourceMetrics } = await page.collect()
      return renderPrometheus(resourceMetrics)
    },
    stop: async () => {
      await Promise.allSettled([meters.shutdown(), spans?.shutdown(), logs?.shutdown()])
    },
  }
}

/** What the environment says, the exporters read themselves; it has no default as short as ours. */
function timeoutOf(signal: Signal): { timeoutMillis?: number } {
  const variables = [`OTEL_EXPORTER_OTLP_${signal.toUpperCase()}_TIMEOUT`, 'OTEL_EXPORTER_OTLP_TIMEOUT']
  const isGiven = variables.some((variable) => (process.env[variable] ?? '') !== '')
  return isGiven ? {} : { timeoutMillis: EXPORT_TIMEOUT_MS_DEFAULT }
}

interface Exporter<T> {
  export(items: T, done: (result: ExportResult) => void): void
}

/** The exporter, with its failures reported. */
function watched<T, E extends Exporter<T>>(exporter: E, signal: Signal, parts: OtlpParts): E {
  const send = exporter.export.bind(exporter)
  exporter.export = (items: T, done: (result: ExportResult) => void): void =>
    send(items, (result) => {
      if (result.code === ExportResultCode.FAILED) parts.onFailure(signal, result.error)
      // The failure was reported: the SDK's own handler would say it in its own way, once for each batch.
      done({ code: ExportResultCode.SUCCESS })
    })
  return exporter
}

function metricsReader(
  parts: OtlpParts,
  { metricsIntervalMs, timeoutMs }: OtlpSettings,
  producers: { readonly metricProducers: MeterProducer[] },
): MetricReader {
  return new PeriodicExportingMetricReader({
    ...producers,
    exporter: watched(new OTLPMetricExporter(timeoutOf('metrics')), 'metrics', parts),
    exportIntervalMillis: metricsIntervalMs,
    exportTimeoutMillis: Math.min(metricsIntervalMs, timeoutMs * 2),
  })
}

const batches = ({ batchDelayMs, timeoutMs }: OtlpSettings) => ({
  scheduledDelayMillis: batchDelayMs,
  exportTimeoutMillis: timeoutMs * 2,
  maxQueueSize: QUEUE_COUNT_MAX,
  maxExportBatchSize: BATCH_COUNT_MAX,
})

const spanProcessor = (parts: OtlpParts, settings: OtlpSettings): BatchSpanProcessor =>
  new BatchSpanProcessor({
    ...batches(settings),
    exporter: watched(new OTLPTraceExporter(timeoutOf('traces')), 'traces', parts),
  })

const logProcessor = (parts: OtlpParts, settings: OtlpSettings): BatchLogRecordProcessor =>
  new BatchLogRecordProcessor({
    ...batches(settings),
    exporter: watched(new OTLPLogExporter(timeoutOf('logs')), 'logs', parts),
  })

const KINDS: Readonly<Record<SpanKindName, SpanKind>> = {
  internal: SpanKind.INTERNAL,
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
}

const wallOffsets = new WallOffsets()

function readable(span: SpanRecord, timeOriginMs: number, resource: Resource): ReadableSpan {
  const { name, kind, context, parentSpanId, attributes, startMs, endMs, errorType } = span
  const { traceId } = context
  const offsetMs = timeOriginMs + wallOffsets.of(context.traceId)
  const self = { ...context, traceFlags: TraceFlags.SAMPLED }
  return {
    name,
    kind: KINDS[kind],
    spanContext: () => self,
    ...(parentSpanId === undefined
      ? {}
      : { parentSpanContext: { traceId, spanId: parentSpanId, traceFlags: TraceFlags.SAMPLED } }),
    startTime: hrTime(offsetMs + startMs),
    endTime: hrTime(offsetMs + endMs),
    duration: hrTime(Math.max(0, endMs - startMs)),
    status: { code: errorType === undefined ? SpanStatusCode.UNSET : SpanStatusCode.ERROR },
    attributes: errorType === undefined ? attributes : { ...attributes, 'error.type': errorType },
    links: [],
    events: [],
    ended: true,
    resource,
    instrumentationScope: SCOPE,
    droppedAttributesCount: 0,
    droppedEventsCount: 0,
    droppedLinksCount: 0,
  }
}
