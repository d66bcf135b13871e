/** The findings of a run, for people. */
import type { FaultRecord, RunReport } from './run.ts'

const seconds = (ms: number): string => `${(ms / 1_000).toFixed(ms < 9_950 ? 2 : 1)} s`
const thousands = (count: number): string => count.toLocaleString('en-US')

export function renderReport(report: RunReport): string {
  const byName = Map.groupBy(report.faults, ({ name }) => name)
  const rows = [...byName]
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(([name, faults]) => row(name, faults))
  const header = ['fault', 'times', 'commits', 'longest pause', 'at', 'median until all was as before']
  const { ledger, violations } = report
  const lines = [
    '',
    ...table([header, ...rows]),
    '',
    ...table([
      ['acknowledged commits', thousands(ledger.acknowledged)],
      ['  of them lost', String(ledger.lost.length)],
      ['ghosts', String(ledger.ghosts.length)],
      ['outcome unknown', `${ledger.unknown} (the connection was lost during COMMIT)`],
      ['rolled back or never sent', thousands(ledger.rolledBack)],
      ['times the ledger was checked', String(report.ledgerChecks)],
      [
        'lists',
        `${report.lists}: ${thousands(report.appends)} appends, ${thousands(report.reads)} reads checked`,
      ],
      ['longest pause with a majority', seconds(report.longestGapMs)],
      ['pages verified', `${thousands(report.pages)}, ${report.differing} differing`],
      ['connections lost', String(report.connectionsLost)],
    ]),
    '',
    ...report.skipped.map(({ name, why }) => `left out: ${name} (${why})`),
    ...violations.map((text) => `VIOLATION: ${text}`),
    `${report.faults.length} faults in ${Math.round(report.seconds)} s, seed ${report.seed}, ${report.clients} clients: ` +
      (violations.length === 0 ? 'everything held' : `${violations.length} violations`),
    '',
  ]
  return lines.join('\n')
}

const COMMITS = {
  continue: 'continue',
  wait: 'wait for it',
  stop: 'must stop',
  compute: 'compute is lost',
  adopt: 'wait',
} as const

function row(name: string, faults: readonly FaultRecord[]): string[] {
  const longest = faults.reduce((a, b) => (b.gapMs > a.gapMs ? b : a))
  const recoveries = faults
    .map(({ healedMs, recoveredMs }) => recoveredMs - healedMs)
    .toSorted((a, b) => a - b)
  const median = recoveries[recoveries.length >> 1] ?? 0
  return [
    name,
    String(faults.length),
    COMMITS[longest.effect],
    seconds(longest.gapMs),
    longest.target,
    seconds(median),
  ]
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((cells) => cells[column]?.length ?? 0)),
  )
  return rows.map((cells) => `  ${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('   ')}`.trimEnd())
}
