/** The figures of ingest: the shape of `--json`, and the tables for people. Medians over the rounds. */
import { median } from '../commit/report.ts'
import { renderAims, renderMachine, renderTable, shown } from '../storage/report.ts'
import type { Aim, Machine } from '../storage/report.ts'
import type { IngestRun } from './measure.ts'

export interface IngestReport {
  readonly postgresMajor: number
  readonly machine: Machine
  readonly settings: Readonly<Record<string, number | string>>
  readonly runs: readonly IngestRun[]
}

interface Figures {
  readonly takenPerSecond: number
  readonly durablePerSecond: number
  /** MB for each CPU second, until it is durable. */
  readonly perCpuSecond: number
  /** The same with all merges and images that follow. */
  readonly settledPerCpuSecond: number
  /** Bytes written for each byte of WAL. */
  readonly disk: number
  readonly store: number
}

const INGEST_MEGABYTES_MIN = 40
const AMPLIFICATION_MAX = 3
const LAYERS_MAX = 8

function figuresOf(runs: readonly IngestRun[]): Figures {
  const of = (figure: (run: IngestRun) => number): number => median(runs.map(figure))
  return {
    takenPerSecond: of(({ walMegabytes, taken }) => walMegabytes / taken.seconds),
    durablePerSecond: of(({ walMegabytes, durable }) => walMegabytes / durable.seconds),
    perCpuSecond: of(({ walMegabytes, durable }) => walMegabytes / durable.cpuSeconds),
    settledPerCpuSecond: of(({ walMegabytes, settled }) => walMegabytes / settled.cpuSeconds),
    disk: of(({ walMegabytes, disk }) => disk.bytes / 1e6 / walMegabytes),
    store: of(({ walMegabytes, store }) => store.bytes / 1e6 / walMegabytes),
  }
}

function groupsOf(runs: readonly IngestRun[]): Map<string, readonly IngestRun[]> {
  return Map.groupBy(runs, ({ kind, shards }) => `${kind}, ${shards} ${shards === 1 ? 'shard' : 'shards'}`)
}

export function aimsOf({ runs }: IngestReport): Aim[] {
  const aims: Aim[] = []
  for (const [name, same] of groupsOf(runs)) {
    const { perCpuSecond, disk, store } = figuresOf(same)
    const hasSmallRecords = same.some(({ kind }) => kind !== 'images')
    if (hasSmallRecords)
      aims.push({
        name: `${name}, ingest a core`,
        measured: perCpuSecond,
        aim: INGEST_MEGABYTES_MIN,
        unit: 'MB/s',
        isLimit: false,
      })
    aims.push({
      name: `${name}, written for a byte of WAL`,
      measured: disk + store,
      aim: AMPLIFICATION_MAX,
      unit: 'bytes',
      isLimit: true,
    })
    aims.push({
      name: `${name}, layers touched, p99`,
      measured: Math.max(...same.map(({ touched }) => touched.asked.p99)),
      aim: LAYERS_MAX,
      unit: 'layers',
      isLimit: true,
    })
  }
  return aims
}

export function renderIngest(report: IngestReport): string {
  const rows = [...groupsOf(report.runs)].map(([name, same]) => {
    const figures = figuresOf(same)
    const of = (figure: (run: IngestRun) => number): string => shown(median(same.map(figure)))
    return [
      name,
      of(({ walMegabytes }) => walMegabytes),
      shown(figures.takenPerSecond),
      shown(figures.durablePerSecond),
      shown(figures.perCpuSecond),
      shown(figures.settledPerCpuSecond),
      shown(figures.disk),
      shown(figures.store),
      of(({ generatedImages }) => generatedImages),
      of(({ layers }) => layers),
      of(({ layerMegabytes }) => layerMegabytes),
    ]
  })
  const heads = [
    'WAL',
    'MB',
    'MB/s taken',
    'durable',
    'MB/CPU s',
    'with merges',
    'disk B/B',
    'store B/B',
    'images',
    'layers',
    'MB of layers',
  ]
  return [
    `PostgreSQL ${report.postgresMajor}, ${renderMachine(report.machine)}`,
    'WAL is split before the clock starts, as safekeepers do it; no gRPC. taken: readable; durable: in layers on the',
    'disk and in the object store; MB/CPU s: of all threads until durable; B/B: bytes written for each byte of WAL',
    '',
    renderTable(heads, rows),
    renderAims(aimsOf(report)),
  ].join('\n')
}
