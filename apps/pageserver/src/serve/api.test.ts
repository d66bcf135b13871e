// Goal: a request that makes no sense is refused before it changes anything. Method: a real server, no WAL.
import { realClock } from '@understory/env'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  PageserverServiceClient,
  callUnary,
  createClient,
  startServer,
} from '@understory/rpc'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { TENANT, TIMELINE, openBench } from '../../test/support.ts'
import { pageserverService } from './api.ts'

test('a shard is not attached with a safekeeper whose address is malformed and cannot be dialled', async () => {
  await using directory = await temporaryDirectory()
  await using bench = await openBench(directory.path)
  const server = await startServer(PLAIN_SERVER, {
    host: '127.0.0.1',
    port: 0,
    services: [pageserverService(bench.registry, realClock)],
  })
  onTestFinished(() => server.stop(1_000))
  const client = createClient(PLAIN_CLIENT, PageserverServiceClient, server.address)
  onTestFinished(() => client.close())
  for (const address of ['', 'sk-1', 'sk-1:70000', 'sk 1:80']) {
    const attached = callUnary(client.attachShard.bind(client), {
      timeline: { tenantId: TENANT, timelineId: TIMELINE },
      shard: { number: 0, count: 1, stripeBlocks: 8 },
      generation: 1n,
      create: true,
      safekeepers: ['127.0.0.1:1', address],
      postgres: { major: 17, systemId: 1n, pgTimelineId: 1, walSegmentBytes: 16 << 20 },
      imageGeneration: undefined,
      rollback: undefined,
    })
    await expect(attached).rejects.toMatchObject({
      code: 'bad_argument',
      message: `safekeeper address "${address}" is malformed`,
    })
  }
  expect(bench.registry.all).toEqual([])
})
