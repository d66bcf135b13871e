#!/usr/bin/env node
/** `understory`: the command line. Exit codes: 0 done, 1 failed or differing, 2 wrong usage. */
import { describeError } from '@understory/base'
import { readSecurity } from '@understory/rpc'
import type { ClientContext } from '@understory/rpc'
import { createClientIn } from '@understory/sdk/in-context'
import { Command, CommanderError, Option } from 'commander'
import { addSafekeeperCommands } from './commands/safekeeper.ts'
import { addSmokeTestCommand } from './commands/smoke-test.ts'
import { addTenantCommands } from './commands/tenant.ts'
import type { GlobalOptions } from './commands/tenant.ts'
import { addTimelineCommands } from './commands/timeline.ts'
import { printRows, printable } from './output.ts'

function programIn(rpc: ClientContext): Command {
  const program = new Command('understory')
    .description('storage for unmodified PostgreSQL')
    .addOption(
      new Option('--endpoint <host:port>', 'address of the control plane')
        .env('UNDERSTORY_ENDPOINT')
        .default('127.0.0.1:7400'),
    )
    .addOption(
      new Option('-f, --format <format>', 'how to print').choices(['table', 'json']).default('table'),
    )
    .showHelpAfterError('(see --help)')
    .exitOverride()

  addTenantCommands(program, rpc)
  addTimelineCommands(program, rpc)
  addSafekeeperCommands(program, rpc)
  addSmokeTestCommand(program, rpc, process.env)

  program
    .command('nodes')
    .description('nodes that the control plane knows')
    .action(async (_, command: Command) => {
      const { endpoint, format } = command.optsWithGlobals<GlobalOptions>()
      const nodes = await createClientIn(rpc, { endpoint }).listNodes()
      printRows(
        format,
        nodes.map(({ nodeId, kind, address }) => ({ node: nodeId, kind, address })),
      )
    })

  program
    .command('removals')
    .description('deleted timelines of which something is left, and the nodes that are waited for')
    .action(async (_, command: Command) => {
      const { endpoint, format } = command.optsWithGlobals<GlobalOptions>()
      const removals = await createClientIn(rpc, { endpoint }).listRemovals()
      printRows(
        format,
        removals.map(({ timeline, tenantName, timelineName, waitsFor, problem }) => ({
          tenant: tenantName,
          timeline: timelineName,
          id: timeline?.timelineId ?? '',
          waitsFor: waitsFor.join(' '),
          problem,
        })),
      )
    })
  return program
}

try {
  await programIn({ security: readSecurity(process.env).client }).parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2
  } else {
    process.stderr.write(`understory: ${printable(describeError(error), 'several lines')}\n`)
    process.exitCode = 1
  }
}
// Idle gRPC channels would keep the process alive for a while.
process.exit()
