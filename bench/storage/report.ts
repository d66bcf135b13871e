/** The common parts of the storage engine's benchmarks: quantiles, the machine, tables, the JSON file. */
import { writeFile } from 'node:fs/promises'
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os'
import { resolve } from 'node:path'

export interface Machine {
  readonly cores: number
  readonly cpu: string
  readonly memoryGibibytes: number
  readonly node: string
  /** Of the last minute, when the benchmark began and when it ended. */
  readonly loadAverages: readonly [number, number]
}

/** `loadBefore` is `loadavg()[0]` of the begin. */
export function describeMachine(loadBefore: number): Machine {
  return {
    cores: availableParallelism(),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    memoryGibibytes: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    loadAverages: [loadBefore, loadavg()[0] ?? 0],
  }
}

export function renderMachine({ cores, cpu, memoryGibibytes, node, loadAverages }: Machine): string {
  const loads = loadAverages.map((load) => load.toFixed(1)).join(' to ')
  return `${cores} cores (${cpu}), ${memoryGibibytes} GiB, Node ${node}, load ${loads}`
}

/** The smallest value that at least the part `q` of 0 .. 1 of all does not pass; 0 without values. */
export function quantile(values: Iterable<number>, q: number): number {
  const sorted = Float64Array.from(values).sort()
  return sorted[Math.max(0, Math.ceil(sorted.length * q) - 1)] ?? 0
}

/** Columns as wide as their widest cell; the first to the left, the others to the right. */
export function renderTable(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [heads, ...rows]
  const widths = heads.map((_, i) => Math.max(...lines.map((line) => line[i]?.length ?? 0)))
  const cell = (text: string, i: number): string =>
    i === 0 ? text.padEnd(widths[i] as number) : text.padStart(widths[i] as number)
  return lines.map((line) => `  ${line.map(cell).join('  ').trimEnd()}\n`).join('')
}

/** Without a file nothing is written. */
export async function writeJson(file: string | undefined, report: unknown): Promise<void> {
  if (file !== undefined) await writeFile(resolve(file), `${JSON.stringify(report, undefined, 2)}\n`)
}

/** A figure beside what it is meant to be. */
export interface Aim {
  readonly name: string
  readonly measured: number
  readonly aim: number
  readonly unit: string
  /** Whether less is better. */
  readonly isLimit: boolean
}

export const isReached = ({ measured, aim, isLimit }: Aim): boolean =>
  isLimit ? measured <= aim : measured >= aim

export function renderAims(aims: readonly Aim[]): string {
  const rows = aims.map((aim) => [
    aim.name,
    `${shown(aim.measured)} ${aim.unit}`,
    `${aim.isLimit ? '<=' : '>='} ${shown(aim.aim)} ${aim.unit}`,
    isReached(aim) ? 'reached' : 'missed',
  ])
  return renderTable(['figure', 'measured', 'aim', ''], rows)
}

/** Three digits, as far as they say something. */
export function shown(value: number): string {
  if (!Number.isFinite(value)) return String(value)
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3
  return value.toFixed(digits)
}
