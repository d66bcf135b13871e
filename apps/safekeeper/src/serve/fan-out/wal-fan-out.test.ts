/**
 * Goal: while subscriptions come, go, jump and lag, each gets the batches of a reader of its own, and WAL is
 * read once for those that are together. Method: drawn WAL and drawn subscribers of several layouts on the simulated
 * clock; each batch is compared with a reader that the subscription has for itself.
 */
import { Signal } from '@understory/actor'
import { advance, bytesBetween, lsn } from '@understory/base'
import type { Lsn, ShardIdentity } from '@understory/base'
import { Schedule } from '@understory/simulation/schedule'
import { readShardEntries } from '@understory/storage'
import type { ShardEntry } from '@understory/storage'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { drawnWal } from '../../../test/drawn-wal.ts'
import type { DrawnRecord, DrawnWal } from '../../../test/drawn-wal.ts'
import { IDENTITY, START } from '../../../test/wal-maker.ts'
import type { FanOutLimits, FollowedTimeline } from './shared-reader.ts'
import { SplitReader } from './split-reader.ts'
import { WalFanOut } from './wal-fan-out.ts'

const KIB = 1024
/** So small that cuts, windows and large records are met all the time. */
const LIMITS: FanOutLimits = {
  shardBytesMax: 2 * KIB,
  cutBytesMax: 4 * KIB,
  readBytesMax: 1 * KIB,
  cutWalBytesMax: 8 * KIB,
  keptBytesMax: 8 * KIB,
  nearBytes: 16 * KIB,
}
const FOREVER_MS = 1e7

/** A timeline whose WAL is there, and is committed bit by bit. */
class DrawnTimeline implements FollowedTimeline {
  readonly identity = IDENTITY
  readonly timelineStartLsn = START
  readonly failure = undefined
  readonly shortage = undefined
  readonly wal: DrawnWal
  readonly #time: Schedule | undefined
  readonly #changes = new Signal()
  commitLsn: Lsn
  readBytes = 0

  constructor(wal: DrawnWal, time: Schedule | undefined) {
    this.wal = wal
    this.#time = time
    this.commitLsn = wal.startLsn
  }

  commit(index: number): void {
    const { lsn: at } = this.wal.ends[Math.min(index, this.wal.ends.length - 1)] as { lsn: Lsn }
    if (at <= this.commitLsn) return
    this.commitLsn = at
    this.#changes.notify()
  }
  get committedCount(): number {
    return this.wal.ends.findIndex(({ lsn: at }) => at === this.commitLsn)
  }
  nextChange(stop: AbortSignal): Promise<void> {
    return this.#changes.next(stop)
  }
  async read(startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    if (endLsn > this.commitLsn) throw new Error(`WAL is read to ${endLsn}, beyond what is committed`)
    this.readBytes += bytesBetween(startLsn, endLsn)
    // Of files it takes a while.
    if ((startLsn / 8) % 3 === 0) await this.#time?.clock.sleep(1)
    const at = bytesBetween(this.wal.startLsn, startLsn)
    return this.wal.bytes.subarray(at, at + bytesBetween(startLsn, endLsn))
  }
}

const isNote = ({ kind }: ShardEntry): boolean => kind !== 'record'

function textOf(entry: ShardEntry): string {
  if (entry.kind !== 'record') return JSON.stringify(entry)
  return JSON.stringify({ ...entry, record: Buffer.from(entry.record).toString('base64') })
}

/** A shard's knowledge of sizes and xids once it has taken entries; they only rise. */
class Known {
  readonly #highest = new Map<string, number>()

