/** The thread that has the OpenTelemetry SDK. */
import { parentPort, workerData } from 'node:worker_threads'
import { assert, describeError } from '@understory/base'
import type { FromOtlp, OtlpStart, SeriesSnapshot, ToOtlp } from './otlp-protocol.ts'
import { startOtlp } from './otlp.ts'

const port = parentPort
assert(port !== null, () => 'this is a thread of a service')
const send = (message: FromOtlp): void => port.postMessage(message)

const collections = new Map<number, (series: readonly SeriesSnapshot[]) => void>()
let lastId = 0
let taken = 0

const otlp = startOtlp({
  ...(workerData as OtlpStart),
  collect: () =>
    new Promise((resolve) => {
      collections.set(++lastId, resolve)
      send({ kind: 'collect', id: lastId })
    }),
  onFailure: (signal, error) => send({ kind: 'failed', signal, problem: describeError(error) }),
})

function take(message: ToOtlp): void {
  switch (message.kind) {
    case 'span':
      otlp.recordSpan?.(message.span)
      return countTaken()
    case 'log':
      otlp.recordLog?.(message.record)
      return countTaken()
    case 'collected':
      collections.get(message.id)?.(message.series)
      collections.delete(message.id)
      return
    case 'render':
      otlp.renderMetrics().then(
        (page) => send({ kind: 'rendered', id: message.id, page }),
        (error: unknown) => send({ kind: 'notRendered', id: message.id, problem: describeError(error) }),
      )
      return
    case 'stop':
      void otlp.stop().then(() => send({ kind: 'stopped' }))
  }
}

/** One answer for all that came together. */
function countTaken(): void {
  if (taken++ > 0) return
  setImmediate(() => {
    send({ kind: 'took', count: taken })
    taken = 0
  })
}

port.on('message', take)
