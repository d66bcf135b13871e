/**
 * Goal: a WAL record of any size reaches a shard: the end of a transaction in parts, the state of a prepared
 * transaction in several messages, a logical message not at all; a record of an unknown kind stops the shard, and
 * everything before it is there. Method: a safekeeper in this process over gRPC, records made by hand, a consumer that
 * keeps what it gets.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { LSN_ZERO, lsnToBigint } from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import { realClock, realEnv, silentLog } from '@understory/env'
import type { Log } from '@understory/env'
import { RM_LOGICALMSG_ID, RM_XACT_ID, encodeRecord, placeRecord } from '@understory/postgres/wal'
import type { RecordToEncode } from '@understory/postgres/wal'
import { PLAIN_CLIENT, openBidi } from '@understory/rpc'
import { readShardEntries } from '@understory/storage'
import type { ShardEntry } from '@understory/storage'
import { expect, onTestFinished, test } from 'vitest'
import { REF, create, folder, start } from '../../apps/safekeeper/test/peers.ts'
import type { Safekeeper } from '../../apps/safekeeper/test/peers.ts'
import { SingleProposer } from '../../apps/safekeeper/test/single-proposer.ts'
import { IDENTITY, START, WalMaker } from '../../apps/safekeeper/test/wal-maker.ts'
import { CommitPositions } from '../../apps/pageserver/src/ingest/commit-positions.ts'
import { SafekeeperStreams } from '../../apps/pageserver/src/ingest/safekeeper-stream.ts'
import { WalSubscriber } from '../../apps/pageserver/src/ingest/wal-subscriber.ts'
import type { WalBatch } from '../../apps/pageserver/src/ingest/fragments.ts'
import type { WalConsumer } from '../../apps/pageserver/src/ingest/wal-subscriber.ts'

const MIB = 1024 * 1024
const APPEND_BYTES = 256 * 1024
const SHARD = { number: 0, count: 1, stripeBlocks: 8 }
const XLOG_XACT_PREPARE = 0x10
const XLOG_XACT_HAS_INFO = 0x80
const XACT_XINFO_HAS_SUBXACTS = 2
const CUSTOM_RMGR_ID = 128

class Consumer implements WalConsumer {
  ingestedLsn: Lsn = START
  remoteConsistentLsn = LSN_ZERO
  trackCommitTimestamp = false
  failure: Error | undefined
  batchesCount = 0
  readonly entries: ShardEntry[] = []

  get hasFailed(): boolean {
    return this.failure !== undefined
  }
  async take({ startLsn, endLsn, entries }: WalBatch): Promise<void> {
    expect(startLsn).toBe(this.ingestedLsn)
    this.entries.push(...readShardEntries(entries))
    this.ingestedLsn = endLsn
    this.batchesCount++
  }
  stopFor(error: Error): void {
    this.failure = error
  }
}

function garbageCollector(): () => void {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  onTestFinished(() => setFlagsFromString('--no-expose-gc'))
  // The buffers that one collection releases are freed beside the program; the next one waits for that.
  return () => {
    collect()
    collect()
  }
}

async function until(what: string, probe: () => boolean): Promise<void> {
  const endMs = performance.now() + 60_000
  while (!probe()) {
    if (performance.now() > endMs) throw new Error(`waited in vain until ${what}`)
    await realClock.sleep(20)
  }
}

/** The bytes that put the record behind what `maker` made. */
function place(maker: WalMaker, record: Omit<RecordToEncode, 'prevLsn'>): Uint8Array {
  const { major, systemId, pgTimelineId: timelineId, walSegmentBytes: segmentBytes } = IDENTITY
  const encoded = encodeRecord({ ...record, prevLsn: maker.lastRecordLsn })
  const placed = placeRecord(maker.endLsn, encoded, { major, systemId, timelineId, segmentBytes })
  maker.endLsn = placed.nextLsn
  maker.lastRecordLsn = placed.recordLsn
  return placed.bytes
}

