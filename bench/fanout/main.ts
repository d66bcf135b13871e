/**
 * `npm run bench -- fanout`: what it costs a safekeeper to give committed WAL to shards, as CPU seconds of its process
 * for each MB of WAL, with several numbers of shards subscribed. With `--before DIR` the safekeeper of another checkout
 * takes turns with this one's, asked by SubscribeWal as releases before FollowWal have it. Prints JSON; takes the WAL
 * of a Postgres under a load.
 */
import { mkdir, rm } from 'node:fs/promises'
import { cpus, loadavg } from 'node:os'
import { join, resolve } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import type { PostgresMajor } from '@understory/testcontainers'
import { measure } from './measure.ts'
import type { Mode, Run, Side } from './measure.ts'
import { recordWal } from './recorded-wal.ts'

const OPTIONS = {
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  megabytes: { read: wholeNumber(1, 10_000), fallback: 64, placeholder: 'N', help: 'WAL, at least' },
  load: {
    read: oneOf('tpcc', 'insert'),
    fallback: 'tpcc',
    placeholder: 'LOAD',
    help: 'what writes the WAL',
  },
  rounds: { read: wholeNumber(1, 100), fallback: 3, placeholder: 'N', help: 'runs of each case' },
  shards: { read: text, fallback: '0,1,2,8', placeholder: 'N,N', help: 'numbers of shards' },
  before: { read: text, optional: true, placeholder: 'DIR', help: 'another checkout, which takes turns' },
} as const

const MEMORY = '/dev/shm'
const say = (line: string): void => void process.stderr.write(`${line}\n`)

interface Summary extends Pick<Run, 'side' | 'mode' | 'shards'> {
  /** Of the rounds. */
  readonly cpuSecondsPerMegabyte: { readonly median: number; readonly min: number; readonly max: number }
  readonly megabytesPerSecond: number
}

function summarize(runs: readonly Run[]): Summary[] {
  const cases = Map.groupBy(runs, ({ side, mode, shards }) => `${side} ${mode} ${shards}`)
  return [...cases.values()].map((same) => {
    const { side, mode, shards } = same[0] as Run
    const sorted = same.map((run) => run.cpuSecondsPerMegabyte).toSorted((a, b) => a - b)
    const speeds = same.map((run) => run.walMegabytes / run.seconds).toSorted((a, b) => a - b)
    const middle = (values: readonly number[]): number => values[values.length >> 1] as number
    const cpuSecondsPerMegabyte = {
      median: middle(sorted),
      min: sorted[0] as number,
      max: sorted.at(-1) as number,
    }
    return { side, mode, shards, cpuSecondsPerMegabyte, megabytesPerSecond: middle(speeds) }
  })
}

async function main(): Promise<number> {
  const options = parseOptions('bench fanout', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { pg, megabytes, load, rounds, shards, before } = options.values
  const counts = shards.split(',').map(wholeNumber(0, 256))
  const sides: readonly Side[] = [
    ...(before === undefined ? [] : [{ name: 'before', root: resolve(before), rpc: 'subscribe' } as const]),
    { name: 'now', root: undefined, rpc: 'follow' },
  ]
  const root = join(MEMORY, `understory-bench-fanout-${process.pid}`)
  const runs: Run[] = []
  const loadBefore = loadavg()[0] ?? 0
  try {
    // Postgres runs as another user.
    await mkdir(root, { mode: 0o755 })
    say(`writing ${megabytes} MB of WAL`)
    const wal = await recordWal(Number(pg) as PostgresMajor, load, join(root, 'postgres'), megabytes)
    const cases: (readonly [Mode, number])[] = [
      ...counts.map((count) => ['tip', count] as const),
      ...counts.filter((count) => count > 0).map((count) => ['catch-up', count] as const),
    ]
    for (let round = 1; round <= rounds; round++) {
      for (const [mode, count] of cases) {
        for (const side of sides) {
          const run = await measure(side, mode, count, wal)
          runs.push(run)
          say(
            `round ${round}, ${mode}, ${count} shards, ${side.name}: ${(run.cpuSecondsPerMegabyte * 1000).toFixed(1)} ms CPU/MB, ${(run.walMegabytes / run.seconds).toFixed(1)} MB/s, ${run.messages} messages, ${run.peakRssMebibytes} MiB`,
          )
        }
      }
    }
  } finally {
    await rm(root, { recursive: true, force: true })
  }
  const report = {
    postgresMajor: Number(pg),
    load,
    machine: `${cpus().length} cores (${cpus()[0]?.model.trim()})`,
    loadAverages: [loadBefore, loadavg()[0] ?? 0],
    summary: summarize(runs),
    runs,
  }
  process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`)
  return 0
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory bench fanout: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
