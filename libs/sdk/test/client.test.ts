/**
 * Goal: what the README says of deadlines, cancellation, retries, losses and errors holds for every call there is.
 * Method: real servers on loopback, whose handlers answer, fail or hang as a test wants; the client as users make it.
 */
import { getEventListeners } from 'node:events'
import { readFile } from 'node:fs/promises'
import { ERROR_CODES, fail } from '@understory/base'
import {
  PLAIN_SERVER,
  ControlPlaneServiceService,
  FpwPhase,
  FullPageWrites,
  GetTimelineResponse,
  GetWalStatusResponse,
  SafekeeperServiceService,
  SafekeeperView,
  serverStream,
  service,
  startServer,
  unary,
} from '@understory/rpc'
import type {
  Handlers,
  ControlPlaneServiceServer,
  FpwStatus,
  RpcServer,
  SafekeeperServiceServer,
} from '@understory/rpc'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { createClient, isErrorCode } from '../src/index.ts'
import type { ClientOptions, UnderstoryClient } from '../src/index.ts'
import { mayPass, retrying } from '../src/retry.ts'
import { withHint } from '../src/trouble.ts'

type ControlPlane = Partial<Handlers<ControlPlaneServiceServer>>

const fpwStatus = (phase: FpwPhase, changes: Partial<FpwStatus> = {}): FpwStatus => ({
  wanted: FullPageWrites.FULL_PAGE_WRITES_OFF,
  phase,
  sinceLsn: 0n,
  steps: [],
  problem: '',
  generation: 1n,
  tookMs: 0n,
  ...changes,
})
const tenant = {
  tenantId: '0'.repeat(32),
  name: 'shop',
  postgresMajor: 17,
  shardCount: 2,
  stripeBlocks: 256,
  imageThresholdRecords: 32,
  createdAtS: 0n,
}
const timeline = { tenantId: tenant.tenantId, timelineId: '1'.repeat(32) }

async function serve(handlers: ControlPlane, port = 0): Promise<RpcServer> {
  const services = [
    service<ControlPlaneServiceServer>(
      ControlPlaneServiceService,
      handlers as Handlers<ControlPlaneServiceServer>,
    ),
  ]
  const server = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port, services })
  onTestFinished(() => server.stop(0))
  return server
}

function clientOf(endpoint: string, options: Partial<ClientOptions> = {}): UnderstoryClient {
  const client = createClient({ endpoint, ...options })
  onTestFinished(() => client.close())
  return client
}

/** A control plane where no call is ever answered; `asked` counts them. */
async function hanging(): Promise<{ readonly endpoint: string; readonly asked: () => number }> {
  let asked = 0
  const handlers = Object.fromEntries(
    Object.entries(ControlPlaneServiceService).map(([name, { responseStream }]) => [
      name,
      responseStream
        ? serverStream(async function* (_, { signal }) {
            asked++
            await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
            yield* []
          })
        : unary((_, { signal }) => {
            asked++
            return new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
          }),
    ]),
  )
  const server = await serve(handlers as ControlPlane)
  return { endpoint: server.address, asked: () => asked }
}

const first = async (stream: AsyncGenerator<unknown>): Promise<void> => void (await stream.next())

/** Every call by name, so that one that is new is missing here. */
const CALLS: Readonly<
  Record<
    Exclude<keyof UnderstoryClient, 'close' | typeof Symbol.dispose>,
    (client: UnderstoryClient, signal: AbortSignal | undefined) => Promise<unknown>
  >
