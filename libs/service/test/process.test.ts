// Goal: a service can be stopped at any moment of its life and ends with the right code, its parts in their order, and
// says in one line what keeps it from starting. Method: real processes of a service whose parts log what they do.
import { fileURLToPath } from 'node:url'
import { BrokerServiceClient, PLAIN_CLIENT, callUnary, createClient, isServing } from '@understory/rpc'
import { freePort, startProcess } from '@understory/testcontainers'
import type { ProcessOptions, RunningProcess } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'

const MAIN = fileURLToPath(new URL('./fixture-main.ts', import.meta.url))

interface Line {
  readonly event: string
  readonly signal?: string
}

async function start(
  args: readonly string[],
  options: Pick<ProcessOptions, 'ready' | 'env'> = {},
): Promise<RunningProcess> {
  const program = await startProcess({
    name: 'fixture',
    command: process.execPath,
    args: ['--disable-warning=ExperimentalWarning', MAIN, ...args],
    parentDeathSignal: 'SIGKILL',
    ...options,
  })
  onTestFinished(() => program[Symbol.asyncDispose]())
  return program
}

const at = (event: string): Pick<ProcessOptions, 'ready'> => ({ ready: new RegExp(`"event":"${event}"`) })

const linesOf = (program: RunningProcess): Line[] =>
  program
    .stderr()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)
const eventsOf = (program: RunningProcess): string[] => linesOf(program).map(({ event }) => event)

const WHOLE_LIFE = [
  'loading',
  'composing',
  'announced',
  'begun',
  'started',
  'stopping',
  'withdrawn',
  'part_stopped',
  'server_stopped',
]

test.for(['SIGTERM', 'SIGINT'] as const)(
  '%s ends a running service, its parts in their order',
  async (signal) => {
    const program = await start([], at('started'))
    expect(await program.stop(signal)).toEqual({ code: 0, signal: null })
    expect(eventsOf(program)).toEqual(WHOLE_LIFE)
    expect(linesOf(program)).toMatchObject(
      WHOLE_LIFE.map((event) => {
        if (event === 'loading') return { event }
        const common = { event, node: 'fixture-1', role: 'fixture' }
        if (event === 'announced') return { ...common, key: 'node/fixture-1', value: { kind: 'fixture' } }
        if (event === 'started') return { ...common, parts: 2 }
        return event === 'stopping' ? { ...common, signal } : common
      }),
    )
  },
)

test('a call under way ends before the server does', async () => {
  const address = `127.0.0.1:${await freePort()}`
  const program = await start(['--listen', address], at('started'))
  expect(await isServing(PLAIN_CLIENT, address)).toBe(true)
  const client = createClient(PLAIN_CLIENT, BrokerServiceClient, address)
  onTestFinished(() => client.close())
  const call = callUnary(client.listAnnouncements.bind(client), { prefix: '' })
  await program.waitForOutput(/"event":"call_began"/)
  const ended = program.stop()
  expect(await call).toEqual({ announcements: [] })
  expect(await ended).toEqual({ code: 0, signal: null })
})

test.for([
  ['while the service is loaded', [], { ...at('loading'), env: { FIXTURE_LOADS: 'never' } }, ['loading']],
  ['while it is composed', ['--mode', 'hangs'], at('composing'), ['loading', 'composing']],
  [
    'while it waits before it is announced',
    ['--mode', 'waits'],
    at('waiting'),
    ['loading', 'composing', 'waiting', 'part_stopped', 'server_stopped'],
  ],
] as const)('a stop %s ends it with 0', async ([, args, options, events]) => {
  const program = await start(args, options)
  expect(await program.stop()).toEqual({ code: 0, signal: null })
  expect(eventsOf(program)).toEqual(events)
})

test('a service that ends by itself ends in the same order, with its own code', async () => {
  const program = await start(['--mode', 'fenced'])
  expect(await program.exited).toEqual({ code: 3, signal: null })
  expect(eventsOf(program)).toEqual(WHOLE_LIFE.filter((event) => event !== 'stopping'))
})

test.for([
  ['a part that fails', ['--mode', 'fails'], 1, 'the disk is full. Make room.'],
  ['a setting that is refused', ['--mode', 'refuses'], 2, 'the mode cannot be'],
  ['an unknown option', ['--nothing', '1'], 2, /nothing/],
  ['a part that cannot be stopped', ['--mode', 'stop-fails'], 1, 'the part cannot be stopped'],
  ['metrics on a port that is taken', ['--metrics-listen', 'TAKEN'], 1, /could not listen/],
] as const)('%s is one clear line', async ([, given, code, text]) => {
  const taken = `127.0.0.1:${await freePort()}`
  const isTaken = given[1] === 'TAKEN'
  if (isTaken) await start(['--listen', taken], at('started'))
  const program = await start(isTaken ? [given[0], taken] : given)
  expect(await program.exited).toEqual({ code, signal: null })
  const lines = program
    .stderr()
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('{'))
  expect(lines).toHaveLength(1)
  expect(lines[0]).toMatch(/^understory fixture: /)
  expect(lines[0]).toMatch(text)
})

test('wrong TLS settings name the variable', async () => {
  const program = await start([], { env: { UNDERSTORY_TLS_KEY: '/nowhere' } })
  expect(await program.exited).toMatchObject({ code: 2 })
  expect(program.stderr()).toMatch(/^understory fixture: .*UNDERSTORY_TLS_CERT/m)
})

test('the help is printed, and nothing is begun', async () => {
  const program = await start(['--help'])
  expect(await program.exited).toEqual({ code: 0, signal: null })
  expect(program.stdout()).toMatch(/^understory fixture\n\n {2}--node-id ID +name of this process/)
  expect(eventsOf(program)).toEqual(['loading'])
})
