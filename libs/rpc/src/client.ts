/**
 * Client set-up. Calls take a deadline and an `AbortSignal`; errors come back as `UnderstoryError`.
 */
import { fail } from '@understory/base'
import { Channel, Metadata } from '@grpc/grpc-js'
import type {
  CallOptions as GrpcCallOptions,
  ChannelCredentials,
  ClientDuplexStream,
  ClientOptions,
  ClientReadableStream,
  ClientUnaryCall,
  ClientWritableStream,
  ServiceError,
} from '@grpc/grpc-js'
import type { ClientContext } from './context.ts'
import { clearTokenProblem, failing } from './exposure.ts'
import { clientInterceptors } from './observer.ts'
import { RedialingChannel } from './redial.ts'
import { MESSAGE_BYTES_MAX } from './request-limits.ts'
import { channelCredentials, securityOptions } from './security.ts'
import { KEEPALIVE_OPTIONS } from './server.ts'
import { fromServiceError } from './status.ts'
import { writeMessage } from './stream.ts'

type ClientConstructor<C> = new (
  address: string,
  creds: ChannelCredentials,
  options?: Partial<ClientOptions>,
) => C

/** Unless a caller says otherwise. */
export const DEADLINE_DEFAULT_MS = 30_000

/**
 * A client for `address` (host:port) with the TLS, token and observer of `context`; the connection is made by the first
 * call and again after it was lost. Where a token would be sent off loopback in the clear, every call is refused
 * `precondition`.
 */
export function createClient<C>(
  { security, observer }: ClientContext,
  Client: ClientConstructor<C>,
  address: string,
): C {
  const problem = clearTokenProblem(address, security)
  const interceptors = [...clientInterceptors(observer), ...(problem === undefined ? [] : [failing(problem)])]
  return new Client(address, channelCredentials(security), {
    ...securityOptions(security),
    interceptors,
    channelFactoryOverride: (target, creds, options) =>
      new RedialingChannel(() => new Channel(target, creds, options)),
    'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
    'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
    ...KEEPALIVE_OPTIONS,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2_000,
    // A name may mean another address a moment later: a pod that was replaced.
    'grpc.dns_min_time_between_resolutions_ms': 1_000,
  })
}

/** Longest that a timer takes, 24 days: what is longer is none. gRPC refuses what its header cannot say, in a throw. */
const DEADLINE_MS_MAX = 0x7fff_ffff

export interface CallOptions {
  /** Milliseconds until the call fails with `timeout`; Infinity for none. */
  readonly deadlineMs?: number
  readonly signal?: AbortSignal | undefined
  /**
   * Of a stream: milliseconds that pass without a message, while one is waited for, until it fails with `timeout`. A
   * peer that hangs may answer keepalives for ever.
   */
  readonly silenceMsMax?: number
  /** Names the peer in errors. */
  readonly peer?: string
}

function grpcOptions(options: CallOptions, defaultMs: number): GrpcCallOptions {
  const deadlineMs = options.deadlineMs ?? defaultMs
  return deadlineMs <= DEADLINE_MS_MAX ? { deadline: new Date(Date.now() + deadlineMs) } : {}
}

type UnaryMethod<Q, S> = (
  request: Q,
  metadata: Metadata,
  options: Partial<GrpcCallOptions>,
  callback: (error: ServiceError | null, response: S) => void,
) => ClientUnaryCall

/** `callUnary(client.getThing.bind(client), request)`. */
export function callUnary<Q, S>(
  method: UnaryMethod<Q, S>,
  request: Q,
  options: CallOptions = {},
): Promise<S> {
  return new Promise((resolve, reject) => {
    if (options.signal?.aborted === true) return reject(fail('cancelled', 'call was cancelled'))
    const onAbort = (): void => call.cancel()
    const call = method(
      request,
      new Metadata(),
      grpcOptions(options, DEADLINE_DEFAULT_MS),
      (error, response) => {
        options.signal?.removeEventListener('abort', onAbort)
        if (error === null) resolve(response)
        else reject(fromServiceError(error, options.peer ?? 'the server'))
      },
    )
    options.signal?.addEventListener('abort', onAbort, { once: true })
    return undefined
  })
}

/** Calls back once no message came for `msMax` while one was awaited. */
class Silence {
  readonly #timer: NodeJS.Timeout | undefined
  #isAwaited = true
  isTooLong = false