  /** True where it was news. */
  take(entry: ShardEntry): boolean {
    if (entry.kind === 'size') return this.#raise(`${entry.rel}/${entry.fork}`, entry.blocks)
    if (entry.kind === 'xid') return this.#raise('xid', entry.xid)
    const { buffer, byteOffset } = entry.record
    return this.#raise('xid', new DataView(buffer, byteOffset).getUint32(4, true))
  }
  #raise(what: string, value: number): boolean {
    if ((this.#highest.get(what) ?? 0) >= value) return false
    this.#highest.set(what, value)
    return true
  }
}

const entriesOf = (batch: Uint8Array): ShardEntry[] => [...readShardEntries(Uint8Array.from(batch))]

/**
 * The same records, in order; notes may be left out, or come again, where what they say was known.
 */
function compare(got: readonly ShardEntry[], wanted: readonly ShardEntry[], known: Known): void {
  let at = 0
  const skipRepeated = (until: string | undefined): void => {
    for (let entry = got[at]; entry !== undefined && isNote(entry); entry = got[++at])
      if (textOf(entry) === until || known.take(entry)) return
  }
  for (const entry of wanted) {
    const text = textOf(entry)
    skipRepeated(text)
    const next = got[at]
    const isThere = next !== undefined && textOf(next) === text
    const isNews = known.take(entry)
    if (isThere) at++
    // Plain comparisons: thousands of matcher calls a run are slow.
    else if (!isNote(entry) || isNews) throw new Error(`it did not get ${text}`)
  }
  skipRepeated(undefined)
  expect(got.length).toBe(at)
}

/** All entries of [startLsn, endLsn) for a shard, by a reader of its own. */
async function alone(
  timeline: DrawnTimeline,
  shard: ShardIdentity,
  from: Place,
  endLsn: Lsn,
): Promise<ShardEntry[]> {
  const { lsn: startLsn, trackCommitTimestamp } = from
  const reader = new SplitReader(timeline, { layout: shard, startLsn, trackCommitTimestamp, limits: LIMITS })
  const found: ShardEntry[] = []
  while (reader.position < endLsn) {
    const { entries } = await reader.next(endLsn, new Set([shard.number]))
    found.push(...entriesOf(entries.get(shard.number) ?? new Uint8Array(0)))
  }
  return found
}

interface Place {
  readonly lsn: Lsn
  readonly trackCommitTimestamp: boolean
}

interface Subscriber {
  readonly layout: number
  readonly shard: number
  /** Of the records that are committed when it comes: where it begins. */
  readonly part: number
  /** So many records beyond what is committed instead, which it got from another safekeeper; 0: none. */
  readonly aheadBy: number
  readonly comesMs: number
  /** After each batch it takes so long; it does not ask for more during it. */
  readonly takesMs: number
  /** Its answer about commit timestamps is the opposite of the others'. */
  readonly differs: boolean
  /** After so many batches it leaves and comes back where it is; 0: never. */
  readonly leavesAfter: number
  /** After so many batches it asks for nothing any more, and stays; 0: never. */
  readonly stallsAfter: number
}

const LAYOUTS = [
  { count: 1, stripeBlocks: 8 },
  { count: 3, stripeBlocks: 2 },
  { count: 8, stripeBlocks: 1 },
]

interface Followed {
  readonly shard: ShardIdentity
  readonly from: Place
  readonly got: ShardEntry[]
  position: Lsn
}

/** Follows until everything is taken, or until it stalls. */
async function follow(
  fanOut: WalFanOut,
  timeline: DrawnTimeline,
  time: Schedule,
  who: Subscriber,
): Promise<Followed> {
  const layout = LAYOUTS[who.layout] as (typeof LAYOUTS)[number]
  const shard = { ...layout, number: who.shard % layout.count }
  const { ends } = timeline.wal
  const { committedCount } = timeline
  const index = who.aheadBy > 0 ? committedCount + who.aheadBy : Math.floor(who.part * committedCount)
  const place = ends[Math.min(index, ends.length - 1)] as Place
  const trackCommitTimestamp = place.trackCommitTimestamp !== who.differs
  const from = { lsn: place.lsn, trackCommitTimestamp }
  const followed: Followed = { shard, from, got: [], position: from.lsn }
  const isEnd = new Map(ends.map((end) => [end.lsn, end.trackCommitTimestamp]))
  let subscription = fanOut.subscribe(shard, from.lsn, from.trackCommitTimestamp)
  const never = new AbortController().signal
  const lastLsn = ends.at(-1)?.lsn as Lsn
  for (let count = 1; followed.position < lastLsn; count++) {
    const batch = await subscription.next(never)
    time.stir()
    if (batch === undefined) throw new Error('it was not stopped')
    // Plain comparisons: thousands of matcher calls a run are slow.
    if (batch.startLsn !== followed.position || !isEnd.has(batch.endLsn))
      throw new Error(`a batch of ${batch.startLsn} to ${batch.endLsn} came at ${followed.position}`)
    followed.position = batch.endLsn
    followed.got.push(...entriesOf(batch.entries))
    if (count === who.stallsAfter) return followed
    await time.clock.sleep(who.takesMs)
    time.stir()
    // Within a large record it would begin again for ever.
    const isWithin = batch.endLsn === batch.startLsn
    if (who.leavesAfter > 0 && !who.differs && count % who.leavesAfter === 0 && !isWithin) {
      subscription.close()
      const tracks = isEnd.get(followed.position) as boolean
      subscription = fanOut.subscribe(shard, followed.position, tracks)
    }
  }
  subscription.close()
  return followed
}

const RECORD: fc.Arbitrary<DrawnRecord> = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({
      kind: fc.constant('insert' as const),
      rel: fc.integer({ min: 16_384, max: 16_390 }),
      block: fc.nat(40),
      bytes: fc.integer({ min: 1, max: 300 }),
    }),
  },
  { weight: 2, arbitrary: fc.constant({ kind: 'noop' } as const) },
  { weight: 4, arbitrary: fc.constant({ kind: 'commit' } as const) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('parameters' as const), trackCommitTimestamp: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('message' as const), bytes: fc.nat(30_000) }) },
)
const SUBSCRIBER: fc.Arbitrary<Subscriber> = fc.record({
  layout: fc.nat(LAYOUTS.length - 1),
  shard: fc.nat(7),
  part: fc.oneof(fc.constant(1), fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })),
  aheadBy: fc.oneof(
    { weight: 3, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.integer({ min: 1, max: 40 }) },
  ),
  comesMs: fc.nat(300),
  differs: fc.nat(3).map((n) => n === 0),
  takesMs: fc.oneof(fc.constant(0), fc.nat(60)),
  leavesAfter: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 6 })),
  stallsAfter: fc.oneof(
    { weight: 4, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.integer({ min: 1, max: 5 }) },
  ),
})
const COMMIT = fc.record({
  atMs: fc.nat(400),
  more: fc.oneof({ weight: 3, arbitrary: fc.nat(15) }, { weight: 1, arbitrary: fc.nat(250) }),
})

