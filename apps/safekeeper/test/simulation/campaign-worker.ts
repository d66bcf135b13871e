/** Runs seeds on a thread of its own; with a mutant, under that fault from the first import on. */
import { parentPort, workerData } from 'node:worker_threads'
import { installMutant } from '@understory/simulation/mutation'
import type { Mutant } from '@understory/simulation/mutation'
import { subjectNameOf } from './campaign-protocol.ts'
import type { CampaignJob, CampaignReport } from './campaign-protocol.ts'

const { root, mutant } = workerData as { readonly root: string; readonly mutant: Mutant | undefined }
if (mutant !== undefined) installMutant(root, mutant)
const { exhaust, figure8, runSchedule } = await import('@understory/simulation')
const { subjectOf } = await import('./subjects.ts')

const addAll = (sums: Record<string, number>, counts: ReadonlyMap<string, number>): void => {
  for (const [name, count] of counts) sums[name] = (sums[name] ?? 0) + count
}

async function run({ subject, fromSeed, count, stopAtFailure }: CampaignJob): Promise<CampaignReport> {
  const failures: { seed: number; subject: string; failure: string }[] = []
  const [events, faultsPlanned]: [number[], number[]] = [[], []]
  const [bySubject, faults, transitions, others] = [{}, {}, {}, {}] as Record<string, number>[] as [
    Record<string, number>,
    Record<string, number>,
    Record<string, number>,
    Record<string, number>,
  ]
  let virtualMs = 0
  for (let seed = fromSeed; seed < fromSeed + count; seed++) {
    const name = subjectNameOf(subject, seed)
    const outcome = await runSchedule(subjectOf(name), seed)
    bySubject[name] = (bySubject[name] ?? 0) + 1
    events.push(outcome.eventsCount)
    faultsPlanned.push(outcome.plannedCount)
    virtualMs += outcome.virtualMs
    addAll(faults, outcome.faults)
    addAll(transitions, outcome.transitions)
    addAll(others, outcome.others)
    if (outcome.failure === undefined) continue
    failures.push({ seed, subject: name, failure: outcome.failure })
    if (stopAtFailure) break
  }
  return {
    schedulesBySubject: bySubject,
    failures,
    events,
    faultsPlanned,
    virtualMs,
    faults,
    transitions,
    others,
  }
}

/** The checks that have no seeds: what is wrong, if anything. */
function check(subject: string): string | undefined {
  try {
    if (subject === 'small model')
      exhaust({ proposersCount: 2, acceptorsCount: 3, termMax: 2, entriesMax: 2 })
    else figure8()
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

parentPort?.on('message', (job: CampaignJob) => {
  if (job.subject === 'small model' || job.subject === 'figure 8') {
    const failure = check(job.subject)
    const failures = failure === undefined ? [] : [{ seed: 0, subject: job.subject, failure }]
    const nothing = { events: [], faultsPlanned: [], virtualMs: 0, faults: {}, transitions: {}, others: {} }
    parentPort?.postMessage({ schedulesBySubject: {}, failures, ...nothing } satisfies CampaignReport)
    return
  }
  // A failure to run at all ends the thread, and the campaign with it.
  void run(job).then((report) => parentPort?.postMessage(report))
})
