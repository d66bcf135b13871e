/**
 * Goal: a shard reaches the end of what is committed though the safekeeper that it follows lives, answers, and advances
 * no more. Method: two safekeepers in this process over gRPC, both subscribed to in that order; the first stops taking
 * WAL in one of the ways that there are, the second continues.
 */
import { LSN_ZERO } from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import { realClock, realDisk, realEnv, silentLog } from '@understory/env'
import type { Disk, DiskFile, Log } from '@understory/env'
import { fail } from '@understory/base'
import { PLAIN_CLIENT } from '@understory/rpc'
import { expect, onTestFinished, test } from 'vitest'
import { NodeQuota } from '../../apps/safekeeper/src/timeline/node-quota.ts'
import { REF, create, folder, start } from '../../apps/safekeeper/test/peers.ts'
import type { Safekeeper, SafekeeperOptions } from '../../apps/safekeeper/test/peers.ts'
import { SingleProposer } from '../../apps/safekeeper/test/single-proposer.ts'
import { IDENTITY, START, WalMaker } from '../../apps/safekeeper/test/wal-maker.ts'
import { CommitPositions } from '../../apps/pageserver/src/ingest/commit-positions.ts'
import { SafekeeperStreams } from '../../apps/pageserver/src/ingest/safekeeper-stream.ts'
import type { SubscriptionEnd } from '../../apps/pageserver/src/telemetry/metrics.ts'
import { WalSubscriber } from '../../apps/pageserver/src/ingest/wal-subscriber.ts'
import type { WalConsumer } from '../../apps/pageserver/src/ingest/wal-subscriber.ts'

const RECORD_BYTES = 7_000

class Consumer implements WalConsumer {
  ingestedLsn: Lsn = START
  remoteConsistentLsn = LSN_ZERO
  trackCommitTimestamp = false
  hasFailed = false
  stopFor(): void {
    this.hasFailed = true
  }
  async take({ endLsn }: { readonly endLsn: Lsn }): Promise<void> {
    this.ingestedLsn = endLsn
  }
}

interface Logged {
  readonly log: Log
  readonly events: { readonly event: string; readonly fields: Readonly<Record<string, unknown>> }[]
}

function logging(): Logged {
  const events: Logged['events'] = []
  const note = (event: string, fields = {}): void => void events.push({ event, fields })
  const log: Log = { ...silentLog, warn: note, error: note, child: () => log }
  return { log, events }
}

/** A disk whose durable writes fail while `fails` is set. */
function failingDisk(): Disk & { fails: boolean } {
  const disk = {
    ...realDisk,
    fails: false,
    open: async (path: string, mode: Parameters<Disk['open']>[1]): Promise<DiskFile> => {
      const file = await realDisk.open(path, mode)
      const writeDurably: DiskFile['writeDurably'] = async (offset, chunks) => {
        if (disk.fails) throw fail('disk_failed', 'could not write file')
        return file.writeDurably(offset, chunks)
      }
      return new Proxy(file, {
        get: (target, name) => {
          const value: unknown = name === 'writeDurably' ? writeDurably : Reflect.get(target, name, target)
          return typeof value === 'function' ? (value as () => unknown).bind(target) : value
        },
      })
    },
  }
  return disk
}

async function until(what: string, probe: () => boolean): Promise<void> {
  const endMs = performance.now() + 20_000
  while (!probe()) {
    if (performance.now() > endMs) throw new Error(`waited in vain until ${what}`)
    await realClock.sleep(20)
  }
}

interface Led extends Safekeeper {
  readonly leader: SingleProposer
}

async function led(nodeId: string, at: string, options: SafekeeperOptions = {}): Promise<Led> {
  const safekeeper = await start(nodeId, at, options)
  await create(safekeeper)
  const leader = new SingleProposer(safekeeper.client)
  onTestFinished(() => leader.close())
  await leader.lead(REF, IDENTITY, 1)
  return { ...safekeeper, leader }
}

async function commit({ leader }: Led, atLsn: Lsn, wal: Uint8Array, endLsn: Lsn): Promise<void> {
  await leader.append(atLsn, wal)
  await leader.flushed(endLsn)
  await leader.commit(endLsn)
}

