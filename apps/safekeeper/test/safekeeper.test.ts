/**
 * Goal: what a proposer, a subscriber and an operator see of one safekeeper, over real gRPC with real files.
 * Method: the service in this process on a temporary folder; a restart is a new one on the same folder.
 */
import { open, readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { advance, formatLsn, isErrorCode, lsnFromBigint, lsnToBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock, realDisk, silentLog, realRng } from '@understory/env'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  PROPOSE_VERSIONS,
  SafekeeperServiceClient,
  callServerStream,
  callUnary,
  createClient,
  openBidi,
  startServer,
} from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse } from '@understory/rpc'
import { readShardEntries } from '@understory/storage'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { CatchUpScheduler } from '../src/recovery/catch-up-scheduler.ts'
import { safekeeperService } from '../src/serve/service.ts'
import { Timelines } from '../src/timeline/timelines.ts'
import { unlimitedQuota } from '../src/timeline/node-quota.ts'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }

interface Safekeeper {
  readonly client: SafekeeperServiceClient
  readonly folder: string
  stop(): Promise<void>
}

async function startSafekeeper(dataDir: string, nodeId = 'sk'): Promise<Safekeeper> {
  const timelines = new Timelines({
    disk: realDisk,
    log: silentLog,
    dataDir,
    quota: unlimitedQuota(realClock),
    clock: realClock,
    rng: realRng,
  })
  const catchUpScheduler = new CatchUpScheduler({ rpc: PLAIN_CLIENT, timelines, nodeId, clock: realClock })
  await timelines.openAll()
  const server = await startServer(PLAIN_SERVER, {
    host: '127.0.0.1',
    port: 0,
    services: [safekeeperService({ timelines, catchUpScheduler, nodeId, clock: realClock, log: silentLog })],
  })
  const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, server.address)
  let running = true
  const stop = async (): Promise<void> => {
    if (!running) return
    running = false
    client.close()
    await timelines.close()
    await server.stop(50)
  }
  onTestFinished(stop)
  return { client, folder: join(dataDir, 'timelines', REF.tenantId, REF.timelineId), stop }
}

async function dataFolder(): Promise<string> {
  const folder = await temporaryDirectory({ prefix: 'sk' })
  onTestFinished(() => folder[Symbol.asyncDispose]())
  return folder.path
}

const create = (client: SafekeeperServiceClient): Promise<unknown> =>
  callUnary(client.createTimeline.bind(client), {
    timeline: REF,
    postgres: IDENTITY,
    startLsn: lsnToBigint(START),
  })
const status = (client: SafekeeperServiceClient) =>
  callUnary(client.getWalStatus.bind(client), { timeline: REF })

function proposer(client: SafekeeperServiceClient, nodeId?: string): SingleProposer {
  const made = new SingleProposer(client, nodeId)
  onTestFinished(() => made.close())
  return made
}

/** A safekeeper with `count` records of `bytes` each, all committed. */
async function filled(
  dataDir: string,
  count: number,
  bytes: number,
): Promise<{ safekeeper: Safekeeper; maker: WalMaker; wal: Uint8Array; leader: SingleProposer }> {
  const safekeeper = await startSafekeeper(dataDir)
  await create(safekeeper.client)
  const maker = new WalMaker()
  const wal = maker.records(count, bytes)
  const leader = proposer(safekeeper.client)
  await leader.lead(REF, IDENTITY, 1)
  for (let at = 0; at < wal.length; at += 10_000)
    await leader.append(advance(START, at), wal.subarray(at, at + 10_000))
  await leader.flushed(maker.endLsn)
  await leader.commit(maker.endLsn)
  return { safekeeper, maker, wal, leader }
}

async function readWal(
  client: SafekeeperServiceClient,
  startLsn: Lsn,
  endLsn: Lsn,
  term = 0n,
): Promise<Buffer> {
  const request = { timeline: REF, startLsn: lsnToBigint(startLsn), endLsn: lsnToBigint(endLsn), term }
  const chunks = await Array.fromAsync(callServerStream(client.readWal.bind(client), request))
  return Buffer.concat(chunks.map(({ wal }) => wal))
}

/** Batches from `startLsn` on until `endLsn`, each reported as ingested. */
async function subscribe(
  client: SafekeeperServiceClient,
  startLsn: Lsn,
  endLsn: Lsn,
): Promise<SubscribeWalResponse[]> {
  const stream = openBidi<SubscribeWalRequest, SubscribeWalResponse>(client.subscribeWal.bind(client))
  await stream.send({
    message: {
      $case: 'open',
      value: {
        protocolVersion: 1,
        protocolVersionMax: 0,
        timeline: REF,
        shard: { number: 0, count: 1, stripeBlocks: 256 },
        startLsn: lsnToBigint(startLsn),
        windowBytes: 4096n,
        trackCommitTimestamp: false,
      },
    },
  })
  const batches: SubscribeWalResponse[] = []
  for await (const batch of stream.messages) {
    batches.push(batch)
    if (lsnFromBigint(batch.endLsn) >= endLsn) break
    await stream.send({
      message: { $case: 'feedback', value: { ingestedLsn: batch.endLsn, remoteConsistentLsn: 0n } },
    })
  }
  return batches
}

