/**
 * The seam by which calls are observed: durations, and the W3C trace context that travels in the metadata
 * `traceparent`. Without an observer no interceptor is installed, and nothing is called.
 */
import type { InterceptingCall, InterceptingListener, Interceptor, Metadata } from '@grpc/grpc-js'
import { statusName } from './status.ts'

/** Why a call was refused before it reached its handler. */
export type Refusal = 'no_token' | 'wrong_token' | 'compressed' | 'too_many_waiting' | 'late' | 'too_large'

const TRACEPARENT = 'traceparent'

/** One call that is observed. */
export interface ObservedCall {
  /** The context for the peer; undefined where this call is not recorded. */
  readonly traceparent: string | undefined
  /** Does the work of the call as part of it. */
  run<T>(work: () => T): T
  /** `status` as gRPC names it. Called once; later calls do not count. */
  end(status: string): void
}

export interface RpcObserver {
  /** `method` is `understory.v1.SomeService/SomeMethod`. */
  beginClient(method: string): ObservedCall
  beginServer(method: string, traceparent: string | undefined, isStream: boolean): ObservedCall
  /** A call that never reached its handler. */
  readonly refused: (reason: Refusal) => void
}

/** A call that came in; undefined without an observer. `path` is `/package.Service/Method`. */
export function observeCall(
  observer: RpcObserver | undefined,
  path: string,
  metadata: Metadata,
  isStream: boolean,
): ObservedCall | undefined {
  if (observer === undefined) return undefined
  const [value] = metadata.get(TRACEPARENT)
  return observer.beginServer(path.slice(1), typeof value === 'string' ? value : undefined, isStream)
}

/** Options of a client. */
export const clientInterceptors = (observer: RpcObserver | undefined): Interceptor[] =>
  observer === undefined ? [] : [intercept(observer)]

/** Only the beginning and the end of a call pass through it: messages of a stream go their way untouched. */
const intercept =
  (observer: RpcObserver): Interceptor =>
  (options, nextCall) => {
    const call = nextCall(options)
    const start = call.start.bind(call)
    call.start = (metadata, listener) => {
      const observed = observer.beginClient(options.method_definition.path.slice(1))
      if (observed.traceparent !== undefined) metadata.set(TRACEPARENT, observed.traceparent)
      start(metadata, listening(listener ?? {}, observed))
    }
    // All that is asked of an interceptor's call is what this one has.
    return call as InterceptingCall
  }

const listening = (
  listener: Partial<InterceptingListener>,
  observed: ObservedCall,
): Partial<InterceptingListener> => ({
  onReceiveMetadata: (metadata: Metadata) => listener.onReceiveMetadata?.(metadata),
  onReceiveMessage: (message: unknown) => listener.onReceiveMessage?.(message),
  onReceiveStatus: (status) => {
    observed.end(statusName(status.code))
    listener.onReceiveStatus?.(status)
  },
})
