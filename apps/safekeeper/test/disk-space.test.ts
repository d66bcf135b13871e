/**
 * Goal: where there is no room for WAL, on the disk or by a quota, nothing acknowledged is lost or damaged, every
 * client gets the reason, and it continues by itself once there is room; after a write that failed the timeline is
 * opened again. Method: the real process with quotas, on a tmpfs of a few MiB (needs root and mount), killed and
 * started again.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { lsnFromBigint, lsnToBigint, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock, realDisk, seededRng, silentLog, realRng } from '@understory/env'
import type { Clock, Disk, DiskFile } from '@understory/env'
import {
  PLAIN_CLIENT,
  SafekeeperServiceClient,
  callServerStream,
  callUnary,
  createClient,
} from '@understory/rpc'
import { freePort, startProcess, temporaryDirectory } from '@understory/testcontainers'
import type { RunningProcess } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { NodeQuota, unlimitedQuota } from '../src/timeline/node-quota.ts'
import type { ProposerSession } from '@understory/consensus/driver'
import { Reopener } from '../src/scrub/reopener.ts'
import { Timelines } from '../src/timeline/timelines.ts'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url))
const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }
const OTHER = { ...REF, timelineId: 'c'.repeat(32) }
const MIB = 1024 * 1024

async function folder(): Promise<string> {
  const made = await temporaryDirectory({ prefix: 'sks' })
  onTestFinished(() => made[Symbol.asyncDispose]())
  return made.path
}

interface Started {
  readonly process: RunningProcess
  readonly client: SafekeeperServiceClient
}

async function start(dataDir: string, port: number, ...more: readonly string[]): Promise<Started> {
  const running = await startProcess({
    name: 'safekeeper',
    command: process.execPath,
    args: [
      '--disable-warning=ExperimentalWarning',
      MAIN,
      '--data-dir',
      dataDir,
      '--listen',
      `127.0.0.1:${port}`,
      '--node-id',
      'sk-1',
      ...more,
    ],
    ready: /"event":"started"/,
    readyTimeoutMs: 15_000,
  })
  const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, `127.0.0.1:${port}`)
  onTestFinished(async () => {
    client.close()
    await running.stop('SIGKILL')
  })
  return { process: running, client }
}

const create = (client: SafekeeperServiceClient, timeline = REF): Promise<unknown> =>
  callUnary(client.createTimeline.bind(client), {
    timeline,
    postgres: IDENTITY,
    startLsn: lsnToBigint(START),
  })
const status = (client: SafekeeperServiceClient, timeline = REF) =>
  callUnary(client.getWalStatus.bind(client), { timeline })

async function readWal(client: SafekeeperServiceClient, endLsn: Lsn, timeline = REF): Promise<Buffer> {
  const request = { timeline, startLsn: lsnToBigint(START), endLsn: lsnToBigint(endLsn), term: 0n }
  return Buffer.concat(
    (await Array.fromAsync(callServerStream(client.readWal.bind(client), request))).map(({ wal }) => wal),
  )
}

async function until(what: string, probe: () => Promise<boolean>): Promise<void> {
  const endMs = performance.now() + 20_000
  while (!(await probe())) {
    if (performance.now() > endMs) throw new Error(`waited in vain until ${what}`)
    await realClock.sleep(50)
  }
}

/** One compute's WAL: the bytes that it made, and where a new term continues in it. */
class Log {
  readonly maker = new WalMaker()
  readonly #parts: Uint8Array[] = []
  readonly #marks: { readonly endLsn: Lsn; readonly lastRecordLsn: Lsn }[] = []

  /** Appends records, each time reporting the flushed ones as committed, until the stream is refused. */
  async appendUntilRefused(leader: SingleProposer, toLsn: number): Promise<unknown> {
    const refusal = leader.refusal()
    try {
      while (this.maker.endLsn < toLsn) {
        const at = this.maker.endLsn
        const wal = this.#make(10, 9_000)
        await leader.append(at, wal, leader.commitLsn)
        // As one that waits for its answers does: most of it is acknowledged when the room ends.
        await Promise.race([realClock.sleep(1), refusal])
      }
    } catch {
      // The stream has ended.
    }
    return refusal
  }

