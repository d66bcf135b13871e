/**
 * `npm run verify:redo`: redo of all WAL that given SQL makes Postgres write, compared block by block with Postgres's
 * own after-images, then file by file with the stopped server, then through the whole pipeline. Exit codes: 0 all
 * equal, 1 a difference or a failure, 2 wrong flags.
 */
import { mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describeError, isErrorCode, fail } from '@understory/base'
import { oneOf, parseOptions, text } from '@understory/env'
import { createClient } from '@understory/sdk'
import { TENANT_PASSWORD, startCluster, tenantLogin } from '@understory/testcontainers'
import type { PostgresMajor, PostgresServer, PostgresSettings } from '@understory/testcontainers'
import {
  NEARLY_ALL_MEMBERS,
  NEAR_WRAPAROUND_SETTINGS,
  bringNearWraparound,
  goOverTheEnds,
} from '../../libs/postgres/test/near-wraparound.ts'
import {
  BUSY_AUTOVACUUM,
  runConcurrentWorkload,
  runRedoWorkload,
} from '../../libs/postgres/test/redo-workload.ts'
import type { WorkloadSession } from '../../libs/postgres/test/redo-workload.ts'
import { recordHistory, verifyHistory } from '../../libs/postgres/test/verify-server.ts'
import { stateDirectory } from '../state-directory.ts'
import { renderCoverage } from './coverage.ts'
import { differencesOf, endedEarlyCount, renderPipeline, renderRun } from './report.ts'
import type { PipelineRun, RedoRun, VersionReport } from './report.ts'
import { ScriptSession, ServerGoneError, newCounts } from './script-session.ts'
import type { ScriptCounts } from './script-session.ts'

const OPTIONS = {
  pg: {
    read: oneOf('16', '17', '18', 'all'),
    fallback: '17',
    placeholder: 'MAJOR',
    help: '16, 17, 18 or all',
  },
  sql: {
    read: text,
    optional: true,
    placeholder: 'PATH …',
    help: 'files, or folders whose *.sql are run in order; our own workloads by default',
  },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
  coverage: { read: text, optional: true, placeholder: 'FILE', help: 'write the coverage table there' },
  pipeline: {
    read: oneOf('yes', 'no'),
    fallback: 'yes',
    placeholder: 'yes|no',
    help: 'also run the SQL behind safekeepers and pageservers, and verify every page there',
  },
} as const

const OWN_WORKLOADS = join(dirname(fileURLToPath(import.meta.url)), 'workloads')
const TENANT = 'verify'

interface Script {
  readonly name: string
  readonly text: string
}

async function readScripts(paths: readonly string[]): Promise<Script[]> {
  const scripts: Script[] = []
  for (const path of paths) {
    const found = await stat(path).catch((cause: unknown) => {
      throw fail('bad_argument', `could not read "${path}"`, {
        hint: 'Give a file or a folder of *.sql.',
        cause,
      })
    })
    const files = found.isDirectory()
      ? (await readdir(path))
          .filter((name) => name.endsWith('.sql'))
          .toSorted()
          .map((name) => join(path, name))
      : [path]
    for (const name of files) scripts.push({ name, text: await readFile(name, 'utf8') })
  }
  if (scripts.length === 0) throw fail('bad_argument', `there is no *.sql in "${paths.join(', ')}"`)
  return scripts
}

async function runScripts(
  connection: string,
  scripts: readonly Script[],
  counts: ScriptCounts,
): Promise<void> {
  const session = new ScriptSession(connection, counts)
  for (const { name, text: script } of scripts) {
    // Such as Postgres's own suite wants them.
    const environment = { PG_ABS_SRCDIR: dirname(dirname(resolve(name))), PG_LIBDIR: '', PG_DLSUFFIX: '.so' }
    await session.run(script, environment)
  }
}

interface RunPlan {
  readonly name: string
  readonly settings: PostgresSettings
  readonly concurrent?: boolean
  readonly dataChecksums?: boolean
  readonly prepare?: (server: PostgresServer) => Promise<void>
  readonly work: (session: WorkloadSession, counts: ScriptCounts) => Promise<void>
}

async function redoRun(major: PostgresMajor, plan: RunPlan): Promise<RedoRun> {
  const scripts = newCounts()
  await using history = await recordHistory({
    major,
    settings: { allow_in_place_tablespaces: true, ...plan.settings },
    dataChecksums: plan.dataChecksums ?? false,
    ...(plan.prepare === undefined ? {} : { prepare: plan.prepare }),
    workload: async (session) => {
      try {
        await plan.work(session, scripts)
      } catch (error) {
        if (error instanceof ServerGoneError) return 'gone'
        throw error
      }
      return undefined
    },
  })
  const verifier = verifyHistory(history, { concurrent: plan.concurrent ?? false })
  return {
    name: plan.name,
    scripts,
    endedEarly: history.crashLog === undefined ? undefined : lastFailure(history.crashLog),
    types: Object.fromEntries(verifier.counts),
    files: verifier.fileCounts,
    differenceCount: verifier.differenceCount,
    differences: verifier.differences,
  }
}

const lastFailure = (log: string): string =>
  log
    .split('\n')
    .findLast(
      (line) => /FATAL|PANIC|terminated by signal/.test(line) && !/not yet accepting|in recovery/.test(line),
    )
    ?.trim() ?? 'its log does not say why'

