/**
 * The calls of one client: its channels, one for each address, and deadline, retries and cancellation of every call.
 * `close` ends what is under way, then the channels.
 */
import { fail } from '@understory/base'
import { callServerStream, callUnary, createClient } from '@understory/rpc'
import type { ClientContext } from '@understory/rpc'
import type { CallOptions } from './api.ts'
import { readDuration, readOptions, readSignal } from './arguments.ts'
import type { ClientSettings } from './options.ts'
import { retrying } from './retry.ts'
import { joinSignals } from './signals.ts'
import { asLoss, withHint } from './trouble.ts'

export interface CallsSettings extends Omit<ClientSettings, 'credentials'> {
  readonly rpc: ClientContext
}

interface Closable {
  close(): void
}

export type UnaryMethod<Q, S> = Parameters<typeof callUnary<Q, S>>[0]
type StreamMethod<Q, S> = Parameters<typeof callServerStream<Q, S>>[0]

/** A try of a call: its time, and what ends it before. */
export interface Try {
  readonly deadlineMs: number
  readonly signal: AbortSignal
  /** From 0 on. */
  readonly attempt: number
}

interface StreamOptions {
  readonly signal?: AbortSignal | undefined
  readonly peer?: string
  /** Milliseconds without a message until it fails with `timeout`. */
  readonly silenceMsMax?: number
}

export class Calls {
  readonly #settings: CallsSettings
  readonly #channels = new Map<string, Closable>()
  readonly #closing = new AbortController()

  constructor(settings: CallsSettings) {
    this.#settings = settings
  }

  /** The name of the control plane in errors. */
  get peer(): string {
    return `the control plane at ${this.#settings.endpoint}`
  }

  /** Fires when the client is closed. */
  get closing(): AbortSignal {
    return this.#closing.signal
  }

  /** The client of a service at an address, made by the first call. */
  to<C extends Closable>(
    Client: Parameters<typeof createClient<C>>[1],
    address = this.#settings.endpoint,
  ): C {
    if (this.closing.aborted) {
      throw fail('precondition', 'the client is closed', { hint: 'Make another one with createClient.' })
    }
    const known = this.#channels.get(address)
    if (known !== undefined) return known as C
    const client = createClient(this.#settings.rpc, Client, address)
    this.#channels.set(address, client)
    return client
  }

  /** Makes a call, or what consists of several, within one deadline, and again where what went wrong may pass. */
  async retrying<T>(options: CallOptions | undefined, run: (one: Try) => Promise<T>): Promise<T> {
    const { deadlineMs, signal } = readOptions('options', options)
    const limitMs =
      deadlineMs === undefined ? this.#settings.deadlineMs : readDuration('deadlineMs', deadlineMs)
    using joined = joinSignals(readSignal(signal), this.closing)
    const how = { retries: this.#settings.retries, deadlineMs: limitMs, signal: joined.signal }
    try {
      return await retrying(how, (leftMs, attempt) =>
        run({ deadlineMs: leftMs, signal: joined.signal, attempt }),
      )
    } catch (error) {
      throw withHint(error)
    }
  }

  /** For calls that a second try does not make twice. */
  unary<Q, S>(method: UnaryMethod<Q, S>, request: Q, options: CallOptions | undefined): Promise<S> {
    return this.retrying(options, (one) => this.once(method, request, one))
  }

  async once<Q, S>(
    method: UnaryMethod<Q, S>,
    request: Q,
    { deadlineMs, signal, peer = this.peer }: Omit<Try, 'attempt'> & { readonly peer?: string },
  ): Promise<S> {
    try {
      return await callUnary(method, request, { peer, deadlineMs, signal })
    } catch (error) {
      throw asLoss(error, { signal, peer })
    }
  }

  /** Without a deadline. Leaving the loop cancels the call. */
  async *stream<Q, S>(
    method: StreamMethod<Q, S>,
    request: Q,
    { signal, peer = this.peer, silenceMsMax }: StreamOptions = {},
  ): AsyncGenerator<S, void, void> {
    using joined = joinSignals(signal, this.closing)
    try {
      const silence = silenceMsMax === undefined ? {} : { silenceMsMax }
      yield* callServerStream(method, request, { peer, signal: joined.signal, ...silence })
    } catch (error) {
      throw withHint(asLoss(error, { signal: joined.signal, peer }))
    }
  }

  close(): void {
    this.#closing.abort()
    for (const channel of this.#channels.values()) channel.close()
    this.#channels.clear()
  }
}
