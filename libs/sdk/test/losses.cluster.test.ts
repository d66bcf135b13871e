/**
 * Goal: any process is killed while a program drives the system, and its calls end as the README says: once, in order,
 * whole. Method: a real cluster; processes killed with SIGKILL in the middle of calls, and started again.
 */
import { TENANT_PASSWORD, startCluster, temporaryDirectory, tenantLogin } from '@understory/testcontainers'
import type { Cluster } from '@understory/testcontainers'
import pg from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { createClient, lsnPosition, pageLsn } from '../src/index.ts'
import type { UnderstoryClient } from '../src/index.ts'

const stack = new AsyncDisposableStack()
let cluster: Cluster
let client: UnderstoryClient
let sql: pg.Client

beforeAll(async () => {
  const data = stack.use(await temporaryDirectory({ prefix: 'sdk-losses' }))
  cluster = stack.use(await startCluster({ dataDirectory: data.path }))
  // A process of this cluster takes a while to start where much else runs.
  client = stack.use(createClient({ endpoint: cluster.endpoint, retries: 30 }))
  await client.createTenant({ name: 'shop', password: TENANT_PASSWORD })
  sql = new pg.Client({ connectionString: tenantLogin(await client.waitForSql('shop')) })
  await sql.connect()
  stack.defer(() => sql.end())
  await sql.query('create table trees (id int, species text)')
}, 240_000)
afterAll(() => stack.disposeAsync(), 60_000)

const position = async (): Promise<string> => {
  const { rows } = await sql.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn')
  return rows[0]?.lsn ?? ''
}

test(
  'a control plane killed in the middle of creations makes each tenant once',
  { timeout: 180_000 },
  async () => {
    const requests = Array.from({ length: 8 }, (_, i) => ({ name: `made-${i}`, requestId: `request-${i}` }))
    const making = requests.map((request) => client.createTenant(request))
    await Promise.race(making)
    await cluster.controlPlane.kill()
    await cluster.controlPlane.start()
    const made = await Promise.all(making)
    // Asked for again, by its id, each is the same.
    const again = await Promise.all(requests.map((request) => client.createTenant(request)))
    expect(again.map(({ tenant }) => tenant)).toEqual(made.map(({ tenant }) => tenant))
    // Kept nowhere, a random password is not shown again.
    expect(again.map(({ password }) => password)).toEqual(again.map(() => undefined))
    const names: string[] = []
    for await (const { name } of client.listTenants()) names.push(name)
    expect(names).toEqual([...requests.map(({ name }) => name), 'shop'])
    for (const { name } of requests) await client.deleteTenant(name, { stopCompute: true })
  },
)

test('a watch and a wait continue over the loss of the control plane', { timeout: 180_000 }, async () => {
  const seen: string[] = []
  const watching = (async () => {
    for await (const { phase } of client.watchFullPageWrites('shop')) {
      seen.push(phase)
      if (phase === 'off') return
    }
  })()
  await expect.poll(() => seen).toEqual(['on'])
  await client.switchFullPageWrites('shop', 'off')
  const waiting = client.waitForFullPageWrites('shop')
  await cluster.controlPlane.kill()
  await cluster.controlPlane.start()
  expect(await waiting).toMatchObject({ phase: 'off', wanted: 'off' })
  await watching
  expect(seen.at(-1)).toBe('off')
})

test('the tail of the WAL is whole over the loss of each safekeeper', { timeout: 240_000 }, async () => {
  const fromLsn = await position()
  const pieces: { startLsn: string; endLsn: string; bytes: Buffer }[] = []
  const stop = new AbortController()
  onTestFinished(() => stop.abort())
  const tailing = (async () => {
    for await (const piece of client.tailWal('shop', { fromLsn, signal: stop.signal })) pieces.push(piece)
  })()
  const reached = async (): Promise<void> => {
    const lsn = lsnPosition(await position())
    const at = (): bigint => lsnPosition(pieces.at(-1)?.endLsn ?? '0/0')
    await expect.poll(() => at() >= lsn, { timeout: 60_000 }).toBe(true)
  }
  for (const safekeeper of cluster.safekeepers) {
    await sql.query(`insert into trees select i, repeat('x', 200) from generate_series(1, 2000) i`)
    await safekeeper.kill()
    await sql.query(`insert into trees select i, repeat('y', 200) from generate_series(1, 2000) i`)
    await reached()
    await safekeeper.start()
  }
  stop.abort()
  await expect(tailing).rejects.toMatchObject({ code: 'cancelled' })
  let at = fromLsn
  for (const { startLsn, endLsn, bytes } of pieces) {
    expect(startLsn).toBe(at)
    expect(lsnPosition(endLsn) - lsnPosition(startLsn)).toBe(BigInt(bytes.length))
    at = endLsn
  }
  // The same WAL, read at once from the safekeeper that answers.
  const whole: Buffer[] = []
  for await (const { bytes } of client.tailWal('shop', { fromLsn, toLsn: at })) whole.push(bytes)
  expect(Buffer.concat(whole).equals(Buffer.concat(pieces.map(({ bytes }) => bytes)))).toBe(true)
})

test(
  'pages are read over the loss of a pageserver, and never wait for what is not to come',
  { timeout: 180_000 },
  async () => {
    const { rows } = await sql.query<{ relation: number; database: number }>(
      "select pg_relation_filenode('trees') as relation, oid as database from pg_database where datname = current_database()",
    )
    const place = rows[0] as { relation: number; database: number }
    const lsn = await position()
    const pages = Array.from({ length: 300 }, (_, block) => ({ ...place, block }))
    const before = await client.getPages('shop', pages, { lsn })
    expect(before.filter((page) => page !== undefined).length).toBeGreaterThan(250)
    for (const page of before)
      if (page !== undefined) expect(lsnPosition(pageLsn(page))).toBeLessThanOrEqual(lsnPosition(lsn))
    const pageserver = cluster.pageservers[0]
    await pageserver?.kill()
    const reading = client.getPages('shop', pages, { lsn, deadlineMs: 60_000 })
    await pageserver?.start()
    expect(await reading).toEqual(before)
    const future = { lsn: '7F/0', deadlineMs: 1_000 }
    await expect(client.getPage('shop', { ...place, block: 0 }, future)).rejects.toMatchObject({
      code: 'timeout',
      message: 'lsn 7F/0 was not reached in time',
    })
  },
)

test('a control plane that hangs costs no more than the deadline', { timeout: 60_000 }, async () => {
  process.kill(cluster.controlPlane.pid, 'SIGSTOP')
  onTestFinished(() => void process.kill(cluster.controlPlane.pid, 'SIGCONT'))
  const startedAtMs = performance.now()
  await expect(client.getTenant('shop', { deadlineMs: 500 })).rejects.toMatchObject({ code: 'timeout' })
  await expect(client.waitForSql('shop', { timeoutMs: 500 })).rejects.toMatchObject({ code: 'timeout' })
  expect(performance.now() - startedAtMs).toBeLessThan(10_000)
})
