/**
 * `npm run bench -- getpage`: how long a page takes through the pageserver's own shard, for chains of several lengths
 * and for several readers at once, with all blocks of its layers in the cache, with those of the index, and with none.
 * The arms take turns. The shard is in this process: gRPC is not measured.
 */
import { mkdir, rm } from 'node:fs/promises'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { describeError, fail, isErrorCode } from '@understory/base'
import { BlockCache } from '@understory/storage'
import { oneOf, parseOptions, text, wholeNumber } from '@understory/env'
import type { PostgresMajor } from '@understory/testcontainers'
import type { Shard } from '../../apps/pageserver/src/shard/shard.ts'
import { attach, batchesOf, importCluster } from '../../apps/pageserver/test/support.ts'
import { openNode, settled } from '../storage/node.ts'
import type { StorageNode } from '../storage/node.ts'
import { describeMachine, shown, writeJson } from '../storage/report.ts'
import { makeChains } from './chains.ts'
import type { Chains } from './chains.ts'
import { ForgetfulCache } from './forgetful-cache.ts'
import { pagesOf, readFor } from './measure.ts'
import type { ChainPages } from './measure.ts'
import { ARMS, renderGetPage } from './report.ts'
import type { Arm, GetPageReport, GetPageRun } from './report.ts'

const OPTIONS = {
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  chains: { read: text, fallback: '0,1,8,16,64,512', placeholder: 'N,N', help: 'lengths of chains' },
  readers: { read: text, fallback: '1,8,64', placeholder: 'N,N', help: 'readers at once' },
  pages: { read: wholeNumber(16, 100_000), fallback: 512, placeholder: 'N', help: 'pages of each chain' },
  phases: { read: wholeNumber(1, 64), fallback: 8, placeholder: 'N', help: 'layers the WAL is frozen into' },
  rounds: { read: wholeNumber(1, 100), fallback: 3, placeholder: 'N', help: 'runs of each case' },
  ms: { read: wholeNumber(10, 60_000), fallback: 500, placeholder: 'MS', help: 'duration of a run' },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
} as const

const MEMORY = '/dev/shm'
const BATCH_BYTES = 256 * 1024
const LAYOUT = { count: 1, stripeBlocks: 256 }
/** So high that no chain is cut; while Postgres logs no images, generation cannot be off. */
const IMAGES = { enabled: true, thresholdRecords: 10_000 }
const CACHES: Readonly<Record<Arm, () => BlockCache>> = {
  warm: () => new BlockCache(2 ** 30),
  local: () => new ForgetfulCache(true),
  cold: () => new ForgetfulCache(false),
}
const WARM_UP_PART = 0.3
const say = (line: string): void => void process.stderr.write(`${line}\n`)

async function open(node: StorageNode, generation: number, major: PostgresMajor): Promise<Shard> {
  const [shard] = await attach(node, LAYOUT, generation, generation === 1, IMAGES, major)
  return shard as Shard
}

/** Takes the files and the WAL in, and freezes a layer after each phase. */
async function fill(folder: string, major: PostgresMajor, chains: Chains): Promise<void> {
  await using node = await openNode(folder)
  const shard = await open(node, 1, major)
  const startLsn = await importCluster([shard], chains.directory, major)
  const ends = [...chains.phaseEnds]
  const { owner, reader } = shard
  for await (const batch of batchesOf(
    chains.directory,
    owner.shard,
    reader.settings,
    startLsn,
    BATCH_BYTES,
  )) {
    await shard.take(batch)
    if (batch.endLsn < (ends[0] ?? Infinity)) continue
    ends.shift()
    await shard.flush()
  }
  await shard.flush()
  await settled(node, [shard])
}

interface Plan {
  readonly folder: string
  readonly major: PostgresMajor
  readonly chains: Chains
  readonly readers: readonly number[]
  readonly rounds: number
  readonly ms: number
}

type Measured = Pick<GetPageReport, 'shard' | 'runs'> & { readonly pages: readonly ChainPages[] }

async function measure({ folder, major, chains, readers, rounds, ms }: Plan): Promise<Measured> {
  const runs: GetPageRun[] = []
  let pages: readonly ChainPages[] | undefined
  let seen = { layers: 0, levels: 0, layerBytes: 0 }
  for (let round = 1; round <= rounds; round++) {
    for (const arm of ARMS) {
      const cache = CACHES[arm]()
      const forgets = cache instanceof ForgetfulCache
      const begin = forgets ? () => cache.begin() : () => () => undefined
      await using node = await openNode(folder, { cache })
      const shard = await open(node, 1 + runs.length + round, major)
      const { levels, layers } = shard.reader.map
      seen = { layers: layers.length, levels: levels.length, layerBytes: shard.counts.layerBytes }
      pages ??= await Promise.all(chains.tables.map((table) => pagesOf(shard, table)))
      for (const one of pages) {
        for (const count of readers) {
          const { chain } = one
          const how = { readers: count, begin }
          await readFor(shard, one, { ...how, durationMs: ms * WARM_UP_PART, seed: round })
          const reads = await readFor(shard, one, { ...how, durationMs: ms, seed: round + 1000 })
          runs.push({ arm, chain, readers: count, round, ...reads })
          const figures = `p50 ${shown(reads.p50Us)} us, p99 ${shown(reads.p99Us)} us, CPU ${shown(reads.cpuUs)} us`
          say(`round ${round}, ${arm}, ${chain} records, ${count} readers: ${figures}`)
        }
      }
      if (forgets && cache.forgottenCount === 0) throw fail('precondition', 'data blocks were kept')
    }
  }
  return { shard: seen, pages: pages ?? [], runs }
}

const numbers = (list: string, min: number, max: number): number[] =>
  list.split(',').map(wholeNumber(min, max))

async function main(): Promise<number> {
  const options = parseOptions('bench getpage', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { pg, chains: lengths, readers, pages, phases, rounds, ms, json } = options.values
  const major = Number(pg) as PostgresMajor
  const root = join(MEMORY, `understory-bench-getpage-${process.pid}`)
  const loadBefore = loadavg()[0] ?? 0
  try {
    // Postgres runs as another user.
    await mkdir(root, { mode: 0o755 })
    say('writing the chains')
    const chains = await makeChains({
      major,
      folder: join(root, 'postgres'),
      lengths: numbers(lengths, 0, 10_000),
      pages,
      phases,
    })
    const folder = join(root, 'node')
    say('taking them in')
    await fill(folder, major, chains)
    const measured = await measure({ folder, major, chains, readers: numbers(readers, 1, 1024), rounds, ms })
    const report: GetPageReport = {
      postgresMajor: major,
      machine: describeMachine(loadBefore),
      settings: { pages, phases, rounds, ms },
      shard: measured.shard,
      pages: measured.pages.map(({ requests, ...rest }) => ({ ...rest, count: requests.length })),
      runs: measured.runs,
    }
    process.stdout.write(renderGetPage(report))
    await writeJson(json, report)
  } finally {
    await rm(root, { recursive: true, force: true })
  }
  return 0
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory bench getpage: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
