/**
 * `npm run fuzz:redo`: mutated real records on mutated real pages, of every version, and the decoder with mutated WAL.
 * Exit codes: 0 every promise kept, 1 a fault, 2 wrong flags.
 */
import { writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { Worker } from 'node:worker_threads'
import { describeError, isErrorCode, fail } from '@understory/base'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import type { PostgresMajor } from '@understory/testcontainers'
import type { FuzzThreadData } from './fuzz-protocol.ts'
import type { FuzzReport } from './fuzz.ts'
import { gatherCorpus } from './samples.ts'
import type { Corpus } from './samples.ts'

const OPTIONS = {
  records: {
    read: wholeNumber(1, 1_000_000_000),
    fallback: 20_000,
    placeholder: 'N',
    help: 'mutated records, over all versions',
  },
  seed: {
    read: wholeNumber(0, 2_000_000_000),
    fallback: 1,
    placeholder: 'S',
    help: 'what the cases follow from',
  },
  pg: {
    read: oneOf('16', '17', '18', 'all'),
    fallback: 'all',
    placeholder: 'MAJOR',
    help: '16, 17, 18 or all',
  },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
} as const

/** A case that takes longer hangs: the slowest honest one takes milliseconds. */
const HANG_MS = 20_000

async function fuzzInThread(corpus: Corpus, recordsCount: number, seed: number): Promise<FuzzReport> {
  const progress = new Int32Array(new SharedArrayBuffer(4))
  const workerData: FuzzThreadData = { corpus, recordsCount, seed, progress }
  const worker = new Worker(new URL('fuzz-thread.ts', import.meta.url), { workerData })
  const { promise, resolve: done, reject } = Promise.withResolvers<FuzzReport>()
  worker.on('message', done).on('error', reject)
  let [seen, seenMs] = [-1, performance.now()]
  const watch = setInterval(() => {
    const now = Atomics.load(progress, 0)
    if (now !== seen) [seen, seenMs] = [now, performance.now()]
    else if (performance.now() - seenMs > HANG_MS)
      reject(fail('timeout', `case ${now} of seed ${seed} hangs for more than ${HANG_MS} ms`))
  }, 500)
  try {
    return await promise
  } finally {
    clearInterval(watch)
    await worker.terminate()
  }
}

async function main(): Promise<number> {
  const options = parseOptions('fuzz:redo', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { records, seed, pg, json } = options.values
  const majors: readonly PostgresMajor[] = pg === 'all' ? [16, 17, 18] : [Number(pg) as PostgresMajor]
  const reports: (FuzzReport & { readonly postgresMajor: number; readonly seconds: number })[] = []
  for (const major of majors) {
    const corpus = await gatherCorpus(major)
    const startedMs = performance.now()
    const report = await fuzzInThread(corpus, Math.ceil(records / majors.length), seed)
    const seconds = (performance.now() - startedMs) / 1000
    reports.push({ postgresMajor: major, seconds, ...report })
    const { redo, streams, streamRecords, caseMsMax, faults } = report
    process.stdout.write(
      `PostgreSQL ${major}, seed ${seed}: ${redo.records} records of ${corpus.types.length} types in ${seconds.toFixed(0)} s, ` +
        `${redo.blocks} blocks: ${redo.pages} pages, ${redo.refused} refused, ${redo.undecodable} records not decoded; ` +
        `${streams} streams with ${streamRecords} records; slowest case ${caseMsMax.toFixed(1)} ms; ${faults.length} faults\n`,
    )
    for (const fault of faults) process.stdout.write(`${JSON.stringify(fault, undefined, 2)}\n`)
  }
  if (json !== undefined) await writeFile(resolve(json), `${JSON.stringify(reports, undefined, 2)}\n`)
  return reports.some(({ faults }) => faults.length > 0) ? 1 : 0
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory fuzz:redo: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
