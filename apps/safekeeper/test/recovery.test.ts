/**
 * Goal: a safekeeper takes what is committed from others, and nothing else; it knows who the members are. Method:
 * safekeepers in this process with real files over real gRPC; donors that misbehave are made by hand.
 */
import { LSN_ZERO, advance, isErrorCode, lsnFromBigint, lsnToBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import { memoryObjectStore } from '@understory/object-store'
import { openBidi } from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse } from '@understory/rpc'
import { expect, onTestFinished, test } from 'vitest'
import { decodeMembershipFile, encodeMembershipFile } from '../src/timeline/membership-file.ts'
import { catchUp, controlFrom } from '../src/recovery/recovery.ts'
import type { WalSource } from '../src/recovery/recovery.ts'
import {
  REF,
  committedWal,
  configure,
  create,
  folder,
  membership,
  pulled,
  start,
  status,
  write,
} from './peers.ts'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

test('a new member pulls all that is committed with its terms, and nothing that is not', async () => {
  const at = await folder()
  const donor = await start('donor', at)
  await create(donor)
  const { maker, leader } = await write(donor, 3, 300)
  const committed = maker.endLsn
  await leader.append(committed, maker.records(10, 5_000))
  await leader.flushed(maker.endLsn)

  const newcomer = await start('newcomer', at)
  const answer = await pulled(newcomer, [donor])
  expect(answer).toMatchObject({ flushLsn: lsnToBigint(committed), goalLsn: lsnToBigint(committed) })
  const [here, there] = [await status(newcomer), await status(donor)]
  expect(here).toMatchObject({
    flushLsn: lsnToBigint(committed),
    commitLsn: lsnToBigint(committed),
    term: 3n,
  })
  expect(here.termHistory).toEqual(there.termHistory)
  expect(Buffer.compare(await committedWal(newcomer), await committedWal(donor))).toBe(0)

  await newcomer.stop()
  const again = await start('newcomer', at)
  expect((await status(again)).flushLsn).toBe(lsnToBigint(committed))
  // A proposer of the very term continues with it.
  const next = new SingleProposer(again.client)
  onTestFinished(() => next.close())
  expect(await next.lead(REF, IDENTITY, 4)).toBe(committed)
})

test('a new member begins where its donor keeps WAL, and opens again at any point of the pull', async () => {
  const at = await folder()
  const donor = await start('donor', at, { store: memoryObjectStore() })
  await create(donor)
  const { maker } = await write(donor, 2, 600)
  const from = donor.timelines.get(REF)
  const { walSegmentBytes: segmentBytes } = IDENTITY
  const keptLsn = advance(START, 2 * segmentBytes)
  await from.trim(keptLsn)
  expect((await status(donor)).oldestLsn).toBe(lsnToBigint(keptLsn))

  let newcomer = await start('newcomer', at)
  const { history } = from.state.control
  const { commitLsn, timelineStartLsn, identity } = from
  const found = { history, commitLsn, timelineStartLsn, identity, oldestLsn: keptLsn }
  await newcomer.timelines.createFrom(REF, identity, controlFrom(found))
  // Made, and killed before anything came.
  await newcomer.stop()
  newcomer = await start('newcomer', at)
  expect(await status(newcomer)).toMatchObject({ flushLsn: lsnToBigint(keptLsn), failure: '' })
  await pulled(newcomer, [donor])
  for (let round = 0; round < 2; round++) {
    expect(await status(newcomer)).toMatchObject({
      oldestLsn: lsnToBigint(keptLsn),
      flushLsn: lsnToBigint(maker.endLsn),
      commitLsn: lsnToBigint(maker.endLsn),
      term: 2n,
    })
    const here = newcomer.timelines.get(REF)
    const wal = await here.read(keptLsn, maker.endLsn)
    expect(Buffer.compare(wal, await from.read(keptLsn, maker.endLsn))).toBe(0)
    await newcomer.stop()
    newcomer = await start('newcomer', at)
  }
  const { maker: next } = await write(newcomer, 3, 50, 2_000, maker.lastRecordLsn)
  expect((await status(newcomer)).commitLsn).toBe(lsnToBigint(next.endLsn))
})

