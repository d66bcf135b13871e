/**
 * Goal: a database that subscribes applies nothing twice and loses nothing, under any fault of its compute.
 * Method: a stock publisher and a subscriber on a cluster of real processes; the table has no key, so that a row that
 * came twice is seen, and every row is counted against the publisher's. The subscription is made as by default.
 */
import { present } from '@understory/base'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresServer } from '@understory/testcontainers'
import { describe, expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const KILLS = 5
/** Of WAL, some hundred transactions. */
const AHEAD_BYTES_MAX = 100_000
const POLL_MS = 5

async function startPublisher(major: 16 | 17 | 18): Promise<PostgresServer> {
  const publisher = await startPostgres({ major, settings: { wal_level: 'logical' } })
  const client = await publisher.connect()
  await client.query('create table applied (id int, part int)')
  await client.query('create publication everything for all tables')
  return publisher
}

/** Subscribes as by default, and waits until the table is synchronized. */
async function subscribe(road: Road, publisher: PostgresServer): Promise<void> {
  await road.query('create table applied (id int, part int)')
  const connection = `host=127.0.0.1 port=${publisher.port} user=postgres dbname=postgres`
  await road.query(`create subscription s connection '${connection}' publication everything`)
  await until('the table to be synchronized', async () => {
    const [row] = await road.query(
      "select count(*)::int as n from pg_subscription_rel where srsubstate = 'r'",
    )
    return row?.['n'] === 1 ? true : undefined
  })
}

/** Until the compute-proxy has changed the subscription. */
const untilSynchronous = (road: Road): Promise<true> =>
  until('the subscription to wait for the quorum', async () => {
    const [row] = await road.query('select subsynccommit as value from pg_subscription')
    return row?.['value'] === 'on' ? true : undefined
  })

/**
 * Inserts transactions of three rows until it is stopped, not too far ahead of the confirmed ones; returns how many
 * there were.
 */
async function insertUntil(publisher: PostgresServer, end: AbortSignal): Promise<number> {
  const client = await publisher.connect()
  let id = 0
  while (!end.aborted) {
    const { rows } = await client.query<{ ahead: number }>(
      'select (pg_current_wal_lsn() - confirmed_flush_lsn)::int as ahead from pg_replication_slots',
    )
    if (Number(rows[0]?.ahead) > AHEAD_BYTES_MAX) {
      await new Promise((go) => setTimeout(go, POLL_MS))
      continue
    }
    id++
    await client.query(`insert into applied select ${id}, part from generate_series(1, 3) part`)
  }
  return id
}

const SUMS = `select count(*)::int as rows, count(distinct (id, part))::int as distinct, coalesce(max(id), 0)::int as last from applied`

/** The last transaction that the subscriber has, once it answers. */
const lastApplied = (road: Road): Promise<number> =>
  until('the subscriber to answer', async () => {
    const [row] = await road.query(SUMS).catch(() => [])
    return row === undefined ? undefined : Number(row['last'])
  })

/** The subscriber has each row of the publisher once. */
async function expectEqual(road: Road, publisher: PostgresServer): Promise<void> {
  const client = await publisher.connect()
  const [expected] = (await client.query<{ last: number }>(SUMS)).rows
  const { last } = present(expected, 'row')
  await until('the subscriber to have the last row', async () =>
    (await lastApplied(road)) === last ? true : undefined,
  )
  expect((await road.query(SUMS))[0]).toEqual(expected)
}

async function lostAndRebuilt(road: Road): Promise<void> {
  const { postmasterPid } = await road.runningCompute()
  process.kill(postmasterPid, 'SIGKILL')
  await until('another compute', async () =>
    (await road.runningCompute()).postmasterPid !== postmasterPid ? true : undefined,
  )
}

describe.each([16, 17, 18] as const)('PostgreSQL %i', (major) => {
  test('nothing is applied twice or lost when computes die', { timeout: 300_000 }, async () => {
    await using publisher = await startPublisher(major)
    await using road = await startRoad({ major })
    await subscribe(road, publisher)
    await untilSynchronous(road)
    const end = new AbortController()
    const inserting = insertUntil(publisher, end.signal)
    for (let kill = 0; kill < KILLS; kill++) {
      const before = await lastApplied(road)
      await until('more to be applied', async () => {
        return (await lastApplied(road)) > before + 50 ? true : undefined
      })
      await lostAndRebuilt(road)
    }
    end.abort()
    const transactions = await inserting
    await expectEqual(road, publisher)
    process.stderr.write(`${transactions} transactions, ${KILLS} computes lost\n`)
    await road.expectVerified()
  })
})

/**
 * The postmaster's death ends the worker's wait for the quorum, and it confirms: compute-proxy then saves what is on
 * the local disk. The death of compute-proxy takes Postgres along without a word.
 */
test.each(['postmaster', 'compute-proxy'] as const)(
  'what no quorum has yet is not lost with the %s',
  { timeout: 300_000 },
  async (victim) => {
    await using publisher = await startPublisher(17)
    await using road = await startRoad({ major: 17 })
    await subscribe(road, publisher)
    await untilSynchronous(road)
    const client = await publisher.connect()
    await client.query('insert into applied values (1, 1)')
    await expectEqual(road, publisher)

    // Transactions applied from here on are on the compute's own disk alone.
    const { postmasterPid, pid } = await road.runningCompute()
    await road.withClient(async (subscriber) => {
      for (const safekeeper of road.cluster.safekeepers) await safekeeper.kill()
      await client.query('insert into applied values (2, 1)')
      const [inserted] = (await client.query<{ lsn: string }>('select pg_current_wal_lsn() as lsn')).rows
      const isConfirmed = async (): Promise<boolean> => {
        const { rows } = await client.query<{ is: boolean }>(
          'select confirmed_flush_lsn >= $1::pg_lsn as is from pg_replication_slots',
          [inserted?.lsn],
        )
        return rows[0]?.is === true
      }
      await until('the worker to wait for the quorum, or to confirm', async () => {
        const { rowCount } = await subscriber.query(
          "select from pg_stat_activity where backend_type like 'logical replication%' and wait_event = 'SyncRep'",
        )
        return rowCount === 1 || (await isConfirmed()) ? true : undefined
      })
      expect(await isConfirmed()).toBe(false)
    })
    process.kill(victim === 'postmaster' ? postmasterPid : pid, 'SIGKILL')
    for (const safekeeper of road.cluster.safekeepers) await safekeeper.start()
    await expectEqual(road, publisher)
  },
)
