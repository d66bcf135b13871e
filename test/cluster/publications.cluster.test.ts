/**
 * Goal: a subscriber that follows a logical slot with `failover` never has what no quorum has.
 * Method: a stock subscriber of a database on a cluster of real processes, whose safekeepers are gone for a while.
 */
import { startPostgres } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'

test.each([17, 18] as const)(
  'PostgreSQL %i: a logical slot with failover waits for the quorum',
  { timeout: 300_000 },
  async (major) => {
    await using road = await startRoad({ major, settings: { wal_level: 'logical' } })
    // Its library looks for a client certificate there, and must not look into the home of root.
    await using subscriber = await startPostgres({ major, env: { HOME: '/nonexistent' } })
    const client = await subscriber.connect()
    const rows = async (): Promise<number> =>
      (await client.query<{ n: number }>('select count(*)::int as n from sent')).rows[0]?.n ?? -1
    await road.query('create table sent (id int)')
    await road.query('create publication everything for all tables')
    await client.query('create table sent (id int)')
    const publisher = new URL(await road.connectionString())
    // For the driver of Node only.
    publisher.searchParams.delete('uselibpqcompat')
    await client.query(
      `create subscription s connection '${publisher.href}' publication everything with (failover = true)`,
    )
    await road.query('insert into sent values (1)')
    await until('the first row', async () => ((await rows()) === 1 ? true : undefined))

    await road.withClient(async (writer) => {
      for (const safekeeper of road.cluster.safekeepers) await safekeeper.kill()
      await writer.query('set synchronous_commit = local')
      await writer.query('insert into sent values (2)')
      await until('the walsender to wait for the quorum, or to send', async () => {
        const { rowCount } = await writer.query(
          "select from pg_stat_activity where backend_type = 'walsender' and wait_event = 'WaitForStandbyConfirmation'",
        )
        return rowCount === 1 || (await rows()) === 2 ? true : undefined
      })
      expect(await rows()).toBe(1)
    })
    for (const safekeeper of road.cluster.safekeepers) await safekeeper.start()
    await until('the second row', async () => ((await rows()) === 2 ? true : undefined))
  },
)