> = {
  createTenant: (client, signal) => client.createTenant({ name: 'shop' }, { signal }),
  listTenants: (client, signal) => first(client.listTenants({ signal })),
  getTenant: (client, signal) => client.getTenant('shop', { signal }),
  deleteTenant: (client, signal) => client.deleteTenant('shop', { signal }),
  setTenantPassword: (client, signal) => client.setTenantPassword('shop', { signal }),
  waitForPassword: (client, signal) => client.waitForPassword('shop', { signal }),
  listTimelines: (client, signal) => client.listTimelines('shop', { signal }),
  deleteTimeline: (client, signal) => client.deleteTimeline('shop', 'main', { signal }),
  listRemovals: (client, signal) => client.listRemovals({ signal }),
  waitForRemoval: (client, signal) => client.waitForRemoval('shop', { signal }),
  getTimeline: (client, signal) => client.getTimeline('shop', 'main', { signal }),
  waitForSql: (client, signal) => client.waitForSql('shop', { signal }),
  switchFullPageWrites: (client, signal) => client.switchFullPageWrites('shop', 'off', { signal }),
  getFullPageWrites: (client, signal) => client.getFullPageWrites('shop', { signal }),
  watchFullPageWrites: (client, signal) => first(client.watchFullPageWrites('shop', { signal })),
  waitForFullPageWrites: (client, signal) => client.waitForFullPageWrites('shop', { signal }),
  verifyTimeline: (client, signal) => client.verifyTimeline('shop', 'main', { signal }),
  changeSafekeepers: (client, signal) => client.changeSafekeepers('shop', { add: ['a'] }, { signal }),
  cancelSafekeeperChange: (client, signal) => client.cancelSafekeeperChange('shop', 'main', { signal }),
  recoverSafekeepers: (client, signal) =>
    client.recoverSafekeepers('shop', { node: 'a', acceptLostCommits: true }, { signal }),
  getSafekeepers: (client, signal) => client.getSafekeepers('shop', 'main', { signal }),
  waitForSafekeepers: (client, signal) => client.waitForSafekeepers('shop', 'main', { signal }),
  listNodes: (client, signal) => client.listNodes({ signal }),
  getPage: (client, signal) => client.getPage('shop', { relation: 1, database: 5, block: 0 }, { signal }),
  getPages: (client, signal) => client.getPages('shop', [], { signal }),
  tailWal: (client, signal) => first(client.tailWal('shop', { signal })),
}

describe('cancellation', () => {
  test('every call there is ends with its signal, before it begins and while it hangs', async () => {
    const { endpoint, asked } = await hanging()
    const client = clientOf(endpoint)
    expect(Object.keys(CALLS).toSorted()).toEqual(
      Object.keys(client)
        .filter((name) => name !== 'close')
        .toSorted(),
    )
    for (const [name, call] of Object.entries(CALLS)) {
      const before = asked()
      const codes: unknown[] = []
      const controller = new AbortController()
      for (const signal of [AbortSignal.abort(), controller.signal]) {
        const result = call(client, signal).catch((error: unknown) => error)
        if (signal === controller.signal) {
          await expect.poll(asked, { interval: 5 }).toBeGreaterThan(before)
          controller.abort()
        }
        codes.push(((await result) as { code?: unknown } | undefined)?.code)
        expect({ name, left: getEventListeners(signal, 'abort').length }).toEqual({ name, left: 0 })
      }
      expect({ name, codes }).toEqual({ name, codes: ['cancelled', 'cancelled'] })
    }
  })

  test('close ends all that is under way, and nothing begins after it', async () => {
    const { endpoint, asked } = await hanging()
    const client = clientOf(endpoint)
    const results = Object.entries(CALLS).map(async ([name, call]) =>
      call(client, undefined).catch((error: { code: unknown }) => [name, error.code]),
    )
    await expect.poll(asked).toBe(results.length)
    client.close()
    expect(await Promise.all(results)).toEqual(Object.keys(CALLS).map((name) => [name, 'cancelled']))
    for (const [name, call] of Object.entries(CALLS)) {
      const error: unknown = await call(client, undefined).catch((thrown: unknown) => thrown)
      expect({ name, error }).toMatchObject({
        name,
        error: { code: expect.stringMatching(/precondition|cancelled/) },
      })
    }
  })

  test('a value that is not an AbortSignal is refused, not ignored', async () => {
    const client = clientOf('127.0.0.1:1')
    const signal = new AbortController() as unknown as AbortSignal
    for (const [name, call] of Object.entries(CALLS)) {
      const error: unknown = await call(client, signal).catch((thrown: unknown) => thrown)
      expect({ name, error }).toMatchObject({ name, error: { code: 'bad_argument' } })
    }
  })
})

