import { text } from 'node:stream/consumers'
import { isErrorCode, fail } from '@understory/base'
import { ProgressLine, realClock } from '@understory/env'
import type { ClientContext } from '@understory/rpc'
import { createClientIn } from '@understory/sdk/in-context'
import type { FpwView, PasswordOptions, UnderstoryClient } from '@understory/sdk'
import type { Command } from 'commander'
import { InvalidArgumentError } from 'commander'
import { printable, printFields, printJson, printLine, printRows } from '../output.ts'
import type { OutputFormat } from '../output.ts'

export interface GlobalOptions {
  readonly endpoint: string
  readonly format: OutputFormat
}

/** A whole number within bounds, or a usage error that names them. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (!Number.isInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`)
    }
    return value
  }
}

function collectSetting(text: string, settings: Record<string, string>): Record<string, string> {
  const at = text.indexOf('=')
  if (at <= 0) throw new InvalidArgumentError('Write it as name=value.')
  return { ...settings, [text.slice(0, at)]: text.slice(at + 1) }
}

function printSwitch(format: OutputFormat, view: FpwView): void {
  if (format === 'json') return printJson(view)
  printLine(`full_page_writes: ${view.phase} (wanted ${view.wanted}) since ${view.sinceLsn}`)
  for (const step of view.steps) {
    const position = step.lsn === '0/0' ? '' : `  at ${step.lsn}`
    printLine(
      `  ${step.done ? 'done' : '... '}  ${step.name.padEnd(22)} ${String(step.tookMs).padStart(6)} ms${position}`,
    )
  }
  if (view.problem !== '') printLine(`  problem: ${view.problem}`)
}

const say = (line: string): void => void process.stderr.write(`${printable(line)}\n`)

interface PasswordFlags {
  /** Whether the password comes on standard input. */
  readonly stdin: boolean
  readonly verifier: string | undefined
}

/** The password choice of the flags; empty where the control plane is to make one. */
async function chosenPassword({ stdin, verifier }: PasswordFlags): Promise<PasswordOptions> {
  if (stdin && verifier !== undefined)
    throw fail('bad_argument', 'a password and a verifier are given', { hint: 'Give one of them.' })
  if (verifier !== undefined) return { passwordVerifier: verifier }
  if (!stdin) return {}
  const password = (await text(process.stdin)).replace(/\r?\n$/, '')
  if (password === '') throw fail('bad_argument', 'there is no password on standard input')
  return { password }
}

/** Why no password is printed where the caller has not chosen one. */
function warnOfLostPassword(tenant: string): void {
  say(
    `the password was in the answer to an earlier try: \`understory tenant password ${tenant}\` sets a new one`,
  )
}

async function waitForSql(
  client: UnderstoryClient,
  tenant: string,
  { timeoutMs, password }: { readonly timeoutMs: number; readonly password: string | undefined },
): Promise<string> {
  const progress = new ProgressLine(process.stderr, realClock)
  try {
    return await client
      .waitForSql(tenant, { timeoutMs, onProgress: progress.show, password })
      .finally(() => progress.end())
  } catch (error) {
    if (password !== undefined) say(`password  ${password}`)
    if (!isErrorCode(error, 'timeout')) throw error
    // The tenant is made: the command, given again, only says that there is one of this name.
    throw fail('timeout', error.message, {
      ...(error.detail === undefined ? {} : { detail: error.detail }),
      hint: `It is made, and its bootstrap continues: \`understory timeline show ${tenant}\` says how far it is.`,
      cause: error,
    })
  }
}

