// Goal: telemetry is there where it is asked for and nowhere else, and the end of the thread that exports harms
// nothing. Method: real threads and ports of this machine; settings on which a thread fails at once.
import { expect, onTestFinished, test } from 'vitest'
import { OtlpThread } from './otlp-thread.ts'
import { OPEN } from './table.ts'
import type { MetricTable } from './table.ts'
import { startTelemetry } from './telemetry.ts'

const TABLE = {
  things: { name: 'test.things', unit: '{thing}', kind: 'counter', labels: { name: OPEN }, help: 'a "help"' },
} as const satisfies MetricTable
const PARTS = { service: 'test', node: 'node-1', environment: {}, metrics: TABLE } as const
const ANY_PORT = { host: '127.0.0.1', port: 0 } as const

test('without a request for telemetry there is none', async () => {
  expect(await startTelemetry(PARTS)).toBeUndefined()
})

test('/metrics shows the series, with any text in their labels, and stops with its service', async () => {
  const telemetry = await startTelemetry({ ...PARTS, metricsListen: ANY_PORT })
  telemetry?.metrics.things.of({ name: 'a "quoted"\nline\\' }).add(3)
  const url = `http://127.0.0.1:${telemetry?.metricsPort}`
  const page = await (await fetch(`${url}/metrics`)).text()
  expect(page).toContain('# TYPE test_things_total counter')
  expect(page).toContain('test_things_total{name="a \\"quoted\\"\\nline\\\\",node="node-1"} 3\n')
  expect((await fetch(`${url}/other`)).status).toBe(404)
  const second = startTelemetry({
    ...PARTS,
    metricsListen: { host: '127.0.0.1', port: telemetry?.metricsPort as number },
  })
  await expect(second).rejects.toThrow('could not listen')
  await telemetry?.stop()
  await expect(fetch(`${url}/metrics`)).rejects.toThrow('fetch failed')
})

test('a thread that dies is reported once, and everything asked of it is refused or dropped', async () => {
  const ended = Promise.withResolvers<string>()
  const failures: string[] = []
  const thread = new OtlpThread({
    service: 'test',
    instance: 'node-1',
    version: '0',
    timeOriginMs: 0,
    // A value that no reader of settings returns.
    settings: { signals: undefined } as never,
    environment: {},
    collect: () => Promise.resolve([]),
    onFailure: (_, problem) => failures.push(problem),
    onEnd: ended.resolve,
  })
  onTestFinished(() => thread.stop(0))
  const page = thread.render()
  await expect(page).rejects.toThrow('has ended')
  expect(await ended.promise).not.toBe('')
  await expect(thread.render()).rejects.toThrow('has ended')
  thread.recordLog({ wallMs: 0, level: 'info', event: 'late', fields: {} })
  expect(failures).toEqual([])
})
