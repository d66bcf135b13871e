/** The figures of one demonstration: the shape of `--json`, and the table for people. */

export interface PhaseFigures {
  readonly workload: 'tpcc' | 'tpcb'
  readonly fpw: 'on' | 'off'
  /** New-Order transactions per minute; null for pgbench's script. */
  readonly nopm: number | null
  readonly tps: number
  readonly transactions: number
  readonly walBytesPerTransaction: number
  readonly fullPageImagesInWal: number
  readonly imagesByStorage: number
  /** Records that a read would have to apply, over pages that have any: sampled every second, the largest sample. */
  readonly chainP50: number
  readonly chainP99: number
  readonly chainMax: number
  readonly getPageP50Us: number
  readonly getPageP99Us: number
  readonly latencyP50Ms: number
  readonly latencyP99Ms: number
  readonly checkpoints: number
}

export interface VerifyFigures {
  readonly when: string
  readonly pagesIndependent: number
  readonly pagesFromStorage: number
  readonly excluded: number
  readonly differing: number
  readonly tookMs: number
}

export interface DemoReport {
  readonly postgresVersion: string
  readonly settings: Readonly<Record<string, string | number>>
  readonly machine: string
  readonly phases: readonly PhaseFigures[]
  readonly switch: {
    readonly toOffMs: number
    readonly toOnMs: number
    readonly connectionsLost: number
    readonly restarts: number
  }
  readonly safekeeperLoss: { readonly commitsDuring: number; readonly lostCommits: number }
  readonly computeLoss: {
    readonly rebuildMs: number
    readonly lostCommits: number
    readonly ghostCommits: number
  }
  readonly verify: readonly VerifyFigures[]
  readonly consistencyViolations: number
  readonly tookMs: number
}

const number = (value: number): string => Math.round(value).toLocaleString('en-US')
const bytes = (value: number): string =>
  value >= 10_240 ? `${(value / 1024).toFixed(1)} KiB` : `${number(value)} B`

function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] as readonly string[]).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)),
  )
  const line = (row: readonly string[]): string =>
    `  ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] as number) : cell.padStart(widths[i] as number))).join('   ')}`
  const [head, ...body] = rows.map(line) as [string, ...string[]]
  return [head, `  ${'─'.repeat(head.length - 2)}`, ...body].join('\n')
}

const saving = (on: number, off: number): string => `${(100 * (1 - off / on)).toFixed(1)} % less`

/** On and off side by side, one block a workload. */
function renderComparison(title: string, on: PhaseFigures, off: PhaseFigures): string {
  const rate =
    on.nopm === null
      ? []
      : [
          [
            'new orders per minute',
            number(on.nopm),
            number(off.nopm ?? 0),
            `${((off.nopm ?? 0) / on.nopm).toFixed(2)} x`,
          ],
        ]
  return `${title}\n${table([
    ['', 'full_page_writes on', 'off + image generation', ''],
    ...rate,
    ['transactions per second', number(on.tps), number(off.tps), `${(off.tps / on.tps).toFixed(2)} x`],
    [
      'WAL per transaction',
      bytes(on.walBytesPerTransaction),
      bytes(off.walBytesPerTransaction),
      saving(on.walBytesPerTransaction, off.walBytesPerTransaction),
    ],
    ['page images in the WAL', number(on.fullPageImagesInWal), number(off.fullPageImagesInWal), ''],
    ['page images by the storage', number(on.imagesByStorage), number(off.imagesByStorage), ''],
    [
      'delta chain p50 / p99 / max',
      `${on.chainP50} / ${on.chainP99} / ${on.chainMax}`,
      `${off.chainP50} / ${off.chainP99} / ${off.chainMax}`,
      'records',
    ],
    [
      'page read p50 / p99',
      `${on.getPageP50Us} / ${on.getPageP99Us}`,
      `${off.getPageP50Us} / ${off.getPageP99Us}`,
      'µs',
    ],
    [
      'transaction p50 / p99',
      `${on.latencyP50Ms.toFixed(1)} / ${on.latencyP99Ms.toFixed(1)}`,
      `${off.latencyP50Ms.toFixed(1)} / ${off.latencyP99Ms.toFixed(1)}`,
      'ms',
    ],
    ['checkpoints', number(on.checkpoints), number(off.checkpoints), ''],
  ])}\n`
}

export function renderReport(report: DemoReport): string {
  const phase = (workload: string, fpw: string): PhaseFigures =>
    report.phases.find((item) => item.workload === workload && item.fpw === fpw) as PhaseFigures
  const settings = Object.entries(report.settings)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ')
  const { switch: flips, safekeeperLoss, computeLoss } = report
  return [
    `\nPostgreSQL ${report.postgresVersion}, stock binaries, on ${report.machine}`,
    `${settings}\n`,
    renderComparison('TPC-C', phase('tpcc', 'on'), phase('tpcc', 'off')),
    renderComparison("pgbench's script", phase('tpcb', 'on'), phase('tpcb', 'off')),
    table([
      ['what happened', 'figure'],
      ['switch to off, under load', `${number(flips.toOffMs)} ms`],
      ['switch to on, under load', `${number(flips.toOnMs)} ms`],
      ['connections lost, restarts across both', `${flips.connectionsLost}, ${flips.restarts}`],
      ['transactions committed while a safekeeper was dead', number(safekeeperLoss.commitsDuring)],
      ['acknowledged commits lost with it', number(safekeeperLoss.lostCommits)],
      ['compute killed: open for SQL again after', `${number(computeLoss.rebuildMs)} ms`],
      ['acknowledged commits lost, ghost commits', `${computeLoss.lostCommits}, ${computeLoss.ghostCommits}`],
      ['violations of TPC-C and TPC-B consistency', number(report.consistencyViolations)],
    ]),
    '',
    table([
      ['verify', 'written by Postgres', 'from storage', 'excluded', 'differing', 'took'],
      ...report.verify.map((row) => [
        row.when,
        number(row.pagesIndependent),
        number(row.pagesFromStorage),
        number(row.excluded),
        number(row.differing),
        `${number(row.tookMs)} ms`,
      ]),
    ]),
    '',
  ].join('\n')
}

/** The promises of the demonstration; each line that does not hold, in words. */
export function failures(report: DemoReport, chainMaxAllowed: number): string[] {
  const found: string[] = []
  const expect = (holds: boolean, what: string): void => {
    if (!holds) found.push(what)
  }
  const off = report.phases.filter(({ fpw }) => fpw === 'off')
  expect(
    off.every(({ imagesByStorage }) => imagesByStorage > 0),
    'the storage made no images',
  )
  expect(
    off.every(({ chainMax }) => chainMax <= chainMaxAllowed),
    `a delta chain passed ${chainMaxAllowed} records`,
  )
  expect(report.switch.connectionsLost === 0, 'the switch lost connections')
  expect(report.switch.restarts === 0, 'the switch restarted Postgres')
  expect(report.safekeeperLoss.commitsDuring > 0, 'nothing was committed while a safekeeper was dead')
  expect(report.safekeeperLoss.lostCommits === 0, 'losing a safekeeper lost commits')
  expect(report.computeLoss.lostCommits === 0, 'losing the compute lost commits')
  expect(report.computeLoss.ghostCommits === 0, 'losing the compute left ghost commits')
  expect(
    report.verify.every(({ differing }) => differing === 0),
    'pages of storage and Postgres differ',
  )
  expect(report.verify[0]?.pagesFromStorage === 0, 'the first verify met pages that came from storage')
  expect(report.consistencyViolations === 0, 'the workloads left inconsistent data')
  return found
}