describe('deadlines', () => {
  test("a call's is kept over any of the client, and a wait's is, while a question hangs", async () => {
    const { endpoint } = await hanging()
    const client = clientOf(endpoint)
    const startedAtMs = performance.now()
    await expect(client.getTenant('shop', { deadlineMs: 100 })).rejects.toMatchObject({ code: 'timeout' })
    await expect(client.waitForSql('shop', { timeoutMs: 100 })).rejects.toMatchObject({
      code: 'timeout',
      message: 'waited 100 ms for Postgres of tenant "shop" to take SQL',
    })
    await expect(client.waitForFullPageWrites('shop', { timeoutMs: 100 })).rejects.toMatchObject({
      code: 'timeout',
    })
    expect(performance.now() - startedAtMs).toBeLessThan(5_000)
  })

  test("a wait is not cut by the client's", async () => {
    const phases = [FpwPhase.FPW_PHASE_SWITCHING_OFF, FpwPhase.FPW_PHASE_OFF]
    const server = await serve({
      watchFullPageWrites: serverStream(async function* () {
        for (const phase of phases) {
          yield { status: fpwStatus(phase) }
          await new Promise((resolve) => setTimeout(resolve, 300))
        }
      }),
    })
    const client = clientOf(server.address, { deadlineMs: 100 })
    expect(await client.waitForFullPageWrites('shop')).toMatchObject({ phase: 'off' })
  })

  test.for([2 ** 31, Number.MAX_SAFE_INTEGER, Number.MAX_VALUE, Infinity])(
    '%d ms are as good as none',
    async (deadlineMs) => {
      const server = await serve({ getTenant: unary(() => ({ tenant })) })
      const client = clientOf(server.address)
      expect(await client.getTenant('shop', { deadlineMs })).toMatchObject({ name: 'shop' })
    },
  )

  test('it holds all tries of a call together, and the failure is reported', async () => {
    const server = await serve({
      getTenant: unary(() => {
        throw fail('unavailable', 'not now')
      }),
    })
    const client = clientOf(server.address, { retries: 1_000, deadlineMs: 2_000 })
    const startedAtMs = performance.now()
    await expect(client.getTenant('shop')).rejects.toMatchObject({ code: 'unavailable', message: 'not now' })
    expect(performance.now() - startedAtMs).toBeLessThan(6_000)
  })

  test('a last try that has too little time left does not hide what went wrong before', async () => {
    const { signal } = new AbortController()
    const outcome = (deadlineMs: number): Promise<unknown> =>
      retrying({ retries: 5, deadlineMs, signal }, (_leftMs, attempt) =>
        Promise.reject(attempt === 0 ? fail('unavailable', 'not now') : fail('timeout', 'too late')),
      ).catch((error: unknown) => error)
    // The first pause takes 50 to 100 ms of it.
    expect(await outcome(90)).toMatchObject({ code: 'unavailable' })
    expect(await outcome(10_000)).toMatchObject({ code: 'timeout' })
  })

  test('a wait that runs out says what it waited for last', async () => {
    let asked = 0
    const server = await serve({
      listRemovals: unary(() => {
        if (asked++ % 2 === 1) throw fail('unavailable', 'not now')
        const removal = { timeline, tenantName: 'shop', timelineName: 'main', problem: '' }
        return { removals: [{ ...removal, waitsFor: ['pageserver-2'] }] }
      }),
    })
    const client = clientOf(server.address)
    const lines: string[] = []
    const wait = { timeoutMs: 450, onProgress: (line: string) => lines.push(line) }
    await expect(client.waitForRemoval('shop', wait)).rejects.toMatchObject({
      code: 'timeout',
      detail: expect.stringMatching(/^(waits for pageserver-2|not now)/),
    })
    expect(asked).toBeGreaterThan(1)
    expect(lines).toEqual(['waits for pageserver-2'])
    await expect(clientOf('127.0.0.1:1').waitForSql('shop', { timeoutMs: 300 })).rejects.toMatchObject({
      detail: expect.stringMatching(/^the control plane at 127\.0\.0\.1:1 is not reachable/),
    })
  })
})