/** Both have the same WAL, and the shard follows the first; then only the second continues, up to `endLsn`. */
async function setUp(options: SafekeeperOptions = {}) {
  const at = await folder()
  const first = await led('sk1', at, options)
  const second = await led('sk2', at)
  const maker = new WalMaker()
  const wal = maker.records(20, RECORD_BYTES)
  const commonLsn = maker.endLsn
  for (const safekeeper of [first, second]) await commit(safekeeper, START, wal, commonLsn)

  const consumer = new Consumer()
  const { log, events } = logging()
  const ends: SubscriptionEnd[] = []
  const env = realEnv(log)
  const subscriber = new WalSubscriber(
    {
      env,
      streams: new SafekeeperStreams({ env, rpc: PLAIN_CLIENT }),
      positions: new CommitPositions(env, PLAIN_CLIENT),
      onEnd: (reason) => ends.push(reason),
    },
    {
      tenantId: REF.tenantId as TenantId,
      timelineId: REF.timelineId as TimelineId,
      shard: { number: 0, count: 1, stripeBlocks: 8 },
    },
    [first.address, second.address],
    consumer,
  )
  subscriber.start()
  onTestFinished(() => subscriber.stop())
  await until('the shard follows', () => consumer.ingestedLsn === commonLsn)

  const more = maker.records(60, RECORD_BYTES)
  return {
    first,
    second,
    consumer,
    events,
    ends,
    endLsn: maker.endLsn,
    /** Sends the rest to one that is expected not to take it. */
    appendTo: async ({ leader }: Led) => {
      const refused = leader.refusal()
      await leader.append(commonLsn, more).catch(() => undefined)
      await refused
    },
    resume: () => commit(second, commonLsn, more, maker.endLsn),
  }
}

test('a shard leaves a safekeeper whose writes fail', async () => {
  const disk = failingDisk()
  const safekeeperLog = logging()
  const { first, consumer, ends, appendTo, resume, endLsn } = await setUp({ disk, log: safekeeperLog.log })
  await resume()
  disk.fails = true
  await appendTo(first)
  await until('the shard has everything', () => consumer.ingestedLsn === endLsn)
  expect(ends).toEqual(['failed'])
  expect(safekeeperLog.events).toContainEqual({
    event: 'subscription_ended',
    fields: expect.objectContaining({ shard: 0, reason: 'failed' }),
  })
})

test('a shard leaves a safekeeper that is at its quota', async () => {
  const quota = new NodeQuota({ timelineBytes: 300_000, nodeBytes: undefined }, realClock)
  const safekeeperLog = logging()
  const { first, consumer, appendTo, resume, ends, endLsn } = await setUp({ quota, log: safekeeperLog.log })
  await resume()
  await appendTo(first)
  await until('the shard has everything', () => consumer.ingestedLsn === endLsn)
  expect(ends).toHaveLength(1)
})

test('a safekeeper at its quota says that there will be no more, and serves what it has before', async () => {
  const quota = new NodeQuota({ timelineBytes: 300_000, nodeBytes: undefined }, realClock)
  const safekeeperLog = logging()
  // No safekeeper is ahead, so only the safekeeper itself can end the subscription.
  const { first, consumer, appendTo, ends, events } = await setUp({ quota, log: safekeeperLog.log })
  const { ingestedLsn } = consumer
  await appendTo(first)
  await until('the subscription ends', () => ends.length > 0)
  expect(safekeeperLog.events).toContainEqual({
    event: 'subscription_ended',
    fields: expect.objectContaining({ shard: 0, reason: 'no_room' }),
  })
  expect(events.map(({ event }) => event)).toContain('subscription_ended')
  expect(consumer.ingestedLsn).toBe(ingestedLsn)
})

test('a shard leaves a safekeeper that no proposer reaches any more', async () => {
  const { first, second, consumer, ends, events, resume, endLsn } = await setUp()
  await resume()
  await until('the shard has everything', () => consumer.ingestedLsn === endLsn)
  expect(ends).toEqual(['behind'])
  expect(events).toContainEqual({
    event: 'safekeeper_left',
    fields: expect.objectContaining({ safekeeper: first.address, reason: 'behind', next: second.address }),
  })
})