  constructor(msMax: number | undefined, tooLong: () => void) {
    if (msMax === undefined) return
    this.#timer = setTimeout(() => {
      if (!this.#isAwaited) return
      this.isTooLong = true
      tooLong()
    }, msMax)
  }

  set isAwaited(isAwaited: boolean) {
    this.#isAwaited = isAwaited
    if (isAwaited) this.#timer?.refresh()
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer)
  }
}

/** Yields a stream's messages; its failure is thrown as an `UnderstoryError`. Leaving the loop cancels the call. */
async function* readMessages<S>(
  call: ClientReadableStream<S> | ClientDuplexStream<never, S>,
  options: CallOptions,
): AsyncGenerator<S, void, void> {
  const onAbort = (): void => call.cancel()
  options.signal?.addEventListener('abort', onAbort, { once: true })
  // A signal that fired before does not call the listener.
  if (options.signal?.aborted === true) call.cancel()
  const peer = options.peer ?? 'the server'
  using silence = new Silence(options.silenceMsMax, () => call.cancel())
  try {
    for await (const message of call) {
      // The time that the reader takes does not count as silence.
      silence.isAwaited = false
      yield message as S
      silence.isAwaited = true
    }
  } catch (error) {
    if (silence.isTooLong) throw fail('timeout', `${peer} sent nothing for ${options.silenceMsMax} ms`)
    throw fromServiceError(error, peer)
  } finally {
    options.signal?.removeEventListener('abort', onAbort)
    call.cancel()
  }
}

type ServerStreamMethod<Q, S> = (
  request: Q,
  metadata?: Metadata,
  options?: Partial<GrpcCallOptions>,
) => ClientReadableStream<S>

/** Without a deadline unless one is given. */
export function callServerStream<Q, S>(
  method: ServerStreamMethod<Q, S>,
  request: Q,
  options: CallOptions = {},
): AsyncGenerator<S, void, void> {
  return readMessages(method(request, new Metadata(), grpcOptions(options, Infinity)), options)
}

/** An open bidirectional stream. Failures arrive through `messages`. */
export interface BidiStream<Q, S> {
  /** Resolves when the stream takes more; rejects `cancelled` once it is closed. */
  send(message: Q): Promise<void>
  /** To be iterated once; leaving the loop cancels the stream. */
  readonly messages: AsyncGenerator<S, void, void>
  /** No more messages from this side. */
  end(): void
  cancel(): void
}

type BidiMethod<Q, S> = (metadata: Metadata, options?: Partial<GrpcCallOptions>) => ClientDuplexStream<Q, S>

export function openBidi<Q, S>(method: BidiMethod<Q, S>, options: CallOptions = {}): BidiStream<Q, S> {
  const call = method(new Metadata(), grpcOptions(options, Infinity))
  // Without a listener of its own an error before iteration begins would end the process.
  call.on('error', () => undefined)
  return {
    send: (message) => writeMessage(call, message, options.signal),
    messages: readMessages(call as unknown as ClientDuplexStream<never, S>, options),
    end: () => call.end(),
    cancel: () => call.cancel(),
  }
}

type ClientStreamMethod<Q, S> = (
  metadata: Metadata,
  options: Partial<GrpcCallOptions>,
  callback: (error: ServiceError | null, response: S) => void,
) => ClientWritableStream<Q>

/** Sends every message of `requests` and resolves with the one response. */
export async function callClientStream<Q, S>(
  method: ClientStreamMethod<Q, S>,
  requests: AsyncIterable<Q>,
  options: CallOptions = {},
): Promise<S> {
  const peer = options.peer ?? 'the server'
  const stop = new AbortController()
  let call: ClientWritableStream<Q> | undefined
  const response = new Promise<S>((resolve, reject) => {
    call = method(new Metadata(), grpcOptions(options, Infinity), (error, value) => {
      if (error === null) resolve(value)
      else reject(fromServiceError(error, peer))
      stop.abort()
    })
    call.on('error', () => undefined)
  })
  const writable = call as unknown as ClientWritableStream<Q>
  options.signal?.addEventListener('abort', () => writable.cancel(), { once: true })
  const sending = (async () => {
    for await (const request of requests) {
      if (stop.signal.aborted) return
      await writeMessage(writable, request, stop.signal)
    }
    writable.end()
  })()
  // A server that answers early, with an error mostly, is what matters then; a failure of `requests` itself cancels.
  sending.catch(() => {
    if (!stop.signal.aborted) writable.cancel()
  })
  try {
    return await response
  } catch (error) {
    await sending.catch((cause: unknown) => {
      if (!(cause instanceof Error && 'code' in cause && cause.code === 'cancelled')) throw cause
    })
    throw error
  }
}
