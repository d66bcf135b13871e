/**
 * `npm start`: a local cluster with one tenant, until Ctrl-C. The data directory can be started again with everything
 * in it. Exit codes: 0 stopped, 1 could not start, 2 wrong flags.
 */
import { resolve } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { ProgressLine, oneOf, parseOptions, realClock, text, wholeNumber } from '@understory/env'
import { createClient } from '@understory/sdk'
import { startCluster } from '@understory/testcontainers'
import type { PostgresMajor } from '@understory/testcontainers'
import { stateDirectory } from './state-directory.ts'

const TENANT = 'main'
/** Where the CLI looks by default. */
const API_PORT = 7400

const OPTIONS = {
  dataDir: {
    read: text,
    fallback: stateDirectory('data'),
    placeholder: 'DIR',
    help: 'where everything is kept',
  },
  pg: {
    read: oneOf('16', '17', '18'),
    fallback: '17',
    placeholder: 'MAJOR',
    help: 'Postgres version of a new tenant',
  },
  port: {
    read: wholeNumber(0, 65_535),
    fallback: 0,
    placeholder: 'PORT',
    help: 'SQL port of a new tenant, 0 = any free one',
  },
  safekeepers: { read: wholeNumber(1, 7), fallback: 3, placeholder: 'N', help: 'number of safekeepers' },
  pageservers: { read: wholeNumber(1, 16), fallback: 2, placeholder: 'N', help: 'number of pageservers' },
  objectStore: {
    read: text,
    optional: true,
    placeholder: 'URL',
    help: 's3://bucket/prefix?endpoint=URL, or a directory',
  },
  broker: { read: text, optional: true, placeholder: 'URL', help: 'redis://host:port; embedded by default' },
} as const

const cliOf = (endpoint: string): string =>
  `npm run understory --${endpoint.endsWith(`:${API_PORT}`) ? '' : ` --endpoint ${endpoint}`}`

const passwordLine = (password: string | undefined, endpoint: string): string =>
  password === undefined
    ? `password: the one of its creation; a new one: ${cliOf(endpoint)} tenant password ${TENANT}`
    : 'its password is shown this once'

async function main(): Promise<void> {
  const options = parseOptions('start', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return
  }
  const { dataDir, pg, port, objectStore, broker, ...counts } = options.values
  const stopping = new AbortController()
  const stopped = Promise.withResolvers<void>()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      stopping.abort()
      stopped.resolve()
    })
  }
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  say(
    `starting ${counts.safekeepers} safekeepers and ${counts.pageservers} pageservers in ${resolve(dataDir)}`,
  )
  await using cluster = await startCluster({
    ...counts,
    dataDirectory: resolve(dataDir),
    apiPort: API_PORT,
    majors: [16, 17, 18],
    ...(objectStore === undefined ? {} : { objectStore }),
    ...(broker === undefined ? {} : { broker }),
  })
  const client = createClient({ endpoint: cluster.endpoint })
  const password = await client.getTenant(TENANT).then(
    () => undefined,
    async (error: unknown) => {
      if (!isErrorCode(error, 'unknown_tenant')) throw error
      const wanted = { name: TENANT, postgresMajor: Number(pg) as PostgresMajor, sqlPort: port }
      return (await client.createTenant(wanted)).password
    },
  )
  const progress = new ProgressLine(process.stderr, realClock)
  const connectionString = await client
    .waitForSql(TENANT, {
      timeoutMs: 600_000,
      signal: stopping.signal,
      onProgress: progress.show,
      password,
    })
    .finally(() => progress.end())
    .catch((error: unknown) => {
      if (stopping.signal.aborted) return undefined
      throw error
    })
  if (connectionString !== undefined) {
    process.stdout.write(
      `\n  SQL      ${connectionString}\n           ${passwordLine(password, cluster.endpoint)}\n  API      ${cluster.endpoint}   (${cliOf(cluster.endpoint)} --help)\n` +
        `  metrics  ${cluster.metricsUrl}\n\nCtrl-C stops everything; the data stays.\n`,
    )
    await stopped.promise
  }
  say('stopping')
}

try {
  await main()
  process.exit(0)
} catch (error) {
  process.stderr.write(`understory: ${describeError(error)}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