  #make(count: number, bytes: number): Uint8Array {
    const wal = this.maker.records(count, bytes)
    this.#parts.push(wal)
    const { endLsn, lastRecordLsn } = this.maker
    this.#marks.push({ endLsn, lastRecordLsn })
    return wal
  }

  async append(leader: SingleProposer, count: number): Promise<void> {
    const at = this.maker.endLsn
    await leader.append(at, this.#make(count, 9_000))
    await leader.flushed(this.maker.endLsn)
    await leader.commit(this.maker.endLsn)
  }

  /** WAL beyond it was never acknowledged, and is made again. It must be the end of some append. */
  cutAt(lsn: Lsn): void {
    const count = this.#marks.findIndex(({ endLsn }) => endLsn === lsn) + 1
    expect(count).toBeGreaterThan(0)
    this.#parts.length = count
    this.#marks.length = count
    this.maker.endLsn = lsn
    this.maker.lastRecordLsn = this.#marks[count - 1]!.lastRecordLsn
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#parts)
  }
}

test(
  'a full disk refuses clearly, damages nothing, and is over by itself once there is room',
  { timeout: 90_000 },
  async ({ skip }) => {
    const dataDir = await folder()
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', dataDir])
    if (mounted.status !== 0) skip('mount of a tmpfs is not permitted here')
    onTestFinished(() => void spawnSync('umount', ['-l', dataDir]))
    const port = await freePort()
    const { process: running, client } = await start(dataDir, port)
    await create(client)
    const log = new Log()
    const leader = new SingleProposer(client)
    await leader.lead(REF, IDENTITY, 1)
    await log.append(leader, 10)
    const committed = log.maker.endLsn
    const refusal = await log.appendUntilRefused(leader, START + 6 * MIB)
    expect(refusal).toMatchObject({ code: 'disk_full' })
    expect(String(refusal)).toContain('could not write file')
    const full = await status(client)
    expect(full.failure).toMatch(/could not write file .* \(ENOSPC/)
    expect(full.commitLsn).toBe(lsnToBigint(committed))
    expect(Buffer.compare(await readWal(client, committed), log.bytes.subarray(0, committed - START))).toBe(0)

    // It comes again, as the same proposer does after a refusal, and again there is no room.
    let acknowledged = leader.flushLsn
    for (let term = 2; term <= 4; term++) {
      const again = new SingleProposer(client)
      const at = await again.lead(REF, IDENTITY, term)
      expect(at).toBeGreaterThanOrEqual(acknowledged)
      log.cutAt(at)
      expect(await log.appendUntilRefused(again, at + 6 * MIB)).toMatchObject({ code: 'disk_full' })
      acknowledged = again.flushLsn > acknowledged ? again.flushLsn : acknowledged
    }

    expect(spawnSync('mount', ['-o', 'remount,size=64m', dataDir]).status).toBe(0)
    const next = new SingleProposer(client)
    const at = await next.lead(REF, IDENTITY, 5)
    expect(at).toBeGreaterThanOrEqual(acknowledged)
    log.cutAt(at)
    await log.append(next, 200)
    const end = log.maker.endLsn
    expect(await status(client)).toMatchObject({ failure: '', commitLsn: lsnToBigint(end) })
    expect(Buffer.compare(await readWal(client, end), log.bytes)).toBe(0)
    // Each is reported once, in turn: bytes that a refusal released may look like room for a moment.
    const events = running.stderr().match(/timeline_(out_of|has)_space/g) ?? []
    expect(events.length).toBeGreaterThanOrEqual(2)
    expect(events.map((_, i) => (i % 2 === 0 ? 'timeline_out_of_space' : 'timeline_has_space'))).toEqual(
      events,
    )
    expect(events.length % 2).toBe(0)
    expect(running.stderr()).not.toContain('timeline_failed')
    await running.stop('SIGKILL')

    const second = await start(dataDir, port)
    expect(lsnFromBigint((await status(second.client)).flushLsn)).toBe(end)
    const last = new SingleProposer(second.client)
    expect(await last.lead(REF, IDENTITY, 6)).toBe(end)
    await last.commit(end)
    expect(Buffer.compare(await readWal(second.client, end), log.bytes)).toBe(0)
  },
)

test(
  'a disk without room for a vote refuses it, and gives it once there is room',
  { timeout: 60_000 },
  async ({ skip }) => {
    const dataDir = await folder()
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', dataDir])
    if (mounted.status !== 0) skip('mount of a tmpfs is not permitted here')
    onTestFinished(() => void spawnSync('umount', ['-l', dataDir]))
    const { client } = await start(dataDir, await freePort())
    await create(client)
    const log = new Log()
    const leader = new SingleProposer(client)
    await leader.lead(REF, IDENTITY, 1)
    await log.append(leader, 10)
    const end = log.maker.endLsn
    const filler = join(dataDir, 'filler')
    spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4k'])
    const candidate = new SingleProposer(client)
    await candidate.greet(REF, IDENTITY)
    await expect(candidate.vote(2)).rejects.toMatchObject({ code: 'disk_full' })
    expect((await status(client)).failure).toContain('ENOSPC')
    expect((await status(client)).term).toBe(1n)
    spawnSync('rm', [filler])
    const next = new SingleProposer(client)
    expect(await next.lead(REF, IDENTITY, 2)).toBe(end)
    await log.append(next, 10)
    expect((await status(client)).failure).toBe('')
  },
)

test(
  'a timeline at its quota takes no more and says so, until the object store has its WAL',
  { timeout: 120_000 },
  async () => {
    const [dataDir, objects, port] = [await folder(), await folder(), await freePort()]
    const quota = ['--timeline-quota-mib', '64', '--keep-wal-mib', '1000']
    const { process: running, client } = await start(dataDir, port, ...quota)
    await create(client)
    await create(client, OTHER)
    const log = new Log()
    const leader = new SingleProposer(client)
    await leader.lead(REF, IDENTITY, 1)
    await log.append(leader, 10)
    for (let i = 0; i < 60; i++) await log.append(leader, 116)
    const committed = log.maker.endLsn
    const refusal = await log.appendUntilRefused(leader, committed + 10 * MIB)
    expect(refusal).toMatchObject({ code: 'disk_full' })
    expect(String(refusal)).toContain('the timeline is at its quota of 64 MiB')
    const { flushLsn, failure } = await status(client)
    expect(failure).toContain('raise --timeline-quota-mib')
    expect(lsnFromBigint(flushLsn)).toBeLessThanOrEqual(START + 64 * MIB)
    expect(lsnFromBigint(flushLsn)).toBeGreaterThan(START + 62 * MIB)
    expect(running.stderr().match(/timeline_out_of_space/g)).toHaveLength(1)

    // Its commit position counts though it is refused.
    const at = lsnFromBigint(flushLsn)
    const full = new SingleProposer(client)
    expect(await full.lead(REF, IDENTITY, 2)).toBe(at)
    log.cutAt(at)
    const over = log.maker
    const [endLsn, lastRecordLsn] = [over.endLsn, over.lastRecordLsn]
    await full.append(at, over.records(10, 90_000), at)
    expect(await full.refusal()).toMatchObject({ code: 'disk_full' })
    Object.assign(over, { endLsn, lastRecordLsn })
    expect((await status(client)).commitLsn).toBe(flushLsn)

    // The other timeline has its own.
    const other = new SingleProposer(client)
    await other.lead(OTHER, IDENTITY, 1)
    const maker = new WalMaker(7)
    await other.append(START, maker.records(10, 9_000))
    await other.flushed(maker.endLsn)
    await running.stop('SIGTERM')

    // A refused append waits for room and continues by itself, though much more was to stay than the quota leaves.
    const second = await start(
      dataDir,
      port,
      ...quota,
      '--object-store',
      objects,
      '--offload-take-over-s',
      '1',
    )
    const next = new SingleProposer(second.client)
    expect(await next.lead(REF, IDENTITY, 3)).toBe(at)
    await next.commit(at)
    await until('WAL was released', async () => (await status(second.client)).oldestLsn > lsnToBigint(START))
    for (let i = 0; i < 30; i++) await log.append(next, 116)
    expect(await status(second.client)).toMatchObject({
      failure: '',
      commitLsn: lsnToBigint(log.maker.endLsn),
    })
    expect(Buffer.compare(await readWal(second.client, log.maker.endLsn), log.bytes)).toBe(0)
  },
)

test('what a node keeps of all timelines counts together, and what was released counts no more', async () => {
  const quota = new NodeQuota({ timelineBytes: undefined, nodeBytes: 3 * MIB }, realClock)
  const timelines = new Timelines({
    disk: realDisk,
    log: silentLog,
    dataDir: join(await folder(), 'sk'),
    quota,
    clock: realClock,
    rng: realRng,
  })
  await timelines.openAll()
  onTestFinished(() => timelines.close())
  await timelines.create(REF, IDENTITY, START)
  expect(quota.refusal(0, 3 * MIB)).toBeUndefined()
  quota.reserve(2 * MIB)
  expect(quota.refusal(0, 2 * MIB)?.message).toBe('the safekeeper is at its quota of 3 MiB')
  expect(quota.isLow(0)).toBe(true)
  const waited = quota.waitForRoom(() => quota.refusal(0, 2 * MIB) === undefined)
  quota.reserve(-MIB)
  await waited
  expect(quota.usedBytes).toBe(MIB)
  expect(timelines.get(REF).keptBytes).toBe(0)
})

/** A disk whose next durable write of WAL fails as if the medium had. */
function failing(code: 'disk_failed' | 'disk_full'): Disk & { failNext: boolean } {
  const disk = {
    ...realDisk,
    failNext: false,
    open: async (path: string, mode: Parameters<Disk['open']>[1]): Promise<DiskFile> => {
      const file = await realDisk.open(path, mode)
      const writeDurably: DiskFile['writeDurably'] = async (offset, chunks) => {
        if (!disk.failNext) return file.writeDurably(offset, chunks)
        disk.failNext = false
        throw fail(code, 'could not write file')
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

test.each([
  ['disk_failed', false],
  ['disk_full', true],
] as const)('after %s the same timeline continues: %s', async (code, continues) => {
  const disk = failing(code)
  const soon: Clock = {
    ...realClock,
    sleep: (ms, signal) => realClock.sleep(ms / 100, signal),
    nowMs: () => realClock.nowMs() * 100,
  }
  const timelines = new Timelines({
    children: [Reopener.factory({ clock: soon, rng: seededRng(1) })],
    disk,
    log: silentLog,
    dataDir: join(await folder(), 'sk'),
    quota: unlimitedQuota(realClock),
    clock: realClock,
    rng: realRng,
  })
  await timelines.openAll()
  onTestFinished(() => timelines.close())
  await timelines.create(REF, IDENTITY, START)
  let timeline = timelines.get(REF)
  const closed = Promise.withResolvers<unknown>()
  const flushed = new Set<number>()
  const session: ProposerSession = {
    nodeId: 'test',
    deliver: (effect) => {
      if (effect.kind === 'sendAppended') flushed.add(effect.reply.flushLsn)
    },
    close: (error: unknown) => closed.resolve(error),
  }
  const lead = async (term: number, at: Lsn): Promise<void> => {
    timeline.attach(session)
    const membershipGeneration = 0
    await timeline.handle(session, { kind: 'vote', membershipGeneration, message: { term } })
    const history = [
      { term: 0, startLsn: START },
      { term, startLsn: at },
    ]
    const message = { term, startStreamingLsn: at, history, election: 'rebuild' } as const
    await timeline.handle(session, { kind: 'elected', membershipGeneration, message })
  }
  const maker = new WalMaker()
  const append = (beginLsn: Lsn, term: number, wal: Uint8Array): Promise<void> =>
    timeline.handle(session, {
      kind: 'append',
      membershipGeneration: 0,
      message: { term, beginLsn, commitLsn: START, recordEndLsn: START, wal },
    })
  await lead(1, START)
  disk.failNext = true
  const wal = maker.records(3, 1_000)
  await append(START, 1, wal)
  expect(await closed.promise).toMatchObject({ code })
  expect([...flushed]).not.toContain(maker.endLsn)
  expect(timeline.failure === undefined).toBe(continues)
  if (!continues) {
    expect(() => timeline.attach(session)).toThrow('could not write file')
    // It is opened again by itself, from what is durable.
    timelines.start()
    while (timelines.findReplica(REF)?.failure !== undefined) await realClock.sleep(5)
    expect(timelines.get(REF)).not.toBe(timeline)
    timeline = timelines.get(REF)
    expect(timeline.state).toMatchObject({ flushLsn: START, control: { term: 1 } })
  } else expect(timeline.shortage).toMatchObject({ code })
  await lead(2, START)
  await append(START, 2, wal)
  while (!flushed.has(maker.endLsn)) await realClock.sleep(5)
  expect(timeline.shortage).toBeUndefined()
})

test('an election whose control file has no room leaves the shorter log, under its old history, until it is announced again', async () => {
  let isFull = false
  const disk: Disk = {
    ...realDisk,
    durableReplace: (path, bytes) =>
      isFull && path.endsWith('control.2')
        ? Promise.reject(fail('disk_full', `could not write file "${path}"`))
        : realDisk.durableReplace(path, bytes),
  }
  const dataDir = join(await folder(), 'sk')
  const timelines = new Timelines({
    disk,
    log: silentLog,
    dataDir,
    quota: unlimitedQuota(realClock),
    clock: realClock,
    rng: realRng,
  })
  await timelines.openAll()
  onTestFinished(() => timelines.close())
  await timelines.create(REF, IDENTITY, START)
  const timeline = timelines.get(REF)
  const membershipGeneration = 0
  const session = (nodeId: string): ProposerSession => ({
    nodeId,
    deliver: () => undefined,
    close: () => undefined,
  })
  const vote = (by: ProposerSession, term: number): Promise<void> =>
    timeline.handle(by, { kind: 'vote', membershipGeneration, message: { term } })
  const elect = (by: ProposerSession, term: number): Promise<void> => {
    const history = [
      { term: 0, startLsn: START },
      { term, startLsn: START },
    ]
    const message = { term, startStreamingLsn: START, history, election: 'rebuild' } as const
    return timeline.handle(by, { kind: 'elected', membershipGeneration, message })
  }
  const append = async (by: ProposerSession, term: number, wal: Uint8Array): Promise<void> => {
    const message = { term, beginLsn: START, commitLsn: START, recordEndLsn: START, wal }
    await timeline.handle(by, { kind: 'append', membershipGeneration, message })
    while (timeline.state.flushLsn <= START) await realClock.sleep(5)
  }
  const first = session('first')
  timeline.attach(first)
  await vote(first, 1)
  await elect(first, 1)
  await append(first, 1, new WalMaker(1).records(20, 1_000))

  const second = session('second')
  timeline.attach(second)
  await vote(second, 2)
  isFull = true
  await expect(elect(second, 2)).rejects.toMatchObject({ code: 'disk_full' })
  expect(timeline.failure).toBeUndefined()
  expect(timeline.shortage).toMatchObject({ code: 'disk_full' })
  expect(timeline.state.flushLsn).toBe(START)
  expect(timeline.state.control.history.at(-1)?.term).toBe(1)
  // Nothing else is taken before the control file says what is so.
  await expect(vote(second, 3)).rejects.toMatchObject({ code: 'disk_full' })
  expect(timeline.state.control.term).toBe(2)

  isFull = false
  await elect(second, 2)
  const maker = new WalMaker(2)
  const wal = maker.records(5, 1_000)
  await append(second, 2, wal)
  expect(timeline.shortage).toBeUndefined()
  await timelines.close()
  const again = new Timelines({
    disk: realDisk,
    log: silentLog,
    dataDir,
    quota: unlimitedQuota(realClock),
    clock: realClock,
    rng: realRng,
  })
  await again.openAll()
  onTestFinished(() => again.close())
  expect(again.get(REF).state.flushLsn).toBe(maker.endLsn)
  expect(Buffer.compare(await again.get(REF).read(START, maker.endLsn), wal)).toBe(0)
})

test('a term or a membership generation that no cluster can have counted up to is refused', async () => {
  const { client } = await start(await folder(), await freePort())
  await create(client)
  const greedy = new SingleProposer(client)
  await greedy.greet(REF, IDENTITY)
  await expect(greedy.vote(Number.MAX_SAFE_INTEGER)).rejects.toMatchObject({ code: 'bad_argument' })
  const members = [{ nodeId: 'sk-1', address: '127.0.0.1:1' }]
  const membership = { generation: 2n ** 53n - 1n, members, newMembers: [] }
  await expect(
    callUnary(client.configureMembership.bind(client), { timeline: REF, membership }),
  ).rejects.toMatchObject({ code: 'bad_argument' })
  expect(await status(client)).toMatchObject({ term: 0n, membershipGeneration: 0n })
  expect(await new SingleProposer(client).lead(REF, IDENTITY, 1_000_000)).toBe(START)
})
