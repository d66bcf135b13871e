// Goal: a collector that is dead, or that takes everything and answers nothing, never holds a service up.
// Method: the real process with everything sent to such a one; it is to start, serve and stop as fast as ever.
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { lsnToBigint } from '@understory/base'
import { PLAIN_CLIENT, SafekeeperServiceClient, callUnary, createClient } from '@understory/rpc'
import { freePort, startProcess, temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url))
const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }
/** The flush at the end is cut after two seconds; a machine that is busy needs some for the rest. */
const STOP_MS_MAX = 8_000

/** A port where connections are taken and nothing is ever said. */
async function silentPort(): Promise<number> {
  const sockets = new Set<{ destroy(): void }>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.resume()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const address = server.address()
  return typeof address === 'object' && address !== null ? address.port : 0
}

test.for([
  ['dead', freePort],
  ['silent', silentPort],
] as const)('a collector that is %s holds nothing up', { timeout: 60_000 }, async ([, portOf]) => {
  const folder = await temporaryDirectory({ prefix: 'skc' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  const port = await freePort()
  const running = await startProcess({
    name: 'safekeeper',
    command: process.execPath,
    args: [MAIN, '--data-dir', folder.path, '--listen', `127.0.0.1:${port}`, '--node-id', 'sk-1'],
    env: {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${await portOf()}`,
      OTEL_EXPORTER_OTLP_TIMEOUT: '1000',
      OTEL_METRIC_EXPORT_INTERVAL: '100',
      OTEL_BSP_SCHEDULE_DELAY: '50',
      OTEL_TRACES_SAMPLER: 'always_on',
    },
    ready: /"event":"started"/,
    readyTimeoutMs: 15_000,
  })
  const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, `127.0.0.1:${port}`)
  onTestFinished(async () => {
    client.close()
    await running.stop('SIGKILL')
  })
  await callUnary(client.createTimeline.bind(client), {
    timeline: REF,
    postgres: IDENTITY,
    startLsn: lsnToBigint(START),
  })
  const leader = new SingleProposer(client)
  await leader.lead(REF, IDENTITY, 1)
  const maker = new WalMaker()
  for (let i = 0; i < 50; i++) {
    const beginLsn = maker.endLsn
    await leader.append(beginLsn, maker.records(5, 3_000))
    await leader.flushed(maker.endLsn)
  }
  // By now it has tried and failed more than once; it says so once for each signal.
  await running.waitForOutput(/"event":"telemetry_dropped"/, 15_000)
  expect(running.output().match(/telemetry_dropped/g)?.length).toBeLessThanOrEqual(3)

  const startMs = performance.now()
  const { code } = await running.stop('SIGTERM')
  expect(code, running.output()).toBe(0)
  expect(performance.now() - startMs).toBeLessThan(STOP_MS_MAX)
})