test('every subscription gets what a reader of its own would give', { timeout: 60_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(RECORD, { minLength: 20, maxLength: 250, size: 'max' }),
      fc.array(SUBSCRIBER, { minLength: 2, maxLength: 10 }),
      fc.array(COMMIT, { minLength: 1, maxLength: 30 }),
      async (records, subscribers, commits) => {
        const time = new Schedule()
        const wal = drawnWal(records, IDENTITY, START)
        const timeline = new DrawnTimeline(wal, time)
        const fanOut = new WalFanOut(timeline, time.clock, LIMITS)
        const outcomes: Followed[] = []
        for (const { atMs, more } of commits)
          time.at(atMs, () => {
            time.stir()
            timeline.commit(timeline.committedCount + more)
          })
        time.at(500, () => {
          time.stir()
          timeline.commit(Infinity)
        })
        for (const who of subscribers)
          time.at(who.comesMs, () => {
            time.stir()
            follow(fanOut, timeline, time, who).then(
              (followed) => outcomes.push(followed),
              (error: unknown) => time.fail(error),
            )
          })
        const stalledCount = subscribers.filter(({ stallsAfter }) => stallsAfter > 0).length
        expect(await time.run(FOREVER_MS, () => outcomes.length === subscribers.length)).toBe(true)
        const { readersCount, keptBytes } = fanOut.usage
        // Stalled subscriptions have one reader each at most; the cuts kept for them are bounded.
        expect(readersCount).toBeLessThanOrEqual(stalledCount)
        expect(keptBytes).toBeLessThanOrEqual(readersCount * (LIMITS.keptBytesMax + 2 * LIMITS.cutBytesMax))
        const own = new DrawnTimeline(wal, undefined)
        own.commit(Infinity)
        for (const { shard, from, got, position } of outcomes) {
          const wanted = await alone(own, shard, from, position)
          // The notes that the shard had when it subscribed: everything before it.
          const known = new Known()
          const first = { lsn: START, trackCommitTimestamp: false }
          for (const entry of await alone(own, shard, first, from.lsn)) known.take(entry)
          compare(got, wanted, known)
        }
      },
    ),
    { numRuns: 40 },
  )
})

const inserts = (count: number): DrawnRecord[] =>
  Array.from({ length: count }, (_, i) => ({
    kind: 'insert',
    rel: 16_384 + (i % 5),
    block: i % 64,
    bytes: 200,
  }))

