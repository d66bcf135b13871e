/**
 * `npm run chaos`: a real cluster, clients that remember, and a fault every few seconds (docs/chaos.md).
 * Exit codes: 0 everything held, 1 something did not, 2 wrong flags.
 */
import { spawn } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import { PRIVATELY, privateNetworkMissing } from '@understory/testcontainers'
import type { PostgresMajor } from '@understory/testcontainers'
import { startLab } from './lab.ts'
import { renderReport } from './report.ts'
import { runChaos } from './run.ts'

const number = (fallback: number, min: number, max: number, placeholder: string, help: string) => ({
  read: wholeNumber(min, max),
  fallback,
  placeholder,
  help,
})

const OPTIONS = {
  minutes: number(5, 1, 10_000, 'N', 'how long faults are done'),
  seconds: number(0, 0, 600_000, 'N', 'the same, in seconds; 0 = as --minutes says'),
  seed: number(1, 0, 10_000_000, 'S', 'what faults and clients draw from'),
  clients: number(4, 1, 100, 'N', 'connections at work'),
  gapSeconds: number(5, 1, 600, 'N', 'longest time without a commit while a majority is there'),
  recoverySeconds: number(60, 1, 600, 'N', 'longest time until a lost compute commits again'),
  only: { read: text, optional: true, placeholder: 'TEXT', help: 'only faults whose name contains it' },
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: '16, 17 or 18' },
  namespaces: {
    read: oneOf('auto', 'inside', 'none'),
    fallback: 'auto',
    placeholder: 'auto|inside|none',
    help: 'private namespaces: made where there is the right, entered already, or none',
  },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write everything there as JSON' },
} as const

const say = (line: string): void => void process.stderr.write(`${line}\n`)

/** This command again, in namespaces of its own, which go with it. */
function runPrivately(argv: readonly string[]): Promise<number> {
  // It ends with this one, in order, even where this one is killed.
  const [command, ...before] = ['setpriv', '--pdeathsig', 'TERM', '--', ...PRIVATELY] as const
  const self = [process.execPath, ...process.execArgv, import.meta.filename]
  const child = spawn(command, [...before, ...self, '--namespaces', 'inside', ...argv], { stdio: 'inherit' })
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal)
  process.on('SIGINT', pass).on('SIGTERM', pass)
  return new Promise((done, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => done(code ?? 1))
  })
}

async function main(argv: readonly string[]): Promise<number> {
  const options = parseOptions('chaos', OPTIONS, argv, process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { namespaces, minutes, seconds, json, pg, ...values } = options.values
  if (namespaces === 'auto') {
    const missing = await privateNetworkMissing()
    if (missing === undefined) return runPrivately(argv)
    say(`no private network: ${missing}`)
  }
  const stopping = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort())
  say('starting 3 safekeepers, 2 pageservers, a compute host and the control plane')
  await using lab = await startLab({
    major: Number(pg) as PostgresMajor,
    isPrivate: namespaces === 'inside',
  })
  const wantedSeconds = seconds === 0 ? minutes * 60 : seconds
  const report = await runChaos(lab, { ...values, seconds: wantedSeconds, say, signal: stopping.signal })
  process.stdout.write(renderReport(report))
  if (json !== undefined) await writeFile(resolve(json), `${JSON.stringify(report, undefined, 2)}\n`)
  return report.violations.length === 0 ? 0 : 1
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  process.stderr.write(`understory chaos: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exitCode = isErrorCode(error, 'bad_argument') ? 2 : 1
}
