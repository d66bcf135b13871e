/**
 * The service's side of the thread that exports. The OpenTelemetry SDK lives over there: its heap is not collected with
 * the service's, and its work keeps no commit waiting. (In one heap with a safekeeper it cost a third more
 * time in garbage collection.) A thread that is stuck or dies takes the telemetry with it, and nothing else.
 */
import { Worker } from 'node:worker_threads'
import { describeError, fail } from '@understory/base'
import type { LogRecord } from '@understory/env'
import type { FromOtlp, OtlpStart, SeriesSnapshot, ToOtlp } from './otlp-protocol.ts'
import type { Environment, Signal } from './otlp-settings.ts'
import type { SpanRecord } from './traces.ts'

/** Spans and log records that may be on their way to the thread. */
const UNDER_WAY_COUNT_MAX = 4096
const HEAP_MIB_MAX = 128

export interface OtlpThreadParts extends OtlpStart {
  readonly environment: Environment
  readonly collect: () => Promise<readonly SeriesSnapshot[]>
  readonly onFailure: (signal: Signal, problem: string) => void
  /** The thread has ended by itself. */
  readonly onEnd: (problem: string) => void
}

export class OtlpThread {
  readonly #parts: OtlpThreadParts
  readonly #worker: Worker
  readonly #pages = new Map<number, PromiseWithResolvers<string>>()
  readonly #stopped = Promise.withResolvers<void>()
  #lastId = 0
  #underWayCount = 0
  #isOver = false

  constructor(parts: OtlpThreadParts) {
    this.#parts = parts
    const { service, instance, version, timeOriginMs, settings } = parts
    const start: OtlpStart = { service, instance, version, timeOriginMs, settings }
    this.#worker = new Worker(new URL('./otlp-worker.ts', import.meta.url), {
      name: 'telemetry',
      workerData: start,
      // The exporters read their variables themselves, and need no others.
      env: Object.fromEntries(Object.entries(parts.environment).filter(([name]) => name.startsWith('OTEL_'))),
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB_MAX, maxYoungGenerationSizeMb: 4 },
    })
    this.#worker.on('message', (message: FromOtlp) => this.#take(message))
    this.#worker.on('error', (error) => this.#end(describeError(error)))
    this.#worker.on('exit', () => this.#end('it has ended'))
    // It alone keeps no process alive.
    this.#worker.unref()
  }

  recordSpan(span: SpanRecord): void {
    this.#record('traces', { kind: 'span', span })
  }
  recordLog(record: LogRecord): void {
    this.#record('logs', { kind: 'log', record })
  }
  #record(signal: Signal, message: ToOtlp): void {
    if (this.#isOver) return
    if (this.#underWayCount >= UNDER_WAY_COUNT_MAX)
      return this.#parts.onFailure(signal, 'the thread that exports does not keep up')
    this.#underWayCount++
    this.#worker.postMessage(message)
  }

  /** The page of `/metrics`. Errors: `unavailable` once the thread has ended. */
  render(): Promise<string> {
    if (this.#isOver) return Promise.reject(fail('unavailable', 'the thread that renders metrics has ended'))
    const page = Promise.withResolvers<string>()
    this.#pages.set(++this.#lastId, page)
    this.#worker.postMessage({ kind: 'render', id: this.#lastId } satisfies ToOtlp)
    return page.promise
  }

  /** Has what is left sent, for `limitMs` at most. */
  async stop(limitMs: number): Promise<void> {
    if (!this.#isOver) {
      // So that the process lives until then.
      this.#worker.ref()
      this.#worker.postMessage({ kind: 'stop' } satisfies ToOtlp)
      const timer = setTimeout(() => this.#stopped.resolve(), limitMs)
      await this.#stopped.promise
      clearTimeout(timer)
    }
    this.#isOver = true
    await this.#worker.terminate()
  }

  #take(message: FromOtlp): void {
    switch (message.kind) {
      case 'collect':
        void this.#parts.collect().then((series) => {
          if (!this.#isOver)
            this.#worker.postMessage({ kind: 'collected', id: message.id, series } satisfies ToOtlp)
        })
        return
      case 'took':
        this.#underWayCount -= message.count
        return
      case 'failed':
        return this.#parts.onFailure(message.signal, message.problem)
      case 'rendered':
        this.#pages.get(message.id)?.resolve(message.page)
        this.#pages.delete(message.id)
        return
      case 'notRendered':
        this.#pages.get(message.id)?.reject(fail('unavailable', message.problem))
        this.#pages.delete(message.id)
        return
      case 'stopped':
        return this.#stopped.resolve()
    }
  }

  #end(problem: string): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#stopped.resolve()
    for (const page of this.#pages.values())
      page.reject(fail('unavailable', `the thread that renders metrics has ended: ${problem}`))
    this.#pages.clear()
    this.#parts.onEnd(problem)
  }
}
