/**
 * `npm run bench -- commit`: what a commit costs. The C pgbench runs in turn against a stock Postgres whose commits
 * wait for two of three stock standbys, and against Understory as shipped, with image generation instead of
 * full_page_writes, and without pageservers. Sides take turns within each round, so that other work of the machine
 * meets them all.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join, resolve } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import type { PostgresMajor } from '@understory/testcontainers'
import { stateDirectory } from '../../tools/state-directory.ts'
import { cpuSecondsOf, loopbackBytes } from './cpu.ts'
import { findPgbench, preparePgbench, runPgbench } from './pgbench.ts'
import type { Script } from './pgbench.ts'
import { renderCommit } from './report.ts'
import type { Arm, CommitReport, Sample } from './report.ts'
import { query, stockQuorum, understory } from './sides.ts'
import type { Side, UnderstorySide } from './sides.ts'

const OPTIONS = {
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  seconds: { read: wholeNumber(2, 600), fallback: 8, placeholder: 'N', help: 'length of one run' },
  rounds: {
    read: wholeNumber(1, 100),
    fallback: 3,
    placeholder: 'N',
    help: 'runs of each side and number of clients',
  },
  scale: { read: wholeNumber(1, 10_000), fallback: 20, placeholder: 'N', help: 'scale of pgbench' },
  megabytes: {
    read: wholeNumber(1, 100_000),
    fallback: 256,
    placeholder: 'N',
    help: 'rows of the bulk load, roughly',
  },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
} as const

const CLIENTS = [1, 8, 32]
const SCRIPTS: readonly Script[] = ['tpcb', 'insert']
const BULK_ROW_BYTES = 1000

const say = (line: string): void => void process.stderr.write(`${line}\n`)

/** Makes the tables; returns MB/s of a bulk load whose WAL is several times as large as any buffer on the way. */
async function load(pgbench: string, connection: string, scale: number, megabytes: number): Promise<number> {
  await preparePgbench(pgbench, connection, scale)
  await query(
    connection,
    'create table events (id bigserial primary key, device int not null, at timestamptz not null, reading text not null)',
    'create table bulk (id bigint, filler text)',
  )
  const startedMs = performance.now()
  await query(
    connection,
    `insert into bulk select i, repeat(chr(65 + i % 26), ${BULK_ROW_BYTES}) from generate_series(1, ${megabytes * 1000}) i`,
  )
  const megabytesPerSecond = megabytes / ((performance.now() - startedMs) / 1000)
  await query(connection, 'drop table bulk', 'checkpoint')
  return megabytesPerSecond
}

interface ArmPlan {
  readonly arm: Arm
  readonly side: Side
  readonly before?: () => Promise<void>
}

async function run(
  values: { pg: string; seconds: number; rounds: number; scale: number; megabytes: number },
  pgbench: string,
): Promise<CommitReport> {
  const major = Number(values.pg) as PostgresMajor
  const directory = stateDirectory(`bench-commit-${process.pid}`)
  await mkdir(directory, { recursive: true })
  try {
    await using stack = new AsyncDisposableStack()
    say('starting a stock primary with three standbys, and two clusters')
    const stock = stack.use(await stockQuorum(major))
    const whole: UnderstorySide = stack.use(await understory(major, join(directory, 'whole')))
    const unread: UnderstorySide = stack.use(await understory(major, join(directory, 'unread')))
    const bulkMegabytesPerSecond: Partial<Record<Arm, number>> = {}
    for (const [arm, side] of [
      ['stock', stock],
      ['understory', whole],
      ['no pageservers', unread],
    ] as const) {
      if (arm === 'no pageservers') for (const node of unread.cluster.pageservers) await node.stop()
      say(`loading: ${arm}`)
      bulkMegabytesPerSecond[arm] = await load(pgbench, side.connection, values.scale, values.megabytes)
    }
    const plans: readonly ArmPlan[] = [
      { arm: 'stock', side: stock },
      { arm: 'understory', side: whole, before: () => whole.switchFullPageWrites('on') },
      { arm: 'fpw off', side: whole, before: () => whole.switchFullPageWrites('off') },
      { arm: 'no pageservers', side: unread },
    ]
    const samples: Sample[] = []
    for (const script of SCRIPTS) {
      for (const clients of CLIENTS) {
        for (let round = 1; round <= values.rounds; round++) {
          for (const { arm, side, before } of plans) {
            await before?.()
            await query(side.connection, 'checkpoint')
            const [cpuBefore, wireBefore] = [await cpuSecondsOf(side.pids()), await loopbackBytes()]
            const work = { script, clients, seconds: values.seconds }
            const figures = await runPgbench(pgbench, side.connection, work, join(directory, 'pgbench'))
            const cpuSeconds = (await cpuSecondsOf(side.pids())) - cpuBefore
            const wireBytes = (await loopbackBytes()) - wireBefore
            samples.push({ arm, script, clients, round, ...figures, cpuSeconds, wireBytes })
            say(`${script}, ${clients} clients, round ${round}, ${arm}: ${Math.round(figures.tps)} tps`)
          }
        }
      }
    }
    return {
      postgresMajor: major,
      machine: `${cpus().length} cores (${cpus()[0]?.model.trim()})`,
      settings: { ...values },
      bulkMegabytesPerSecond,
      samples,
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

async function main(): Promise<number> {
  const options = parseOptions('bench commit', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const report = await run(options.values, await findPgbench())
  process.stdout.write(renderCommit(report))
  if (options.values.json !== undefined) {
    await writeFile(resolve(options.values.json), `${JSON.stringify(report, undefined, 2)}\n`)
  }
  return 0
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory bench commit: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