test('what parted from the committed log is cut by a pull, and what is committed never', async () => {
  const at = await folder()
  const [donor, other] = [await start('donor', at), await start('other', at)]
  await create(donor)
  await create(other)
  // Both have the same beginning, then each its own: the donor's is committed.
  let lastRecordLsn: Lsn = LSN_ZERO
  for (const each of [donor, other]) {
    const leader = new SingleProposer(each.client)
    const maker = new WalMaker(1)
    await leader.lead(REF, IDENTITY, 1)
    await leader.append(START, maker.records(20, 1_000))
    await leader.flushed(maker.endLsn)
    await leader.commit(maker.endLsn)
    lastRecordLsn = maker.lastRecordLsn
    if (each === other) {
      await leader.append(maker.endLsn, maker.records(5, 500))
      await leader.flushed(maker.endLsn)
    }
    leader.close()
  }
  await write(donor, 2, 40, 2_000, lastRecordLsn)
  await pulled(other, [donor])
  expect(Buffer.compare(await committedWal(other), await committedWal(donor))).toBe(0)
  expect((await status(other)).termHistory.map(({ term }) => term)).toEqual([0n, 1n, 2n])
})

test('WAL that a donor has damaged is refused before it is written, and another donor is asked', async () => {
  const at = await folder()
  const [donor, newcomer] = [await start('donor', at), await start('newcomer', at)]
  await create(donor)
  await create(newcomer)
  const { maker } = await write(donor, 1, 100)
  const from = donor.timelines.get(REF)
  const whole: WalSource = {
    name: 'whole',
    status: async () => ({
      identity: from.identity,
      timelineStartLsn: from.timelineStartLsn,
      history: from.state.control.history,
      commitLsn: from.commitLsn,
      oldestLsn: from.oldestLsn,
    }),
    read: async function* (startLsn, endLsn) {
      for (let lsn = startLsn; lsn < endLsn; lsn = advance(lsn, 100_000))
        yield await from.read(lsn, Math.min(endLsn, lsn + 100_000) as Lsn)
    },
  }
  const damaged: WalSource = {
    ...whole,
    name: 'damaged',
    read: async function* (startLsn, endLsn, signal) {
      for await (const wal of whole.read(startLsn, endLsn, signal)) {
        const bytes = Buffer.from(wal)
        bytes[5_000] = (bytes[5_000] as number) ^ 4
        yield bytes
      }
    },
  }
  const timeline = newcomer.timelines.get(REF)
  const { signal } = new AbortController()
  await expect(catchUp(timeline, { sources: [damaged], signal, log: silentLog })).rejects.toMatchObject({
    code: 'bad_wal',
  })
  expect(timeline.state.flushLsn).toBeLessThan(maker.endLsn)
  await catchUp(timeline, { sources: [damaged, whole], signal, log: silentLog })
  expect(timeline.state.flushLsn).toBe(maker.endLsn)
  expect(timeline.failure).toBeUndefined()
})

