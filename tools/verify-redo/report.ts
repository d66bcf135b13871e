/** The findings of a verification of redo: the shape of `--json`, and the table for people. */
import type { Difference } from '../../libs/postgres/src/verify/differences.ts'
import type { FileCounts, TypeCounts } from '../../libs/postgres/src/verify/redo-verifier.ts'
import type { PgMajor } from '../../libs/postgres/src/wal/pages.ts'
import type { ScriptCounts } from './script-session.ts'

export interface RedoRun {
  /** The name of the run, and how it ran. */
  readonly name: string
  readonly scripts: ScriptCounts
  /** By record type. */
  readonly types: Readonly<Record<string, TypeCounts>>
  /** Set where Postgres crashed on the way and did not recover: what it logged last. Its files were not compared. */
  readonly endedEarly: string | undefined
  /** Pages and files compared when the server had stopped. */
  readonly files: FileCounts
  readonly differenceCount: number
  /** The first of them. */
  readonly differences: readonly Difference[]
}

export interface PipelineRun {
  readonly scripts: ScriptCounts
  readonly pagesIndependent: number
  readonly pagesFromStorage: number
  readonly visibilityMapPages: number
  readonly slruPages: number
  readonly otherFiles: number
  readonly excluded: number
  readonly differing: number
}

export interface VersionReport {
  readonly major: PgMajor
  readonly postgresVersion: string
  readonly runs: readonly RedoRun[]
  readonly pipeline: PipelineRun | undefined
}

export const differencesOf = (reports: readonly VersionReport[]): number =>
  reports.reduce(
    (sum, { runs, pipeline }) =>
      sum + runs.reduce((some, run) => some + run.differenceCount, 0) + (pipeline?.differing ?? 0),
    0,
  )

/** Runs that Postgres itself did not get through. */
export const endedEarlyCount = (reports: readonly VersionReport[]): number =>
  reports.reduce((sum, { runs }) => sum + runs.filter(({ endedEarly }) => endedEarly !== undefined).length, 0)

const number = (value: number): string => value.toLocaleString('en-US')

function scriptsLine({ files, statements, errors, skipped, cancelled, sessionsLost }: ScriptCounts): string {
  const commands = Object.values(skipped).reduce((sum, count) => sum + count, 0)
  return (
    `${files} files, ${number(statements)} statements, ${number(errors)} of them refused by Postgres, ` +
    `${commands} backslash commands skipped, ${cancelled} cancelled, ${sessionsLost} sessions lost`
  )
}

export function renderRun(major: PgMajor, run: RedoRun): string {
  const columns: readonly (keyof TypeCounts)[] = ['records', 'compared', 'redone', 'restored', 'skipped']
  const rows = Object.entries(run.types).toSorted(([a], [b]) => a.localeCompare(b))
  const width = Math.max(...rows.map(([name]) => name.length), 20)
  const lines = [
    `PostgreSQL ${major}, ${run.name}`,
    `  ${scriptsLine(run.scripts)}`,
    `  ${'record type'.padEnd(width)}${columns.map((column) => column.padStart(12)).join('')}`,
    ...rows.map(
      ([name, counts]) =>
        `  ${name.padEnd(width)}${columns.map((column) => number(counts[column]).padStart(12)).join('')}`,
    ),
    run.endedEarly === undefined
      ? `  at the end: ${number(run.files.compared)} pages and files compared with the server's, ${number(run.files.untouched)} never changed, ${number(run.files.reinitialized)} SP-GiST pages that it initialized without a record, ${number(run.files.holedMaps)} maps that Postgres logged as a hole`
      : `  ENDED EARLY: Postgres crashed and did not recover by itself, what came after was not run: ${run.endedEarly}`,
    ...run.differences.slice(0, 10).map(({ where, what }) => `  DIFFERS ${where}: ${what}`),
    `  ${number(run.differenceCount)} differences`,
  ]
  return `${lines.join('\n')}\n`
}

export function renderPipeline(major: PgMajor, run: PipelineRun): string {
  return [
    `PostgreSQL ${major}, through safekeepers and pageservers, full_page_writes off`,
    `  ${scriptsLine(run.scripts)}`,
    `  ${number(run.pagesIndependent)} pages written by Postgres compared, ${number(run.pagesFromStorage)} that came from storage, ` +
      `${number(run.visibilityMapPages)} visibility-map pages, ${number(run.slruPages)} SLRU pages, ${number(run.otherFiles)} other files, ${number(run.excluded)} excluded`,
    `  ${number(run.differing)} differences`,
    '',
  ].join('\n')
}
