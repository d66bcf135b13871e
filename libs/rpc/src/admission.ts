/**
 * Admits or refuses callers and calls before a byte of a message is read. The caller shows its token in the
 * metadata, which comes first; until then the stream is paused, so that a stranger costs a header and nothing else.
 * Messages are not compressed, are limited by RPC, and the first one has to come within a deadline: without it a caller
 * could hold what it has half sent for ever.
 */
import { ServerInterceptingCall } from '@grpc/grpc-js'
import type { Metadata, ServerInterceptor } from '@grpc/grpc-js'
import { fail } from '@understory/base'
import type { UnderstoryError } from '@understory/base'
import { effectOf } from './call-log.ts'
import type { ServerContext } from './context.ts'
import { HealthService } from './health.ts'
import { IncomingCall } from './incoming-call.ts'
import type { Refusal } from './observer.ts'
import { RefusedRequest, limitsOf } from './request-limits.ts'
import { tokenNumber } from './security.ts'
import { statusName, toServiceError } from './status.ts'

export interface ServerLimits {
  /** Until a call's first message is there. */
  readonly firstMessageMs: number
  /** Bytes of first messages that are not complete, of all calls together. */
  readonly waitingBytesMax: number
  /** Calls whose first message is not there. */
  readonly waitingCallsMax: number
  /** A connection that has no call for so long is closed. */
  readonly connectionIdleMs: number
  /** An older connection takes no new calls; those it has may last as long as they need. */
  readonly connectionAgeMs: number
}

export const SERVER_LIMITS: ServerLimits = {
  firstMessageMs: 10_000,
  waitingBytesMax: 64 * 1024 * 1024,
  waitingCallsMax: 4_096,
  connectionIdleMs: 600_000,
  connectionAgeMs: 3_600_000,
}

interface Refused {
  readonly reason: Refusal
  readonly error: unknown
}

/** Of health checks, which strangers may begin: they are counted apart from the calls of those who have the token. */
const HEALTH_CHECKS_WAITING_MAX = 256

type Refuse = (refused: Refused) => void

/** Calls of one server that wait for their first message, and what they hold of it. */
class WaitingCalls {
  /** In the order of their arrival. */
  readonly #calls = new Set<Refuse>()
  #bytes = 0
  readonly #limits: ServerLimits

  constructor(limits: ServerLimits) {
    this.#limits = limits
  }

  get isFull(): boolean {
    return this.#calls.size >= this.#limits.waitingCallsMax
  }

  /** The call that has waited longest has to end. */
  endOldest(): void {
    const [oldest] = this.#calls
    oldest?.({ reason: 'too_many_waiting', error: tooMany() })
  }

  /** Watches `call` until what it returns is called. `refuse` is called with the reason why the call has to end. */
  add(call: IncomingCall, refuse: Refuse): () => void {
    const { firstMessageMs, waitingBytesMax } = this.#limits
    let held = 0
    this.#calls.add(refuse)
    const timer = setTimeout(() => {
      const error = fail('timeout', `the first message did not come within ${firstMessageMs} ms`)
      refuse({ reason: 'late', error })
    }, firstMessageMs)
    const stopCounting = call.onData((bytes) => {
      held += bytes
      this.#bytes += bytes
      if (this.#bytes > waitingBytesMax) refuse({ reason: 'too_many_waiting', error: tooMany() })
    })
    let isOver = false
    return () => {
      if (isOver) return
      isOver = true
      clearTimeout(timer)
      stopCounting()
      this.#calls.delete(refuse)
      this.#bytes -= held
    }
  }
}

const tooMany = (): UnderstoryError =>
  fail('unavailable', 'too many calls are waiting for their first message', { hint: 'Try again later.' })

const isHealthCheck = (path: string): boolean => path === HealthService.check.path

/** For one server. Without a token every client may call; health checks need none. */
export function admission(context: ServerContext, limits: ServerLimits): ServerInterceptor {
  const { observer, callLog } = context
  const { token } = context.security
  const waiting = new WaitingCalls(limits)
  const waitingChecks = new WaitingCalls({ ...limits, waitingCallsMax: HEALTH_CHECKS_WAITING_MAX })

  /** Why the call is refused, or who the caller is. */
  const admit = (path: string, metadata: Metadata, encoding: string): Refused | { principal: string } => {
    let principal = 'none'
    if (!isHealthCheck(path) && token !== undefined) {
      try {
        principal = `token ${tokenNumber(metadata, token)}`
      } catch (error) {
        const reason = metadata.get('authorization').length === 0 ? 'no_token' : 'wrong_token'
        return { reason, error }
      }
    }
    if (encoding !== 'identity') {
      const error = fail('unsupported', `messages compressed by "${encoding}" are not read`, {
        hint: 'Send them without compression.',
      })
      return { reason: 'compressed', error }
    }
    // A probe that sends its message at once is answered however many others leave theirs open.
    if (isHealthCheck(path) && waitingChecks.isFull) waitingChecks.endOldest()
    if (!isHealthCheck(path) && waiting.isFull) return { reason: 'too_many_waiting', error: tooMany() }
    return { principal }
  }

  return ({ path, requestStream }, call) => {
    const incoming = new IncomingCall(call)
    incoming.limitMessages(limitsOf(path).bytesMax)
    // Asked now: a call that was cut has none any more.
    const peer = call.getPeer()
    let stopWaiting = (): void => undefined
    /** Of a call that was admitted and changes something, until it is reported. */
    let change: { readonly principal: string; request: unknown } | undefined
    const reportEnd = (outcome: string): void => {
      if (change === undefined) return
      const { principal, request } = change
      change = undefined
      callLog?.change({ path, peer, principal }, request, outcome)
    }
    const end = ({ reason, error }: Refused): void => {
      stopWaiting()
      change = undefined
      observer?.refused(reason)
      callLog?.refusal(reason, path, peer)
      call.sendStatus(toServiceError(error))
      incoming.close()
    }
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, forward) => {
            const admitted = admit(path, metadata, incoming.encoding)
            if ('reason' in admitted) return end(admitted)
            if (effectOf(path) !== 'reads') change = { ...admitted, request: undefined }
            stopWaiting = (isHealthCheck(path) ? waitingChecks : waiting).add(incoming, end)
            return forward(metadata)
          },
          onReceiveMessage: (message: unknown, forward) => {
            // A call of one request is handled once its caller has ended its side, too.
            if (requestStream) stopWaiting()
            if (message instanceof RefusedRequest) return end({ reason: 'too_large', error: message.error })
            if (change !== undefined) change.request ??= message
            return forward(message)
          },
          onReceiveHalfClose: (forward) => {
            stopWaiting()
            forward()
          },
          onCancel: () => {
            stopWaiting()
            reportEnd('CANCELLED')
          },
        }),
      sendStatus: (sent, next) => {
        reportEnd(statusName(sent.code))
        next(sent)
      },
    })
  }
}