export function addTenantCommands(program: Command, rpc: ClientContext): void {
  const globals = (command: Command): GlobalOptions => command.optsWithGlobals()
  const tenant = program
    .command('tenant')
    .description('tenants: each is one Postgres cluster with its timelines')

  tenant
    .command('create')
    .argument('<name>', 'letters, digits and inner dashes')
    .option('--pg <major>', 'Postgres major version: 16, 17 or 18', wholeNumber(16, 18), 17)
    .option('--shards <count>', 'number of shards', wholeNumber(1, 256))
    .option(
      '--threshold <records>',
      "records after which a page's chain is cut by an image",
      wholeNumber(1, 10_000),
    )
    .option('--port <port>', 'TCP port of Postgres', wholeNumber(1, 65_535))
    .option('--set <name=value>', 'a Postgres setting to begin with; may be repeated', collectSetting, {})
    .option('--password-stdin', 'read the password of its role postgres from standard input', false)
    .option('--password-verifier <verifier>', 'its SCRAM-SHA-256 verifier; a random password by default')
    .option('--allow-plaintext', 'let clients in that do not speak TLS', false)
    .option('--no-wait', 'return before Postgres takes SQL')
    .option('--timeout <seconds>', 'how long to wait for that', wholeNumber(1, 86_400), 120)
    .description('make a tenant, and wait until its Postgres takes SQL')
    .action(async (name: string, options, command: Command) => {
      const { endpoint, format } = globals(command)
      const client = createClientIn(rpc, { endpoint })
      const chosen = await chosenPassword({
        stdin: options.passwordStdin,
        verifier: options.passwordVerifier,
      })
      const made = await client.createTenant({
        name,
        postgresMajor: options.pg,
        settings: options.set,
        allowPlaintext: options.allowPlaintext,
        ...chosen,
        ...(options.shards === undefined ? {} : { shardCount: options.shards }),
        ...(options.threshold === undefined ? {} : { imageThresholdRecords: options.threshold }),
        ...(options.port === undefined ? {} : { sqlPort: options.port }),
      })
      const { password } = made
      if (password === undefined && Object.keys(chosen).length === 0) warnOfLostPassword(name)
      const wait = { timeoutMs: options.timeout * 1_000, password }
      const connectionString = options.wait ? await waitForSql(client, name, wait) : ''
      printFields(format, {
        name,
        tenant: made.tenant.tenantId,
        timeline: made.timeline.timelineId,
        postgres: made.tenant.postgresMajor,
        password: password ?? '',
        connection: connectionString,
      })
      if (password !== undefined && format === 'table') say('The password is shown this once.')
    })

  tenant
    .command('password')
    .argument('<tenant>', 'name or id')
    .option('--stdin', 'read it from standard input', false)
    .option('--verifier <verifier>', 'its SCRAM-SHA-256 verifier, as in pg_authid')
    .option('--no-wait', 'return before Postgres has it')
    .option('--timeout <seconds>', 'how long to wait for that', wholeNumber(1, 86_400), 120)
    .description('set a new password of the role postgres, a random one by default; open connections stay')
    .action(async (name: string, options, command: Command) => {
      const { endpoint, format } = globals(command)
      const client = createClientIn(rpc, { endpoint })
      const password = await client.setTenantPassword(name, await chosenPassword(options))
      // Before the waiting, which may fail: it is stored nowhere.
      if (password !== undefined) printFields(format, { name, password })
      if (!options.wait) return
      try {
        await client.waitForPassword(name, { timeoutMs: options.timeout * 1_000 })
      } catch (error) {
        if (!isErrorCode(error, 'timeout')) throw error
        throw fail('timeout', error.message, {
          ...(error.detail === undefined ? {} : { detail: error.detail }),
          hint: 'It is stored: Postgres gets it as soon as it runs.',
          cause: error,
        })
      }
    })

  tenant
    .command('list')
    .description('every tenant')
    .action(async (_, command: Command) => {
      const { endpoint, format } = globals(command)
      const rows = []
      for await (const { name, tenantId, postgresMajor, shardCount } of createClientIn(rpc, {
        endpoint,
      }).listTenants()) {
        rows.push({ name, tenant: tenantId, postgres: postgresMajor, shards: shardCount })
      }
      printRows(format, rows)
    })

  tenant
    .command('show')
    .argument('<tenant>', 'name or id')
    .description('one tenant')
    .action(async (name: string, _, command: Command) => {
      const { endpoint, format } = globals(command)
      const { tenantId, postgresMajor, shardCount, stripeBlocks, imageThresholdRecords, ...rest } =
        await createClientIn(rpc, {
          endpoint,
        }).getTenant(name)
      printRows(format, [
        {
          name: rest.name,
          tenant: tenantId,
          postgres: postgresMajor,
          shards: shardCount,
          stripe: stripeBlocks,
          threshold: imageThresholdRecords,
        },
      ])
    })

  tenant
    .command('certificate')
    .argument('<tenant>', 'name or id')
    .description("print the certificate of the tenant's Postgres, for sslmode=verify-full and sslrootcert")
    .action(async (name: string, _, command: Command) => {
      const { endpoint, format } = globals(command)
      const { compute } = await createClientIn(rpc, { endpoint }).getTimeline(name)
      const certificate = compute?.serverCertificate ?? ''
      if (certificate === '')
        throw fail('unavailable', `the certificate of tenant "${name}" is not known now`, {
          hint: 'It is, once its Postgres is open for SQL.',
        })
      if (format === 'json') printJson([{ name, certificate }])
      else process.stdout.write(printable(certificate, 'several lines'))
    })

  tenant
    .command('delete')
    .argument('<tenant>', 'name or id')
    .option('--stop-compute', 'end its Postgres, where one runs', false)
    .option('--no-wait', 'return before all of it is removed')
    .option('--timeout <seconds>', 'how long to wait for that', wholeNumber(1, 86_400), 300)
    .description('delete a tenant with all its data, wherever it is')
    .action(async (name: string, options, command: Command) => {
      const client = createClientIn(rpc, globals(command))
      const { tenantId } = await client.getTenant(name)
      await client.deleteTenant(name, options)
      if (options.wait) await client.waitForRemoval(tenantId, { timeoutMs: options.timeout * 1_000 })
    })

  tenant
    .command('fpw')
    .argument('<action>', 'off, on or status', (text) => {
      if (text === 'off' || text === 'on' || text === 'status') return text
      throw new InvalidArgumentError('It is one of off, on, status.')
    })
    .argument('<tenant>', 'name or id')
    .option('--timeout <seconds>', 'how long to wait for the switch', wholeNumber(1, 3_600), 120)
    .description('switch full_page_writes of a running tenant, live; image generation takes its place')
    .action(async (action: 'off' | 'on' | 'status', name: string, options, command: Command) => {
      const { endpoint, format } = globals(command)
      const client = createClientIn(rpc, { endpoint })
      if (action !== 'status') {
        await client.switchFullPageWrites(name, action)
        printSwitch(format, await client.waitForFullPageWrites(name, { timeoutMs: options.timeout * 1_000 }))
      } else {
        printSwitch(format, await client.getFullPageWrites(name))
      }
    })
}
