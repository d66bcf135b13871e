/** The C pgbench: its load, and every transaction's latency from its own log. */
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fail } from '@understory/base'
import { runCommand } from '@understory/testcontainers'

export type Script = 'tpcb' | 'insert'

export interface PgbenchFigures {
  readonly tps: number
  readonly transactions: number
  readonly p50Ms: number
  readonly p99Ms: number
}

const INSERT_SCRIPT = `\\set device random(1, 100000)
insert into events (device, at, reading) values (:device, now(), 'a line of some fifty characters, as events have');
`

/** Errors: `precondition` where there is none. */
export async function findPgbench(): Promise<string> {
  try {
    await runCommand({ name: 'pgbench', command: 'pgbench', args: ['--version'] })
    return 'pgbench'
  } catch (cause) {
    throw fail('precondition', 'there is no pgbench in PATH', {
      hint: 'Install it (Debian: apt-get install postgresql-contrib).',
      cause,
    })
  }
}

export async function preparePgbench(pgbench: string, connection: string, scale: number): Promise<void> {
  await runCommand({
    name: 'pgbench -i',
    command: pgbench,
    args: ['-i', '-q', '-s', String(scale), connection],
    timeoutMs: 600_000,
  })
}

/** Runs `script` for `seconds`. `directory` is made and removed again. Errors: refused where pgbench fails. */
export async function runPgbench(
  pgbench: string,
  connection: string,
  { script, clients, seconds }: { script: Script; clients: number; seconds: number },
  directory: string,
): Promise<PgbenchFigures> {
  await mkdir(directory, { recursive: true })
  try {
    const file = join(directory, 'insert.sql')
    await writeFile(file, INSERT_SCRIPT)
    const what = script === 'tpcb' ? ['-b', 'tpcb-like'] : ['-f', file]
    const args = ['-n', '-M', 'prepared', '-c', String(clients), '-j', '1', '-T', String(seconds), '-l']
    await runCommand({
      name: `pgbench with ${clients} clients`,
      command: pgbench,
      args: [...args, `--log-prefix=${join(directory, 'latency')}`, ...what, connection],
      timeoutMs: (seconds + 60) * 1000,
    })
    const latenciesMs: number[] = []
    for (const name of await readdir(directory)) {
      if (!name.startsWith('latency')) continue
      // client, transaction, elapsed microseconds, script, epoch seconds, microseconds
      for (const line of (await readFile(join(directory, name), 'utf8')).split('\n')) {
        const elapsedUs = Number(line.split(' ')[2])
        if (line !== '' && Number.isFinite(elapsedUs)) latenciesMs.push(elapsedUs / 1000)
      }
    }
    if (latenciesMs.length === 0) throw fail('precondition', 'pgbench logged no transaction')
    latenciesMs.sort((a, b) => a - b)
    const at = (share: number): number =>
      latenciesMs[Math.min(latenciesMs.length - 1, Math.floor(latenciesMs.length * share))] as number
    return {
      tps: latenciesMs.length / seconds,
      transactions: latenciesMs.length,
      p50Ms: at(0.5),
      p99Ms: at(0.99),
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}
