/**
 * Goal: no schedule of crashes, lost writes, delays, losses, repeats and reordering breaks I1 to I3, and a quorum that
 * heals makes progress. Method: many seeds of `World`; a failing seed is named with the end of its trace.
 * `UNDERSTORY_SIMULATION_SEEDS=5000` runs more, `UNDERSTORY_SIMULATION_FIRST_SEED` begins elsewhere.
 */
import { expect, test } from 'vitest'
import { World, historyOf } from './quorum-world.ts'

const seedsCount = Number(process.env['UNDERSTORY_SIMULATION_SEEDS'] ?? 300)
const firstSeed = Number(process.env['UNDERSTORY_SIMULATION_FIRST_SEED'] ?? 1)

function runSeeds(streams: boolean): Record<string, number> {
  const totals: Record<string, number> = {}
  for (let seed = firstSeed; seed < firstSeed + seedsCount; seed++) {
    const world = new World({ seed, streams, faultsMs: 2_500 })
    try {
      world.run()
    } catch (error) {
      const logs = world.acceptors.map((acceptor) => `${acceptor.name}: ${historyOf(acceptor)}`).join('\n')
      throw new Error(
        `seed ${seed}, streams ${streams}: ${String(error)}\n${logs}\n${world.trace.slice(-30).join('\n')}`,
        { cause: error },
      )
    }
    for (const [what, count] of Object.entries(world.counts)) totals[what] = (totals[what] ?? 0) + count
  }
  return totals
}

test('committed WAL survives everything over streams that break', { timeout: 600_000 }, () => {
  const totals = runSeeds(true)
  for (const what of [
    'commits',
    'acceptor crashes',
    'divergent tails cut',
    'fenced',
    'fetches',
    'elected, adopt',
    'elected, rebuild',
  ]) {
    expect(totals[what], what).toBeGreaterThan(0)
  }
})

test('committed WAL survives messages that are lost, repeated and overtaken', { timeout: 600_000 }, () => {
  const totals = runSeeds(false)
  expect(totals['messages lost']).toBeGreaterThan(0)
  expect(totals['commits']).toBeGreaterThan(0)
})
