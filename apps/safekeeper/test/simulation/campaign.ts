/** Many seeds on several threads, and what they came to. */
import { Worker } from 'node:worker_threads'
import type { Mutant } from '@understory/simulation/mutation'
import type { CampaignJob, CampaignReport } from './campaign-protocol.ts'

const SEEDS_PER_JOB = 40

export interface CampaignOptions {
  readonly root: string
  readonly subject: string
  readonly fromSeed: number
  readonly count: number
  readonly threads: number
  readonly mutant?: Mutant
  readonly stopAtFailure?: boolean
  /** Ends it early, with what is done. */
  readonly signal?: AbortSignal
  readonly onProgress?: (done: number, failed: number) => void
}

export async function runCampaign(options: CampaignOptions): Promise<CampaignReport> {
  const {
    root,
    subject,
    fromSeed,
    count,
    threads,
    mutant,
    stopAtFailure = false,
    signal,
    onProgress,
  } = options
  const reports: CampaignReport[] = []
  let next = fromSeed
  let done = 0
  let isOver = false
  const work = async (): Promise<void> => {
    const worker = new Worker(new URL('./campaign-worker.ts', import.meta.url), {
      workerData: { root, mutant },
      stderr: true,
    })
    try {
      while (next < fromSeed + count && !isOver && signal?.aborted !== true) {
        const job: CampaignJob = {
          subject,
          fromSeed: next,
          count: Math.min(SEEDS_PER_JOB, fromSeed + count - next),
          stopAtFailure,
        }
        next += job.count
        const report = await ask(worker, job)
        reports.push(report)
        done += job.count
        if (stopAtFailure && report.failures.length > 0) isOver = true
        onProgress?.(
          done,
          reports.reduce((sum, { failures }) => sum + failures.length, 0),
        )
      }
    } finally {
      await worker.terminate()
    }
  }
  await Promise.all(Array.from({ length: threads }, work))
  return sum(reports)
}

function ask(worker: Worker, job: CampaignJob): Promise<CampaignReport> {
  const { promise, resolve, reject } = Promise.withResolvers<CampaignReport>()
  worker.once('message', resolve)
  worker.once('error', reject)
  worker.postMessage(job)
  return promise.finally(() => {
    worker.removeAllListeners('message')
    worker.removeAllListeners('error')
  })
}

function sum(reports: readonly CampaignReport[]): CampaignReport {
  const added = (
    field: 'schedulesBySubject' | 'faults' | 'transitions' | 'others',
  ): Record<string, number> => {
    const total: Record<string, number> = {}
    for (const report of reports)
      for (const [name, count] of Object.entries(report[field])) total[name] = (total[name] ?? 0) + count
    return total
  }
  return {
    schedulesBySubject: added('schedulesBySubject'),
    failures: reports.flatMap(({ failures }) => failures).sort((a, b) => a.seed - b.seed),
    events: reports.flatMap(({ events }) => events),
    faultsPlanned: reports.flatMap(({ faultsPlanned }) => faultsPlanned),
    virtualMs: reports.reduce((total, { virtualMs }) => total + virtualMs, 0),
    faults: added('faults'),
    transitions: added('transitions'),
    others: added('others'),
  }
}

export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0
}
