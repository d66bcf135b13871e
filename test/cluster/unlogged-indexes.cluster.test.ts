/**
 * Goal: after a lost compute an unlogged table with a bloom index, whose init fork Postgres does not log, can be
 * queried and written as after a crash of stock Postgres, and what keeps one index from that keeps no client out.
 * Method: real processes; event triggers that refuse everything, names that need quotes, and an index that is locked.
 */
import { expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const MAJORS = [16, 17, 18] as const
const tenantOf = (major: number): string => `v${major}`

const TABLES = [
  'create extension bloom',
  'create schema "a ""b"".C"',
  'create unlogged table "a ""b"".C"."T.t" (i int)',
  'create index "X.x" on "a ""b"".C"."T.t" using bloom (i)',
  'create unlogged table held (i int)',
  'create index secretly on held using bloom (i)',
  'insert into held values (1)',
  `create function fail() returns event_trigger language plpgsql as $$ begin raise 'no'; end $$`,
  'create event trigger refuse on ddl_command_start execute function fail()',
  'alter event trigger refuse enable always',
  'checkpoint',
]
/** It keeps its lock over the loss of the compute. */
const PREPARED = "begin; lock table held in access exclusive mode; prepare transaction 'holder'"
/** The planner has no other way than the index. */
const FIND = `
  set enable_seqscan = off;
  explain (costs off) select from "a ""b"".C"."T.t" where i = 7`

async function loseCompute(road: Road, tenant: string): Promise<void> {
  const { pid, postmasterPid, term } = await road.runningCompute(tenant)
  process.kill(pid, 'SIGKILL')
  process.kill(postmasterPid, 'SIGKILL')
  await until('another compute', async () =>
    (await road.runningCompute(tenant)).term > term ? true : undefined,
  )
}

test('unlogged bloom indexes work after a rebuild, and one that is locked keeps no client out', async () => {
  await using road = await startRoad({ majors: [...MAJORS] })
  for (const major of MAJORS) {
    const tenant = tenantOf(major)
    await road.createTenant(tenant, major, { max_prepared_transactions: '2' })
    await road.withClient(async (client) => {
      for (const statement of TABLES) await client.query(statement)
      await client.query(PREPARED)
    }, tenant)
    await loseCompute(road, tenant)

    await road.withClient(async (client) => {
      await client.query('insert into "a ""b"".C"."T.t" select generate_series(1, 100)')
      const [, plan] = (await client.query(FIND)) as unknown as { rows: Record<string, string>[] }[]
      expect(JSON.stringify(plan?.rows)).toContain('Bitmap Index Scan on \\"X.x\\"')
      const { rows } = await client.query('select i from "a ""b"".C"."T.t" where i = 7')
      expect(rows).toEqual([{ i: 7 }])

      await client.query("commit prepared 'holder'")
      // Left as the rebuild had made it, and completed by hand.
      await expect(client.query('insert into held values (1)')).rejects.toThrow(/could not read block/)
      await client.query(`${major >= 17 ? 'set event_triggers = off; ' : ''}reindex index secretly`)
      await client.query('insert into held values (1)')
    }, tenant)
    await road.expectVerified(tenant)
  }
  const lines = road.cluster.computeHost.log().split('\n')
  const left = lines.filter((line) => line.includes('"event":"unlogged_index_not_rebuilt"'))
  expect(left).toHaveLength(MAJORS.length)
  for (const line of left) expect(line).toContain('SQLSTATE 55P03')
  expect(lines.filter((line) => /secretly|X\.x|T\.t/.test(line))).toEqual([])
})
