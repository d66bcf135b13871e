/**
 * The workloads as a command:
 *
 *     node bench/workloads/main.ts tpcc|tpcb load|run|check --url URL [options]
 *
 * Exit code 0: done, and for `check` nothing found; 1: it failed, or something was found; 2: wrong usage.
 */
import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { describeError, isErrorCode, fail } from '@understory/base'
import pg from 'pg'
import { type RunStats, runWorkload } from './driver.ts'
import { Ledger, type LedgerCheck, checkLedger } from './ledger.ts'
import { loadTpcb } from './tpcb/load.ts'
import { checkTpcb, tpcb } from './tpcb/workload.ts'
import { checkTpcc } from './tpcc/check.ts'
import { loadTpcc } from './tpcc/load.ts'
import { tpcc } from './tpcc/workload.ts'

const USAGE = `usage: node bench/workloads/main.ts tpcc|tpcb load|run|check --url URL [options]

  --url URL          the database, as postgresql://user@host:port/database
  --warehouses N     tpcc load: warehouses, about 95 MB each; 4 unless given
  --scale N          tpcb load: branches of 100,000 accounts, about 15 MB each; 20 unless given
  --clients N        run: connections; 8 unless given
  --seconds N        run: how long; 60 unless given
  --seed N           load and run: the same seed draws the same data; 1 unless given
  --ledger FILE      run: record every commit in FILE and in the database; check: compare the two
  --json FILE        run and check: write the result to FILE`

const OPTIONS = {
  url: { type: 'string' },
  warehouses: { type: 'string' },
  scale: { type: 'string' },
  clients: { type: 'string' },
  seconds: { type: 'string' },
  seed: { type: 'string' },
  ledger: { type: 'string' },
  json: { type: 'string' },
  help: { type: 'boolean' },
} as const

/** Which options each command takes beside --url. */
const TAKES: Readonly<Record<string, readonly string[]>> = {
  'tpcc load': ['warehouses', 'seed'],
  'tpcc run': ['clients', 'seconds', 'seed', 'ledger', 'json'],
  'tpcc check': ['ledger', 'json'],
  'tpcb load': ['scale'],
  'tpcb run': ['clients', 'seconds', 'seed', 'ledger', 'json'],
  'tpcb check': ['ledger', 'json'],
}

interface Command {
  readonly workload: 'tpcc' | 'tpcb'
  readonly action: 'load' | 'run' | 'check'
  readonly url: string
  readonly warehouses: number
  readonly scale: number
  readonly clients: number
  readonly seconds: number
  readonly seed: number
  readonly ledger: string | undefined
  readonly json: string | undefined
}

function parseCommand(args: readonly string[]): Command | 'help' {
  const { values, positionals } = parse(args)
  if (values.help === true) return 'help'
  const [workload, action, ...rest] = positionals
  if (workload === undefined || action === undefined)
    throw wrong('a workload and what to do with it must be given')
  if (workload !== 'tpcc' && workload !== 'tpcb') throw wrong(`there is no workload "${workload}"`)
  if (action !== 'load' && action !== 'run' && action !== 'check')
    throw wrong(`cannot "${action}" a workload`)
  if (rest.length > 0) throw wrong(`unexpected argument "${rest[0]}"`)
  const taken = TAKES[`${workload} ${action}`] ?? []
  for (const name of Object.keys(values)) {
    if (name !== 'url' && !taken.includes(name))
      throw wrong(`--${name} does not apply to "${workload} ${action}"`)
  }
  return {
    workload,
    action,
    url: parseUrl(values.url),
    warehouses: count('warehouses', values.warehouses, 4, 1, 10_000),
    scale: count('scale', values.scale, 20, 1, 20_000),
    clients: count('clients', values.clients, 8, 1, 1_000),
    seconds: count('seconds', values.seconds, 60, 1, 86_400),
    seed: count('seed', values.seed, 1, 0, Number.MAX_SAFE_INTEGER),
    ledger: values.ledger,
    json: values.json,
  }
}

function parse(
  args: readonly string[],
): ReturnType<typeof parseArgs<{ options: typeof OPTIONS; allowPositionals: true }>> {
  try {
    return parseArgs({ args, options: OPTIONS, allowPositionals: true })
  } catch (error) {
    // Node's text continues with an explanation of "--" that is of no use here.
    const [sentence = ''] = (error as Error).message.split('. ')
    throw wrong(sentence.charAt(0).toLowerCase() + sentence.slice(1), error)
  }
}

function parseUrl(url: string | undefined): string {
  if (url === undefined) throw wrong('--url is missing')
  if (!URL.canParse(url) || !/^postgres(ql)?:$/.test(new URL(url).protocol)) {
    throw wrong(`--url "${url}" is not of the form postgresql://user@host:port/database`)
  }
  return url
}

function count(name: string, text: string | undefined, otherwise: number, min: number, max: number): number {
  if (text === undefined) return otherwise
  const value = /^\d+$/.test(text) ? Number(text) : NaN
  if (!(value >= min && value <= max))
    throw wrong(`--${name} must be a whole number of ${min} to ${max}, not "${text}"`)
  return value
}

