/**
 * Server set-up. Handlers are plain async functions and async generators; these adapters convert errors, hand over an
 * `AbortSignal` that fires when the caller goes away, and stop reading or generating while the other side is slow.
 */
import type { Readable } from 'node:stream'
import { describeError, fail, UnderstoryError } from '@understory/base'
import { Server, ServerCredentials, logVerbosity, setLogVerbosity } from '@grpc/grpc-js'
import type {
  Metadata,
  ServiceDefinition,
  UntypedServiceImplementation,
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
} from '@grpc/grpc-js'
import { SERVER_LIMITS, admission } from './admission.ts'
import type { ServerLimits } from './admission.ts'
import type { ServerContext } from './context.ts'
import { checkListener } from './exposure.ts'
import { readOneAhead } from './incoming-call.ts'
import { HEALTH_NOT_SERVING, HEALTH_SERVING, HealthService } from './health.ts'
import type { HealthCheck, HealthRequest } from './health.ts'
import { serverCredentials } from './security.ts'
import { messagesLeft, writeMessage } from './stream.ts'
import { observeCall } from './observer.ts'
import type { ObservedCall } from './observer.ts'
import { MESSAGE_BYTES_MAX, limitRequests } from './request-limits.ts'
import { statusName, toServiceError } from './status.ts'

// The text that it would print is in its errors.
setLogVerbosity(logVerbosity.NONE)

/**
 * A peer that does not answer a ping within the time-out is taken for lost, with all its calls. A peer that is only
 * busy, or starved of CPU by its neighbours, must not be: its streams would begin again, which makes it busier still.
 */
export const KEEPALIVE_OPTIONS = {
  'grpc.keepalive_time_ms': 20_000,
  'grpc.keepalive_timeout_ms': 20_000,
}

const CHANNEL_OPTIONS = {
  // Each RPC has its own limit, which is lower or the same.
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
  ...KEEPALIVE_OPTIONS,
  'grpc.http2.min_ping_interval_without_data_ms': 5_000,
  // Of one connection. All clients of a process share one, and a pageserver has a stream for each shard that a
  // safekeeper feeds: beyond the limit their calls would wait without a word. Its memory counts in MiB what waits to be
  // sent: several messages of the largest size.
  'grpc.max_concurrent_streams': 16_384,
  'grpc-node.max_session_memory': 256,
}

/** For connections to close once their calls are cut. */
const CUT_MS_MAX = 1_000

export interface CallContext {
  /** Fires when the caller cancelled, went away, or its deadline passed. */
  readonly signal: AbortSignal
}

/** A handler that the server which it is added to gives its context. */
export type ForServer<H> = (server: ServerContext) => H

interface Cancellable {
  readonly metadata: Metadata
  on(event: 'cancelled', listener: () => void): unknown
  getPath(): string
}

interface Begun {
  readonly context: CallContext
  readonly controller: AbortController
  /** Undefined without an observer. */
  readonly observed: ObservedCall | undefined
  /** The status that is sent for an error, which ends the call. */
  readonly refusal: (error: unknown) => ReturnType<typeof toServiceError>
}

function begin({ observer, reportBug }: ServerContext, call: Cancellable, isStream: boolean): Begun {
  const controller = new AbortController()
  const observed = observeCall(observer, call.getPath(), call.metadata, isStream)
  call.on('cancelled', () => {
    controller.abort()
    observed?.end('CANCELLED')
  })
  const refusal = (error: unknown): ReturnType<typeof toServiceError> => {
    const cause = isCut(error) ? fail('cancelled', 'the caller went away', { cause: error }) : error
    if (!(cause instanceof UnderstoryError)) reportBug(cause, call.getPath())
    const converted = toServiceError(cause)
    observed?.end(statusName(converted.code))
    return converted
  }
  return { context: { signal: controller.signal }, controller, observed, refusal }
}

/**
 * Whether reading the requests of a call failed because it was cut: the caller went away, or sent a malformed message.
 */
const isCut = (error: unknown): error is Error =>
  error instanceof Error && 'code' in error && error.code === 'ERR_STREAM_PREMATURE_CLOSE'

export function unary<Q, S>(
  handle: (request: Q, context: CallContext) => Promise<S> | S,
): ForServer<handleUnaryCall<Q, S>> {
  return (server) => (call, callback) => {
    const { context, observed, refusal } = begin(server, call, false)
    const work = async (): Promise<S> => handle(call.request, context)
    void (observed === undefined ? work() : observed.run(work)).then(
      (response) => {
        observed?.end('OK')
        callback(null, response)
      },
      (error: unknown) => callback(refusal(error)),
    )
  }
}

export function serverStream<Q, S>(
  handle: (request: Q, context: CallContext) => AsyncIterable<S>,
): ForServer<handleServerStreamingCall<Q, S>> {
  return (server) => (call) => {
    const { context, controller, observed, refusal } = begin(server, call, true)
    void (async () => {
      for await (const response of handle(call.request, context)) {
        if (context.signal.aborted) return
        await writeMessage(call, response, context.signal)
      }
      observed?.end('OK')
      call.end()
    })().catch(async (error: unknown) => {
      await messagesLeft(call)
      if (!context.signal.aborted) call.emit('error', refusal(error))
      controller.abort()
    })
  }
}

/** A handler that ends before its caller must not tear the call down: its answer or error is still to be sent. */
function requestsOf<Q>(call: Readable): AsyncIterable<Q> {
  readOneAhead(call)
  return call.iterator({ destroyOnReturn: false }) as AsyncIterable<Q>
}

