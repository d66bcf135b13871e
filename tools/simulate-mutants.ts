/**
 * `npm run simulate:mutants [-- --seeds N] [--name TEXT]`: is every deliberate fault found, and within how many seeds?
 */
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { runCampaign } from '../apps/safekeeper/test/simulation/campaign.ts'
import { MUTANTS } from '../apps/safekeeper/test/simulation/mutants.ts'
import { ROOT } from './run-command.ts'

const { values } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    seeds: { type: 'string', default: '20000' },
    name: { type: 'string', default: '' },
  },
})
if (values.help) {
  process.stdout.write('Usage: npm run simulate:mutants [-- --seeds N] [--name TEXT]\n')
  process.exit(0)
}
const chosen = MUTANTS.filter(({ name }) => name.includes(values.name))
const waiting = [...chosen]
const missed: string[] = []

async function work(): Promise<void> {
  for (let mutant = waiting.shift(); mutant !== undefined; mutant = waiting.shift()) {
    const { name, subject } = mutant
    const hasSeeds = subject === 'rules' || subject === 'safekeeper'
    const startMs = performance.now()
    const report = await runCampaign({
      root: ROOT,
      subject,
      fromSeed: 1,
      count: hasSeeds ? Number(values.seeds) : 1,
      threads: 1,
      mutant,
      stopAtFailure: true,
    })
    const seconds = ((performance.now() - startMs) / 1000).toFixed(1)
    const [first] = report.failures
    if (first === undefined) missed.push(name)
    const result =
      first === undefined
        ? `NOT FOUND in ${report.events.length} seeds`
        : hasSeeds
          ? `found within ${first.seed} seeds`
          : 'found'
    const why = first === undefined ? '' : `: ${first.failure.slice(0, 90)}`
    process.stdout.write(`${result.padEnd(26)} ${seconds.padStart(6)} s  ${subject}: ${name}${why}\n`)
  }
}

await Promise.all(Array.from({ length: Math.min(availableParallelism(), chosen.length) }, work))
process.stdout.write(`${chosen.length - missed.length} of ${chosen.length} mutants found\n`)
process.exitCode = missed.length === 0 ? 0 : 1