describe('tries', () => {
  test('a tenant is made once, even if answers are lost on the way', async () => {
    const ids: string[] = []
    const server = await serve({
      createTenant: unary(({ requestId }) => {
        ids.push(requestId)
        if (ids.length < 3) throw fail('unavailable', 'the answer was lost')
        return { tenant, timeline, password: 'once' }
      }),
    })
    const client = clientOf(server.address)
    expect(await client.createTenant({ name: 'shop' })).toEqual({ tenant, timeline, password: 'once' })
    expect(ids).toHaveLength(3)
    expect(new Set(ids).size).toBe(1)
    await client.createTenant({ name: 'shop' })
    expect(new Set(ids).size).toBe(2)
    ids.length = 0
    const once = clientOf(server.address, { retries: 0 })
    await expect(once.createTenant({ name: 'shop' })).rejects.toMatchObject({ code: 'unavailable' })
    expect(ids).toHaveLength(1)
  })

  test('a deletion whose answer was lost is done; one of nothing is refused', async () => {
    const gone = new Set<string>()
    const server = await serve({
      deleteTenant: unary(({ tenant: name }) => {
        if (name === 'unknown' || gone.has(name)) throw fail('unknown_tenant', 'there is none')
        gone.add(name)
        throw fail('unavailable', 'the answer was lost')
      }),
      deleteTimeline: unary(({ timeline: name }) => {
        if (gone.has(name)) throw fail('unknown_timeline', 'there is none')
        gone.add(name)
        throw fail('unavailable', 'the answer was lost')
      }),
    })
    const client = clientOf(server.address)
    await client.deleteTenant('shop')
    await client.deleteTimeline('shop', 'old')
    await expect(client.deleteTenant('unknown')).rejects.toMatchObject({ code: 'unknown_tenant' })
    await expect(client.deleteTimeline('shop', 'old')).rejects.toMatchObject({ code: 'unknown_timeline' })
  })

  test('what does not pass is not tried again', async () => {
    let asked = 0
    const server = await serve({
      getTenant: unary(() => {
        asked++
        throw fail('precondition', 'not so')
      }),
    })
    await expect(clientOf(server.address).getTenant('shop')).rejects.toMatchObject({ code: 'precondition' })
    expect(asked).toBe(1)
  })
})