const recordLsns = (batches: readonly SubscribeWalResponse[]): Lsn[] =>
  batches.flatMap(({ entries }) =>
    [...readShardEntries(entries)].flatMap((entry) => (entry.kind === 'record' ? [entry.recordLsn] : [])),
  )

test('WAL appended in chunks of any size is flushed at record ends and lies on disk as segments', async () => {
  const { safekeeper, maker, wal } = await filled(await dataFolder(), 300, 7_000)
  expect(lsnFromBigint((await status(safekeeper.client)).flushLsn)).toBe(maker.endLsn)
  expect(Buffer.compare(await readWal(safekeeper.client, START, maker.endLsn), wal)).toBe(0)
  const files = (await readdir(safekeeper.folder)).filter((name) => !name.startsWith('control'))
  expect(files).toEqual(['000000010000000000000003', '000000010000000000000004', '000000010000000000000005'])
  const first = await readFile(join(safekeeper.folder, files[0] as string))
  expect(Buffer.compare(first, wal.subarray(0, IDENTITY.walSegmentBytes))).toBe(0)
})

test('a proposer is answered in a version that both speak, and refused where there is none', async () => {
  const { client } = await startSafekeeper(await dataFolder())
  await create(client)
  const greet = async (protocolVersion: number, protocolVersionMax: number): Promise<number> => {
    const made = proposer(client)
    const greeting = {
      protocolVersion,
      protocolVersionMax,
      timeline: REF,
      postgres: IDENTITY,
      nodeId: 'test',
      membershipGeneration: 0n,
      membership: undefined,
      commitLsn: 0n,
    }
    await made.say({ $case: 'greeting', value: greeting })
    return (await made.answer('greeting')).protocolVersion
  }
  const { min, max } = PROPOSE_VERSIONS
  expect(await greet(min, 0)).toBe(min)
  expect(await greet(min, max + 5)).toBe(max)
  await expect(greet(max + 1, max + 5)).rejects.toMatchObject({ code: 'unsupported' })
})

test('the flush position never lies within a record', async () => {
  const safekeeper = await startSafekeeper(await dataFolder())
  await create(safekeeper.client)
  const maker = new WalMaker()
  const first = maker.record(5_000)
  const firstEnd = maker.endLsn
  const second = maker.record(20_000)
  const leader = proposer(safekeeper.client)
  await leader.lead(REF, IDENTITY, 1)
  await leader.append(START, Buffer.concat([first, second.subarray(0, 9_000)]))
  await leader.flushed(firstEnd)
  expect(leader.flushLsn).toBe(firstEnd)
  await leader.append(advance(firstEnd, 9_000), second.subarray(9_000))
  await leader.flushed(maker.endLsn)
})

test('subscribers get each committed record once, and continue from any record end', async () => {
  const { safekeeper, maker, leader } = await filled(await dataFolder(), 200, 900)
  const all = await subscribe(safekeeper.client, START, maker.endLsn)
  const lsns = recordLsns(all)
  expect(lsns).toHaveLength(200)
  expect(lsns).toEqual([...new Set(lsns)].sort((a, b) => a - b))
  const from = lsns[120] as Lsn
  const startLsn = lsnFromBigint(all[0]?.startLsn ?? 0n)
  expect(startLsn).toBe(START)
  expect(recordLsns(await subscribe(safekeeper.client, from, maker.endLsn))).toEqual(lsns.slice(120))
  // WAL that is flushed but not committed is not sent yet.
  const before = maker.endLsn
  await leader.append(before, maker.record(100))
  await leader.flushed(maker.endLsn)
  const later = subscribe(safekeeper.client, before, maker.endLsn)
  expect((await status(safekeeper.client)).commitLsn).toBe(lsnToBigint(before))
  await leader.commit(maker.endLsn)
  expect(recordLsns(await later)).toEqual([maker.lastRecordLsn])
})