test('an elected proposer takes over from a pull, and a pull takes nothing from it', async () => {
  const at = await folder()
  const [donor, lagging] = [await start('donor', at), await start('lagging', at)]
  await create(donor)
  await create(lagging)
  const { maker } = await write(donor, 1, 50)
  const from = donor.timelines.get(REF)
  const mayContinue = Promise.withResolvers<void>()
  const slow: WalSource = {
    name: 'slow',
    status: async () => ({
      identity: from.identity,
      timelineStartLsn: from.timelineStartLsn,
      history: from.state.control.history,
      commitLsn: from.commitLsn,
      oldestLsn: from.oldestLsn,
    }),
    read: async function* (startLsn, endLsn) {
      const half = advance(startLsn, (endLsn - startLsn) >> 1)
      yield await from.read(startLsn, half)
      await mayContinue.promise
      yield await from.read(half, endLsn)
    },
  }
  const timeline = lagging.timelines.get(REF)
  const { signal } = new AbortController()
  const pulling = catchUp(timeline, { sources: [slow], signal, log: silentLog })
  pulling.catch(() => undefined)
  while (timeline.state.flushLsn === START) await realClock.sleep(2)
  const leader = new SingleProposer(lagging.client)
  onTestFinished(() => leader.close())
  const begin = await leader.lead(REF, IDENTITY, 1)
  mayContinue.resolve()
  await expect(pulling).rejects.toMatchObject({ code: 'conflict' })
  await expect(catchUp(timeline, { sources: [slow], signal, log: silentLog })).rejects.toMatchObject({
    code: 'conflict',
  })
  await leader.append(begin, await from.read(begin, maker.endLsn))
  await leader.flushed(maker.endLsn)
})

test('a pull whose last WAL is dropped before it is flushed ends, and the next one brings it', async () => {
  const at = await folder()
  const [donor, newcomer] = [await start('donor', at), await start('newcomer', at)]
  await create(donor)
  await create(newcomer)
  const { maker } = await write(donor, 1, 50)
  const from = donor.timelines.get(REF)
  const timeline = newcomer.timelines.get(REF)
  const stranger = { nodeId: 'stranger', deliver: () => undefined, close: () => undefined }
  let isMet = false
  const source: WalSource = {
    name: 'donor',
    status: async () => ({
      identity: from.identity,
      timelineStartLsn: from.timelineStartLsn,
      history: from.state.control.history,
      commitLsn: from.commitLsn,
      oldestLsn: from.oldestLsn,
    }),
    read: async function* (startLsn, endLsn) {
      yield await from.read(startLsn, endLsn)
      if (isMet) return
      isMet = true
      // All is handed in, and its flush runs. A proposer with a newer membership greets: what is not flushed is
      // dropped.
      expect(timeline.state.flushLsn).toBeLessThan(timeline.state.writeLsn)
      await timeline.handle(stranger, { kind: 'greeting', message: { membershipGeneration: 7 } })
      expect(timeline.state).toMatchObject({ flushLsn: START, writeLsn: START })
    },
  }
  const { signal } = new AbortController()
  const pull = () => catchUp(timeline, { sources: [source], signal, log: silentLog })
  await expect(pull()).rejects.toMatchObject({ code: 'conflict' })
  await pull()
  expect(timeline.state.flushLsn).toBe(maker.endLsn)
})

test('a safekeeper that is far behind catches up from its peers before it answers a leader', async () => {
  const at = await folder()
  const [donor, lagging] = [await start('donor', at), await start('lagging', at)]
  await create(donor)
  await create(lagging)
  const { maker } = await write(donor, 1, 2_500, 8_000)
  expect(maker.endLsn - START).toBeGreaterThan(17 * 1024 * 1024)
  const leader = new SingleProposer(lagging.client)
  onTestFinished(() => leader.close())
  await leader.say({
    $case: 'greeting',
    value: {
      protocolVersion: 1,
      protocolVersionMax: 0,
      timeline: REF,
      postgres: IDENTITY,
      nodeId: 'leader',
      membershipGeneration: 0n,
      membership: membership(0, [donor, lagging]),
      commitLsn: lsnToBigint(maker.endLsn),
    },
  })
  await leader.answer('greeting')
  expect((await status(lagging)).commitLsn).toBe(lsnToBigint(maker.endLsn))
})

