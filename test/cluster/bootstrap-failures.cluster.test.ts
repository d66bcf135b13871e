/**
 * Goal: a cause that keeps a new Postgres from coming up for good is reported to its waiter, with the reason, and not
 * retried in silence; and it comes up once that is corrected. Method: a cluster whose tenants get wrong settings and a
 * taken port, and one whose folder Postgres's user cannot reach.
 */
import { chmod, mkdir } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { isErrorCode } from '@understory/base'
import { startCluster, temporaryDirectory, unprivilegedUser } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Road, runCli, until } from './cluster-support.ts'

let road: Road

beforeAll(async () => {
  const folder = await temporaryDirectory({ prefix: 'bootstrap' })
  road = new Road(folder, { dataDirectory: join(folder.path, 'data'), safekeepers: 1, pageservers: 1 })
  await road.start()
})
afterAll(() => road?.[Symbol.asyncDispose]())

test('a wrong value of a setting ends the waiting with what Postgres says of it', async () => {
  await road.client.createTenant({ name: 'wrong-value', settings: { work_mem: 'banana' } })
  await expect(road.client.waitForSql('wrong-value', { timeoutMs: 120_000 })).rejects.toMatchObject({
    code: 'precondition',
    // Values stay with the tenant.
    message: expect.stringContaining('invalid value for parameter "work_mem": "…"'),
  })
})

test('`tenant create` ends with the reason, and exit code 1', async () => {
  const { code, stderr } = await runCli(
    road.cluster,
    'tenant',
    'create',
    'no-such',
    '--set',
    'no_such_setting=1',
    '--timeout',
    '120',
  )
  expect(code).toBe(1)
  expect(stderr).toMatch(/does not come up: .*unrecognized configuration parameter "no_such_setting"/)
})

test('a port that is taken is named, and the tenant comes up once it is free', async () => {
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const { port } = other.address() as AddressInfo
  await road.client.createTenant({ name: 'taken-port', sqlPort: port })
  await expect(road.client.waitForSql('taken-port', { timeoutMs: 120_000 })).rejects.toMatchObject({
    code: 'precondition',
    message: expect.stringContaining(`port ${port} of 127.0.0.1 is in use`),
  })
  await new Promise((resolve) => other.close(resolve))
  // Until the next try the reason of the last one stands.
  const connectionString = await until('the tenant to come up', () =>
    road.client.waitForSql('taken-port', { timeoutMs: 60_000 }).catch((error: unknown) => {
      if (isErrorCode(error, 'precondition')) return undefined
      throw error
    }),
  )
  expect(connectionString).toContain(`:${port}/`)
})

test.runIf(unprivilegedUser() !== undefined)(
  'a folder that the user of Postgres cannot reach is refused before anything starts',
  async () => {
    await using folder = await temporaryDirectory({ prefix: 'closed' })
    const closed = join(folder.path, 'closed')
    await mkdir(closed, { mode: 0o700 })
    const dataDirectory = join(closed, 'data')
    await expect(startCluster({ dataDirectory })).rejects.toMatchObject({
      code: 'precondition',
      detail: `folder "${closed}" does not let it through`,
    })
    await chmod(closed, 0o711)
    await using cluster = await startCluster({ dataDirectory, safekeepers: 1, pageservers: 1 })
    expect((await runCli(cluster, 'nodes')).stdout).toContain(cluster.computeHost.address)
  },
)