test('everything is there after a restart, and the old term is still fenced', async () => {
  const dataDir = await dataFolder()
  const { safekeeper, maker, wal } = await filled(dataDir, 100, 3_000)
  await safekeeper.stop()
  const again = await startSafekeeper(dataDir)
  const now = await status(again.client)
  expect(now).toMatchObject({
    term: 1n,
    flushLsn: lsnToBigint(maker.endLsn),
    commitLsn: lsnToBigint(maker.endLsn),
    failure: '',
  })
  expect(Buffer.compare(await readWal(again.client, START, maker.endLsn), wal)).toBe(0)
  const old = proposer(again.client)
  expect(await old.greet(REF, IDENTITY)).toBe(1n)
  expect((await old.vote(1)).voteGiven).toBe(false)
  const next = proposer(again.client)
  expect(await next.lead(REF, IDENTITY, 2)).toBe(maker.endLsn)
})

test('a proposer of a higher term cuts what is not committed, and the older one gets its term', async () => {
  const { safekeeper, maker, leader } = await filled(await dataFolder(), 50, 2_000)
  const committed = maker.endLsn
  await leader.append(committed, maker.records(400, 4_000))
  await leader.flushed(maker.endLsn)
  const next = proposer(safekeeper.client)
  expect(await next.lead(REF, IDENTITY, 5, committed)).toBe(committed)
  expect(lsnFromBigint((await status(safekeeper.client)).flushLsn)).toBe(committed)
  // The old one writes on, and comes back: it gets the term, and takes nothing from the leader.
  const stale = proposer(safekeeper.client)
  await stale.greet(REF, IDENTITY)
  stale.term = 1
  for (const old of [leader, stale]) {
    await old.append(committed, new Uint8Array(8))
    expect((await old.answer('append')).term).toBe(5n)
  }
  const again = new WalMaker(7)
  again.records(50, 2_000)
  const begin = again.endLsn
  await next.append(begin, again.record(100))
  await next.flushed(again.endLsn)
})

test('a proposer that comes back in its term leads with the new stream, and the old one is over', async () => {
  const { safekeeper, maker, leader } = await filled(await dataFolder(), 10, 2_000)
  const back = proposer(safekeeper.client)
  expect(await back.lead(REF, IDENTITY, 1)).toBe(maker.endLsn)
  expect(isErrorCode(await leader.refusal(), 'conflict')).toBe(true)
  const begin = maker.endLsn
  await back.append(begin, maker.record(100))
  await back.flushed(maker.endLsn)
})

test('the elected proposer leads, though the vote of its term went to another whose stream stands', async () => {
  const { safekeeper, maker } = await filled(await dataFolder(), 10, 2_000)
  const candidate = proposer(safekeeper.client, 'candidate')
  await candidate.greet(REF, IDENTITY)
  expect((await candidate.vote(2)).voteGiven).toBe(true)
  const elected = proposer(safekeeper.client, 'elected')
  const begin = maker.endLsn
  expect(await elected.lead(REF, IDENTITY, 2)).toBe(begin)
  expect(isErrorCode(await candidate.refusal(), 'conflict')).toBe(true)
  await elected.append(begin, maker.record(100))
  await elected.flushed(maker.endLsn)
})

test('a proposer may read what is not committed, with its term only', async () => {
  const { safekeeper, maker, leader } = await filled(await dataFolder(), 20, 1_000)
  const committed = maker.endLsn
  const more = maker.record(500)
  await leader.append(committed, more)
  await leader.flushed(maker.endLsn)
  await expect(readWal(safekeeper.client, committed, maker.endLsn)).rejects.toMatchObject({
    code: 'out_of_range',
  })
  await expect(readWal(safekeeper.client, committed, maker.endLsn, 9n)).rejects.toMatchObject({
    code: 'stale',
  })
  expect(Buffer.compare(await readWal(safekeeper.client, committed, maker.endLsn, 1n), more)).toBe(0)
})

test.each([
  [
    'a wrong CRC',
    (bytes: Uint8Array) => {
      bytes[100] = (bytes[100] as number) ^ 1
    },
    /checksum/,
  ],
  [
    'a broken chain',
    (bytes: Uint8Array) => {
      bytes[8] = (bytes[8] as number) ^ 8
    },
    /previous-record link/,
  ],
] as const)(
  'WAL with %s is refused with its position, and right WAL is taken afterwards',
  async (_what, damage, message) => {
    const { safekeeper, maker, leader } = await filled(await dataFolder(), 10, 1_000)
    const at = maker.endLsn
    const right = maker.record(1_000)
    const wrong = Uint8Array.from(right)
    damage(wrong)
    await leader.append(at, wrong)
    const refusal = await leader.refusal()
    expect(isErrorCode(refusal, 'bad_wal')).toBe(true)
    expect((refusal as Error).message).toMatch(message)
    expect((refusal as Error).message).toContain(formatLsn(at))
    const next = proposer(safekeeper.client)
    expect(await next.lead(REF, IDENTITY, 2)).toBe(at)
    await next.append(at, right)
    await next.flushed(maker.endLsn)
  },
)

