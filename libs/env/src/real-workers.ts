/**
 * A pool of worker threads. Each runs one job at a time; jobs wait in arrival order in a queue with a maximum. Threads
 * are started when a job needs one, so a script that cannot start fails jobs instead of spinning. A thread whose
 * handler met a bug, or that died, is ended and replaced: its memory cannot be trusted.
 */
import { Worker } from 'node:worker_threads'
import { describeError, fail } from '@understory/base'
import { cancelled, throwIfCancelled } from './clock.ts'
import { restoreError } from './workers.ts'
import type { JobMap, JobMessage, JobReply, RunOptions, Transferable, Workers } from './workers.ts'

export interface WorkersOptions {
  /** The thread's module: `new URL('./image-worker.ts', import.meta.url)`. */
  readonly script: URL
  readonly threadsCount: number
  /** Beyond it a job is refused as `unavailable`. */
  readonly queueCountMax?: number
  /** A thread that needs more for its objects ends, and its job with `unavailable`; buffers do not count. */
  readonly heapMibMax?: number
  /** Handed to each thread as node:worker_threads' `workerData`. */
  readonly workerData?: unknown
  readonly name?: string
}

interface Job {
  readonly message: JobMessage
  readonly transfer: readonly Transferable[]
  readonly resolve: (value: unknown) => void
  readonly reject: (error: Error) => void
}

interface Thread {
  readonly worker: Worker
  job: Job | undefined
  death: Error | undefined
}

export function realWorkers<J extends JobMap<J>>(options: WorkersOptions): Workers<J> {
  return new Pool<J>(options)
}

class Pool<J extends JobMap<J>> implements Workers<J> {
  readonly #options: WorkersOptions
  readonly #name: string
  readonly #threads = new Set<Thread>()
  readonly #queue: Job[] = []
  #lastId = 0
  #closed = false

  constructor(options: WorkersOptions) {
    this.#options = options
    this.#name = options.name ?? options.script.pathname.split('/').at(-1) ?? 'worker'
  }

  get queuedCount(): number {
    return this.#queue.length
  }
  get runningCount(): number {
    return [...this.#threads].filter(({ job }) => job !== undefined).length
  }

  run<K extends keyof J & string>(
    kind: K,
    request: J[K]['request'],
    options: RunOptions = {},
  ): Promise<J[K]['response']> {
    return new Promise((resolve, reject) => {
      throwIfCancelled(options.signal)
      if (this.#closed) throw fail('cancelled', `thread pool "${this.#name}" is closed`)
      const job: Job = {
        message: { id: ++this.#lastId, kind, request },
        transfer: options.transfer ?? [],
        resolve: (value) => {
          options.signal?.removeEventListener('abort', onAbort)
          resolve(value)
        },
        reject: (error) => {
          options.signal?.removeEventListener('abort', onAbort)
          reject(error)
        },
      }
      const onAbort = (): void => this.#abandon(job, cancelled(options.signal))
      options.signal?.addEventListener('abort', onAbort, { once: true })
      const thread = this.#freeThread()
      if (thread !== undefined) this.#start(thread, job)
      else this.#enqueue(job)
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    const error = fail('cancelled', `thread pool "${this.#name}" was closed`)
    for (const job of this.#queue.splice(0)) job.reject(error)
    await Promise.all(
      [...this.#threads].map(async (thread) => {
        thread.death = error
        await thread.worker.terminate()
      }),
    )
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #enqueue(job: Job): void {
    const { queueCountMax = 1024 } = this.#options
    if (this.#queue.length < queueCountMax) this.#queue.push(job)
    else
      job.reject(fail('unavailable', `${queueCountMax} jobs wait for the threads of "${this.#name}" already`))
  }

  #abandon(job: Job, error: Error): void {
    const index = this.#queue.indexOf(job)
    if (index >= 0) this.#queue.splice(index, 1)
    // A job that runs already keeps its thread busy until it ends; its result is dropped then.
    job.reject(error)
  }

  #freeThread(): Thread | undefined {
    for (const thread of this.#threads)
      if (thread.job === undefined && thread.death === undefined) return thread
    return this.#threads.size < this.#options.threadsCount ? this.#makeThread() : undefined
  }

  #makeThread(): Thread {
    const { heapMibMax } = this.#options
    const worker = new Worker(this.#options.script, {
      workerData: this.#options.workerData,
      name: this.#name,
      ...(heapMibMax === undefined ? {} : { resourceLimits: { maxOldGenerationSizeMb: heapMibMax } }),
    })
    const thread: Thread = { worker, job: undefined, death: undefined }
    this.#threads.add(thread)
    worker.on('message', (reply: JobReply) => this.#finish(thread, reply))
    worker.on('messageerror', (error) => this.#doom(thread, error))
    worker.on('error', (error) => {
      thread.death ??= error as Error
    })
    worker.on('exit', (code) => this.#bury(thread, code))
    return thread
  }

  #start(thread: Thread, job: Job): void {
    thread.job = job
    thread.worker.ref()
    try {
      thread.worker.postMessage(job.message, [...job.transfer])
    } catch (error) {
      // The request cannot be cloned; the thread has seen nothing of it.
      thread.job = undefined
      thread.worker.unref()
      job.reject(error as Error)
    }
  }

  #finish(thread: Thread, reply: JobReply): void {
    const { job } = thread
    if (job === undefined || job.message.id !== reply.id) return
    thread.job = undefined
    if (reply.ok) job.resolve(reply.value)
    else {
      const error = restoreError(reply.error)
      job.reject(error)
      if (reply.error.kind === 'bug') {
        this.#doom(thread, error)
        return
      }
    }
    const next = this.#queue.shift()
    if (next !== undefined) this.#start(thread, next)
    else thread.worker.unref()
  }

  #doom(thread: Thread, cause: Error): void {
    thread.death ??= cause
    void thread.worker.terminate()
  }

  /** The thread has ended: its job fails, and what waits gets a new thread. */
  #bury(thread: Thread, code: number): void {
    this.#threads.delete(thread)
    const { job, death } = thread
    if (job !== undefined) {
      const detail = death === undefined ? `exit code ${code}` : describeError(death)
      const message = `a thread of "${this.#name}" ended while it ran "${job.message.kind}"`
      job.reject(
        this.#closed && death !== undefined ? death : fail('unavailable', message, { detail, cause: death }),
      )
    }
    if (this.#closed || this.#queue.length === 0) return
    const next = this.#freeThread()
    const waiting = next === undefined ? undefined : this.#queue.shift()
    if (next !== undefined && waiting !== undefined) this.#start(next, waiting)
  }
}
