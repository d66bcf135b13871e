/**
 * `npm run bench -- telemetry`: what telemetry costs. pgbench runs in turn against two clusters that differ in nothing
 * but that one sends its metrics, traces and logs by OTLP and serves /metrics. Each pair of runs gives a ratio; which
 * of the two goes first alternates, so that other work of the machine meets both.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { Server } from 'node:http'
import { cpus } from 'node:os'
import { join, resolve } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import type { PostgresMajor } from '@understory/testcontainers'
import { stateDirectory } from '../../tools/state-directory.ts'
import { cpuSecondsOf } from '../commit/cpu.ts'
import { findPgbench, preparePgbench, runPgbench } from '../commit/pgbench.ts'
import type { PgbenchFigures, Script } from '../commit/pgbench.ts'
import { query, understory } from '../commit/sides.ts'
import type { UnderstorySide } from '../commit/sides.ts'
import { renderTelemetry } from './report.ts'
import type { Pair, TelemetryReport } from './report.ts'

const OPTIONS = {
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  script: {
    read: oneOf('tpcb', 'insert'),
    fallback: 'tpcb',
    placeholder: 'NAME',
    help: 'transactions like TPC-B, or single-row inserts',
  },
  clients: { read: wholeNumber(1, 256), fallback: 8, placeholder: 'N', help: 'clients of pgbench' },
  seconds: { read: wholeNumber(2, 600), fallback: 6, placeholder: 'N', help: 'length of one run' },
  pairs: { read: wholeNumber(1, 200), fallback: 10, placeholder: 'N', help: 'runs with it off and on' },
  scale: { read: wholeNumber(1, 10_000), fallback: 10, placeholder: 'N', help: 'scale of pgbench' },
  share: {
    read: text,
    fallback: '0.001',
    placeholder: 'SHARE',
    help: 'of the commits that are followed by a trace',
  },
  control: {
    read: oneOf('yes', 'no'),
    fallback: 'no',
    placeholder: 'yes|no',
    help: 'leave it off on both sides: what the machine does by itself',
  },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
} as const

const METRICS_FLAGS = ['--metrics-listen', '127.0.0.1:0']
const ALL_FLAGS = { safekeeper: METRICS_FLAGS, pageserver: METRICS_FLAGS, 'compute-proxy': METRICS_FLAGS }
const say = (line: string): void => void process.stderr.write(`${line}\n`)

interface Settings {
  readonly pg: string
  readonly script: Script
  readonly clients: number
  readonly seconds: number
  readonly pairs: number
  readonly scale: number
  readonly share: string
  readonly control: 'yes' | 'no'
}

/** A collector that takes everything and keeps nothing: its work is not what is measured. */
async function startSink(): Promise<{ server: Server; endpoint: string; taken: () => number }> {
  let bytes = 0
  const server = createServer((request, response) => {
    request.on('data', (part: Buffer) => (bytes += part.length))
    request.on('end', () => response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end())
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return { server, endpoint: `http://127.0.0.1:${port}`, taken: () => bytes }
}

async function run(settings: Settings, pgbench: string): Promise<TelemetryReport> {
  const major = Number(settings.pg) as PostgresMajor
  const directory = stateDirectory(`bench-telemetry-${process.pid}`)
  await mkdir(directory, { recursive: true })
  const sink = await startSink()
  try {
    await using stack = new AsyncDisposableStack()
    say('starting two clusters')
    const off = stack.use(await understory(major, join(directory, 'off')))
    const environment = {
      OTEL_EXPORTER_OTLP_ENDPOINT: sink.endpoint,
      OTEL_TRACES_SAMPLER_ARG: settings.share,
    }
    const observed = settings.control === 'yes' ? {} : { environment, flags: ALL_FLAGS }
    const on = stack.use(await understory(major, join(directory, 'on'), observed))
    for (const side of [off, on]) {
      await preparePgbench(pgbench, side.connection, settings.scale)
      await query(
        side.connection,
        'create table events (id bigserial primary key, device int not null, at timestamptz not null, reading text not null)',
      )
    }
    const measure = async (side: UnderstorySide): Promise<PgbenchFigures & { cpuSeconds: number }> => {
      await query(side.connection, 'checkpoint')
      const before = await cpuSecondsOf(side.pids())
      const figures = await runPgbench(pgbench, side.connection, settings, join(directory, 'pgbench'))
      return { ...figures, cpuSeconds: (await cpuSecondsOf(side.pids())) - before }
    }
    // The first runs compile the code, and are not measured.
    for (const side of [off, on]) await measure(side)
    const pairs: Pair[] = []
    for (let number = 1; number <= settings.pairs; number++) {
      const isOffFirst = number % 2 === 1
      const first = await measure(isOffFirst ? off : on)
      const second = await measure(isOffFirst ? on : off)
      const pair = isOffFirst ? { off: first, on: second } : { off: second, on: first }
      pairs.push(pair)
      say(`pair ${number}: ${Math.round(pair.off.tps)} tps off, ${Math.round(pair.on.tps)} on`)
    }
    return {
      postgresMajor: major,
      machine: `${cpus().length} cores (${cpus()[0]?.model.trim()})`,
      settings: { ...settings },
      exportedBytes: sink.taken(),
      pairs,
    }
  } finally {
    sink.server.close()
    sink.server.closeAllConnections()
    await rm(directory, { recursive: true, force: true })
  }
}

async function main(): Promise<number> {
  const options = parseOptions('bench telemetry', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const report = await run(options.values, await findPgbench())
  process.stdout.write(renderTelemetry(report))
  if (options.values.json !== undefined)
    await writeFile(resolve(options.values.json), `${JSON.stringify(report, undefined, 2)}\n`)
  return 0
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory bench telemetry: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