async function pipelineRun(major: PostgresMajor, scripts: readonly Script[]): Promise<PipelineRun> {
  const dataDirectory = stateDirectory(`verify-redo-${process.pid}`)
  await mkdir(dataDirectory, { recursive: true })
  try {
    await using cluster = await startCluster({ dataDirectory, majors: [major] })
    const client = createClient({ endpoint: cluster.endpoint })
    const settings = {
      wal_level: 'logical',
      max_prepared_transactions: '10',
      track_commit_timestamp: 'on',
      autovacuum: 'off',
    }
    await client.createTenant({ name: TENANT, postgresMajor: major, password: TENANT_PASSWORD, settings })
    const connection = tenantLogin(await client.waitForSql(TENANT, { timeoutMs: 300_000 }))
    await client.switchFullPageWrites(TENANT, 'off')
    await client.waitForFullPageWrites(TENANT)
    const counts = newCounts()
    await runScripts(connection, scripts, counts)
    const result = await client.verifyTimeline(TENANT)
    return {
      scripts: counts,
      pagesIndependent: Number(result.pagesIndependent),
      pagesFromStorage: Number(result.pagesFromStorage),
      visibilityMapPages: Number(result.visibilityMapPages),
      slruPages: Number(result.slruPages),
      otherFiles: Number(result.otherFiles),
      excluded: Number(result.excluded),
      differing: Number(result.differing),
    }
  } finally {
    await rm(dataDirectory, { recursive: true, force: true })
  }
}

/** Our own workloads: scripts, and what needs several sessions. Prepared transactions come last: they stay. */
const ownPlans = (scripts: readonly Script[]): readonly RunPlan[] => {
  const isLast = ({ name }: Script): boolean => basename(name).startsWith('last-')
  const all: RunPlan['work'] = async (session, counts) => {
    const first = scripts.filter((script) => !isLast(script))
    await runScripts(session.connectionString, first, counts)
    await runRedoWorkload(session)
    await runScripts(session.connectionString, scripts.filter(isLast), counts)
  }
  return [
    { name: 'own workloads, full_page_writes off', settings: {}, work: all },
    {
      name: 'own workloads, full_page_writes on, data checksums',
      settings: { full_page_writes: true },
      dataChecksums: true,
      work: all,
    },
    {
      name: 'sessions side by side with vacuum, full_page_writes off',
      settings: { ...BUSY_AUTOVACUUM, shared_buffers: '4MB' },
      concurrent: true,
      work: runConcurrentWorkload,
    },
    {
      name: 'transaction ids, multixact ids and members wrap around, full_page_writes off',
      settings: NEAR_WRAPAROUND_SETTINGS,
      // Autovacuum starts by itself when so many members are live.
      concurrent: true,
      prepare: (server) => bringNearWraparound(server, NEARLY_ALL_MEMBERS),
      work: goOverTheEnds,
    },
  ]
}
const givenPlans = (scripts: readonly Script[]): readonly RunPlan[] => {
  const work: RunPlan['work'] = (session, counts) => runScripts(session.connectionString, scripts, counts)
  return [
    { name: 'full_page_writes off', settings: {}, work },
    { name: 'full_page_writes on', settings: { full_page_writes: true }, work },
  ]
}

/** `--sql A B --sql C` as the one `--sql A,B,C`: a shell makes several words of a pattern. */
function withOneSqlFlag(argv: readonly string[]): readonly string[] {
  const others: string[] = []
  const paths: string[] = []
  let areSqlPaths = false
  for (const argument of argv) {
    const isFlag = argument.startsWith('-')
    if (isFlag) areSqlPaths = argument === '--sql'
    if (!areSqlPaths) others.push(argument)
    else if (!isFlag) paths.push(argument)
  }
  if (paths.length > 0) return [...others, '--sql', paths.join(',')]
  return argv
}

async function main(): Promise<number> {
  const options = parseOptions('verify:redo', OPTIONS, withOneSqlFlag(process.argv.slice(2)), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { pg, sql, json, coverage, pipeline } = options.values
  const scripts = await readScripts(sql === undefined ? [OWN_WORKLOADS] : sql.split(','))
  const plans = sql === undefined ? ownPlans(scripts) : givenPlans(scripts)
  const majors: readonly PostgresMajor[] = pg === 'all' ? [16, 17, 18] : [Number(pg) as PostgresMajor]
  const reports: VersionReport[] = []
  for (const major of majors) {
    const runs: RedoRun[] = []
    for (const plan of plans) {
      const run = await redoRun(major, plan)
      process.stdout.write(`${renderRun(major, run)}\n`)
      runs.push(run)
    }
    const through = pipeline === 'yes' ? await pipelineRun(major, scripts) : undefined
    if (through !== undefined) process.stdout.write(`${renderPipeline(major, through)}\n`)
    reports.push({ major, postgresVersion: `PostgreSQL ${major}`, runs, pipeline: through })
  }
  if (json !== undefined) await writeFile(resolve(json), `${JSON.stringify(reports, undefined, 2)}\n`)
  if (coverage !== undefined)
    await writeFile(
      resolve(coverage),
      renderCoverage(reports, 'npm run verify:redo -- --pg all --coverage docs/redo-coverage.md'),
    )
  const differing = differencesOf(reports)
  const endedEarly = endedEarlyCount(reports)
  if (endedEarly > 0) process.stdout.write(`${endedEarly} runs that Postgres itself did not get through\n`)
  process.stdout.write(`${differing} differences\n`)
  return differing === 0 && endedEarly === 0 ? 0 : 1
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory verify:redo: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
