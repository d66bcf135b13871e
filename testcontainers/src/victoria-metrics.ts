/**
 * A time-series database that takes OTLP: VictoriaMetrics, and its tool for rule files. The programs are those of
 * $UNDERSTORY_VICTORIA_METRICS (a folder), or the cache's, or in PATH; where none of these is there, root takes them
 * from a newer Debian (bookworm's does not take OTLP), without installing anything.
 */
import { cp, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, fail } from '@understory/base'
import { withCacheLock } from './cache-lock.ts'
import { cacheRoot, cached } from './cache.ts'
import { temporaryDirectory } from './directory.ts'
import { runCommand } from './process.ts'
import { findProgram, isExecutable } from './program.ts'
import { answers, startService } from './service.ts'

const SUITE = 'trixie'
const PACKAGE = 'victoria-metrics'
const CACHED = `${PACKAGE}-${SUITE}`
const DATABASE = 'victoria-metrics'
const RULE_TOOL = 'vmalert-tool'
const DOWNLOAD_MS_MAX = 5 * 60_000

/** Why none can be started at once, or undefined. */
export async function victoriaMetricsMissing(): Promise<string | undefined> {
  try {
    return (await findFolder()) === undefined
      ? 'VictoriaMetrics is neither in PATH nor in the cache yet (.ci/run puts it there)'
      : undefined
  } catch (error) {
    return describeError(error)
  }
}

/** Puts it into the cache where it is missing; why that could not be, or undefined. */
export async function prepareVictoriaMetrics(): Promise<string | undefined> {
  try {
    await programFolder()
    return undefined
  } catch (error) {
    return describeError(error)
  }
}

export interface VictoriaMetrics extends AsyncDisposable {
  /** For OTEL_EXPORTER_OTLP_METRICS_ENDPOINT. */
  readonly metricsEndpoint: string
  /** Values of an instant query now; throws what the database says of one that it does not take. */
  query(expr: string): Promise<readonly { readonly metric: Record<string, string>; readonly value: number }[]>
}

export async function startVictoriaMetrics(): Promise<VictoriaMetrics> {
  const command = join(await programFolder(), DATABASE)
  const service = await startService({
    name: 'VictoriaMetrics',
    plan: async (port, folder) => ({
      command,
      args: [
        `-httpListenAddr=127.0.0.1:${port}`,
        `-storageDataPath=${join(folder, 'data')}`,
        '-opentelemetry.usePrometheusNaming',
        '-search.latencyOffset=0s',
        '-search.disableCache',
      ],
      env: { HOME: folder },
      ready: () => answers(`http://127.0.0.1:${port}/health`, (status) => status === 200),
    }),
  })
  const base = `http://127.0.0.1:${service.port}`
  return {
    metricsEndpoint: `${base}/opentelemetry/v1/metrics`,
    async query(expr) {
      const response = await fetch(`${base}/api/v1/query?query=${encodeURIComponent(expr)}`)
      const body = (await response.json()) as {
        status: string
        error?: string
        data?: { result: { metric: Record<string, string>; value: [number, string] }[] }
      }
      if (body.status !== 'success')
        throw fail('bad_argument', `query fails: ${body.error}`, { detail: expr })
      return (body.data?.result ?? []).map(({ metric, value }) => ({ metric, value: Number(value[1]) }))
    },
    [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
  }
}

/** Runs the unit tests of rule files; returns what the tool printed. Error: what failed. */
export async function testRules(file: string): Promise<string> {
  return runCommand({
    name: 'unit tests of alert rules',
    command: join(await programFolder(), RULE_TOOL),
    args: ['unittest', `--files=${file}`],
    timeoutMs: 120_000,
  })
}

async function findFolder(): Promise<string | undefined> {
  const named = process.env['UNDERSTORY_VICTORIA_METRICS']
  if (named !== undefined && named !== '') {
    if (await isExecutable(join(named, DATABASE))) return named
    throw fail('precondition', `UNDERSTORY_VICTORIA_METRICS is "${named}", where there is no ${DATABASE}`)
  }
  const inCache = join(cacheRoot(), CACHED)
  if (await isExecutable(join(inCache, DATABASE))) return inCache
  const [database, tool] = [await findProgram(DATABASE), await findProgram(RULE_TOOL)]
  return database !== undefined && tool !== undefined ? join(database, '..') : undefined
}

async function programFolder(): Promise<string> {
  const folder = await findFolder()
  if (folder !== undefined) return folder
  if (process.getuid?.() !== 0 || (await findProgram('apt-get')) === undefined)
    throw fail('precondition', 'there is no VictoriaMetrics in PATH, and only root on a Debian can get it')
  return withCacheLock(CACHED, () => cached(CACHED, download))
}

/** With lists and settings of its own: the machine's packages stay as they are. */
async function download(path: string): Promise<void> {
  await using folder = await temporaryDirectory({ prefix: 'apt' })
  const at = (name: string): string => join(folder.path, name)
  for (const name of ['lists/partial', 'cache/archives/partial']) await mkdir(at(name), { recursive: true })
  await writeFile(
    at('sources.list'),
    `deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian ${SUITE} main\n`,
  )
  const settings = {
    'Dir::Etc::sourcelist': at('sources.list'),
    'Dir::Etc::sourceparts': '-',
    'Dir::State::lists': at('lists'),
    'Dir::Cache': at('cache'),
    'APT::Sandbox::User': 'root',
  }
  const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  const apt = (...args: string[]): Promise<unknown> =>
    runCommand({
      name: `apt-get ${args[0]}`,
      command: 'apt-get',
      args: [...options, '-q', ...args],
      cwd: folder.path,
      timeoutMs: DOWNLOAD_MS_MAX,
    })
  await apt('update')
  await apt('download', `${PACKAGE}/${SUITE}`)
  await runCommand({
    name: 'unpacking',
    command: 'sh',
    args: ['-c', `for deb in ${PACKAGE}_*.deb; do dpkg-deb -x "$deb" root; done`],
    cwd: folder.path,
  })
  await mkdir(path, { recursive: true })
  for (const name of [DATABASE, RULE_TOOL]) await cp(at(`root/usr/bin/${name}`), join(path, name))
}
