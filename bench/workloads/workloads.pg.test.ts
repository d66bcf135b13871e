// The workloads keep their own conditions, count what they did, and know what a killed server owes them. Each
// test runs them at a tiny scale against a real Postgres of its own.
import { join } from 'node:path'
import { temporaryDirectory, startPostgres } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import {
  type ConsistencyCheck,
  Ledger,
  checkLedger,
  checkTpcb,
  checkTpcc,
  loadTpcb,
  loadTpcc,
  newProgress,
  runWorkload,
  tpcb,
  tpcc,
} from './index.ts'

const TINY_TPCC = { warehouses: 2, items: 1_000, customersPerDistrict: 60 }
const TINY_TPCB = { scale: 2, accountsPerBranch: 1_000 }
const TEST_TIMEOUT_MS = 60_000
const POLL = { timeout: 20_000, interval: 20 }

async function start() {
  const server = await startPostgres({ major: 17 })
  onTestFinished(() => server[Symbol.asyncDispose]())
  return server
}

async function newLedger() {
  const folder = await temporaryDirectory({ prefix: 'ledger' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  const ledger = new Ledger(join(folder.path, 'ledger'))
  onTestFinished(() => ledger.close())
  return ledger
}

function violated(checks: readonly ConsistencyCheck[]): string[] {
  return checks.filter(({ violationsCount }) => violationsCount > 0).map(({ name }) => name)
}

test(
  'TPC-C keeps its consistency conditions and its mix',
  async () => {
    const server = await start()
    const { connectionString } = server
    await loadTpcc({ connectionString, ...TINY_TPCC })
    const client = await server.connect()
    expect(violated(await checkTpcc(client))).toEqual([])
    const ledger = await newLedger()
    const stats = await runWorkload(tpcc, { connectionString, clients: 4, durationMs: 3_000, ledger })
    expect(violated(await checkTpcc(client))).toEqual([])

    const { newOrder, payment, orderStatus, delivery, stockLevel } = stats.transactions as Record<
      string,
      { committed: number; rolledBack: number }
    >
    const total = stats.committed + stats.transactions['newOrder']!.rolledBack
    expect((newOrder!.committed + newOrder!.rolledBack) / total).toBeCloseTo(0.45, 1)
    expect(payment!.committed / total).toBeCloseTo(0.43, 1)
    for (const few of [orderStatus, delivery, stockLevel]) expect(few!.committed).toBeGreaterThan(0)
    expect(newOrder!.rolledBack).toBeGreaterThan(0)
    // As exact as the milliseconds in `seconds`.
    expect(stats.nopm! / ((newOrder!.committed * 60) / stats.seconds)).toBeCloseTo(1, 3)
    expect(stats.connectionsLost + stats.unknownOutcomes).toBe(0)

    // The database has as many as the clients counted.
    const ordersLoaded = TINY_TPCC.warehouses * 10 * TINY_TPCC.customersPerDistrict
    const { rows } = await client.query(`select
    (select count(*)::int from orders) as orders, (select count(*)::int from history) as history,
    (select count(*)::int from orders where o_carrier_id is not null) as delivered,
    (select count(*)::int from understory_ledger) as ledger`)
    expect(rows[0].orders).toBe(ordersLoaded + newOrder!.committed)
    expect(rows[0].history).toBe(ordersLoaded + payment!.committed)
    expect(rows[0].delivered).toBeGreaterThan(ordersLoaded * 0.7)
    const writing = newOrder!.committed + payment!.committed + delivery!.committed
    expect(rows[0].ledger).toBe(writing)
    expect(await checkLedger(client, ledger.path)).toMatchObject({
      acknowledged: writing,
      lostCommits: 0,
      ghostCommits: 0,
      unknownPresent: 0,
      unknownAbsent: 0,
    })
  },
  TEST_TIMEOUT_MS,
)

test(
  'the checks of TPC-C find what breaks each condition',
  async () => {
    const server = await start()
    await loadTpcc({ connectionString: server.connectionString, ...TINY_TPCC, warehouses: 1 })
    const client = await server.connect()
    const names = (await checkTpcc(client)).map(({ name }) => name)
    const breaks = [
      'update district set d_ytd = d_ytd + 1 where d_id = 3',
      'update district set d_next_o_id = d_next_o_id + 1 where d_id = 3',
      'delete from new_order where no_d_id = 3 and no_o_id = 50',
      'delete from order_line where ol_d_id = 3 and ol_o_id = 7 and ol_number = 1',
    ]
    for (const [i, text] of breaks.entries()) {
      await client.query(text)
      expect(violated(await checkTpcc(client))).toEqual(names.slice(0, i + 1))
    }
  },
  TEST_TIMEOUT_MS,
)

test(
  'a load is the same for the same seed',
  async () => {
    const server = await start()
    const client = await server.connect()
    const digests: string[] = []
    for (const seed of [5, 5, 6]) {
      await loadTpcc({ connectionString: server.connectionString, ...TINY_TPCC, seed })
      const { rows } = await client.query(`select md5(string_agg(digest, '' order by name)) as digest from (
      select 'stock' as name, md5(string_agg(t::text, '' order by s_w_id, s_i_id)) as digest from stock t union all
      select 'customer', md5(string_agg(t::text, '' order by c_w_id, c_d_id, c_id)) from customer t union all
      select 'line', md5(string_agg(t::text, '' order by ol_w_id, ol_d_id, ol_o_id, ol_number)) from order_line t) as t`)
      digests.push(rows[0].digest as string)
    }
    expect(digests[1]).toBe(digests[0])
    expect(digests[2]).not.toBe(digests[0])
  },
  TEST_TIMEOUT_MS,
)

test(
  'TPC-B keeps its sums, and its check finds a changed balance',
  async () => {
    const server = await start()
    const { connectionString } = server
    await loadTpcb({ connectionString, ...TINY_TPCB })
    const stats = await runWorkload(tpcb, { connectionString, clients: 4, durationMs: 2_000 })
    expect(stats.nopm).toBeNull()
    const client = await server.connect()
    expect(violated(await checkTpcb(client))).toEqual([])
    const { rows } = await client.query(
      'select count(*)::int as history, count(distinct bid)::int as branches from pgbench_history',
    )
    expect(rows).toEqual([{ history: stats.committed, branches: TINY_TPCB.scale }])
    await client.query('update pgbench_accounts set abalance = abalance + 1 where aid = 5')
    expect(violated(await checkTpcb(client))).toHaveLength(2)
  },
  TEST_TIMEOUT_MS,
)

test(
  'the ledger finds a lost and a ghost transaction commit',
  async () => {
    const server = await start()
    const { connectionString } = server
    await loadTpcb({ connectionString, ...TINY_TPCB })
    const ledger = await newLedger()
    await runWorkload(tpcb, { connectionString, clients: 2, durationMs: 500, ledger })
    const client = await server.connect()
    const { acknowledged } = await checkLedger(client, ledger.path)
    expect(acknowledged).toBeGreaterThan(10)

    const {
      rows: [first],
    } = await client.query('delete from understory_ledger where sequence = 3 returning client_id')
    expect(await checkLedger(client, ledger.path)).toMatchObject({
      acknowledged,
      lostCommits: 2,
      ghostCommits: 0,
    })

    const { client_id } = first
    await client.query(
      'insert into understory_ledger select client_id, max(sequence) + 7 from understory_ledger group by 1',
    )
    await client.query('insert into understory_ledger values ($1, 5)', [client_id])
    await client.query('insert into understory_ledger values ($1::int8 + 9, 1)', [client_id])
    const check = await checkLedger(client, ledger.path)
    expect(check).toMatchObject({ acknowledged, lostCommits: 2, ghostCommits: 4 })
    expect(check.examples.lost).toContain(`${client_id}/3`)
    expect(check.examples.ghosts).toContain(`${client_id}/5`)
  },
  TEST_TIMEOUT_MS,
)

test(
  'what a client had on its way is unknown, whether it is there or not',
  async () => {
    const server = await start()
    const { connectionString } = server
    await loadTpcb({ connectionString, ...TINY_TPCB })
    const ledger = await newLedger()
    const present = ledger.addClient()
    const absent = ledger.addClient()
    const killed = ledger.addClient()
    for (const client of [present, absent]) client.unknown(client.begin())
    killed.begin()
    const failed = ledger.addClient()
    failed.failed(failed.begin())
    const client = await server.connect()
    const insert = (id: number) => client.query('insert into understory_ledger values ($1, 1)', [id])
    await insert(present.clientId)
    await insert(killed.clientId)
    const expected = { acknowledged: 0, lostCommits: 0, ghostCommits: 0, unknownPresent: 2, unknownAbsent: 1 }
    expect(await checkLedger(client, ledger.path)).toMatchObject(expected)
    await insert(failed.clientId)
    expect(await checkLedger(client, ledger.path)).toMatchObject({ ...expected, ghostCommits: 1 })

    // A file that is opened again continues with other clients.
    const again = new Ledger(ledger.path)
    onTestFinished(() => again.close())
    expect([present, absent, killed, failed].map(({ clientId }) => clientId)).not.toContain(
      again.addClient().clientId,
    )
  },
  TEST_TIMEOUT_MS,
)

test.each([
  ['tpcc', tpcc],
  ['tpcb', tpcb],
] as const)(
  '%s continues after the server is killed, with nothing lost',
  async (_, workload) => {
    const server = await start()
    const { connectionString } = server
    await loadTpcc({ connectionString, ...TINY_TPCC })
    await loadTpcb({ connectionString, ...TINY_TPCB })
    const ledger = await newLedger()
    const progress = newProgress()
    const stop = new AbortController()
    onTestFinished(() => stop.abort())
    const downMs: number[] = []
    const running = runWorkload(workload, {
      connectionString,
      clients: 4,
      signal: stop.signal,
      ledger,
      progress,
      onReconnect: (event) => downMs.push(event.downMs),
    })
    running.catch(() => undefined)
    await expect.poll(() => progress.committed, POLL).toBeGreaterThan(500)
    await server.kill()
    await expect.poll(() => progress.clientsConnected, POLL).toBe(0)
    await server.start()
    const before = progress.committed
    await expect.poll(() => progress.committed, POLL).toBeGreaterThan(before + 500)
    // One client's commits may reach that before another is back.
    await expect.poll(() => downMs.length, POLL).toBe(4)
    stop.abort()
    const stats = await running
    expect(stats.connectionsLost).toBe(4)
    expect(downMs).toHaveLength(4)

    const client = await server.connect()
    const check = await checkLedger(client, ledger.path)
    expect(check).toMatchObject({ lostCommits: 0, ghostCommits: 0 })
    expect(check.unknownPresent + check.unknownAbsent).toBe(stats.unknownOutcomes)
    expect(violated(await (workload === tpcc ? checkTpcc(client) : checkTpcb(client)))).toEqual([])
  },
  TEST_TIMEOUT_MS,
)

test(
  'the ledger shows what a server loses that acknowledges before it writes',
  async () => {
    const server = await startPostgres({
      major: 17,
      settings: {
        synchronous_commit: 'off',
        wal_writer_delay: '10s',
        wal_writer_flush_after: '1GB',
        wal_buffers: '64MB',
      },
    })
    onTestFinished(() => server[Symbol.asyncDispose]())
    const { connectionString } = server
    await loadTpcb({ connectionString, ...TINY_TPCB })
    const ledger = await newLedger()
    const progress = newProgress()
    const stop = new AbortController()
    onTestFinished(() => stop.abort())
    const running = runWorkload(tpcb, { connectionString, clients: 4, signal: stop.signal, ledger, progress })
    running.catch(() => undefined)
    await expect.poll(() => progress.committed, POLL).toBeGreaterThan(200)
    await server.kill()
    stop.abort()
    const { committed } = await running
    await server.start()
    const client = await server.connect()
    const check = await checkLedger(client, ledger.path)
    expect(check).toMatchObject({ acknowledged: committed, ghostCommits: 0 })
    expect(check.lostCommits).toBeGreaterThan(0)
    // The rest is a whole beginning of the history.
    expect(violated(await checkTpcb(client))).toEqual([])
  },
  TEST_TIMEOUT_MS,
)

test(
  'clients whose sessions are ended by the server connect again',
  async () => {
    const server = await start()
    const { connectionString } = server
    await loadTpcb({ connectionString, ...TINY_TPCB })
    const client = await server.connect()
    const ledger = await newLedger()
    const progress = newProgress()
    const stop = new AbortController()
    onTestFinished(() => stop.abort())
    const running = runWorkload(tpcb, { connectionString, clients: 4, signal: stop.signal, ledger, progress })
    running.catch(() => undefined)
    for (const lost of [4, 8, 12]) {
      await expect.poll(() => progress.clientsConnected, POLL).toBe(4)
      await client.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'understory-bench'`,
      )
      await expect.poll(() => progress.connectionsLost, POLL).toBe(lost)
    }
    stop.abort()
    const stats = await running
    const check = await checkLedger(client, ledger.path)
    expect(check).toMatchObject({ lostCommits: 0, ghostCommits: 0 })
    expect(check.unknownPresent + check.unknownAbsent).toBe(stats.unknownOutcomes)
  },
  TEST_TIMEOUT_MS,
)

test(
  'a run ends although the server does not answer, and what it had asked for is unknown',
  async () => {
    const server = await start()
    const { connectionString } = server
    await loadTpcb({ connectionString, ...TINY_TPCB })
    const client = await server.connect()
    const waiting = async () =>
      (
        await client.query(`select count(*)::int as sessions,
    count(*) filter (where wait_event_type = 'Lock')::int as waiting
    from pg_stat_activity where application_name = 'understory-bench'`)
      ).rows[0]
    const ledger = await newLedger()
    const stop = new AbortController()
    onTestFinished(() => stop.abort())
    const running = runWorkload(tpcb, {
      connectionString,
      clients: 4,
      signal: stop.signal,
      drainTimeoutMs: 100,
      ledger,
    })
    running.catch(() => undefined)
    await expect.poll(waiting, POLL).toMatchObject({ sessions: 4 })
    await client.query('begin')
    await client.query('lock table pgbench_history in access exclusive mode')
    await expect.poll(waiting, POLL).toEqual({ sessions: 4, waiting: 4 })
    stop.abort()
    expect(await running).toMatchObject({ connectionsLost: 4, unknownOutcomes: 4 })
    // The sessions have their COMMIT and continue once they can, or find their client gone.
    await client.query('commit')
    await expect.poll(waiting, POLL).toMatchObject({ sessions: 0 })
    const check = await checkLedger(client, ledger.path)
    expect(check).toMatchObject({ lostCommits: 0, ghostCommits: 0 })
    expect(check.unknownPresent + check.unknownAbsent).toBe(4)
  },
  TEST_TIMEOUT_MS,
)

test(
  'an error that is not a lost connection ends the run',
  async () => {
    const server = await start()
    const { connectionString } = server
    await expect(
      runWorkload(tpcb, { connectionString, clients: 2, durationMs: 1_000 }),
    ).rejects.toMatchObject({ code: 'precondition' })
    await loadTpcb({ connectionString, ...TINY_TPCB })
    const client = await server.connect()
    await client.query('alter table pgbench_history add check (delta <> 17), add check (aid > 500)')
    await expect(
      runWorkload(tpcb, { connectionString, clients: 2, durationMs: 20_000 }),
    ).rejects.toMatchObject({ code: '23514' })
  },
  TEST_TIMEOUT_MS,
)
