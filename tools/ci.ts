/**
 * What `.ci/run` runs once the machine has what it needs: static checks, `npm test`, a short `npm run demo`. The last
 * line counts them all: a static check and the demonstration count one each, and so does every test.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { prepareHelm, prepareMinio, prepareVictoriaMetrics } from '@understory/testcontainers'
import { runChecks } from './check.ts'
import { runCommand } from './run-command.ts'

interface TestReport {
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly numPendingTests: number
  readonly numTodoTests: number
  /** A file that could not even be loaded has no tests to count. */
  readonly testResults: readonly { readonly status: string; readonly assertionResults: readonly unknown[] }[]
}

async function runTests(directory: string): Promise<{ passed: number; failed: number; skipped: number }> {
  const file = join(directory, 'tests.json')
  const { ok } = await runCommand('npm', [
    'test',
    '--',
    '--reporter=default',
    '--reporter=json',
    `--outputFile=${file}`,
  ])
  const report = JSON.parse(await readFile(file, 'utf8').catch(() => 'null')) as TestReport | null
  if (report === null) return { passed: 0, failed: 1, skipped: 0 }
  const unloaded = report.testResults.filter(
    ({ status, assertionResults }) => status === 'failed' && assertionResults.length === 0,
  )
  const failed = report.numFailedTests + unloaded.length
  return {
    passed: report.numPassedTests,
    // vitest also fails on an error outside of every test.
    failed: ok || failed > 0 ? failed : 1,
    skipped: report.numPendingTests + report.numTodoTests,
  }
}

async function runDemo(): Promise<boolean> {
  const short = ['--seconds', '12', '--warehouses', '1', '--scale', '2']
  return (await runCommand('npm', ['run', 'demo', '--', ...short])).ok
}

const directory = await mkdtemp(join(tmpdir(), 'understory-ci-'))
try {
  // A first build of MinIO or Helm takes minutes: it runs beside the checks.
  const prepared = {
    MinIO: prepareMinio(),
    Helm: prepareHelm(),
    VictoriaMetrics: prepareVictoriaMetrics(),
  }
  const programs = Object.entries(prepared).map(async ([name, made]) => {
    const reason = await made
    process.stdout.write(reason === undefined ? `${name} is there\n` : `no ${name}: ${reason}\n`)
  })
  const checks = await runChecks()
  await Promise.all(programs)
  const tests = await runTests(directory)
  const demoHeld = await runDemo()
  process.stdout.write(`${demoHeld ? 'ok  ' : 'FAIL'} demonstration\n`)
  const passed = checks.passed + tests.passed + (demoHeld ? 1 : 0)
  const failed = checks.failed + tests.failed + (demoHeld ? 0 : 1)
  if (tests.skipped > 0) process.stdout.write(`skipped: ${tests.skipped} (named above)\n`)
  process.stdout.write(`${passed} passed, ${failed} failed\n`)
  process.exitCode = failed === 0 ? 0 : 1
} finally {
  await rm(directory, { recursive: true, force: true })
}
