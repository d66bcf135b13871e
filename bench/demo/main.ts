/**
 * `npm run demo`: the whole road on this machine, with figures. One cluster of real processes, one stock Postgres, the
 * same settings in both load phases; exit code 0 only if everything that is promised holds (`failures` in report.ts).
 */
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { cpus, totalmem } from 'node:os'
import { resolve } from 'node:path'
import { describeError, isErrorCode, fail } from '@understory/base'
import { ProgressLine, parseOptions, realClock } from '@understory/env'
import type { OptionValues } from '@understory/env'
import { createClient } from '@understory/sdk'
import { TENANT_PASSWORD, startCluster, tenantLogin } from '@understory/testcontainers'
import type { PostgresMajor } from '@understory/testcontainers'
import { Demo } from './demo.ts'
import { DEMO_OPTIONS, POSTGRES_SETTINGS } from './options.ts'
import { failures, renderReport } from './report.ts'
import type { DemoReport } from './report.ts'
import { stateDirectory } from '../../tools/state-directory.ts'

const TENANT = 'demo'
/** Default threshold of 32 records, and the bound that ingest keeps: twice as many. */
const CHAIN_MAX_ALLOWED = 64

const say = (line: string): void => void process.stderr.write(`${line}\n`)

async function run(values: OptionValues<typeof DEMO_OPTIONS>, signal: AbortSignal): Promise<DemoReport> {
  const startedMs = performance.now()
  const dataDirectory = stateDirectory(`demo-${process.pid}`)
  await mkdir(dataDirectory, { recursive: true })
  try {
    const major = Number(values.pg) as PostgresMajor
    say('starting 3 safekeepers, 2 pageservers, a compute host and the control plane')
    await using cluster = await startCluster({
      dataDirectory,
      majors: [major],
      ...(values.objectStore === undefined ? {} : { objectStore: values.objectStore }),
      ...(values.broker === undefined ? {} : { broker: values.broker }),
    })
    const client = createClient({ endpoint: cluster.endpoint })
    await client.createTenant({
      name: TENANT,
      postgresMajor: major,
      password: TENANT_PASSWORD,
      settings: POSTGRES_SETTINGS,
    })
    const progress = new ProgressLine(process.stderr, realClock)
    const waiting = client.waitForSql(TENANT, {
      timeoutMs: 300_000,
      signal,
      onProgress: (line) => progress.show(`  ${line}`),
    })
    const connectionString = tenantLogin(await waiting.finally(() => progress.end()))
    const demo = new Demo({
      cluster,
      client,
      tenant: TENANT,
      connectionString,
      values,
      ledgerDirectory: dataDirectory,
      say,
      signal,
    })
    const figures = await demo.run()
    return {
      postgresVersion: await demo.postgresVersion(),
      settings: {
        ...POSTGRES_SETTINGS,
        warehouses: values.warehouses,
        scale: values.scale,
        clients: values.clients,
        seconds: values.seconds,
      },
      machine: `${cpus().length} cores (${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB`,
      ...figures,
      tookMs: Math.round(performance.now() - startedMs),
    }
  } finally {
    await rm(dataDirectory, { recursive: true, force: true })
  }
}

async function main(): Promise<number> {
  const options = parseOptions('demo', DEMO_OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const stop = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => stop.abort(fail('cancelled', `stopped by ${name}`)))
  }
  const report = await run(options.values, stop.signal)
  process.stdout.write(renderReport(report))
  if (options.values.json !== undefined) {
    await writeFile(resolve(options.values.json), `${JSON.stringify(report, undefined, 2)}\n`)
  }
  const failed = failures(report, CHAIN_MAX_ALLOWED)
  for (const line of failed) process.stdout.write(`FAILED: ${line}\n`)
  process.stdout.write(
    `\n${failed.length === 0 ? 'everything held' : `${failed.length} promises broken`}, in ${Math.round(report.tookMs / 1_000)} s\n`,
  )
  return failed.length === 0 ? 0 : 1
}

try {
  process.exit(await main())
} catch (error) {
  process.stderr.write(`understory demo: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exit(isErrorCode(error, 'bad_argument') ? 2 : 1)
}
