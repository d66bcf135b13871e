/** The figures of a comparison of commits: the shape of `--json`, and the table for people. Medians over the rounds. */
import type { PgbenchFigures, Script } from './pgbench.ts'

export type Arm = 'stock' | 'understory' | 'fpw off' | 'no pageservers'

export interface Sample extends PgbenchFigures {
  readonly arm: Arm
  readonly script: Script
  readonly clients: number
  readonly round: number
  /** Of every process of the side. */
  readonly cpuSeconds: number
  /** Over loopback, pgbench's own traffic included, which is the same for every side. */
  readonly wireBytes: number
}

export interface CommitReport {
  readonly postgresMajor: number
  readonly machine: string
  readonly settings: Readonly<Record<string, string | number | undefined>>
  readonly bulkMegabytesPerSecond: Readonly<Partial<Record<Arm, number>>>
  readonly samples: readonly Sample[]
}

const ARMS: readonly Arm[] = ['stock', 'understory', 'fpw off', 'no pageservers']
const NAMES: Readonly<Record<Arm, string>> = {
  stock: 'stock, any 2 of 3 standbys',
  understory: 'Understory',
  'fpw off': 'Understory, full_page_writes off',
  'no pageservers': 'Understory, no pageservers',
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2
}

export function renderCommit(report: CommitReport): string {
  const lines = [
    `PostgreSQL ${report.postgresMajor}, ${report.machine}, pgbench, medians of ${report.settings['rounds']} interleaved runs of ${report.settings['seconds']} s`,
    '',
  ]
  const groups = new Map<string, Sample[]>()
  for (const sample of report.samples) {
    const name = `${sample.script === 'tpcb' ? 'TPC-B' : 'single-row insert'}, ${sample.clients} clients`
    groups.set(name, [...(groups.get(name) ?? []), sample])
  }
  for (const [name, samples] of groups) {
    lines.push(
      `${name.padEnd(36)}${['tps', 'ratio', 'p50 ms', 'p99 ms', 'ratio', 'CPU ms/tx', 'KiB/tx'].map((head) => head.padStart(10)).join('')}`,
    )
    const of = (arm: Arm, figure: (sample: Sample) => number): number =>
      median(samples.filter((sample) => sample.arm === arm).map(figure))
    const stock = { tps: of('stock', ({ tps }) => tps), p99: of('stock', ({ p99Ms }) => p99Ms) }
    for (const arm of ARMS) {
      const [tps, p99] = [of(arm, (sample) => sample.tps), of(arm, ({ p99Ms }) => p99Ms)]
      const cells = [
        tps.toFixed(0),
        (tps / stock.tps).toFixed(2),
        of(arm, ({ p50Ms }) => p50Ms).toFixed(2),
        p99.toFixed(2),
        (p99 / stock.p99).toFixed(2),
        of(arm, ({ cpuSeconds, transactions }) => (cpuSeconds / transactions) * 1000).toFixed(3),
        of(arm, ({ wireBytes, transactions }) => wireBytes / transactions / 1024).toFixed(1),
      ]
      lines.push(`  ${NAMES[arm].padEnd(34)}${cells.map((cell) => cell.padStart(10)).join('')}`)
    }
    lines.push('')
  }
  const bulk = Object.entries(report.bulkMegabytesPerSecond)
  lines.push(`bulk load, MB/s: ${bulk.map(([arm, value]) => `${arm} ${value.toFixed(1)}`).join(', ')}`)
  return `${lines.join('\n')}\n`
}
