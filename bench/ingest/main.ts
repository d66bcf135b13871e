/**
 * `npm run bench -- ingest`: MB/s of WAL that one shard, and several in one process, take in, for small records in
 * sequence, small records at random and images of whole pages; and the bytes that are written to the disk and to the
 * object store for each byte of WAL, merges and images included. The kinds take turns.
 */
import { mkdir, rm } from 'node:fs/promises'
import { loadavg } from 'node:os'
import { join, resolve } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import type { PostgresMajor } from '@understory/testcontainers'
import { describeMachine, shown, writeJson } from '../storage/report.ts'
import { runIngest } from './measure.ts'
import type { IngestRun } from './measure.ts'
import { renderIngest } from './report.ts'
import type { IngestReport } from './report.ts'
import { KINDS, makeSource } from './sources.ts'
import type { Source } from './sources.ts'

const OPTIONS = {
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  megabytes: {
    read: wholeNumber(1, 10_000),
    fallback: 256,
    placeholder: 'N',
    help: 'WAL of each kind, at least',
  },
  kind: {
    read: oneOf('sequential', 'random', 'images', 'all'),
    fallback: 'all',
    placeholder: 'KIND',
    help: 'what the WAL is',
  },
  shards: { read: text, fallback: '1,4', placeholder: 'N,N', help: 'numbers of shards' },
  rounds: { read: wholeNumber(1, 100), fallback: 3, placeholder: 'N', help: 'runs of each case' },
  historyS: {
    read: wholeNumber(1, 3_155_760_000),
    fallback: 86_400,
    placeholder: 'SECONDS',
    help: 'how long every LSN stays readable',
  },
  threshold: {
    read: wholeNumber(1, 10_000),
    fallback: 32,
    placeholder: 'N',
    help: 'records after which a page gets an image; 10,000: none',
  },
  dir: { read: text, fallback: '/dev/shm', placeholder: 'DIR', help: 'where layers and objects go' },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
} as const

const say = (line: string): void => void process.stderr.write(`${line}\n`)

async function main(): Promise<number> {
  const options = parseOptions('bench ingest', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { pg, megabytes, kind: chosen, shards, rounds, historyS, threshold, dir, json } = options.values
  const major = Number(pg) as PostgresMajor
  const counts = shards.split(',').map(wholeNumber(1, 256))
  const root = join(resolve(dir), `understory-bench-ingest-${process.pid}`)
  const runs: IngestRun[] = []
  const loadBefore = loadavg()[0] ?? 0
  try {
    // Postgres runs as another user.
    await mkdir(root, { mode: 0o755 })
    const sources: Source[] = []
    for (const kind of KINDS) {
      if (chosen !== 'all' && chosen !== kind) continue
      say(`${kind}: writing ${megabytes} MB of WAL`)
      sources.push(await makeSource(kind, major, root, megabytes))
    }
    for (let round = 1; round <= rounds; round++) {
      for (const source of sources) {
        for (const count of counts) {
          const folder = join(root, 'node')
          const run = await runIngest({
            source,
            major,
            shards: count,
            round,
            historyMs: historyS * 1000,
            thresholdRecords: threshold,
            folder,
          })
          await rm(folder, { recursive: true, force: true })
          runs.push(run)
          const { walMegabytes, durable, disk, store } = run
          const [rate, core] = [walMegabytes / durable.seconds, walMegabytes / durable.cpuSeconds]
          const written = (disk.bytes + store.bytes) / 1e6 / walMegabytes
          say(
            `round ${round}, ${source.kind}, ${count} shards: ${shown(rate)} MB/s, ${shown(core)} MB a CPU s, ` +
              `${shown(written)} bytes written a byte`,
          )
        }
      }
    }
  } finally {
    await rm(root, { recursive: true, force: true })
  }
  const report: IngestReport = {
    postgresMajor: major,
    machine: describeMachine(loadBefore),
    settings: { megabytes, rounds, historyS, threshold, dir },
    runs,
  }
  process.stdout.write(renderIngest(report))
  await writeJson(json, report)
  return 0
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory bench ingest: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
