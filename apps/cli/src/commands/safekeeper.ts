import { fail } from '@understory/base'
import type { ClientContext } from '@understory/rpc'
import { createClientIn } from '@understory/sdk/in-context'
import type { SafekeeperChangeView, SafekeeperChangeRequest, SafekeepersView } from '@understory/sdk'
import type { Command } from 'commander'
import { endProgress, printJson, printLine, printRows, progressLine } from '../output.ts'
import type { OutputFormat } from '../output.ts'
import { wholeNumber } from './tenant.ts'
import type { GlobalOptions } from './tenant.ts'

interface ChangeOptions {
  readonly tenant: string
  readonly timeline: string
  readonly wait: boolean
  readonly timeout: number
}

function printSafekeepers(format: OutputFormat, view: SafekeepersView): void {
  if (format === 'json') return printJson(view)
  printLine(`membership generation ${view.generation}`)
  printRows(
    format,
    view.safekeepers.map(({ node, role, alive, generation, flushLsn, commitLsn, failure }) => ({
      safekeeper: node,
      role,
      alive,
      generation,
      flush: flushLsn,
      commit: commitLsn,
      failure,
    })),
  )
  if (view.change !== undefined) printChange(view.change)
}

const REASONS = {
  user: '',
  lost_node: ', because a node was lost',
  recovery: ', by force: commits that the one that stays does not have are lost',
  stored: ', from the object store: commits that it does not have are lost',
} as const satisfies Record<SafekeeperChangeView['reason'], string>

function printChange(change: SafekeeperChangeView): void {
  const names = [...change.remove.map((node) => `-${node}`), ...change.add.map((node) => `+${node}`)].join(
    ' ',
  )
  const asked = REASONS[change.reason]
  const state = change.cancelled ? ', cancelled' : ''
  printLine(`change ${change.number}: ${names}${asked}, ${change.tookMs} ms${state}`)
  for (const step of change.steps) {
    printLine(
      `  ${step.done ? 'done' : '... '}  ${step.name.padEnd(8)} ${String(step.tookMs).padStart(6)} ms`,
    )
  }
  if (change.problem !== '') printLine(`  problem: ${change.problem}`)
}

function showStep({ change }: SafekeepersView): void {
  const step = change?.steps.find(({ done }) => !done)
  if (change === undefined || step === undefined) return
  const pulled = step.name === 'pull' ? `  ${change.pulledLsn} of ${change.pullGoalLsn}` : ''
  progressLine(`${step.name}${pulled}${change.problem === '' ? '' : `  ${change.problem}`}`)
}

async function change(
  rpc: ClientContext,
  { endpoint, format }: GlobalOptions,
  { tenant, timeline, wait, timeout }: ChangeOptions,
  request: Omit<SafekeeperChangeRequest, 'timeline'>,
): Promise<void> {
  const client = createClientIn(rpc, { endpoint })
  let view = await client.changeSafekeepers(tenant, { timeline, ...request })
  if (wait) {
    view = await client.waitForSafekeepers(tenant, timeline, { timeoutMs: timeout * 1_000, onStep: showStep })
    endProgress()
  }
  printSafekeepers(format, view)
}

export function addSafekeeperCommands(program: Command, rpc: ClientContext): void {
  const globals = (command: Command): GlobalOptions => command.optsWithGlobals()
  const safekeeper = program.command('safekeeper').description('which safekeepers hold a timeline')

  const changing = (name: string, description: string): Command =>
    safekeeper
      .command(name)
      .description(description)
      .requiredOption('--tenant <tenant>', 'name or id')
      .option('--timeline <timeline>', 'name or id', 'main')
      .option('--no-wait', 'return at once; it continues by itself')
      .option('--timeout <seconds>', 'how long to wait for the change', wholeNumber(1, 86_400), 3_600)

  safekeeper
    .command('list')
    .requiredOption('--tenant <tenant>', 'name or id')
    .option('--timeline <timeline>', 'name or id', 'main')
    .description("a timeline's safekeepers, and the state of their last change")
    .action(async ({ tenant, timeline }: ChangeOptions, command: Command) => {
      const { endpoint, format } = globals(command)
      printSafekeepers(format, await createClientIn(rpc, { endpoint }).getSafekeepers(tenant, timeline))
    })

  safekeeper
    .command('cancel')
    .requiredOption('--tenant <tenant>', 'name or id')
    .option('--timeline <timeline>', 'name or id', 'main')
    .description('cancel the change that is under way, such as one whose newcomer is lost')
    .action(async ({ tenant, timeline }: ChangeOptions, command: Command) => {
      const { endpoint, format } = globals(command)
      printSafekeepers(
        format,
        await createClientIn(rpc, { endpoint }).cancelSafekeeperChange(tenant, timeline),
      )
    })

  changing('recover', 'the majority is lost for good: continue with what is left')
    .option('--from <node>', 'the one safekeeper that is left')
    .option('--from-object-store', 'none is left: others begin with the WAL in the object store')
    .option('--accept-lost-commits', 'commits that are not there are lost')
    .action(
      async (
        options: ChangeOptions & { from?: string; fromObjectStore?: boolean; acceptLostCommits?: boolean },
        command: Command,
      ): Promise<void> => {
        const { endpoint, format } = globals(command)
        const { tenant, timeline, wait, timeout, from, fromObjectStore = false } = options
        const { acceptLostCommits = false } = options
        if ((from === undefined) !== fromObjectStore)
          throw fail('bad_argument', 'recover takes either --from NODE or --from-object-store')
        const node = from === undefined ? {} : { node: from }
        const client = createClientIn(rpc, { endpoint })
        let view = await client.recoverSafekeepers(tenant, { timeline, ...node, acceptLostCommits })
        if (wait) {
          const timeoutMs = timeout * 1_000
          view = await client.waitForSafekeepers(tenant, timeline, { timeoutMs, onStep: showStep })
          endProgress()
        }
        printSafekeepers(format, view)
      },
    )

  changing('replace', 'another safekeeper takes the place of one, while commits continue')
    .requiredOption('--from <node>', 'the one that leaves; it may be lost')
    .requiredOption('--to <node>', 'the one that takes its place')
    .action(async (options: ChangeOptions & { from: string; to: string }, command: Command) =>
      change(rpc, globals(command), options, { remove: [options.from], add: [options.to] }),
    )

  changing('add', 'one more safekeeper holds the timeline')
    .requiredOption('--node <node>', 'the one that joins')
    .action(async (options: ChangeOptions & { node: string }, command: Command) =>
      change(rpc, globals(command), options, { add: [options.node] }),
    )

  changing('remove', 'one safekeeper less holds the timeline')
    .requiredOption('--node <node>', 'the one that leaves')
    .action(async (options: ChangeOptions & { node: string }, command: Command) =>
      change(rpc, globals(command), options, { remove: [options.node] }),
    )
}
