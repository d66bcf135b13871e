/**
 * `npm run simulate -- --seeds N [--seed FIRST] [--subject rules|safekeeper] [--threads N]`: many schedules, summed up,
 * also when it is interrupted.
 * `npm run simulate -- --seed N [--only 3,7] [--fair]`: one, with its trace; a failing one is shrunk.
 */
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { FAULT_KINDS, TRANSITIONS, runSchedule, shrink } from '@understory/simulation'
import { subjectNameOf } from '../apps/safekeeper/test/simulation/campaign-protocol.ts'
import { median, runCampaign } from '../apps/safekeeper/test/simulation/campaign.ts'
import { subjectOf } from '../apps/safekeeper/test/simulation/subjects.ts'
import { ROOT } from './run-command.ts'

const USAGE = `Usage: npm run simulate -- --seeds N [--seed FIRST] [--subject rules|safekeeper] [--threads N]
       npm run simulate -- --seed N [--only 3,7] [--fair]

The first runs many schedules and sums them up; the second runs one with its trace, and shrinks it if it fails.
`

const { values } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    seeds: { type: 'string' },
    seed: { type: 'string', default: '1' },
    subject: { type: 'string', default: 'mixed' },
    threads: { type: 'string', default: String(availableParallelism()) },
    only: { type: 'string' },
    fair: { type: 'boolean', default: false },
  },
})
const print = (line: string): void => void process.stdout.write(`${line}\n`)
const fromSeed = Number(values.seed)

async function replay(): Promise<void> {
  const subject = subjectOf(subjectNameOf(values.subject, fromSeed))
  const only = values.only
    ?.split(',')
    .filter((text) => text !== '')
    .map(Number)
  const isShrunk = only !== undefined || values.fair
  print(`seed ${fromSeed}, ${subject.name}`)
  const outcome = await runSchedule(subject, fromSeed, { only, isFairWeather: values.fair, onTrace: print })
  if (outcome.failure === undefined) {
    print(`${outcome.eventsCount} events, ${outcome.virtualMs.toFixed(0)} ms of its time, nothing wrong`)
    return
  }
  process.exitCode = 1
  if (isShrunk) return
  const shrunk = await shrink(subject, fromSeed, outcome.failure)
  const fair = shrunk.isFairWeather ? ' --fair' : ''
  print(`\nIt still fails with ${shrunk.only.length} faults: ${shrunk.failure}`)
  print(
    `  npm run simulate -- --seed ${fromSeed} --subject ${subject.name} --only ${shrunk.only.join(',')},${fair}`,
  )
}

async function campaign(count: number): Promise<void> {
  const startMs = performance.now()
  let saidMs = startMs
  print(`seeds ${fromSeed} to ${fromSeed + count - 1}, ${values.subject}, ${values.threads} threads`)
  const interrupted = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupted.abort())
  const report = await runCampaign({
    signal: interrupted.signal,
    root: ROOT,
    subject: values.subject,
    fromSeed,
    count,
    threads: Number(values.threads),
    onProgress: (done, failed) => {
      if (performance.now() - saidMs < 10_000) return
      saidMs = performance.now()
      print(`  ${done} done, ${failed} failed`)
    },
  })
  const { failures, events, faultsPlanned, virtualMs, schedulesBySubject } = report
  const seconds = (performance.now() - startMs) / 1000
  const total = events.reduce((sum, each) => sum + each, 0)
  print(
    `${events.length} schedules (${Object.entries(schedulesBySubject)
      .map(([name, n]) => `${n} ${name}`)
      .join(', ')}) in ${seconds.toFixed(0)} s, ${(virtualMs / 3_600_000).toFixed(1)} hours of their time`,
  )
  print(
    `${total} events, median ${median(events)} a schedule; median of planned faults ${median(faultsPlanned)}`,
  )
  printCounts('faults', report.faults, FAULT_KINDS)
  printCounts('transitions', report.transitions, TRANSITIONS)
  printCounts('also', report.others, [])
  for (const { seed, subject, failure } of failures.slice(0, 20))
    print(`FAILED seed ${seed}, ${subject}: ${failure.slice(0, 300)}`)
  print(`${failures.length} failed`)
  if (failures.length > 0) {
    process.exitCode = 1
    print('  npm run simulate -- --seed SEED replays and shrinks one')
  }
}

function printCounts(what: string, counts: Readonly<Record<string, number>>, all: readonly string[]): void {
  print(`${what}:`)
  for (const [name, count] of Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1)))
    print(`  ${String(count).padStart(12)}  ${name}`)
  const missing = all.filter((name) => counts[name] === undefined)
  if (missing.length > 0) print(`  never seen: ${missing.join('; ')}`)
}

if (values.help) process.stdout.write(USAGE)
else if (values.seeds === undefined) await replay()
else await campaign(Number(values.seeds))