test('a watch continues over the loss of the control plane, and yields each state once', async () => {
  let phase: FpwPhase = FpwPhase.FPW_PHASE_SWITCHING_OFF
  let watching = 0
  const handlers: ControlPlane = {
    getFullPageWrites: unary(() => ({ status: fpwStatus(phase) })),
    watchFullPageWrites: serverStream(async function* (_, { signal }) {
      watching++
      while (!signal.aborted) {
        yield { status: fpwStatus(phase) }
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    }),
  }
  const server = await serve(handlers)
  const client = clientOf(server.address)
  const seen: string[] = []
  for await (const view of client.watchFullPageWrites('shop')) {
    seen.push(view.phase)
    if (view.phase === 'off') break
    if (seen.length > 1) continue
    // Only now the stream is opened: it is lost as soon as it stands.
    void (async () => {
      await expect.poll(() => watching).toBe(1)
      await server.stop(0)
      phase = FpwPhase.FPW_PHASE_OFF
      await serve(handlers, Number(server.address.split(':')[1]))
    })()
  }
  expect(seen).toEqual(['switching off', 'off'])
  expect(watching).toBe(2)
})

describe('arguments', () => {
  /** The wrong call, and the text of its error. */
  const WRONG: readonly (readonly [(client: UnderstoryClient) => Promise<unknown>, RegExp])[] = [
    [(client) => client.getTenant(undefined as unknown as string), /^tenant undefined is not a name/],
    [(client) => client.getTenant(''), /^tenant "" is not a name/],
    [(client) => client.createTenant({} as { name: string }), /^tenant undefined/],
    [(client) => client.createTenant({ name: 'a', postgresMajor: 1.5 }), /^postgresMajor 1.5 is not a whole/],
    [(client) => client.createTenant({ name: 'a', shardCount: 2 ** 32 }), /^shardCount 4294967296/],
    [(client) => client.createTenant({ name: 'a', settings: { x: 5 as unknown as string } }), /^setting "x"/],
    [(client) => client.switchFullPageWrites('a', 'maybe' as 'on'), /^full_page_writes "maybe"/],
    [(client) => client.switchFullPageWrites('a', true as unknown as 'on'), /^full_page_writes true/],
    [(client) => client.deleteTenant('a', { stopCompute: 'no' as unknown as boolean }), /^stopCompute "no"/],
    [
      (client) => client.changeSafekeepers('a', { add: 'b' as unknown as string[] }),
      /^add "b" is not a list/,
    ],
    [
      (client) => client.recoverSafekeepers('a', {} as { acceptLostCommits: true }),
      /^acceptLostCommits undef/,
    ],
    [(client) => client.getTenant('a', { deadlineMs: Number.NaN }), /^deadlineMs NaN is not a duration/],
    [(client) => client.waitForSql('a', { timeoutMs: -1 }), /^timeoutMs -1 is not a duration/],
    [(client) => client.getPage('a', { relation: 1, database: 5, block: 2 ** 32 }), /^block 4294967296/],
    [(client) => client.getPage('a', { relation: 1, database: 5, block: Number.NaN }), /^block NaN/],
    [
      (client) => client.getPage('a', { relation: 1, database: 5, block: 0, fork: 'toString' as 'main' }),
      /^fork "toString"/,
    ],
    [(client) => client.getPages('a', [], { lsn: 'nonsense' }), /^malformed lsn "nonsense"/],
    [(client) => client.getPages('a', [], { lsn: 'FFFFFFFF/0' }), /beyond 2\^53$/],
    [(client) => client.getPages('a', [], { traceparent: 'x' }), /^traceparent "x" is not a trace context$/],
    [(client) => first(client.tailWal('a', { fromLsn: '' })), /^malformed lsn ""/],
  ]

  test('a slip is named where it was made: nothing is sent', async () => {
    const { endpoint, asked } = await hanging()
    const client = clientOf(endpoint)
    for (const [call, message] of WRONG) {
      const error: unknown = await call(client).catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({
        message: expect.stringMatching(message),
        code: expect.stringMatching(/^bad_(argument|lsn)$/),
      })
    }
    expect(asked()).toBe(0)
  })

  test.for([
    [{ endpoint: '' }, /^endpoint "" is not the address/],
    [{}, /^endpoint undefined/],
    [{ endpoint: 'http://127.0.0.1:7400' }, /^endpoint "http/],
    [{ endpoint: 'localhost' }, /^endpoint "localhost"/],
    [{ endpoint: '127.0.0.1:99999' }, /^endpoint/],
    [{ endpoint: 'a:1', deadlineMs: '5' }, /^deadlineMs "5"/],
    [{ endpoint: 'a:1', retries: -1 }, /^retries -1/],
    [{ endpoint: 'localhost:1', token: '' }, /^the token is empty/],
    [{ endpoint: '[::1]:1', token: 'secret\n' }, /^the token is empty, or has/],
    [{ endpoint: 'a:1', token: 'secret' }, /^the token would be sent to a:1 without TLS/],
    [{ endpoint: 'a:1', tls: { ca: '/etc/ca.crt' } }, /^tls\.ca is not a certificate/],
    [{ endpoint: 'a:1', tls: true }, /^tls true is not an object/],
  ] as const)('no client is made with %o', ([options, message]) => {
    expect(() => createClient(options as ClientOptions)).toThrow(
      expect.objectContaining({ code: 'bad_argument', message: expect.stringMatching(message) }),
    )
  })

  test.for(['127.0.0.1:7400', '[::1]:7400', 'understory-control-plane.default.svc:7400'])(
    '%s is an address',
    (endpoint) => createClient({ endpoint }).close(),
  )
})

test('a reader of the WAL that takes its time does not count as silence: the tail continues over a loss', async () => {
  const broken = Promise.withResolvers<void>()
  let reads = 0
  const wal: Partial<Handlers<SafekeeperServiceServer>> = {
    getWalStatus: unary(() => GetWalStatusResponse.fromPartial({ commitLsn: 0x200n })),
    readWal: serverStream(async function* ({ startLsn }) {
      reads++
      yield { startLsn, wal: Buffer.alloc(0x80) }
      if (reads > 1) return
      await broken.promise
      throw fail('unavailable', 'the safekeeper stops')
    }),
  }
  const safekeeper = await startServer(PLAIN_SERVER, {
    host: '127.0.0.1',
    port: 0,
    services: [
      service<SafekeeperServiceServer>(SafekeeperServiceService, wal as Handlers<SafekeeperServiceServer>),
    ],
  })
  onTestFinished(() => safekeeper.stop(0))
  const view: GetTimelineResponse = {
    ...GetTimelineResponse.fromPartial({ timeline: { timeline } }),
    safekeepers: [SafekeeperView.fromPartial({ address: safekeeper.address, alive: true })],
  }
  const server = await serve({ getTimeline: unary(() => view) })
  const client = clientOf(server.address)
  const now = performance.now.bind(performance)
  let aheadMs = 0
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + aheadMs)
  onTestFinished(() => clock.mockRestore())
  const ends: string[] = []
  for await (const { endLsn } of client.tailWal('shop', { fromLsn: '0/100', toLsn: '0/200' })) {
    ends.push(endLsn)
    if (ends.length > 1) continue
    aheadMs = 10 * 60_000
    broken.resolve()
  }
  expect(ends).toEqual(['0/180', '0/200'])
})

describe('errors', () => {
  test('each says what to do where the server is not there, or speaks otherwise', async () => {
    const server = await serve({})
    const away = clientOf('127.0.0.1:1', { retries: 0 })
    await expect(away.listNodes()).rejects.toMatchObject({
      code: 'unavailable',
      hint: 'See that it runs, and that host and port are right.',
    })
    const secured = clientOf(server.address.replace('127.0.0.1', 'localhost'), { retries: 0, tls: {} })
    await expect(secured.listNodes()).rejects.toMatchObject({
      code: 'unavailable',
      hint: 'There is no TLS at that address: leave `tls` out.',
    })
    const nowhere = clientOf('no-such-host.invalid:7400', { retries: 0 })
    await expect(nowhere.listNodes()).rejects.toMatchObject({
      code: 'unavailable',
      hint: 'See that the name is right and known here.',
    })
  })

  test("a server's own hint is kept", () => {
    const error = fail('timeout', 'no room', { hint: 'Make room.' })
    expect(withHint(error)).toBe(error)
  })

  test('the README lists each once, and says which are tried again', async () => {
    const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8')
    const rows = Array.from(
      readme.matchAll(/^\| ((?:`[a-z_]+` ?)+) \| .* \| (.*)\|$/gm),
      ([, codes = '', again = '']) => ({
        codes: codes.split(/[` ]+/).filter((code) => code !== ''),
        again: again.trim() === 'tried again',
      }),
    )
    expect(rows.flatMap(({ codes }) => codes).toSorted()).toEqual(Object.keys(ERROR_CODES).toSorted())
    for (const { codes, again } of rows) {
      for (const code of codes as (keyof typeof ERROR_CODES)[])
        expect({ code, again: mayPass(fail(code, '')) }).toEqual({ code, again })
    }
  })

  test('isErrorCode distinguishes codes', () => {
    expect(isErrorCode(fail('timeout', ''), 'timeout')).toBe(true)
    expect(isErrorCode(new Error('timeout'), 'timeout')).toBe(false)
  })
})
