/** Goal: an import that a shard refuses, or that is stopped, ends with that reason and leaves no stream behind. */
import { fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { BackupEvent } from '@understory/postgres/wire'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  PageserverServiceService,
  clientStream,
  service,
  startServer,
} from '@understory/rpc'
import type { Handlers, ImportShardRequest, PageserverServiceServer } from '@understory/rpc'
import { expect, onTestFinished, test } from 'vitest'
import { importBaseBackup } from './import.ts'

const START = 0x2000028 as Lsn
const PAGES_COUNT = 20_000

interface StandIn {
  readonly address: string
  /** One entry a stream, once it is over: whether its finish came. */
  readonly ended: Promise<boolean>
}

/** A pageserver that takes `messagesCount` messages and then refuses. */
async function startStandIn(messagesCount: number): Promise<StandIn> {
  const ended = Promise.withResolvers<boolean>()
  const importShard = clientStream(async (messages: AsyncIterable<ImportShardRequest>) => {
    let left = messagesCount
    let isFinished = false
    try {
      for await (const { message } of messages) {
        if (left-- === 0) throw fail('already_exists', 'shard 0 has its data already')
        isFinished = message?.$case === 'finish'
      }
    } finally {
      ended.resolve(isFinished)
    }
    return { valuesCount: 0n }
  })
  const services = [
    service<PageserverServiceServer>(PageserverServiceService, {
      importShard,
    } as unknown as Handlers<PageserverServiceServer>),
  ]
  const server = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port: 0, services })
  onTestFinished(() => server.stop(0))
  return { address: server.address, ended: ended.promise }
}

/** Pages without end, but for `PAGES_COUNT`; calls `before` ahead of the given one. */
async function* backup(at: number, before: () => void): AsyncGenerator<BackupEvent, void, void> {
  yield { kind: 'start', startLsn: START, timelineId: 1 }
  yield { kind: 'file', path: 'base/5/16384', size: PAGES_COUNT * 8192 }
  for (let page = 0; page < PAGES_COUNT; page++) {
    if (page === at) before()
    yield { kind: 'data', bytes: Buffer.alloc(8192, 1) }
    if (page % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
}

const OPTIONS = {
  rpc: PLAIN_CLIENT,
  major: 17,
  layout: { count: 1, stripeBlocks: 8 },
  timeline: { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) },
} as const

test('a shard that refuses ends the import with its reason', async () => {
  const pageserver = await startStandIn(3)
  const { signal } = new AbortController()
  const importing = importBaseBackup({
    ...OPTIONS,
    backup: backup(-1, () => undefined),
    pageservers: [pageserver.address],
    signal,
  })
  await expect(importing).rejects.toMatchObject({
    code: 'already_exists',
    message: expect.stringContaining('has its data already'),
  })
})

test('an import that is stopped never reaches its finish', async () => {
  const pageserver = await startStandIn(Infinity)
  const stop = new AbortController()
  const importing = importBaseBackup({
    ...OPTIONS,
    backup: backup(1000, () => stop.abort()),
    pageservers: [pageserver.address],
    signal: stop.signal,
  })
  await expect(importing).rejects.toMatchObject({ code: 'cancelled' })
  expect(await pageserver.ended).toBe(false)
})

test('a backup that breaks off fails the import', async () => {
  const pageserver = await startStandIn(Infinity)
  const { signal } = new AbortController()
  const broken = backup(500, () => {
    throw fail('unavailable', 'Postgres closed the connection')
  })
  const importing = importBaseBackup({
    ...OPTIONS,
    backup: broken,
    pageservers: [pageserver.address],
    signal,
  })
  await expect(importing).rejects.toMatchObject({
    code: 'unavailable',
    message: 'Postgres closed the connection',
  })
  expect(await pageserver.ended).toBe(false)
})