/** `count` shards of one layout follow while `records` are committed one after the other; returns what was read. */
async function together(
  count: number,
  startIndex: (shard: number) => number,
): Promise<{ readonly walBytes: number; readonly readBytes: number; readonly readersCount: number }> {
  const time = new Schedule()
  const wal = drawnWal(inserts(400), IDENTITY, START)
  const timeline = new DrawnTimeline(wal, time)
  const fanOut = new WalFanOut(timeline, time.clock, LIMITS)
  const stop = new AbortController()
  const lastLsn = wal.ends.at(-1)?.lsn as Lsn
  let doneCount = 0
  timeline.commit(100)
  for (let number = 0; number < count; number++) {
    const { lsn: at } = wal.ends[startIndex(number)] as Place
    const subscription = fanOut.subscribe({ count, stripeBlocks: 1, number }, at, false)
    void (async () => {
      while (subscription.position < lastLsn) {
        await subscription.next(stop.signal)
        time.stir()
      }
      doneCount++
      // It stays, and waits.
      await subscription.next(stop.signal)
    })().catch((error: unknown) => time.fail(error))
  }
  time.stir()
  for (let index = 101; index <= 400; index++)
    time.at(index * 3, () => {
      time.stir()
      timeline.commit(index)
    })
  expect(await time.run(FOREVER_MS, () => doneCount === count)).toBe(true)
  time.stir()
  await time.run(time.nowMs + 100)
  const { readersCount, keptBytes } = fanOut.usage
  expect(keptBytes).toBe(0)
  stop.abort()
  return { walBytes: wal.bytes.length, readBytes: timeline.readBytes, readersCount }
}

test('shards that are together have one reader, and WAL is read once', async () => {
  const { walBytes, readBytes, readersCount } = await together(8, () => 0)
  expect(readersCount).toBe(1)
  expect(readBytes).toBe(walBytes)
})

test('shards that come from different positions end with one reader', async () => {
  const { walBytes, readBytes, readersCount } = await together(8, (shard) => shard * 12)
  expect(readersCount).toBe(1)
  // A shard reads for itself up to where the next one began, not up to the end.
  expect(readBytes).toBeLessThan(walBytes * 1.6)
})

test('a shard that is beyond what is committed here does not change what another gets', async () => {
  const time = new Schedule()
  const wal = drawnWal(inserts(200), IDENTITY, START)
  const timeline = new DrawnTimeline(wal, time)
  const fanOut = new WalFanOut(timeline, time.clock, LIMITS)
  const never = new AbortController().signal
  const layout = { count: 2, stripeBlocks: 8 }
  const aheadLsn = wal.ends[100]?.lsn as Lsn
  const ahead = fanOut.subscribe({ ...layout, number: 1 }, aheadLsn, false)
  const behind = fanOut.subscribe({ ...layout, number: 0 }, START, false)
  const lastLsn = wal.ends.at(-1)?.lsn as Lsn
  let doneCount = 0
  for (const subscription of [ahead, behind])
    void (async () => {
      while (subscription.position < lastLsn) {
        await subscription.next(never)
        time.stir()
      }
      doneCount++
    })().catch((error: unknown) => time.fail(error))
  time.stir()
  for (const [i, index] of [3, 50, 99, 150, 200].entries())
    time.at((i + 1) * 20, () => {
      time.stir()
      timeline.commit(index)
    })
  await time.run(30)
  expect(behind.position).toBe(wal.ends[3]?.lsn)
  expect(ahead.position).toBe(aheadLsn)
  expect(await time.run(FOREVER_MS, () => doneCount === 2)).toBe(true)
})

test('a subscription that asks for nothing holds up no other, and what is kept for it is bounded', async () => {
  const time = new Schedule()
  const wal = drawnWal(inserts(1_000), IDENTITY, START)
  const timeline = new DrawnTimeline(wal, time)
  const fanOut = new WalFanOut(timeline, time.clock, LIMITS)
  timeline.commit(Infinity)
  const never = new AbortController().signal
  const layout = { count: 2, stripeBlocks: 1 }
  const slow = fanOut.subscribe({ ...layout, number: 0 }, START, false)
  const fast = fanOut.subscribe({ ...layout, number: 1 }, START, false)
  const lastLsn = wal.ends.at(-1)?.lsn as Lsn
  let mostBytes = 0
  let isDone = false
  void (async () => {
    await Promise.all([slow.next(never), fast.next(never)])
    while (fast.position < lastLsn) {
      await fast.next(never)
      time.stir()
      mostBytes = Math.max(mostBytes, fanOut.usage.keptBytes)
    }
    while (slow.position < lastLsn) {
      await slow.next(never)
      time.stir()
    }
    isDone = true
  })().catch((error: unknown) => time.fail(error))
  time.stir()
  expect(await time.run(FOREVER_MS, () => isDone)).toBe(true)
  expect(mostBytes).toBeGreaterThan(LIMITS.keptBytesMax / 2)
  expect(mostBytes).toBeLessThanOrEqual(LIMITS.keptBytesMax + LIMITS.cutBytesMax + 1024)
  expect(advance(lsn(0), timeline.readBytes)).toBeLessThan(3 * wal.bytes.length)
})