function commitOf(subxactsCount: number): Omit<RecordToEncode, 'prevLsn'> {
  const mainData = new Uint8Array(16 + subxactsCount * 4)
  const view = new DataView(mainData.buffer)
  view.setUint32(8, XACT_XINFO_HAS_SUBXACTS, true)
  view.setInt32(12, subxactsCount, true)
  for (let i = 0; i < subxactsCount; i++) view.setUint32(16 + i * 4, 1_001 + i, true)
  return { rmid: RM_XACT_ID, info: XLOG_XACT_HAS_INFO, xid: 1_000, mainData }
}

/** xl_xact_prepare with so many subtransactions and the gid `g`. */
function prepareOf(subxactsCount: number): Omit<RecordToEncode, 'prevLsn'> {
  const mainData = new Uint8Array(72 + 8 + subxactsCount * 4)
  const view = new DataView(mainData.buffer)
  view.setUint32(0, 0x57f9_4534, true)
  view.setUint32(4, mainData.length + 4, true)
  view.setUint32(8, 1_000, true)
  view.setInt32(28, subxactsCount, true)
  view.setUint16(54, 2, true)
  view.setUint8(72, 0x67)
  for (let i = 0; i < subxactsCount; i++) view.setUint32(80 + i * 4, 1_001 + i, true)
  return { rmid: RM_XACT_ID, info: XLOG_XACT_PREPARE, mainData }
}

interface Setup {
  readonly safekeeper: Safekeeper
  readonly maker: WalMaker
  readonly consumer: Consumer
  readonly warnings: string[]
  /** Makes it durable and committed. */
  readonly append: (wal: Uint8Array) => Promise<void>
  readonly subscribe: () => void
}

async function setUp(): Promise<Setup> {
  const safekeeper = await start('sk1', await folder())
  await create(safekeeper)
  const leader = new SingleProposer(safekeeper.client)
  onTestFinished(() => leader.close())
  await leader.lead(REF, IDENTITY, 1)
  const maker = new WalMaker()
  const consumer = new Consumer()
  const warnings: string[] = []
  const log: Log = { ...silentLog, warn: (event) => warnings.push(event), child: () => log }
  const owner = {
    tenantId: REF.tenantId as TenantId,
    timelineId: REF.timelineId as TimelineId,
    shard: SHARD,
  }
  const env = realEnv(log)
  const parts = {
    env,
    streams: new SafekeeperStreams({ env, rpc: PLAIN_CLIENT }),
    positions: new CommitPositions(env, PLAIN_CLIENT),
  }
  const subscriber = new WalSubscriber(parts, owner, [safekeeper.address], consumer)
  let at: Lsn = START
  return {
    safekeeper,
    maker,
    consumer,
    warnings,
    append: async (wal) => {
      for (let from = 0; from < wal.length; from += APPEND_BYTES)
        await leader.append((at + from) as Lsn, wal.subarray(from, from + APPEND_BYTES))
      at = (at + wal.length) as Lsn
      await leader.flushed(at)
      await leader.commit(at)
    },
    subscribe: () => {
      subscriber.start()
      onTestFinished(() => subscriber.stop())
    },
  }
}

const recordsOf = ({ entries }: Consumer) => entries.filter((entry) => entry.kind === 'record')

test(
  'a commit of 36 MB and a prepared transaction of 36 MB reach the shard',
  { timeout: 120_000 },
  async () => {
    const { maker, consumer, warnings, append, subscribe } = await setUp()
    const count = 9_000_000
    await append(maker.records(3, 1_000))
    await append(place(maker, commitOf(count)))
    await append(place(maker, prepareOf(count)))
    await append(maker.records(3, 1_000))
    subscribe()
    await until('the shard has everything', () => consumer.ingestedLsn === maker.endLsn)
    expect(warnings).toEqual([])
    const parts = recordsOf(consumer).filter(({ keys }) => keys.length > 0)
    expect(parts.length).toBe(Math.ceil((count + 1_001) / 32_768))
    expect(Math.max(...parts.map(({ record }) => record.length))).toBeLessThan(140_000)
    const [prepare] = recordsOf(consumer).filter(({ hasEffects }) => hasEffects)
    expect(prepare?.record.length).toBe(24 + 5 + 80 + count * 4)
  },
)

