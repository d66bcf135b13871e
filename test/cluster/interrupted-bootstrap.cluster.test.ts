/**
 * Goal: a timeline is bootstrapped even if its bootstrap is interrupted, at any step. Method: a cluster of real
 * processes; for each step a tenant of its own, whose compute is killed as soon as its log says that the step is
 * reached. In the end its Postgres takes SQL, and storage has what it has.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '@understory/base'
import { PLAIN_CLIENT, ComputeHostServiceClient, callUnary, createClient } from '@understory/rpc'
import { TENANT_PASSWORD } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

let road: Road

beforeAll(async () => {
  road = await startRoad()
})
afterAll(() => road?.[Symbol.asyncDispose]())

/** Begins a tenant and waits until its compute's log has the event. */
async function beginBootstrap(name: string, event: string): Promise<{ timelineId: string; pid: number }> {
  const { timeline } = await road.client.createTenant({
    name,
    password: TENANT_PASSWORD,
    settings: { shared_buffers: '16MB' },
  })
  return until(`${event} of ${name}`, async () => {
    const isReached = road.cluster.computeHost
      .log()
      .split('\n')
      .some((line) => line.includes(timeline.timelineId) && line.includes(`"event":"${event}"`))
    if (!isReached) return undefined
    const pid = await pidOf(timeline.timelineId)
    return pid === undefined ? undefined : { timelineId: timeline.timelineId, pid }
  })
}

async function pidOf(timelineId: string): Promise<number | undefined> {
  const host = createClient(PLAIN_CLIENT, ComputeHostServiceClient, road.cluster.computeHost.address)
  try {
    const { computes } = await callUnary(host.listComputes.bind(host), {})
    const found = computes.find(({ timeline }) => timeline?.timelineId === timelineId)
    return found?.pid === 0 ? undefined : found?.pid
  } finally {
    host.close()
  }
}

async function expectBootstrapped(name: string): Promise<void> {
  await road.connectionString(name)
  await road.query('create table first_rows as select generate_series(1, 1000) as i', name)
  await until('the bootstrap to be noted', async () => {
    const { timeline } = await road.timeline(name)
    return (timeline?.startLsn ?? 0n) > 0n ? true : undefined
  })
  await road.expectVerified(name)
}

// In the order in which they come: initdb, the first start, a term, every value with its shard.
test.each(['bootstrap_started', 'postgres_started', 'elected', 'base_backup_imported'])(
  'a bootstrap completes after SIGKILL of its compute at "%s"',
  async (event) => {
    const name = event.replaceAll('_', '-')
    const { pid } = await beginBootstrap(name, event)
    process.kill(pid, 'SIGKILL')
    await expectBootstrapped(name)
  },
)

test('a bootstrap completes after SIGKILL of the compute host', async () => {
  await beginBootstrap('host', 'elected')
  await road.cluster.computeHost.kill()
  await road.cluster.computeHost.start()
  await expectBootstrapped('host')
})

test('a bootstrap completes after the loss of a pageserver that had only a part of it', async () => {
  const [victim] = road.cluster.pageservers.slice(-1)
  await beginBootstrap('pageserver', 'elected')
  await victim?.kill()
  await victim?.start()
  await expectBootstrapped('pageserver')
})

test('some of them had to begin again, and the remains of the interrupted bootstraps are removed', async () => {
  const log = road.cluster.controlPlane.log().split('\n')
  const restarts = log.filter((line) => line.includes('"event":"bootstrap_interrupted"'))
  expect(restarts.length).toBeGreaterThanOrEqual(3)
  const host = createClient(PLAIN_CLIENT, ComputeHostServiceClient, road.cluster.computeHost.address)
  try {
    const tenants = []
    for await (const { name } of road.client.listTenants()) tenants.push(name)
    await until('no compute beyond the tenants', async () => {
      const { computes } = await callUnary(host.listComputes.bind(host), {})
      return computes.length === tenants.length ? true : undefined
    })
    expect(tenants.length).toBeGreaterThan(1)
    // Nor anything else, on any disk or in the object store.
    for (const name of tenants) await road.client.waitForRemoval(name)
    const root = join(road.folder, 'data')
    const paths = await readdir(root, { recursive: true })
    for (const line of restarts) {
      const id = present(
        /"timeline":"([0-9a-f]{32})"/.exec(line)?.[1],
        'timeline of an interrupted bootstrap',
      )
      expect(paths.filter((path) => path.includes(id))).toEqual([])
    }
  } finally {
    host.close()
  }
})
