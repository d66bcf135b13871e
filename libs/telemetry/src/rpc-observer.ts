/** Durations and spans of calls, as OpenTelemetry names them, for the seam that libs/rpc has. */
import type { HistogramCell, Instruments } from './meter.ts'
import { RPC_REFUSALS } from './process-metrics.ts'
import type { PROCESS_METRICS } from './process-metrics.ts'
import type { Span, Traces } from './traces.ts'

/** One call: `traceparent` travels with it, `run` is what it does. */
export interface RpcCall {
  readonly traceparent: string | undefined
  run<T>(work: () => T): T
  /** `status` as gRPC names it, `OK` where all is well. */
  end(status: string): void
}

export interface RpcCalls {
  /** `method` is `understory.v1.SomeService/SomeMethod`. */
  beginClient(method: string): RpcCall
  beginServer(method: string, traceparent: string | undefined, isStream: boolean): RpcCall
  /** A call that never reached its handler. */
  readonly refused: (reason: (typeof RPC_REFUSALS)[number]) => void
}

const SERVED = { kind: 'server' } as const

type RpcHistogram = Pick<Instruments<typeof PROCESS_METRICS>, 'rpcClientDuration'>['rpcClientDuration']

export function rpcObserver(
  { rpcClientDuration, rpcServerDuration, rpcRefused }: Instruments<typeof PROCESS_METRICS>,
  traces: Traces | undefined,
): RpcCalls {
  const client = new Durations(rpcClientDuration)
  const server = new Durations(rpcServerDuration)
  // A counter that is there from the start has a rate at its first refusal.
  for (const reason of RPC_REFUSALS) rpcRefused.of({ reason })
  const begin = (durations: Durations, method: string, span: Span | undefined): RpcCall => {
    const startMs = performance.now()
    let isEnded = false
    return {
      traceparent: span?.traceparent,
      run: (work) => (traces === undefined ? work() : traces.run(span, work)),
      end: (status) => {
        if (isEnded) return
        isEnded = true
        durations.cell(method, status).recordMs(performance.now() - startMs)
        if (span === undefined) return
        span.set({ 'rpc.system.name': 'grpc', 'rpc.method': method, 'rpc.status_code': status })
        span.end(status === 'OK' ? undefined : status)
      },
    }
  }
  return {
    beginClient: (method) => begin(client, method, traces?.active?.child(method, { kind: 'client' })),
    refused: (reason) => rpcRefused.of({ reason }).add(1),
    beginServer: (method, traceparent, isStream) => {
      // A stream stands for hours: what comes by it begins traces of its own.
      const span = isStream
        ? traces?.follow(traceparent, method, SERVED)
        : traces?.enter(traceparent, method, SERVED)
      return begin(server, method, span)
    },
  }
}

/** Finds the series of a method and status without making its labels each time. */
class Durations {
  readonly #histogram: RpcHistogram
  readonly #cells = new Map<string, HistogramCell>()

  constructor(histogram: RpcHistogram) {
    this.#histogram = histogram
  }

  cell(method: string, status: string): HistogramCell {
    const key = `${method} ${status}`
    const known = this.#cells.get(key)
    if (known !== undefined) return known
    const made = this.#histogram.of({
      'rpc.system.name': 'grpc',
      'rpc.method': method,
      'rpc.status_code': status,
      ...(status === 'OK' ? {} : { 'error.type': status }),
    })
    this.#cells.set(key, made)
    return made
  }
}
