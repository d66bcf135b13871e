/** The figures of redo: the shape of `--json`, and the tables for people. */
import type { StockRecovery } from './stock-recovery.ts'
import type { Load } from './wal-source.ts'

export interface Phase {
  readonly records: number
  readonly blocks: number
  readonly bytes: number
  readonly elapsedSeconds: number
  readonly cpuSeconds: number
  /** Of the heap, from before to after, without a collection at the end. */
  readonly heapGrowthBytes: number
  readonly gcCount: number
  readonly gcMs: number
}

export interface Measured {
  readonly decode: Phase
  /** Redo with code that runs for the first time. */
  readonly first: Phase
  readonly redo: Phase
  /** Pages that redo touched. */
  readonly pages: number
  readonly one: { readonly nanoseconds: number; readonly type: string }
}

export interface RedoRun {
  readonly load: Load
  readonly fullPageWrites: boolean
  readonly walBytes: number
  readonly ours: readonly Measured[]
  readonly stock: readonly StockRecovery[]
}

export interface RedoReport {
  readonly postgresMajor: number
  readonly machine: string
  /** One-minute load average when the measured runs began and when they had ended. */
  readonly loadAverages: readonly number[]
  readonly runs: readonly RedoRun[]
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2
}

export interface RedoFigures {
  readonly records: number
  readonly megabytes: number
  readonly decodeCpuSeconds: number
  readonly redoCpuSeconds: number
  readonly firstCpuSeconds: number
  readonly stockCpuSeconds: number
  readonly redoElapsedSeconds: number
  readonly stockElapsedSeconds: number
  /** Records a CPU second, ours by stock's: above 1 is faster. */
  readonly ratio: number
  readonly oneRecordMicroseconds: number
  readonly heapBytesPerRecord: number
  readonly gcMs: number
}

export function figuresOf({ ours, stock }: RedoRun): RedoFigures {
  const of = (figure: (measured: Measured) => number): number => median(ours.map(figure))
  const redoCpuSeconds = of(({ redo }) => redo.cpuSeconds)
  const stockCpuSeconds = median(stock.map(({ cpuSeconds }) => cpuSeconds))
  return {
    records: of(({ redo }) => redo.records),
    megabytes: of(({ redo }) => redo.bytes) / 1e6,
    decodeCpuSeconds: of(({ decode }) => decode.cpuSeconds),
    redoCpuSeconds,
    firstCpuSeconds: of(({ first }) => first.cpuSeconds),
    stockCpuSeconds,
    redoElapsedSeconds: of(({ redo }) => redo.elapsedSeconds),
    stockElapsedSeconds: median(stock.map(({ elapsedSeconds }) => elapsedSeconds)),
    ratio: stockCpuSeconds / redoCpuSeconds,
    oneRecordMicroseconds: of(({ one }) => one.nanoseconds) / 1000,
    heapBytesPerRecord: of(({ redo }) => redo.heapGrowthBytes / redo.records),
    gcMs: of(({ redo }) => redo.gcMs),
  }
}

export function renderRedo(report: RedoReport): string {
  const lines = [
    `PostgreSQL ${report.postgresMajor}, ${report.machine}, load ${report.loadAverages.map((load) => load.toFixed(1)).join(' to ')}; data in memory, one thread, CPU seconds`,
    '',
  ]
  const row = (name: string, cells: readonly string[]): string =>
    name.padEnd(26) + cells.map((cell) => cell.padStart(13)).join('')
  for (const run of report.runs) {
    const f = figuresOf(run)
    const rate = (seconds: number): string[] => [
      seconds.toFixed(2),
      (f.records / seconds / 1000).toFixed(0),
      (f.megabytes / seconds).toFixed(0),
    ]
    lines.push(
      row(`${run.load}, full_page_writes ${run.fullPageWrites ? 'on' : 'off'}`, [
        'CPU s',
        '1000 rec/s',
        'MB/s',
        'elapsed s',
      ]),
      row('  decode alone', [...rate(f.decodeCpuSeconds), '']),
      row('  decode and redo', [...rate(f.redoCpuSeconds), f.redoElapsedSeconds.toFixed(2)]),
      row('  stock recovery', [...rate(f.stockCpuSeconds), f.stockElapsedSeconds.toFixed(2)]),
      `  ${f.ratio.toFixed(2)} times stock per CPU second; ${f.megabytes.toFixed(0)} MB, ${f.records} records; one record ${f.oneRecordMicroseconds.toFixed(2)} us; ` +
        `heap grown by ${f.heapBytesPerRecord.toFixed(1)} bytes a record, ${f.gcMs.toFixed(0)} ms of GC; ` +
        `first pass, code cold, ${f.firstCpuSeconds.toFixed(2)} CPU s`,
      '',
    )
  }
  return `${lines.join('\n')}\n`
}
