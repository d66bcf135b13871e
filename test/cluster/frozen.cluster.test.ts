/**
 * Goal: a compute that was frozen never comes back over its successor, and its Postgres does not continue to serve
 * (I2). Method: SIGSTOP of real processes. A successor is a second compute host that is asked to run the same timeline.
 */
import type { GetComputeStatusResponse } from '@understory/rpc'
import { tenantLogin } from '@understory/testcontainers'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'
import { gone, prepareSuccessor } from './successor.ts'

const CONTACT_TIMEOUT_MS = 6_000

let road: Road

beforeAll(async () => {
  road = await startRoad({
    flags: { 'compute-proxy': ['--contact-timeout-ms', String(CONTACT_TIMEOUT_MS)] },
  })
})
afterAll(() => road?.[Symbol.asyncDispose]())

async function connected(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: tenantLogin(connectionString) })
  client.on('error', () => undefined)
  await client.connect()
  return client
}

test('a frozen compute is ended by its host, and comes back without its Postgres having served on', async () => {
  await road.query('create table t (i int)')
  const before = await road.runningCompute()
  const reader = await connected(await road.connectionString())
  process.kill(before.pid, 'SIGSTOP')
  // No quorum confirms it: it waits, and is not acknowledged.
  const commit = reader.query('insert into t values (1)').then(
    () => 'committed',
    () => 'not acknowledged',
  )
  await gone('the frozen compute', before.pid)
  await gone('its Postgres', before.postmasterPid)
  expect(await commit).toBe('not acknowledged')
  const after = await road.runningCompute()
  expect(after.term).toBeGreaterThan(before.term)
  expect(await road.query('select count(*)::int as n from t')).toEqual([{ n: 0 }])
})

test('a compute that its host ended while it had a successor does not come back over it', async () => {
  await road.createTenant('ended', 17)
  const before = await road.runningCompute('ended')
  // Its bootstrap was confirmed to it by then: the last change of its spec.
  await until('the bootstrap to be noted', async () => {
    const { spec } = await road.timeline('ended')
    return spec?.bootstrap === false ? true : undefined
  })
  await using successor = await prepareSuccessor(road, 'ended')
  process.kill(before.pid, 'SIGSTOP')
  await successor.take()
  const { term, connectionString } = await successor.status()
  await gone('the frozen compute', before.pid)
  await until('the first to give way', () =>
    road.cluster.computeHost.log().includes('"event":"compute_fenced"') ? true : undefined,
  )
  await expectUndisturbed(successor, term, connectionString)
})

test('a compute that was frozen together with its host ends its Postgres and leaves its successor alone', async () => {
  const before = await road.runningCompute()
  const reader = await connected(await road.connectionString())
  const host = road.cluster.computeHost.pid
  const fencedBefore = fencedCount()
  await using successor = await prepareSuccessor(road, road.tenant)
  process.kill(host, 'SIGSTOP')
  process.kill(before.pid, 'SIGSTOP')
  const frozenMs = performance.now()
  await successor.take()
  const { term, connectionString } = await successor.status()
  // So long that the lead counts as lost for want of contact, before any node reports that another has it.
  await until('the time without contact', () =>
    performance.now() - frozenMs > 1.5 * CONTACT_TIMEOUT_MS ? true : undefined,
  )
  process.kill(before.pid, 'SIGCONT')
  process.kill(host, 'SIGCONT')
  await gone('the old Postgres', before.postmasterPid)
  await expect(reader.query('select 1')).rejects.toThrow()
  await gone('the old compute', before.pid)
  await until('the first to give way', () => (fencedCount() > fencedBefore ? true : undefined))
  await expectUndisturbed(successor, term, connectionString)
})

const fencedCount = (): number => road.cluster.computeHost.log().split('"event":"compute_fenced"').length - 1

/** It has the term that it had, and commits. */
async function expectUndisturbed(
  successor: { status(): Promise<GetComputeStatusResponse> },
  term: bigint,
  connectionString: string,
): Promise<void> {
  const client = await connected(connectionString)
  try {
    await client.query('create table proof (i int)')
  } finally {
    await client.end()
  }
  const now = await successor.status()
  expect(now.term).toBe(term)
  expect(now.postgresStarts).toBe(1)
}
