/**
 * `npm run bench -- scale`: memory, look-ups, start and the event loop of a pageserver as it grows: with the pages of a
 * shard, with the number of timelines, and with everything to do at once. Shards of the first two are synthetic: their
 * index is that of real ones, their values are not (synthetic.ts).
 */
import { execFile } from 'node:child_process'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { loadavg } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { describeError, isErrorCode } from '@understory/base'
import { oneOf, parseOptions, realEnv, silentLog, text, wholeNumber } from '@understory/env'
import { localObjectStore } from '@understory/object-store'
import { PAGE_SIZE } from '@understory/postgres/page'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresMajor } from '@understory/testcontainers'
import { makeSource } from '../ingest/sources.ts'
import { describeMachine, shown, writeJson } from '../storage/report.ts'
import type { BusyFigures } from './busy.ts'
import { measureMap } from './map.ts'
import { renderScale } from './report.ts'
import type { ScaleReport, SizeFigures } from './report.ts'
import type { RestFigures } from './rest.ts'
import { measureStart } from './start.ts'
import type { StartFigures } from './start.ts'
import { makeSynthetic } from './synthetic.ts'
import type { SyntheticOptions } from './synthetic.ts'

const OPTIONS = {
  part: {
    read: oneOf('map', 'sizes', 'timelines', 'start', 'busy', 'all'),
    fallback: 'all',
    placeholder: 'PART',
    help: 'what is measured',
  },
  sizes: {
    read: text,
    fallback: '100,1000,4000,16000,64000',
    placeholder: 'N,N',
    help: 'pages of a shard, in MB',
  },
  shards: {
    read: wholeNumber(1, 10_000),
    fallback: 1,
    placeholder: 'N',
    help: 'shards of each of these sizes',
  },
  timelines: { read: text, fallback: '10,100,1000,5000', placeholder: 'N,N', help: 'idle shards' },
  startShards: {
    read: wholeNumber(1, 100_000),
    fallback: 2_000,
    placeholder: 'N',
    help: 'shards at a start',
  },
  pg: { read: oneOf('16', '17', '18'), fallback: '17', placeholder: 'MAJOR', help: 'Postgres version' },
  megabytes: { read: wholeNumber(1, 10_000), fallback: 256, placeholder: 'N', help: 'WAL of the busy part' },
  dir: { read: text, fallback: '/dev/shm', placeholder: 'DIR', help: 'where layers and objects go' },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
} as const

const MAP_LAYERS = 10_000
/** In two base layers; with those of records, five. */
const IDLE_PAGES = 512
const IDLE_LAYER_PAGES = 256
const BUSY_PAGES = 131_072
const CHILD_TIMEOUT_MS = 1_800_000
const say = (line: string): void => void process.stderr.write(`${line}\n`)

async function runChild<T>(...args: readonly string[]): Promise<T> {
  const script = join(import.meta.dirname, 'child.ts')
  const flags = ['--expose-gc', '--disable-warning=ExperimentalWarning', '--initial-heap-size=96']
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, script, ...args], {
    timeout: CHILD_TIMEOUT_MS,
    maxBuffer: 1 << 20,
  })
  return JSON.parse(stdout) as T
}

type ShardsOptions = Pick<SyntheticOptions, 'control' | 'pages' | 'layerPages' | 'hasObjects'>

/** Synthetic shards below a folder, more and more of them. */
class Shards {
  readonly folder: string
  readonly #options: ShardsOptions
  count = 0
  layers = 0
  layerBytes = 0
  logicalBytes = 0

  constructor(folder: string, options: ShardsOptions) {
    this.folder = folder
    this.#options = options
  }