test(
  'a logical message of 200 MB costs a subscription its time and not its memory',
  { timeout: 120_000 },
  async () => {
    const { maker, consumer, append, subscribe } = await setUp()
    const bytes = 200 * MIB
    // In a function of its own: the frame of an async function keeps what it passed on last.
    const appendMessage = () =>
      append(place(maker, { rmid: RM_LOGICALMSG_ID, info: 0, xid: 1_234, mainData: new Uint8Array(bytes) }))
    await append(maker.records(3, 1_000))
    await appendMessage()
    await append(maker.records(3, 1_000))
    // V8 decides when it collects, and differs between two runs; the references that remain are the product's.
    const collect = garbageCollector()
    const liveBytes = (): number => {
      collect()
      return process.memoryUsage().arrayBuffers
    }
    const before = liveBytes()
    const allowed = bytes / 4
    let peak = before
    const sampling = setInterval(() => {
      const used = process.memoryUsage().arrayBuffers - before
      peak = Math.max(peak, used < allowed ? before + used : liveBytes())
    }, 5)
    const startMs = performance.now()
    subscribe()
    await until('the shard has everything', () => consumer.ingestedLsn === maker.endLsn)
    clearInterval(sampling)
    const tookMs = performance.now() - startMs
    process.stderr.write(
      `a logical message of 200 MiB: ${tookMs.toFixed(0)} ms, ${Math.round((peak - before) / MIB)} MiB more in live buffers\n`,
    )
    expect(consumer.entries).toContainEqual(expect.objectContaining({ kind: 'xid', xid: 1_234 }))
    expect(recordsOf(consumer).every(({ record }) => record.length < 10_000)).toBe(true)
    // Nothing arrives for long within a large record, but something does: that does not count as silence.
    expect(consumer.batchesCount).toBeGreaterThan(10)
    expect(peak - before).toBeLessThan(allowed)
  },
)

test('a record of an unknown kind stops the shard where it stands', async () => {
  const { maker, consumer, append, subscribe } = await setUp()
  await append(maker.records(3, 1_000))
  const knownLsn = maker.endLsn
  await append(place(maker, { rmid: CUSTOM_RMGR_ID, info: 0, mainData: new Uint8Array(100) }))
  await append(maker.records(3, 1_000))
  subscribe()
  await until('the shard stops', () => consumer.hasFailed)
  expect(consumer.failure).toMatchObject({ code: 'unknown_wal' })
  expect(consumer.failure?.message).toContain('custom128')
  expect(consumer.ingestedLsn).toBe(knownLsn)
})

test(
  'a subscriber that cannot put fragments together gets the hint to upgrade',
  { timeout: 60_000 },
  async () => {
    const { safekeeper, maker, append } = await setUp()
    await append(place(maker, prepareOf(9_000_000)))
    const stream = openBidi(safekeeper.client.subscribeWal.bind(safekeeper.client))
    onTestFinished(() => stream.cancel())
    const open = {
      protocolVersion: 1,
      protocolVersionMax: 0,
      timeline: REF,
      shard: SHARD,
      startLsn: lsnToBigint(START),
      windowBytes: 0n,
      trackCommitTimestamp: false,
    }
    await stream.send({ message: { $case: 'open', value: open } })
    await expect(Array.fromAsync(stream.messages)).rejects.toMatchObject({
      code: 'unsupported',
      hint: 'Upgrade the pageserver.',
    })
  },
)
