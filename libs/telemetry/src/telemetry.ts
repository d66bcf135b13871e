/**
 * Telemetry of a service, begun by its composition root and handed to what it observes. `startTelemetry` returns
 * undefined where none is configured: then nothing is measured, and there is no thread that has the OpenTelemetry SDK.
 */
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { UnderstoryError, describeError } from '@understory/base'
import type { Log, LogRecord } from '@understory/env'
import { Meter, snapshotOf } from './meter.ts'
import type { Instruments } from './meter.ts'
import { PROMETHEUS_CONTENT_TYPE, mergePages } from './metrics-pages.ts'
import { serveMetrics } from './metrics-server.ts'
import type { MetricsServer } from './metrics-server.ts'
import type { SeriesSnapshot } from './otlp-protocol.ts'
import { readOtlpSettings } from './otlp-settings.ts'
import type { Environment, Signal } from './otlp-settings.ts'
import { OtlpThread } from './otlp-thread.ts'
import { observeProcess } from './process-observer.ts'
import { OBJECT_STORE_OPERATIONS, PROCESS_METRICS } from './process-metrics.ts'
import { rpcObserver } from './rpc-observer.ts'
import type { RpcCalls } from './rpc-observer.ts'
import type { MetricTable } from './table.ts'
import { Traces } from './traces.ts'

/** The rest is sent for so long at most when a service stops. */
const STOP_MS_MAX = 2_000
/** A collector that takes nothing is said so once in this time. */
const COMPLAINT_PAUSE_MS = 60_000

/** There is one version of all of it. */
const { version } = createRequire(import.meta.url)('../package.json') as { version: string }

export interface TelemetryParts<T extends MetricTable> {
  /** `understory-safekeeper` and the like. */
  readonly service: string
  /** Name of this process. */
  readonly node: string
  readonly environment: Environment
  readonly metricsListen?: { readonly host: string; readonly port: number } | undefined
  /** The folder whose file system is watched. */
  readonly dataDirectory?: string | undefined
  /** Pages of processes that this one stands for, to be shown with its own. */
  readonly morePages?: () => Promise<readonly string[]>
  readonly metrics: T
}

export interface Telemetry<T extends MetricTable = MetricTable> {
  readonly meter: Meter
  readonly metrics: Instruments<T>
  /** Undefined where traces go nowhere. */
  readonly traces: Traces | undefined
  /** For libs/rpc. */
  readonly rpc: RpcCalls
  /** For libs/object-store: an operation ended. */
  readonly objectStore: StoreOperations
  /** Of /metrics; undefined where it is not served. */
  readonly metricsPort: number | undefined
  /** Takes a line of the log. */
  readonly takeLog: (record: LogRecord) => void
  /** The log that gets trouble with the collector. */
  reportTo(log: Log): void
  /** As `/metrics` shows it. */
  renderMetrics(): Promise<string>
  /** Sends what is left, for a short time. */
  stop(): Promise<void>
}

export type StoreOperation = (typeof OBJECT_STORE_OPERATIONS)[number]
export interface StoreOperations {
  ended(operation: StoreOperation, durationMs: number, error: unknown): void
  moved(direction: 'read' | 'write', bytes: number): void
}

/** Errors: `bad_argument` for a variable that cannot be, `precondition` where the port is taken. */
export async function startTelemetry<T extends MetricTable>(
  parts: TelemetryParts<T>,
): Promise<Telemetry<T> | undefined> {
  const { service, node, environment, metricsListen } = parts
  const settings = readOtlpSettings(environment)
  if (settings === undefined && metricsListen === undefined) return undefined
  const meter = new Meter()
  const own = meter.instruments(PROCESS_METRICS)
  const metrics = meter.instruments(parts.metrics)
  const complaints = new Complaints()
  const onFailure = (signal: Signal, error: unknown): void => {
    own.telemetryDropped.of({ signal }).add(1)
    complaints.report(signal, error)
  }
  const collect = async (): Promise<readonly SeriesSnapshot[]> => {
    const all = await meter.collect((error) => onFailure('metrics', error))
    return all.map(({ spec, cells }) => ({ spec, cells: [...cells].map(snapshotOf) }))
  }
  const otlp = new OtlpThread({
    service,
    instance: node,
    version,
    timeOriginMs: performance.timeOrigin,
    settings,
    environment,
    collect,
    onFailure,
    onEnd: (problem) => complaints.ended(problem),
  })
  const stopObserving = observeProcess(meter, own, parts.dataDirectory)
  const series = own.telemetryDropped.of({ signal: 'metrics' })
  let droppedBefore = 0
  meter.onCollect(() => {
    series.add(meter.dropped - droppedBefore)
    droppedBefore = meter.dropped
  })
  const traces =
    settings?.signals.has('traces') === true
      ? new Traces({
          share: settings.traceShare,
          nowMs: () => performance.now(),
          randomHex: (digits) => randomBytes(digits / 2).toString('hex'),
          record: (span) => otlp.recordSpan(span),
        })
      : undefined
  const isLogSent = settings?.signals.has('logs') === true
  const renderMetrics = async (): Promise<string> =>
    mergePages([await otlp.render(), ...((await parts.morePages?.()) ?? [])])
  const server: MetricsServer | undefined =
    metricsListen === undefined
      ? undefined
      : await serveMetrics(metricsListen, PROMETHEUS_CONTENT_TYPE, renderMetrics).catch(
          async (error: unknown) => {
            stopObserving()
            await otlp.stop(0)
            throw error
          },
        )
  return {
    meter,
    metrics,
    traces,
    rpc: rpcObserver(own, traces),
    objectStore: {
      ended: (operation, durationMs, error) =>
        own.objectStoreDuration.of({ operation, ...failure(error) }).recordMs(durationMs),
      moved: (direction, bytes) => own.objectStoreIo.of({ direction }).add(bytes),
    },
    metricsPort: server?.port,
    takeLog: (record) => {
      own.logRecords.of({ level: record.level }).add(1)
      if (isLogSent) otlp.recordLog(record)
    },
    reportTo: (log) => complaints.reportTo(log),
    renderMetrics,
    stop: async () => {
      await server?.stop()
      await otlp.stop(STOP_MS_MAX)
      stopObserving()
    },
  }
}

/** The label of what failed; none where nothing did. */
const failure = (error: unknown): { 'error.type'?: string } =>
  error === undefined ? {} : { 'error.type': error instanceof UnderstoryError ? error.code : 'bug' }

/** Says of each signal once in a while that it does not get through. */
class Complaints {
  #log: Log | undefined
  #end: string | undefined
  readonly #lastMs = new Map<Signal, number>()

  reportTo(log: Log): void {
    this.#log = log
    if (this.#end !== undefined) this.ended(this.#end)
  }

  ended(problem: string): void {
    // Perhaps before there was a log.
    this.#end = problem
    this.#log?.error('telemetry_ended', { problem })
  }

  report(signal: Signal, error: unknown): void {
    const nowMs = performance.now()
    if (nowMs - (this.#lastMs.get(signal) ?? -Infinity) < COMPLAINT_PAUSE_MS) return
    this.#lastMs.set(signal, nowMs)
    this.#log?.warn('telemetry_dropped', { signal, problem: describeError(error) })
  }
}