test('WAL and proposers of another system are refused', async () => {
  const safekeeper = await startSafekeeper(await dataFolder())
  await create(safekeeper.client)
  const foreign = { ...IDENTITY, systemId: 1n }
  const wrong = proposer(safekeeper.client)
  await expect(wrong.greet(REF, foreign)).rejects.toMatchObject({ code: 'precondition' })
  const leader = proposer(safekeeper.client)
  await leader.lead(REF, IDENTITY, 1)
  await leader.append(START, new WalMaker(1, foreign).record(100))
  expect(isErrorCode(await leader.refusal(), 'bad_wal')).toBe(true)
})

test.each([
  [
    'cut off',
    async (path: string, at: number) => {
      await using file = await open(path, 'r+')
      await file.truncate(at - 100)
    },
  ],
  [
    'flipped',
    async (path: string, at: number) => {
      await using file = await open(path, 'r+')
      await file.write(Buffer.from([0xee]), 0, 1, at - 100)
    },
  ],
] as const)(
  'a tail that is %s is cut at the last whole record after a crash, never below the commit position',
  async (_how, damage) => {
    const dataDir = await dataFolder()
    const { safekeeper, maker, leader } = await filled(dataDir, 20, 1_000)
    const committed = maker.endLsn
    await leader.append(committed, maker.record(1_000))
    const kept = maker.endLsn
    await leader.append(kept, maker.record(1_000))
    await leader.flushed(maker.endLsn)
    await safekeeper.stop()
    const path = join(safekeeper.folder, '000000010000000000000003')
    await damage(path, maker.endLsn - START)
    const again = await startSafekeeper(dataDir)
    expect(await status(again.client)).toMatchObject({
      flushLsn: lsnToBigint(kept),
      commitLsn: lsnToBigint(committed),
      failure: '',
    })
    await again.stop()
    await damage(path, committed - START)
    const damaged = await startSafekeeper(dataDir)
    await expect(status(damaged.client)).rejects.toMatchObject({ code: 'bad_file' })
    expect((await callUnary(damaged.client.listWalTimelines.bind(damaged.client), {})).timelines).toEqual([
      REF,
    ])
  },
)

test('one damaged copy of a control file costs nothing; two stop their timeline and nothing else', async () => {
  const dataDir = await dataFolder()
  const { safekeeper } = await filled(dataDir, 5, 100)
  const other = { tenantId: REF.tenantId, timelineId: 'c'.repeat(32) }
  await callUnary(safekeeper.client.createTimeline.bind(safekeeper.client), {
    timeline: other,
    postgres: IDENTITY,
    startLsn: lsnToBigint(START),
  })
  const before = await status(safekeeper.client)
  await safekeeper.stop()
  const copies = ['control', 'control.2'].map((name) => join(safekeeper.folder, name))
  const damage = async (path: string): Promise<void> => {
    await using file = await open(path, 'r+')
    await file.write(Buffer.from([0xee]), 0, 1, 50)
  }
  for (const copy of copies) {
    await damage(copy)
    const again = await startSafekeeper(dataDir)
    expect(await status(again.client)).toEqual(before)
    await again.stop()
    // Both are whole again.
    const [first, second] = await Promise.all(copies.map((path) => readFile(path)))
    expect(first?.equals(second as Buffer)).toBe(true)
  }
  await Promise.all(copies.map(damage))
  const again = await startSafekeeper(dataDir)
  await expect(status(again.client)).rejects.toMatchObject({ code: 'bad_file' })
  expect(await callUnary(again.client.getWalStatus.bind(again.client), { timeline: other })).toMatchObject({
    failure: '',
  })
})

test('a timeline is made once, and the same again is fine', async () => {
  const safekeeper = await startSafekeeper(await dataFolder())
  await create(safekeeper.client)
  await create(safekeeper.client)
  const make = (startLsn: Lsn, timeline = REF) =>
    callUnary(safekeeper.client.createTimeline.bind(safekeeper.client), {
      timeline,
      postgres: IDENTITY,
      startLsn: lsnToBigint(startLsn),
    })
  await expect(make(advance(START, IDENTITY.walSegmentBytes))).rejects.toMatchObject({
    code: 'already_exists',
  })
  await expect(make(advance(START, 8), { ...REF, timelineId: 'd'.repeat(32) })).rejects.toMatchObject({
    code: 'bad_lsn',
  })
  await expect(make(START, { ...REF, timelineId: 'nonsense' })).rejects.toMatchObject({
    code: 'bad_argument',
  })
  await expect(
    callUnary(safekeeper.client.getWalStatus.bind(safekeeper.client), {
      timeline: { ...REF, timelineId: 'e'.repeat(32) },
    }),
  ).rejects.toMatchObject({ code: 'unknown_timeline' })
})
