/** The figures of page reads: the shape of `--json`, and the tables for people. Medians over the rounds. */
import { median } from '../commit/report.ts'
import { renderAims, renderMachine, renderTable, shown } from '../storage/report.ts'
import type { Aim, Machine } from '../storage/report.ts'
import type { Reads } from './measure.ts'

/**
 * warm    every block of a layer is in the block cache
 * local   index blocks are; data blocks are read from the local file each time
 * cold    no block is, neither of the index
 */
export type Arm = 'warm' | 'local' | 'cold'
export const ARMS: readonly Arm[] = ['warm', 'local', 'cold']

export interface GetPageRun extends Reads {
  readonly arm: Arm
  readonly chain: number
  readonly readers: number
  readonly round: number
}

export interface GetPageReport {
  readonly postgresMajor: number
  readonly machine: Machine
  readonly settings: Readonly<Record<string, number>>
  readonly shard: { readonly layers: number; readonly levels: number; readonly layerBytes: number }
  readonly pages: readonly {
    readonly chain: number
    readonly count: number
    readonly layersMean: number
    readonly bytesMean: number
  }[]
  readonly runs: readonly GetPageRun[]
}

const WARM_US_MAX = 150
const LOCAL_US_MAX = 400
const LOCAL_CHAIN = 16

function figuresOf(runs: readonly GetPageRun[], arm: Arm, chain: number, readers: number): Reads | undefined {
  const same = runs.filter((run) => run.arm === arm && run.chain === chain && run.readers === readers)
  if (same.length === 0) return undefined
  return {
    p50Us: median(same.map(({ p50Us }) => p50Us)),
    p99Us: median(same.map(({ p99Us }) => p99Us)),
    readsPerSecond: median(same.map(({ readsPerSecond }) => readsPerSecond)),
    cpuUs: median(same.map(({ cpuUs }) => cpuUs)),
    count: same.reduce((sum, { count }) => sum + count, 0),
  }
}

/** Of one reader. */
export function aimsOf({ runs }: GetPageReport): Aim[] {
  const aims: Aim[] = []
  for (const chain of new Set(runs.map((run) => run.chain))) {
    const measured = figuresOf(runs, 'warm', chain, 1)?.p50Us
    const name = `warm, ${chain} records, p50`
    if (measured !== undefined) aims.push({ name, measured, aim: WARM_US_MAX, unit: 'us', isLimit: true })
  }
  for (const arm of ['local', 'cold'] as const) {
    const measured = figuresOf(runs, arm, LOCAL_CHAIN, 1)?.p50Us
    const name = `${arm}, ${LOCAL_CHAIN} records, p50`
    if (measured !== undefined) aims.push({ name, measured, aim: LOCAL_US_MAX, unit: 'us', isLimit: true })
  }
  return aims
}

export function renderGetPage(report: GetPageReport): string {
  const { runs, pages, shard } = report
  const readers = [...new Set(runs.map((run) => run.readers))]
  const lines = [
    `PostgreSQL ${report.postgresMajor}, ${renderMachine(report.machine)}`,
    `one shard, ${shard.layers} layers in ${shard.levels} levels, ${shown(shard.layerBytes / 1e6)} MB`,
    "reads within the pageserver's process, without gRPC; CPU: us of all threads for a read",
    'warm: all blocks of layers in the cache; local: index blocks alone; cold: none; the kernel has the files',
    'readers share one thread: of several at once, each waits for the others',
    '',
  ]
  for (const arm of ARMS) {
    const rows = pages.flatMap(({ chain, layersMean, bytesMean }) => {
      const cells = readers.map((count) => figuresOf(runs, arm, chain, count))
      if (cells.every((cell) => cell === undefined)) return []
      const shownCells = cells.flatMap((cell) =>
        cell === undefined
          ? ['', '', '', '']
          : [shown(cell.p50Us), shown(cell.p99Us), shown(cell.cpuUs), cell.readsPerSecond.toFixed(0)],
      )
      return [
        [`${arm}, ${chain} records`, layersMean.toFixed(1), (bytesMean / 1024).toFixed(1), ...shownCells],
      ]
    })
    const heads = readers.flatMap((count) => [`p50 us (${count})`, 'p99', 'CPU', 'reads/s'])
    if (rows.length > 0) lines.push(renderTable(['chain', 'layers', 'KiB', ...heads], rows))
  }
  lines.push(renderAims(aimsOf(report)))
  return lines.join('\n')
}