  async grow(count: number): Promise<void> {
    await using store = await localObjectStore(join(this.folder, 'objects'), realEnv(silentLog))
    for (; this.count < count; this.count++) {
      const dataDirectory = join(this.folder, 'local')
      const made = await makeSynthetic({ ...this.#options, dataDirectory, store, number: this.count })
      this.layers += made.layers
      this.layerBytes += made.layerBytes
      this.logicalBytes += made.logicalBytes
    }
  }

  measure(): Promise<RestFigures> {
    return runChild('rest', this.folder, String(this.count), String(this.#options.pages))
  }
}

/** pg_control of a cluster that never ran. */
async function controlFile(folder: string, major: PostgresMajor): Promise<Uint8Array> {
  await using server = await startPostgres({ major, dataDirectory: folder, started: false })
  return readFile(join(server.dataDirectory, 'global', 'pg_control'))
}

async function measureSizes(
  root: string,
  control: Uint8Array,
  megabytes: readonly number[],
  shardsCount: number,
): Promise<SizeFigures[]> {
  const measured: SizeFigures[] = []
  for (const size of megabytes) {
    const folder = join(root, 'size')
    const shards = new Shards(folder, { control, pages: Math.ceil((size * 1e6) / PAGE_SIZE) })
    const startMs = performance.now()
    await shards.grow(shardsCount)
    const makeSeconds = (performance.now() - startMs) / 1000
    const { logicalBytes, layerBytes } = shards
    const figures = { ...(await shards.measure()), logicalBytes, layerBytes, makeSeconds }
    measured.push(figures)
    const resident = shown(figures.residentBytes / 2 ** 20)
    say(
      `${size} MB: ${figures.layers} layers, ${resident} MiB resident, loaded in ${shown(figures.loadSeconds)} s`,
    )
    await rm(folder, { recursive: true, force: true })
  }
  return measured
}

interface Idle {
  readonly timelines: readonly RestFigures[]
  readonly start: StartFigures | undefined
}

async function measureIdle(
  root: string,
  control: Uint8Array,
  counts: readonly number[],
  startShards: number | undefined,
): Promise<Idle> {
  const shards = new Shards(join(root, 'idle'), { control, pages: IDLE_PAGES, layerPages: IDLE_LAYER_PAGES })
  const timelines: RestFigures[] = []
  let start: StartFigures | undefined
  const goals = new Set([...counts, ...(startShards === undefined ? [] : [startShards])])
  for (const count of [...goals].toSorted((a, b) => a - b)) {
    await shards.grow(count)
    if (count === startShards) {
      start = await measureStart(shards.folder, count, shards.layers)
      say(`start with ${count} shards: ${start.listeningMs.toFixed(0)} ms`)
    }
    if (!counts.includes(count)) continue
    const figures = await shards.measure()
    timelines.push(figures)
    say(`${count} timelines: ${(figures.residentBytes / 1024 / count).toFixed(1)} KiB each`)
  }
  await rm(shards.folder, { recursive: true, force: true })
  return { timelines, start }
}

async function measureBusy(
  root: string,
  control: Uint8Array,
  major: PostgresMajor,
  megabytes: number,
): Promise<BusyFigures> {
  const source = await makeSource('random', major, root, megabytes)
  const shards = new Shards(join(root, 'busy'), { control, pages: BUSY_PAGES, hasObjects: true })
  await shards.grow(1)
  return runChild('busy', shards.folder, source.directory, String(major))
}

async function main(): Promise<number> {
  const options = parseOptions('bench scale', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { part, sizes, shards, timelines, startShards, pg, megabytes, dir, json } = options.values
  const major = Number(pg) as PostgresMajor
  const isWanted = (name: typeof part): boolean => part === 'all' || part === name
  const numbers = (list: string): number[] => list.split(',').map(wholeNumber(1, 10_000_000))
  const [megabytesOfSizes, counts] = [numbers(sizes), isWanted('timelines') ? numbers(timelines) : []]
  const root = join(resolve(dir), `understory-bench-scale-${process.pid}`)
  const loadBefore = loadavg()[0] ?? 0
  try {
    // Postgres runs as another user.
    await mkdir(root, { mode: 0o755 })
    const control = await controlFile(join(root, 'control'), major)
    const measured = {
      map: isWanted('map') ? measureMap(MAP_LAYERS) : undefined,
      sizes: isWanted('sizes') ? await measureSizes(root, control, megabytesOfSizes, shards) : [],
      ...(await measureIdle(root, control, counts, isWanted('start') ? startShards : undefined)),
      busy: isWanted('busy') ? await measureBusy(root, control, major, megabytes) : undefined,
    }
    const report: ScaleReport = {
      machine: describeMachine(loadBefore),
      settings: { part, sizes, shards, timelines, startShards, megabytes, dir },
      ...measured,
    }
    process.stdout.write(renderScale(report))
    await writeJson(json, report)
  } finally {
    await rm(root, { recursive: true, force: true })
  }
  return 0
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory bench scale: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
