import { describeError, formatLsn, lsnFromBigint, parseLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { ClientContext } from '@understory/rpc'
import { createClientIn } from '@understory/sdk/in-context'
import type { Command } from 'commander'
import { InvalidArgumentError } from 'commander'
import { basebackup } from '../basebackup.ts'
import { lagLine } from '../ingest-lag.ts'
import { endProgress, printable, printJson, printLine, printRows, progressLine } from '../output.ts'
import { wholeNumber } from './tenant.ts'
import type { GlobalOptions } from './tenant.ts'

function readLsn(value: string): Lsn {
  try {
    return parseLsn(value)
  } catch (error) {
    throw new InvalidArgumentError(describeError(error))
  }
}

const text = (position: bigint): string => formatLsn(lsnFromBigint(position))

export function addTimelineCommands(program: Command, rpc: ClientContext): void {
  const globals = (command: Command): GlobalOptions => command.optsWithGlobals()
  const timeline = program.command('timeline').description('timelines: the histories of a tenant')

  timeline
    .command('list')
    .argument('<tenant>', 'name or id')
    .description('timelines of a tenant')
    .action(async (tenant: string, _, command: Command) => {
      const { endpoint, format } = globals(command)
      const timelines = await createClientIn(rpc, { endpoint }).listTimelines(tenant)
      printRows(
        format,
        timelines.map((item) => ({
          name: item.name,
          timeline: item.timeline?.timelineId ?? '',
          start: text(item.startLsn),
          postgres: item.postgres?.major ?? '',
        })),
      )
    })

  timeline
    .command('show')
    .argument('<tenant>', 'name or id')
    .argument('[timeline]', 'name or id', 'main')
    .description('a timeline and everything that serves it')
    .action(async (tenant: string, name: string, _, command: Command) => {
      const { endpoint, format } = globals(command)
      const view = await createClientIn(rpc, { endpoint }).getTimeline(tenant, name)
      if (format === 'json') return printJson(view)
      printLine(`timeline ${view.timeline?.timeline?.timelineId} (${view.timeline?.name})`)
      const { compute } = view
      printLine(
        compute === undefined
          ? 'compute: does not answer'
          : compute.failure !== '' && compute.connectionString === ''
            ? `compute: not open for SQL: ${compute.failure}`
            : `compute: ${compute.connectionString || 'not open for SQL'}  term ${compute.term}  commit ${text(compute.commitLsn)}`,
      )
      if (compute !== undefined && compute.failure !== '' && compute.connectionString !== '')
        process.stdout.write(`problem: ${compute.failure}\n`)
      if (compute?.ingestLag !== undefined) printLine(lagLine(compute.ingestLag))
      printRows(
        format,
        view.safekeepers.map((row) => ({
          safekeeper: row.address,
          alive: row.alive,
          flush: text(row.flushLsn),
          commit: text(row.commitLsn),
          failure: row.failure,
        })),
      )
      printRows(
        format,
        view.shards.map((row) => ({
          shard: row.number,
          pageserver: row.address,
          alive: row.alive,
          ingested: text(row.ingestedLsn),
          remote: text(row.remoteConsistentLsn),
          failure: row.failure,
        })),
      )
    })

  timeline
    .command('delete')
    .argument('<tenant>', 'name or id')
    .argument('<timeline>', 'name or id')
    .option('--stop-compute', 'end its Postgres, where one runs', false)
    .option('--no-wait', 'return before all of it is removed')
    .option('--timeout <seconds>', 'how long to wait for that', wholeNumber(1, 86_400), 300)
    .description('delete a timeline with all its data, wherever it is')
    .action(async (tenant: string, name: string, options, command: Command) => {
      const client = createClientIn(rpc, globals(command))
      const { tenantId } = await client.getTenant(tenant)
      await client.deleteTimeline(tenant, name, options)
      if (options.wait) await client.waitForRemoval(tenantId, { timeoutMs: options.timeout * 1_000 })
    })

  timeline
    .command('verify')
    .argument('<tenant>', 'name or id')
    .argument('[timeline]', 'name or id', 'main')
    .description(
      "prove storage against the timeline's Postgres, page by page; exit code 1 if anything differs",
    )
    .action(async (tenant: string, name: string, _, command: Command) => {
      const { endpoint, format } = globals(command)
      const result = await createClientIn(rpc, { endpoint }).verifyTimeline(tenant, name, {
        onProgress: ({ pagesDone, pagesTotal }) => progressLine(`${pagesDone} of ${pagesTotal} pages`),
      })
      endProgress()
      if (format === 'json') {
        printJson(result)
      } else {
        const excluded = Object.entries(result.excludedBy)
          .map(([reason, count]) => `${reason} ${count}`)
          .join(', ')
        process.stdout.write(
          printable(
            `${result.pagesIndependent} pages written by this Postgres, ${result.pagesFromStorage} pages that came from storage\n` +
              `${result.visibilityMapPages} visibility-map pages, ${result.slruPages} SLRU pages and ${result.otherFiles} other files ` +
              `compared exactly at ${text(result.barrierLsn)}\n` +
              `${result.excluded} excluded${excluded === '' ? '' : ` (${excluded})`}\n` +
              `${result.differing} differing\n`,
            'several lines',
          ),
        )
        for (const difference of result.differences) printLine(`  ${difference}`)
      }
      if (result.differing > 0n) process.exitCode = 1
    })

  timeline
    .command('basebackup')
    .argument('<tenant>', 'name or id')
    .argument('[timeline]', 'name or id', 'main')
    .requiredOption('--output <dir>', 'directory to make; it must not exist or be empty')
    .option('--lsn <lsn>', 'position, such as 16/B374D848; the last committed one by default', readLsn)
    .description('write a data directory as of an LSN, on which a stock Postgres starts by itself')
    .action(async (tenant: string, name: string, options, command: Command) => {
      const { endpoint, format } = globals(command)
      const view = await createClientIn(rpc, { endpoint }).getTimeline(tenant, name)
      if (view.spec === undefined) throw fail('unavailable', `timeline "${name}" has no placement yet`)
      const result = await basebackup({
        rpc,
        view,
        directory: options.output,
        ...(options.lsn === undefined ? {} : { lsn: options.lsn }),
        onProgress: (line) => progressLine(line),
      })
      endProgress()
      printRows(format, [result])
    })
}
