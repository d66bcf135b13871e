/**
 * The standard OTEL_* variables, as far as they decide what is exported and how often. Endpoints, headers, time-outs,
 * compression and certificates are read by the exporters themselves (OTEL_EXPORTER_OTLP_*, also per signal).
 */
import { fail } from '@understory/base'

export type Environment = Readonly<Record<string, string | undefined>>
export const SIGNALS = ['metrics', 'traces', 'logs'] as const
export type Signal = (typeof SIGNALS)[number]

/** Of commits and reads there are thousands a second: one in a thousand is followed. */
const TRACE_SHARE_DEFAULT = 0.001
const METRICS_INTERVAL_MS_DEFAULT = 15_000
const BATCH_DELAY_MS_DEFAULT = 5_000
/** A collector that does not answer is not waited for longer; what was meant for it is dropped. */
export const EXPORT_TIMEOUT_MS_DEFAULT = 3_000

export interface OtlpSettings {
  readonly signals: ReadonlySet<Signal>
  readonly metricsIntervalMs: number
  readonly batchDelayMs: number
  readonly timeoutMs: number
  /** Share of traces that are recorded. */
  readonly traceShare: number
}

/** Undefined where nothing is exported. Errors: `bad_argument`. */
export function readOtlpSettings(given: Environment): OtlpSettings | undefined {
  // As the standard says: one that is empty is as one that is not set.
  const environment = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ''))
  if (environment['OTEL_SDK_DISABLED']?.toLowerCase() === 'true') return undefined
  const signals = new Set(SIGNALS.filter((signal) => isExported(environment, signal)))
  if (signals.size === 0) return undefined
  checkProtocol(environment, 'OTEL_EXPORTER_OTLP_PROTOCOL')
  for (const signal of signals)
    checkProtocol(environment, `OTEL_EXPORTER_OTLP_${signal.toUpperCase()}_PROTOCOL`)
  return {
    signals,
    metricsIntervalMs: readMs(environment, 'OTEL_METRIC_EXPORT_INTERVAL', METRICS_INTERVAL_MS_DEFAULT),
    batchDelayMs: readMs(environment, 'OTEL_BSP_SCHEDULE_DELAY', BATCH_DELAY_MS_DEFAULT),
    timeoutMs: readMs(environment, 'OTEL_EXPORTER_OTLP_TIMEOUT', EXPORT_TIMEOUT_MS_DEFAULT),
    traceShare: readTraceShare(environment),
  }
}

function isExported(environment: Environment, signal: Signal): boolean {
  const name = signal.toUpperCase()
  const exporter = environment[`OTEL_${name}_EXPORTER`] ?? 'otlp'
  if (exporter === 'none') return false
  if (exporter !== 'otlp')
    throw fail('bad_argument', `OTEL_${name}_EXPORTER cannot be "${exporter}"`, {
      hint: 'Use "otlp" or "none"; /metrics for Prometheus is --metrics-listen.',
    })
  const endpoints = [`OTEL_EXPORTER_OTLP_${name}_ENDPOINT`, 'OTEL_EXPORTER_OTLP_ENDPOINT']
  const given = endpoints.filter((variable) => environment[variable] !== undefined)
  for (const variable of given) checkEndpoint(variable, environment[variable] as string)
  return given.length > 0
}

function checkEndpoint(variable: string, endpoint: string): void {
  if (/^https?:$/.test(URL.parse(endpoint)?.protocol ?? '')) return
  throw fail('bad_argument', `${variable} cannot be "${endpoint}": it must be an http or https URL`, {
    hint: 'Such as http://collector:4318.',
  })
}

function checkProtocol(environment: Environment, variable: string): void {
  const protocol = environment[variable]
  if (protocol === undefined || protocol === 'http/protobuf') return
  throw fail('bad_argument', `${variable} cannot be "${protocol}"`, {
    hint: 'Only "http/protobuf" is spoken; a collector takes it at port 4318 mostly.',
  })
}

function readMs(environment: Environment, variable: string, fallback: number): number {
  const text = environment[variable]
  if (text === undefined) return fallback
  const value = Number(text)
  if (Number.isInteger(value) && value > 0) return value
  throw fail('bad_argument', `${variable} cannot be "${text}": it must be a number of milliseconds`)
}

function readTraceShare(environment: Environment): number {
  const sampler = environment['OTEL_TRACES_SAMPLER'] ?? 'parentbased_traceidratio'
  const argument = environment['OTEL_TRACES_SAMPLER_ARG']
  switch (sampler.replace('parentbased_', '')) {
    case 'always_on':
      return 1
    case 'always_off':
      return 0
    case 'traceidratio': {
      const share = argument === undefined ? TRACE_SHARE_DEFAULT : Number(argument)
      if (share >= 0 && share <= 1) return share
      throw fail('bad_argument', `OTEL_TRACES_SAMPLER_ARG cannot be "${argument}": it must be from 0 to 1`)
    }
    default:
      throw fail('bad_argument', `OTEL_TRACES_SAMPLER cannot be "${sampler}"`, {
        hint: 'Use always_on, always_off or traceidratio, alone or after "parentbased_".',
      })
  }
}
