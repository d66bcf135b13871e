/**
 * The owner of a timeline's readers: committed WAL is decoded and split once for all subscriptions at about the same
 * position, for any shards.
 *
 * A subscription is a position. For what comes next it looks, in this order, for
 *
 *   1. a cut that a reader of its layout has kept and that begins there,
 *   2. a reader of its layout that stands there: all waiters share its next cut,
 *   3. a reader of its own.
 *
 * So a subscription moves from reader to reader at record ends, without gap and without repeat, and nothing but its
 * position is handed over. Readers meet: one that is behind another ends its next cut where the other has one
 * beginning, and readers without users are dropped. A subscription that is slow falls out of what its reader keeps, and
 * then reads for itself until it meets the others again.
 *
 * A subscription gets what a reader of its own would give, but for notes that say what a note before its
 * position said (shard-splitter.ts).
 */
import { assert, formatLsn, minLsn } from '@understory/base'
import type { Lsn, ShardIdentity, ShardLayout } from '@understory/base'
import type { Clock } from '@understory/env'
import { SharedReader } from './shared-reader.ts'
import type { CutPlan, FanOutLimits, FollowedTimeline } from './shared-reader.ts'

const MIB = 1024 * 1024
const LIMITS: FanOutLimits = {
  shardBytesMax: MIB,
  cutBytesMax: 4 * MIB,
  readBytesMax: MIB / 4,
  cutWalBytesMax: 16 * MIB,
  keptBytesMax: 8 * MIB,
  nearBytes: 4 * MIB,
}

export interface ShardBatch {
  readonly startLsn: Lsn
  readonly endLsn: Lsn
  readonly commitLsn: Lsn
  readonly entries: Uint8Array
}

const NO_ENTRIES = new Uint8Array(0)

interface Member {
  readonly shard: ShardIdentity
  position: Lsn
  trackCommitTimestamp: boolean
  reader: SharedReader | undefined
}

/** Readers and subscriptions of one layout. */
interface Group {
  readonly layout: ShardLayout
  readonly readers: Set<SharedReader>
  readonly members: Set<Member>
}

export interface FanOutSubscription {
  /** End of what was given: a record end. */
  readonly position: Lsn
  /**
   * The next batch; undefined once `stop` fires. A batch that is empty and ends where it begins may come within a large
   * record. Errors: `TimelineStalledError`; `bad_wal`, `unknown_wal` once everything before was given; of reading.
   */
  next(stop: AbortSignal): Promise<ShardBatch | undefined>
  close(): void
}

export class WalFanOut {
  readonly #timeline: FollowedTimeline
  readonly #clock: Clock
  readonly #limits: FanOutLimits
  /** By count and stripe. */
  readonly #groups = new Map<string, Group>()

  constructor(timeline: FollowedTimeline, clock: Clock, limits: FanOutLimits = LIMITS) {
    this.#timeline = timeline
    this.#clock = clock
    this.#limits = limits
  }