export function clientStream<Q, S>(
  handle: (requests: AsyncIterable<Q>, context: CallContext) => Promise<S>,
): ForServer<handleClientStreamingCall<Q, S>> {
  return (server) => (call, callback) => {
    const { context, observed, refusal } = begin(server, call, true)
    void handle(requestsOf<Q>(call), context).then(
      (response) => {
        observed?.end('OK')
        callback(null, response)
      },
      (error: unknown) => callback(refusal(error)),
    )
  }
}

/** `requests` ends when the caller half-closes. The handler's generator ending closes the call. */
export function bidiStream<Q, S>(
  handle: (requests: AsyncIterable<Q>, context: CallContext) => AsyncIterable<S>,
): ForServer<handleBidiStreamingCall<Q, S>> {
  return (server) => (call) => {
    const { context, controller, observed, refusal } = begin(server, call, true)
    // A caller that dies resets the stream; the handler learns of it through the signal and the end of `requests`.
    call.on('error', () => controller.abort())
    void (async () => {
      for await (const response of handle(requestsOf<Q>(call), context)) {
        if (context.signal.aborted) return
        await writeMessage(call, response, context.signal)
      }
      observed?.end('OK')
      call.end()
    })().catch(async (error: unknown) => {
      await messagesLeft(call)
      if (!context.signal.aborted) call.emit('error', refusal(error))
      controller.abort()
    })
  }
}

/** The handlers of a service as `unary`, `serverStream`, `clientStream` and `bidiStream` make them. */
export type Handlers<I extends UntypedServiceImplementation> = { readonly [K in keyof I]: ForServer<I[K]> }

export interface RpcService {
  readonly definition: ServiceDefinition
  readonly handlers: Handlers<UntypedServiceImplementation>
}

/**
 * A service definition with its handlers: `service<BrokerServiceServer>(BrokerServiceService, { … })` checks them and
 * gives each handler its types.
 */
export function service<I extends UntypedServiceImplementation = never>(
  definition: ServiceDefinition,
  handlers: Handlers<I>,
): RpcService {
  return { definition, handlers }
}

/** A handler as grpc-js takes it. */
const implementationOf = ({ handlers }: RpcService, context: ServerContext): UntypedServiceImplementation =>
  Object.fromEntries(Object.entries(handlers).map(([name, handler]) => [name, handler(context)]))

export interface RpcServer {
  readonly port: number
  /** host:port, for others. */
  readonly address: string
  /** Lets calls under way finish for `graceMs`, then cuts them; a peer that hangs is not waited for. */
  stop(graceMs: number): Promise<void>
}

const healthService = (check: HealthCheck): RpcService => ({
  definition: HealthService,
  handlers: {
    check: unary(({ service: name }: HealthRequest) => {
      const isServing = check(name)
      if (isServing === undefined) throw fail('not_found', `there is no service "${name}" here`)
      return { status: isServing ? HEALTH_SERVING : HEALTH_NOT_SERVING }
    }),
  },
})

const serving: HealthCheck = (name) => (name === '' ? true : undefined)

/** The port. Errors: `precondition` when it is taken. */
function bind(
  server: Server,
  { host, port }: { readonly host: string; readonly port: number },
  security: ServerCredentials,
): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`${host}:${port}`, security, (error, bound) => {
      if (error === null) return resolve(bound)
      reject(
        fail('precondition', `could not listen on ${host}:${port}`, {
          detail: describeError(error),
          hint: 'Choose another port, or stop what is using this one.',
          cause: error,
        }),
      )
    })
  })
}

function newServer(context: ServerContext, changedLimits: Partial<ServerLimits> = {}): Server {
  const limits = { ...SERVER_LIMITS, ...changedLimits }
  return new Server({
    ...CHANNEL_OPTIONS,
    'grpc.max_connection_idle_ms': limits.connectionIdleMs,
    'grpc.max_connection_age_ms': limits.connectionAgeMs,
    interceptors: [admission(context, limits)],
  })
}

/**
 * Listens on `host:port` (0 = any free port). Errors: `precondition` when the port is taken, or when the services
 * would be open to a network: off loopback without TLS or token, and it has not been declared private.
 */
export async function startServer(
  context: ServerContext,
  options: {
    readonly host: string
    readonly port: number
    /** host:port under which others find it; by default what it listens on. */
    readonly advertise?: string | undefined
    readonly services: readonly RpcService[]
    /** The answer to probes; by default that the whole is well. */
    readonly health?: HealthCheck
    /** Where it is served too, without TLS: the probes of Kubernetes have none. */
    readonly healthListen?: { readonly host: string; readonly port: number } | undefined
    readonly limits?: Partial<ServerLimits> | undefined
  },
): Promise<RpcServer> {
  const { security } = context
  if (options.services.length > 0) checkListener(options.host, security)
  const server = newServer(context, options.limits)
  for (const added of options.services)
    server.addService(limitRequests(added.definition), implementationOf(added, context))
  const health = healthService(options.health ?? serving)
  server.addService(health.definition, implementationOf(health, context))
  const port = await bind(server, options, serverCredentials(security))
  const probed =
    options.healthListen === undefined ? undefined : newServer({ ...context, security: {} }, options.limits)
  if (probed !== undefined && options.healthListen !== undefined) {
    probed.addService(health.definition, implementationOf(health, context))
    await bind(probed, options.healthListen, ServerCredentials.createInsecure())
  }
  return {
    port,
    address: options.advertise ?? `${options.host}:${port}`,
    stop: async (graceMs) => {
      await shutDown(server, graceMs)
      // To the last: probes have to see that this one still ends.
      probed?.forceShutdown()
    },
  }
}

function shutDown(server: Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    let timer = setTimeout(() => {
      server.forceShutdown()
      // A peer that hangs reads not even the end of its connection.
      timer = setTimeout(resolve, CUT_MS_MAX)
    }, graceMs)
    server.tryShutdown(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}
