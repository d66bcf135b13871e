/**
 * Spans. Whether a trace is recorded is decided where it begins, one of so many; every receiver of its context follows.
 * A trace that is not recorded costs a count: there is no span then.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { isLeftOut, readTraceparent, writeTraceparent } from './trace-context.ts'
import type { TraceContext } from './trace-context.ts'

export type SpanKindName = 'internal' | 'server' | 'client'
export type SpanAttributes = Readonly<Record<string, string | number | boolean>>

export interface SpanOptions {
  readonly kind?: SpanKindName
  readonly attributes?: SpanAttributes
  /** On the monotonic clock; now by default. */
  readonly startMs?: number
}

export interface RootOptions extends SpanOptions {
  /** Of what is rare and worth it each time, such as a switch. */
  readonly isAlwaysRecorded?: boolean
}

/** A span that runs. It is recorded only once it is ended. */
export interface Span {
  readonly context: TraceContext
  readonly traceparent: string
  child(name: string, options?: SpanOptions): Span
  set(attributes: SpanAttributes): void
  /** `errorType` where it failed. */
  end(errorType?: string, endMs?: number): void
}

/** A span as it is recorded. Times are on the monotonic clock. */
export interface SpanRecord {
  readonly name: string
  readonly kind: SpanKindName
  readonly context: TraceContext
  readonly parentSpanId: string | undefined
  readonly attributes: SpanAttributes
  readonly startMs: number
  readonly endMs: number
  readonly errorType: string | undefined
}

export interface TracesParts {
  /** Share of the traces that begin here and are recorded: 0 to 1. */
  readonly share: number
  readonly nowMs: () => number
  /** Hex digits. */
  readonly randomHex: (digits: number) => string
  readonly record: (span: SpanRecord) => void
}

export class Traces {
  readonly #parts: TracesParts
  readonly #active = new AsyncLocalStorage<Span>()
  /** The next trace is recorded at 1, so that one of so many is exact. */
  #due: number

  constructor(parts: TracesParts) {
    this.#parts = parts
    // The first is, unless none are.
    this.#due = parts.share === 0 ? 0 : 1 - parts.share
  }

  /** A trace that begins here, where it is to be recorded. */
  root(name: string, options?: RootOptions): Span | undefined {
    if (options?.isAlwaysRecorded !== true) {
      this.#due += this.#parts.share
      if (this.#due < 1) return undefined
      this.#due -= 1
    }
    return this.#start(name, { traceId: this.#parts.randomHex(32), spanId: '' }, options)
  }

  /** Continues the trace of a peer; undefined where that one is not recorded. */
  follow(traceparent: string | undefined, name: string, options?: SpanOptions): Span | undefined {
    if (traceparent === undefined || traceparent === '') return undefined
    const context = readTraceparent(traceparent)
    return context === undefined ? undefined : this.#start(name, context, options)
  }

  /** Continues the trace of a peer, or begins one where no peer says whether it is recorded. */
  enter(traceparent: string | undefined, name: string, options?: SpanOptions): Span | undefined {
    if (isLeftOut(traceparent)) return undefined
    return this.follow(traceparent, name, options) ?? this.root(name, options)
  }

  /** Runs `work` within the span: its calls, awaited ones too, carry the span's context. */
  run<T>(span: Span | undefined, work: () => T): T {
    return span === undefined ? work() : this.#active.run(span, work)
  }
  get active(): Span | undefined {
    return this.#active.getStore()
  }

  #start(name: string, parent: TraceContext, options: SpanOptions = {}): Span {
    const { nowMs, randomHex, record } = this.#parts
    const { kind = 'internal', startMs = nowMs() } = options
    const context = { traceId: parent.traceId, spanId: randomHex(16) }
    let attributes: SpanAttributes = options.attributes ?? {}
    let isEnded = false
    return {
      context,
      traceparent: writeTraceparent(context),
      child: (childName, childOptions) => this.#start(childName, context, childOptions),
      set: (more) => {
        attributes = { ...attributes, ...more }
      },
      end: (errorType, endMs = nowMs()) => {
        if (isEnded) return
        isEnded = true
        const parentSpanId = parent.spanId === '' ? undefined : parent.spanId
        record({ name, kind, context, parentSpanId, attributes, startMs, endMs, errorType })
      },
    }
  }
}