  /** Of all layouts: readers that run or wait now, and the bytes of entries that they keep. */
  get usage(): { readonly readersCount: number; readonly keptBytes: number } {
    const readers = [...this.#groups.values()].flatMap((group) => [...group.readers])
    return {
      readersCount: readers.length,
      keptBytes: readers.reduce((sum, reader) => sum + reader.keptBytes, 0),
    }
  }

  /** `startLsn` is a record end, or where the timeline starts; `trackCommitTimestamp` is as of there. */
  subscribe(shard: ShardIdentity, startLsn: Lsn, trackCommitTimestamp: boolean): FanOutSubscription {
    const key = `${shard.count}/${shard.stripeBlocks}`
    const group = this.#groups.get(key) ?? { layout: shard, readers: new Set(), members: new Set() }
    this.#groups.set(key, group)
    const member: Member = { shard, position: startLsn, trackCommitTimestamp, reader: undefined }
    group.members.add(member)
    return {
      get position() {
        return member.position
      },
      next: (stop) => this.#next(group, member, stop),
      close: () => {
        group.members.delete(member)
        this.#use(group, member, undefined)
        for (const reader of group.readers) this.#trim(group, reader)
        if (group.members.size === 0 && this.#groups.get(key) === group) this.#groups.delete(key)
      },
    }
  }

  async #next(group: Group, member: Member, stop: AbortSignal): Promise<ShardBatch | undefined> {
    while (!stop.aborted) {
      const batch = this.#takeKept(group, member)
      if (batch !== undefined) return batch
      const reader = this.#readerAt(group, member)
      this.#use(group, member, reader)
      await reader.advanced(stop)
      if (reader.failure !== undefined && !stop.aborted) {
        // A subscriber that comes again begins with a reader that has seen nothing.
        group.readers.delete(reader)
        throw reader.failure
      }
      const { position } = member
      // Within a large record; where it has ended, there is a cut.
      if (!stop.aborted && reader.position === position) return this.#batch(position, position, NO_ENTRIES)
    }
    return undefined
  }

  #batch(startLsn: Lsn, endLsn: Lsn, entries: Uint8Array): ShardBatch {
    const { commitLsn } = this.#timeline
    assert(endLsn <= commitLsn, () => `I3: WAL is given to ${formatLsn(endLsn)}, beyond the commit position`)
    return { startLsn, endLsn, commitLsn, entries }
  }

  #takeKept(group: Group, member: Member): ShardBatch | undefined {
    for (const reader of group.readers) {
      const cut = reader.cutAt(member.position)
      const entries = cut?.entries.get(member.shard.number)
      if (cut === undefined || entries === undefined || cut.tracksBefore !== member.trackCommitTimestamp)
        continue
      this.#use(group, member, reader)
      member.position = cut.endLsn
      member.trackCommitTimestamp = cut.tracksAfter
      this.#trim(group, reader)
      return this.#batch(cut.startLsn, cut.endLsn, entries)
    }
    return undefined
  }

  #readerAt(group: Group, member: Member): SharedReader {
    const { shard, position, trackCommitTimestamp } = member
    for (const reader of group.readers) {
      const isThere = reader.position === position && reader.trackCommitTimestamp === trackCommitTimestamp
      if (isThere && reader.willGive(shard.number)) return reader
    }
    const parts = {
      timeline: this.#timeline,
      clock: this.#clock,
      limits: this.#limits,
      plan: (reader: SharedReader) => this.#plan(group, reader),
    }
    return new SharedReader(parts, { layout: group.layout, startLsn: position, trackCommitTimestamp })
  }

  #use(group: Group, member: Member, reader: SharedReader | undefined): void {
    const before = member.reader
    if (before === reader) return
    member.reader = reader
    if (reader !== undefined) {
      reader.usersCount++
      group.readers.add(reader)
    }
    if (before !== undefined && --before.usersCount === 0) {
      group.readers.delete(before)
      before.close()
    }
  }

  /** Members that need what the reader keeps and gives next, or will soon. */
  *#near({ members }: Group, { keptFromLsn, position }: SharedReader): Iterable<Member> {
    const fromLsn = keptFromLsn - this.#limits.nearBytes
    for (const member of members) if (member.position >= fromLsn && member.position <= position) yield member
  }

  /** For whom the reader's next cut is, and where it must end so that those of other readers are met. */
  #plan(group: Group, reader: SharedReader): CutPlan {
    this.#trim(group, reader)
    const shards = new Set<number>()
    for (const { shard } of this.#near(group, reader)) shards.add(shard.number)
    let limitLsn: Lsn | undefined
    for (const other of group.readers) {
      const boundary = other === reader ? undefined : other.boundaryAfter(reader.position)
      if (boundary !== undefined && (limitLsn === undefined || boundary < limitLsn)) limitLsn = boundary
    }
    return { limitLsn, shards }
  }

  /** Drops the cuts that no member near has still to take. */
  #trim(group: Group, reader: SharedReader): void {
    let neededLsn = reader.position
    for (const { position } of this.#near(group, reader)) neededLsn = minLsn(neededLsn, position)
    reader.trim(neededLsn)
  }
}
