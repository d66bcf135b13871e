/**
 * `npm run bench -- redo`: decode and redo on one thread against stock Postgres's own recovery of the same WAL, in
 * turn, with all data in memory. Stock's figures are those of its log, from the first record to the last.
 */
import { execFile } from 'node:child_process'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { cpus, loadavg } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { describeError, isErrorCode } from '@understory/base'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import type { PostgresMajor } from '@understory/testcontainers'
import { renderRedo } from './report.ts'
import type { Measured, RedoReport, RedoRun } from './report.ts'
import { recoverByStock } from './stock-recovery.ts'
import type { StockRecovery } from './stock-recovery.ts'
import { makeWal } from './wal-source.ts'
import type { Load, WalSource } from './wal-source.ts'

const OPTIONS = {
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  megabytes: { read: wholeNumber(1, 100_000), fallback: 512, placeholder: 'N', help: 'WAL of each load' },
  rounds: { read: wholeNumber(1, 100), fallback: 3, placeholder: 'N', help: 'runs of each side, in turn' },
  load: {
    read: oneOf('tpcc', 'insert', 'both'),
    fallback: 'both',
    placeholder: 'LOAD',
    help: 'what writes the WAL',
  },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
} as const

const MEMORY = '/dev/shm'
const say = (line: string): void => void process.stderr.write(`${line}\n`)

async function measureOurs(source: WalSource): Promise<Measured> {
  const script = join(import.meta.dirname, 'measure.ts')
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--expose-gc', '--max-semi-space-size=16', script, source.directory, String(source.major)],
    { timeout: 1_200_000, maxBuffer: 1 << 20 },
  )
  return JSON.parse(stdout) as Measured
}

async function runLoad(source: WalSource, rounds: number, folder: string): Promise<RedoRun> {
  const { load, fullPageWrites, walBytes } = source
  const ours: Measured[] = []
  const stock: StockRecovery[] = []
  for (let round = 1; round <= rounds; round++) {
    stock.push(await recoverByStock(source, folder))
    ours.push(await measureOurs(source))
    say(
      `${load}, round ${round}: stock ${stock.at(-1)?.cpuSeconds} CPU s, ours ${ours.at(-1)?.redo.cpuSeconds}`,
    )
  }
  return { load, fullPageWrites, walBytes, ours, stock }
}

async function main(): Promise<number> {
  const options = parseOptions('bench redo', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { pg, megabytes, rounds, load: chosen, json } = options.values
  const major = Number(pg) as PostgresMajor
  const loads: readonly Load[] = chosen === 'both' ? ['tpcc', 'insert'] : [chosen]
  const root = join(MEMORY, `understory-bench-redo-${process.pid}`)
  const runs: RedoRun[] = []
  const loadBefore = loadavg()[0] ?? 0
  try {
    // Postgres runs as another user.
    await mkdir(root, { mode: 0o755 })
    for (const load of loads) {
      for (const fullPageWrites of [false, true]) {
        say(`${load}, full_page_writes ${fullPageWrites ? 'on' : 'off'}: writing ${megabytes} MB of WAL`)
        const folder = join(root, `${load}-${fullPageWrites}`)
        const source = await makeWal({ major, load, fullPageWrites, folder, megabytes })
        runs.push(await runLoad(source, rounds, folder))
        await rm(folder, { recursive: true, force: true })
      }
    }
  } finally {
    await rm(root, { recursive: true, force: true })
  }
  const report: RedoReport = {
    postgresMajor: major,
    machine: `${cpus().length} cores (${cpus()[0]?.model.trim()})`,
    loadAverages: [loadBefore, loadavg()[0] ?? 0],
    runs,
  }
  process.stdout.write(renderRedo(report))
  if (json !== undefined) await writeFile(resolve(json), `${JSON.stringify(report, undefined, 2)}\n`)
  return 0
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory bench redo: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
