/**
 * CPU work on threads. A `JobMap` names each kind of job with its request and response; the same handlers serve a
 * thread (`serveJobs` in worker-thread.ts), a pool (`realWorkers`) and the simulation (`inlineWorkers`).
 */
import type { MessagePort } from 'node:worker_threads'
import { BugError, UnderstoryError } from '@understory/base'
import type { ErrorCode } from '@understory/base'
import { throwIfCancelled } from './clock.ts'

export interface JobTypes {
  readonly request: unknown
  readonly response: unknown
}
export type JobMap<J> = { readonly [K in keyof J]: JobTypes }

type Request<J extends JobMap<J>, K extends keyof J> = J[K]['request']
type Response<J extends JobMap<J>, K extends keyof J> = J[K]['response']

export type Transferable = ArrayBuffer | MessagePort

/** A response whose buffers move to the caller instead of being copied: the handler must not touch them again. */
export class Transferred<R> {
  readonly value: R
  readonly transfer: readonly Transferable[]

  constructor(value: R, transfer: readonly Transferable[]) {
    this.value = value
    this.transfer = transfer
  }
}

type HandlerResult<R> = R | Transferred<R> | Promise<R | Transferred<R>>

export type JobHandlers<J extends JobMap<J>> = {
  readonly [K in keyof J]: (request: Request<J, K>) => HandlerResult<Response<J, K>>
}

export interface RunOptions {
  /** Buffers of the request that move to the thread: the caller must not touch them again. */
  readonly transfer?: readonly Transferable[]
  /** Takes a waiting job out of the queue; a job that runs already continues, only its result is dropped. */
  readonly signal?: AbortSignal | undefined
}

export interface Workers<J extends JobMap<J>> extends AsyncDisposable {
  /**
   * The job's response. Rejects with the `UnderstoryError` or bug that the handler threw, with `unavailable` when the
   * queue is full or the thread died, with `cancelled` after the signal or `close`.
   */
  run<K extends keyof J & string>(
    kind: K,
    request: Request<J, K>,
    options?: RunOptions,
  ): Promise<Response<J, K>>
  /** Jobs that wait for a thread. */
  readonly queuedCount: number
  /** Jobs that run. */
  readonly runningCount: number
  /** Fails what waits, ends the threads, and waits until they have. */
  close(): Promise<void>
}

/** Runs jobs in this thread, one tick later: for the simulation and for tests. */
export function inlineWorkers<J extends JobMap<J>>(handlers: JobHandlers<J>): Workers<J> {
  let runningCount = 0
  const close = async (): Promise<void> => undefined
  return {
    queuedCount: 0,
    get runningCount() {
      return runningCount
    },
    close,
    [Symbol.asyncDispose]: close,
    run: async (kind, request, options = {}) => {
      throwIfCancelled(options.signal)
      runningCount++
      try {
        await Promise.resolve()
        const result = await handlers[kind](request)
        return result instanceof Transferred ? result.value : result
      } finally {
        runningCount--
      }
    },
  }
}

/** An error as it crosses between threads, where classes are lost. */
export type SerialisedError =
  | {
      readonly kind: 'refused'
      readonly code: ErrorCode
      readonly message: string
      readonly detail: string | undefined
      readonly hint: string | undefined
    }
  | { readonly kind: 'bug'; readonly message: string; readonly stack: string | undefined }

export function serialiseError(error: unknown): SerialisedError {
  if (error instanceof UnderstoryError) {
    const { code, message, detail, hint } = error
    return { kind: 'refused', code, message, detail, hint }
  }
  return error instanceof Error
    ? { kind: 'bug', message: error.message, stack: error.stack }
    : { kind: 'bug', message: String(error), stack: undefined }
}

export function restoreError(error: SerialisedError): Error {
  if (error.kind === 'bug') {
    const bug = new BugError(error.message)
    if (error.stack !== undefined) bug.stack = error.stack
    return bug
  }
  const { code, message, detail, hint } = error
  const extra = { ...(detail === undefined ? {} : { detail }), ...(hint === undefined ? {} : { hint }) }
  return new UnderstoryError(code, message, extra)
}

/** The messages of the pool to a thread and back. */
export interface JobMessage {
  readonly id: number
  readonly kind: string
  readonly request: unknown
}
export type JobReply =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | { readonly id: number; readonly ok: false; readonly error: SerialisedError }