test('a member reports its positions under the newest membership, and refuses an older one', async () => {
  const at = await folder()
  const [one, two] = [await start('one', at), await start('two', at)]
  await create(one)
  const { maker, leader } = await write(one, 2, 10)
  const joint = membership(5, [one], [two])
  expect(await configure(one, joint)).toMatchObject({
    nodeId: 'one',
    membershipGeneration: 5n,
    term: 2n,
    lastLogTerm: 2n,
    flushLsn: lsnToBigint(maker.endLsn),
  })
  await expect(configure(one, membership(4, [one]))).rejects.toMatchObject({ code: 'stale' })
  // A proposer of the older one is over, and hears which it is now.
  await leader.append(maker.endLsn, maker.record(100))
  expect(isErrorCode(await leader.refusal(), 'stale')).toBe(true)
  const back = new SingleProposer(one.client)
  onTestFinished(() => back.close())
  await back.say({
    $case: 'greeting',
    value: {
      protocolVersion: 1,
      protocolVersionMax: 0,
      timeline: REF,
      postgres: IDENTITY,
      nodeId: 'test',
      membershipGeneration: 4n,
      membership: undefined,
      commitLsn: 0n,
    },
  })
  expect(await back.answer('greeting')).toMatchObject({ membershipGeneration: 5n, membership: joint })
  // It is still known after a restart.
  await one.stop()
  const again = await start('one', at)
  expect(again.timelines.get(REF).membership).toMatchObject({ generation: 5 })
  expect((await status(again)).membershipGeneration).toBe(5n)
})

test('a membership that cannot be one is refused, and changes nothing', async () => {
  const one = await start('one', await folder())
  await create(one)
  const known = membership(1, [one])
  const bad = [
    { ...known, members: [] },
    { ...known, generation: 2n ** 60n },
    { ...known, members: [{ nodeId: 'no such name!', address: one.address }] },
    { ...known, members: [{ nodeId: 'one', address: 'nowhere' }] },
  ]
  for (const each of bad) await expect(configure(one, each)).rejects.toMatchObject({ code: 'bad_argument' })
  const proposer = new SingleProposer(one.client)
  onTestFinished(() => proposer.close())
  proposer.membershipGeneration = 7n
  await expect(proposer.greet(REF, IDENTITY)).rejects.toMatchObject({ code: 'bad_argument' })
  expect((await status(one)).membershipGeneration).toBe(0n)
  expect(one.timelines.get(REF).membership).toBeUndefined()
})

test('subscriptions end when a safekeeper is left out', async () => {
  const at = await folder()
  const [one, two] = [await start('one', at), await start('two', at)]
  await create(one)
  await write(one, 1, 10)
  const follow = async (): Promise<unknown> => {
    const stream = openBidi<SubscribeWalRequest, SubscribeWalResponse>(
      one.client.subscribeWal.bind(one.client),
    )
    const shard = { number: 0, count: 1, stripeBlocks: 256 }
    const value = {
      protocolVersion: 1,
      protocolVersionMax: 0,
      timeline: REF,
      shard,
      startLsn: lsnToBigint(START),
      windowBytes: 0n,
      trackCommitTimestamp: false,
    }
    await stream.send({ message: { $case: 'open', value } })
    for await (const { endLsn } of stream.messages)
      if (lsnFromBigint(endLsn) > START) await configure(one, membership(2, [two]))
    return undefined
  }
  await expect(follow()).rejects.toMatchObject({ code: 'stale' })
  await expect(follow()).rejects.toMatchObject({ code: 'stale' })
})

test('a damaged membership file is none', () => {
  const known = { generation: 3, members: [{ nodeId: 'a', address: 'h:1' }], newMembers: [] }
  const bytes = encodeMembershipFile(known)
  expect(decodeMembershipFile(bytes)).toEqual(known)
  for (let at = 0; at < bytes.length; at++) {
    const flipped = Uint8Array.from(bytes)
    flipped[at] = (flipped[at] as number) ^ 1
    expect(decodeMembershipFile(flipped)).toBeUndefined()
  }
  expect(decodeMembershipFile(new Uint8Array(0))).toBeUndefined()
})
