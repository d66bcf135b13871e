/** The thread's side of `realWorkers`: the last line of a `<x>-worker.ts` is `serveJobs<Jobs>(handlers)`. */
import { isMainThread, parentPort } from 'node:worker_threads'
import { fail } from '@understory/base'
import {
  type JobHandlers,
  type JobMap,
  type JobMessage,
  type JobReply,
  Transferred,
  serialiseError,
} from './workers.ts'

/** Answers jobs until the thread is ended. Does nothing on the main thread, so tests can import the handlers. */
export function serveJobs<J extends JobMap<J>>(handlers: JobHandlers<J>): void {
  if (isMainThread || parentPort === null) return
  const port = parentPort
  port.on('message', (message: JobMessage) => {
    void answer(handlers as Readonly<Record<string, (request: unknown) => unknown>>, message)
      .then(
        ({ value, transfer }) =>
          port.postMessage({ id: message.id, ok: true, value } satisfies JobReply, transfer),
        (error: unknown) =>
          port.postMessage({ id: message.id, ok: false, error: serialiseError(error) } satisfies JobReply),
      )
      .catch((error: unknown) => {
        // The response itself could not be cloned.
        port.postMessage({ id: message.id, ok: false, error: serialiseError(error) } satisfies JobReply)
      })
  })
}

async function answer(
  handlers: Readonly<Record<string, (request: unknown) => unknown>>,
  { kind, request }: JobMessage,
): Promise<{ value: unknown; transfer: ArrayBuffer[] }> {
  const handler = handlers[kind]
  if (handler === undefined) throw fail('unsupported', `thread does not know the job "${kind}"`)
  const result = await handler(request)
  return result instanceof Transferred
    ? { value: result.value, transfer: [...result.transfer] as ArrayBuffer[] }
    : { value: result, transfer: [] }
}