function wrong(message: string, cause?: unknown): Error {
  return fail('bad_argument', message, { hint: 'Run with --help to see the usage.', cause })
}

async function runCommand(command: Command): Promise<number> {
  switch (command.action) {
    case 'load':
      return load(command)
    case 'run':
      return run(command)
    case 'check':
      return check(command)
  }
}

async function load({ workload, url, warehouses, scale, seed }: Command): Promise<number> {
  const startedMs = performance.now()
  const common = { connectionString: url, onProgress: (text: string) => console.log(text) }
  if (workload === 'tpcc') await loadTpcc({ ...common, warehouses, seed })
  else await loadTpcb({ ...common, scale })
  console.log(`loaded in ${((performance.now() - startedMs) / 1000).toFixed(1)} s`)
  return 0
}

async function run({ workload, url, clients, seconds, seed, ledger: path, json }: Command): Promise<number> {
  const stop = new AbortController()
  const onSignal = () => stop.abort()
  process.once('SIGINT', onSignal)
  process.once('SIGTERM', onSignal)
  const ledger = path === undefined ? undefined : new Ledger(path)
  try {
    const stats = await runWorkload(workload === 'tpcc' ? tpcc : tpcb, {
      connectionString: url,
      clients,
      durationMs: seconds * 1000,
      seed,
      signal: stop.signal,
      onReconnect: ({ client, downMs }) =>
        console.log(`client ${client} is back after ${downMs.toFixed(0)} ms`),
      ...(ledger === undefined ? {} : { ledger }),
    })
    printStats(stats)
    await writeJson(json, stats)
    return 0
  } finally {
    ledger?.close()
    process.removeListener('SIGINT', onSignal)
    process.removeListener('SIGTERM', onSignal)
  }
}

function printStats(stats: RunStats): void {
  const headline = stats.nopm === null ? '' : `${stats.nopm.toFixed(0)} NOPM, `
  console.log(
    `${stats.workload}: ${headline}${stats.tps} tps (${stats.committed} in ${stats.seconds} s, ${stats.clients} clients)`,
  )
  for (const [name, { committed, rolledBack, latencyMs }] of Object.entries(stats.transactions)) {
    const numbers = [latencyMs.p50, latencyMs.p95, latencyMs.p99]
      .map((ms) => ms.toFixed(2).padStart(9))
      .join('')
    const undone = rolledBack === 0 ? '' : `   ${rolledBack} rolled back`
    console.log(`  ${name.padEnd(12)}${String(committed).padStart(9)}   p50/p95/p99 ms${numbers}${undone}`)
  }
  console.log(
    `  retries ${stats.retries}, connections lost ${stats.connectionsLost}, unknown outcomes ${stats.unknownOutcomes}, ` +
      `client CPU ${stats.clientCpuUsPerTransaction} us a transaction`,
  )
}

async function check({ workload, url, ledger: path, json }: Command): Promise<number> {
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  try {
    const consistency = await (workload === 'tpcc' ? checkTpcc(client) : checkTpcb(client))
    for (const { name, violationsCount, example } of consistency) {
      console.log(
        violationsCount === 0
          ? `holds: ${name}`
          : `VIOLATED (${violationsCount}): ${name}, such as ${example}`,
      )
    }
    const ledger = path === undefined ? undefined : await checkLedger(client, path)
    if (ledger !== undefined) printLedger(ledger)
    await writeJson(json, { consistency, ledger })
    const isWhole = ledger === undefined || (ledger.lostCommits === 0 && ledger.ghostCommits === 0)
    return isWhole && consistency.every(({ violationsCount }) => violationsCount === 0) ? 0 : 1
  } finally {
    await client.end()
  }
}

function printLedger({
  acknowledged,
  lostCommits,
  ghostCommits,
  unknownPresent,
  unknownAbsent,
  examples,
}: LedgerCheck): void {
  console.log(
    `ledger: ${acknowledged} acknowledged, ${lostCommits} lost, ${ghostCommits} ghosts, ` +
      `${unknownPresent + unknownAbsent} unknown (${unknownPresent} present)`,
  )
  if (examples.lost.length > 0) console.log(`  lost, as client/sequence: ${examples.lost.join(' ')}`)
  if (examples.ghosts.length > 0) console.log(`  ghosts, as client/sequence: ${examples.ghosts.join(' ')}`)
}

async function writeJson(path: string | undefined, value: unknown): Promise<void> {
  if (path !== undefined) await writeFile(path, `${JSON.stringify(value, null, 2)}\n`)
}

try {
  const command = parseCommand(process.argv.slice(2))
  if (command === 'help') console.log(USAGE)
  else process.exitCode = await runCommand(command)
} catch (error) {
  console.error(`error: ${describeError(error)}`)
  process.exitCode = isErrorCode(error, 'bad_argument') ? 2 : 1
}
