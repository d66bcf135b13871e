// Goal: a few thousand wrong messages to every RPC end in a status and change nothing. Method: the fuzzer of
// `npm run fuzz:rpc` with one seed.
import { join } from 'node:path'
import { createClient } from '@understory/sdk'
import { startCluster, temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { FUZZ_ENVIRONMENT, FUZZ_TOKEN, fuzz } from './fuzz.ts'
import { Peer, frame } from './grpc-call.ts'

const TENANT = 'fuzzed'
const MESSAGES = 3_000

test('wrong messages to every RPC of every service get a status, and change nothing', async () => {
  const folder = await temporaryDirectory({ prefix: 'fuzz' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  await using cluster = await startCluster({
    dataDirectory: join(folder.path, 'data'),
    environment: FUZZ_ENVIRONMENT,
  })
  using client = createClient({ endpoint: cluster.endpoint, token: FUZZ_TOKEN })
  await client.createTenant({ name: TENANT, settings: { shared_buffers: '32MB' } })
  await client.waitForSql(TENANT)
  const report = await fuzz({
    cluster,
    client,
    tenant: TENANT,
    messages: MESSAGES,
    seed: 11,
    say: () => undefined,
  })
  expect(report.faults).toEqual([])
  expect(report.methods).toBeGreaterThan(40)
  expect(report.hostile).toBeGreaterThan(1_000)
  expect(report.watched).toBeGreaterThan(MESSAGES / 60)
  // Messages that cannot be read, values that cannot be, and names that are not there: each has its own status.
  for (const status of ['status 3', 'status 5', 'status 13'])
    expect(report.ends[status] ?? 0).toBeGreaterThan(20)

  using peer = new Peer((cluster.safekeepers[0] as { address: string }).address, FUZZ_TOKEN)
  const path = '/understory.v1.SafekeeperService/ListWalTimelines'
  // Unknown fields in unknown groups, ten thousand deep.
  const deep = frame(Buffer.alloc(20_000, 0x0b))
  expect(await peer.call({ path, body: deep, mayStayOpen: false })).toMatchObject({
    kind: 'status',
    status: 13,
  })
  const whole = frame(Buffer.alloc(0))
  expect(await peer.call({ path, body: whole, mayStayOpen: false })).toMatchObject({
    kind: 'status',
    status: 0,
  })
})
