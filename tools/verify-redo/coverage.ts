/** docs/redo-coverage.md: every record type of every version, and what the last run compared of it. */
import { rmgrs } from '../../libs/postgres/src/redo/registry.ts'
import type { Rmgr } from '../../libs/postgres/src/redo/types.ts'
import type { TypeCounts } from '../../libs/postgres/src/verify/redo-verifier.ts'
import type { PgMajor } from '../../libs/postgres/src/wal/pages.ts'
import type { VersionReport } from './report.ts'

/** Why there is no comparison with an after-image, by record type or by resource manager. */
const REASONS: Readonly<Record<string, string>> = {
  XLOG: 'changes no page of a relation; what it says goes into the control file and the settings of redo',
  'XLOG/FPI': 'is nothing but images',
  'XLOG/FPI_FOR_HINT': 'is nothing but images',
  'XLOG/NOOP': 'no version writes it',
  'XLOG/END_OF_RECOVERY': 'written by a promoted standby only; changes no page',
  'XLOG/OVERWRITE_CONTRECORD': 'written after a crash in the middle of a record only; changes no page',
  Transaction:
    'compared with the pages of pg_xact and pg_commit_ts, the files of pg_twophase and the progress of replication origins',
  Storage: 'compared with the lengths and contents of files',
  CLOG: 'compared with the pages of pg_xact',
  Database: 'compared with the files of the new database',
  Tablespace: 'changes no page',
  MultiXact: 'compared with the pages of pg_multixact',
  RelMap: 'compared with pg_filenode.map',
  Standby: 'changes nothing that is stored',
  'Heap2/NEW_CID': 'for logical decoding; changes nothing that is stored',
  'Heap2/REWRITE': 'for logical decoding; its files are local to a compute',
  'Heap/TRUNCATE': 'for logical decoding; changes nothing that is stored',
  'Heap/HOT_UPDATE+INIT': 'cannot be: a HOT update stays on its page',
  'Hash/SPLIT_PAGE': 'is nothing but images',
  'Gin/SPLIT': 'is nothing but images',
  'Gin/VACUUM_PAGE': 'is nothing but images',
  'Gist/ASSIGN_LSN': 'written with wal_level = minimal only; changes no page',
  CommitTs: 'compared with the pages of pg_commit_ts',
  ReplicationOrigin: 'compared with pg_logical/replorigin_checkpoint',
  LogicalMessage: 'changes nothing that is stored',
}

function typesOf(major: PgMajor): string[] {
  const settings = { major, dataChecksums: false, walLogHints: false, trackCommitTimestamp: true }
  return (Object.values(rmgrs) as readonly Rmgr[]).flatMap((rmgr) => {
    const names = Array.from({ length: 16 }, (_, i) => rmgr.identify(i << 4, settings))
    return [...new Set(names)].filter((name) => name !== undefined).map((name) => `${rmgr.name}/${name}`)
  })
}

function sumOf({ runs }: VersionReport, type: string): TypeCounts | undefined {
  const counts = runs.flatMap(({ types }) => (types[type] === undefined ? [] : [types[type]]))
  if (counts.length === 0) return undefined
  const sum: TypeCounts = { records: 0, compared: 0, redone: 0, restored: 0, skipped: 0 }
  for (const each of counts) for (const key of Object.keys(sum) as (keyof TypeCounts)[]) sum[key] += each[key]
  return sum
}

function cellOf(report: VersionReport, type: string, isKnown: boolean): string {
  if (!isKnown) return '–'
  const sum = sumOf(report, type)
  if (sum === undefined) return 'not seen'
  if (sum.compared > 0)
    return `**${sum.compared.toLocaleString('en-US')}** of ${sum.records.toLocaleString('en-US')}`
  if (sum.restored > 0) return `images only (${sum.restored.toLocaleString('en-US')})`
  if (sum.redone > 0) return `at the end (${sum.redone.toLocaleString('en-US')})`
  return `no block (${sum.records.toLocaleString('en-US')})`
}

function noteOf(reports: readonly VersionReport[], type: string): string {
  const reason = REASONS[type] ?? REASONS[type.split('/')[0] as string]
  const sums = reports.map((report) => sumOf(report, type))
  if (sums.some((sum) => (sum?.compared ?? 0) > 0)) return ''
  // What a whole resource manager is compared with says nothing of a type that was not there.
  if (sums.every((sum) => sum === undefined))
    return REASONS[type] ?? 'these workloads provoked none, so that nothing was compared'
  return reason ?? ''
}

export function renderCoverage(reports: readonly VersionReport[], command: string): string {
  const known = new Map(reports.map(({ major }) => [major, new Set(typesOf(major))]))
  const seen = reports.flatMap(({ runs }) => runs.flatMap((run) => Object.keys(run.types)))
  const all = [...new Set([...reports.flatMap(({ major }) => typesOf(major)), ...seen])]
  const order = new Map((Object.values(rmgrs) as readonly Rmgr[]).map((rmgr, i) => [rmgr.name, i]))
  const place = (type: string): number => order.get(type.split('/')[0] as string) ?? Infinity
  const rows = all
    .toSorted((a, b) => place(a) - place(b) || a.localeCompare(b))
    .map((type) => {
      const cells = reports.map((report) =>
        cellOf(
          report,
          type,
          known.get(report.major)?.has(type) === true || sumOf(report, type) !== undefined,
        ),
      )
      return `| ${type} | ${cells.join(' | ')} | ${noteOf(reports, type)} |`
    })
  return `# What redo is proved on

Written by \`${command}\`; do not edit. Every record type that PostgreSQL knows is implemented; a type that is not known stops
its timeline (rule I7). A cell gives blocks that redo made and that equalled the after-image in the record
(\`wal_consistency_checking\`), of how many records. *images only*: the record carried the page, which proves nothing about redo.
*at the end*: redone without an after-image, compared with the server's own files when it had stopped. *no block*: the record
changes no registered block; what it does to SLRU pages, relation maps, two-phase files and visibility maps is compared with
the server's files, too. *–*: this version has no such record.

| record type | ${reports.map(({ postgresVersion }) => postgresVersion).join(' | ')} | note |
|---|${reports.map(() => '---|').join('')}---|
${rows.join('\n')}

At the end of the runs ${reports
    .map(
      ({ postgresVersion, runs }) =>
        `${runs.reduce((sum, { files }) => sum + files.compared, 0).toLocaleString('en-US')} pages and files of ${postgresVersion}`,
    )
    .join(', ')} were compared with the server's.
`
}
