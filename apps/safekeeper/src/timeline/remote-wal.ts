/**
 * The WAL of one timeline in the object store, below `wal/<tenant>/<timeline>/`:
 *
 *   <segment>                     a whole segment, by Postgres's name of it; never changed once it is there
 *   <segment>.partial.<end LSN>   its beginning up to that commit position, 16 hexadecimal digits; gone once a later is
 *                                 there
 *   timeline.json                 what the timeline is, and its term history up to the last offload
 *
 * Only committed WAL comes here, and what is committed is the same on every safekeeper: each stores the same
 * bytes, so that two that do it at once do no harm.
 */
import {
  advance,
  formatLsn,
  isErrorCode,
  lsn,
  maxLsn,
  minLsn,
  offsetInSegment,
  fail,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import { lastTermStart } from '@understory/consensus'
import type { TermHistory } from '@understory/consensus'
import { getIfPresent } from '@understory/object-store'
import type { CallOptions, ObjectStore } from '@understory/object-store'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { walPartialKey, walPrefix, walSegmentKey, walTimelineKey } from '@understory/protocol'
import { parseWalFileName } from '@understory/postgres/wal'
import type { TimelineRef } from '@understory/rpc'

const FORMAT_VERSION = 1
/** Of one read from the store. */
const CHUNK_BYTES = 1024 * 1024
/** Chunks kept of all timelines: several subscribers that are behind read the same. */
const CHUNKS_KEPT = 32
const WRITE_DEADLINE_MS = 60_000

/** What `timeline.json` says. */
export interface RemoteTimeline {
  readonly identity: PostgresIdentity
  readonly timelineStartLsn: Lsn
  readonly history: TermHistory
}

/** Chunks read lately, of any timeline, the last used one at the end. */
export class ChunkCache {
  readonly #chunks = new Map<string, Promise<Uint8Array>>()

  get(key: string, load: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const kept = this.#chunks.get(key)
    const chunk = kept ?? load()
    this.#chunks.delete(key)
    this.#chunks.set(key, chunk)
    if (kept === undefined) {
      chunk.catch(() => this.#chunks.delete(key))
      const [oldest] = this.#chunks.keys()
      if (this.#chunks.size > CHUNKS_KEPT && oldest !== undefined) this.#chunks.delete(oldest)
    }
    return chunk
  }
}

interface Partial {
  readonly key: string
  readonly segment: number
  readonly endLsn: Lsn
}

export class RemoteWal {
  readonly #store: ObjectStore
  readonly #ref: TimelineRef
  readonly #prefix: string
  readonly #cache: ChunkCache

  constructor(store: ObjectStore, ref: TimelineRef, cache: ChunkCache) {
    this.#store = store
    this.#ref = ref
    this.#prefix = walPrefix(ref)
    this.#cache = cache
  }

  #segmentKey(identity: PostgresIdentity, segment: number): string {
    return walSegmentKey(this.#ref, identity, segment)
  }

  hasSegment(identity: PostgresIdentity, segment: number, options?: CallOptions): Promise<boolean> {
    return this.#store.head(this.#segmentKey(identity, segment), options).then((head) => head !== undefined)
  }

  /** Stores a whole segment where it is not there yet. */
  async putSegment(
    identity: PostgresIdentity,
    segment: number,
    bytes: Uint8Array,
    signal: AbortSignal,
  ): Promise<void> {
    const options = { signal, deadlineMs: WRITE_DEADLINE_MS }
    await this.#store.putIfAbsent(this.#segmentKey(identity, segment), bytes, options)
  }

  /** Stores a segment's beginning, which ends at `endLsn`, and removes shorter ones. */
  async putPartial(
    identity: PostgresIdentity,
    endLsn: Lsn,
    bytes: Uint8Array,
    signal: AbortSignal,
  ): Promise<void> {
    const segment = segmentOf(endLsn, identity.walSegmentBytes)
    const key = walPartialKey(this.#ref, identity, segment, endLsn)
    await this.#store.put(key, bytes, { signal, deadlineMs: WRITE_DEADLINE_MS })
    await this.removePartials(identity, endLsn, signal)
  }

  /** Removes the partial segments that end before `endLsn`. */
  async removePartials(identity: PostgresIdentity, endLsn: Lsn, signal: AbortSignal): Promise<void> {
    const { partials } = await this.list(identity, signal)
    const old = partials.filter((partial) => partial.endLsn < endLsn).map(({ key }) => key)
    if (old.length > 0) await this.#store.delete(old, { signal })
  }

  /**
   * Removes everything from `endLsn` on. `kept` is what stays of its segment: stored as a partial one before the whole
   * one goes, so that a crash in between leaves both.
   */
  async cutAt(identity: PostgresIdentity, endLsn: Lsn, kept: Uint8Array, signal: AbortSignal): Promise<void> {
    const cut = segmentOf(endLsn, identity.walSegmentBytes)
    if (kept.length > 0) await this.putPartial(identity, endLsn, kept, signal)
    const { segments, partials } = await this.list(identity, signal)
    const gone = [
      ...partials.filter((partial) => partial.endLsn > endLsn).map(({ key }) => key),
      ...segments.filter((segment) => segment >= cut).map((segment) => this.#segmentKey(identity, segment)),
    ]
    if (gone.length > 0) await this.#store.delete(gone, { signal })
  }

  async list(
    identity: PostgresIdentity,
    signal?: AbortSignal,
  ): Promise<{ readonly segments: readonly number[]; readonly partials: readonly Partial[] }> {
    const segments: number[] = []
    const partials: Partial[] = []
    for await (const { key } of this.#store.list(this.#prefix, { signal })) {
      const [name = '', kind, end] = key.slice(this.#prefix.length).split('.')
      const parsed = parseWalFileName(name, identity.walSegmentBytes)
      if (parsed === undefined || parsed.timelineId !== identity.pgTimelineId) continue
      if (kind === undefined) segments.push(parsed.segment)
      else if (kind === 'partial' && end !== undefined && /^[0-9a-f]{16}$/.test(end))
        partials.push({ key, segment: parsed.segment, endLsn: lsn(Number.parseInt(end, 16)) })
    }
    return { segments: segments.sort((a, b) => a - b), partials }
  }

  /** Up to where whole segments follow each other from `startLsn` on. */
  async wholeUntil(identity: PostgresIdentity, startLsn: Lsn, signal?: AbortSignal): Promise<Lsn> {
    const there = new Set((await this.list(identity, signal)).segments)
    let segment = segmentOf(startLsn, identity.walSegmentBytes)
    while (there.has(segment)) segment++
    return maxLsn(startLsn, segmentStart(segment, identity.walSegmentBytes))
  }

  /** [startLsn, endLsn) of whole segments. Errors: `not_found` where one is not there. */
  async read(identity: PostgresIdentity, startLsn: Lsn, endLsn: Lsn): Promise<Uint8Array> {
    const { walSegmentBytes: segmentBytes } = identity
    const bytes = new Uint8Array(endLsn - startLsn)
    for (let at = startLsn; at < endLsn;) {
      const key = this.#segmentKey(identity, segmentOf(at, segmentBytes))
      const offset = offsetInSegment(at, segmentBytes)
      const chunkStart = offset - (offset % CHUNK_BYTES)
      const chunkEnd = Math.min(segmentBytes, chunkStart + CHUNK_BYTES)
      const chunk = await this.#cache.get(`${key} ${chunkStart}`, () =>
        this.#store.getRange(key, chunkStart, chunkEnd),
      )
      const to = minLsn(endLsn, advance(at, chunkEnd - offset))
      bytes.set(chunk.subarray(offset - chunkStart, offset - chunkStart + (to - at)), at - startLsn)
      at = to
    }
    return bytes
  }

  /** The longest partial segment that begins where the whole ones end, or undefined. */
  async readPartial(
    identity: PostgresIdentity,
    wholeUntil: Lsn,
    signal?: AbortSignal,
  ): Promise<{ readonly endLsn: Lsn; readonly bytes: Uint8Array } | undefined> {
    const { partials } = await this.list(identity, signal)
    const last = partials
      .filter(({ segment }) => segment === segmentOf(wholeUntil, identity.walSegmentBytes))
      .toSorted((a, b) => b.endLsn - a.endLsn)[0]
    if (last === undefined) return undefined
    const { bytes } = await this.#store.get(last.key, { signal })
    return { endLsn: last.endLsn, bytes }
  }

  /** Undefined where nothing of the timeline was offloaded. Errors: `bad_file`. */
  async readTimeline(signal?: AbortSignal): Promise<RemoteTimeline | undefined> {
    const key = walTimelineKey(this.#ref)
    const object = await getIfPresent(this.#store, key, { signal })
    return object === undefined ? undefined : decodeTimeline(object.bytes, key)
  }

  /** Stores it unless what is there knows of a later term. */
  async writeTimeline(timeline: RemoteTimeline, signal: AbortSignal): Promise<void> {
    const key = walTimelineKey(this.#ref)
    const options = { signal, deadlineMs: WRITE_DEADLINE_MS }
    const bytes = encodeTimeline(timeline)
    for (;;) {
      const there = await getIfPresent(this.#store, key, options)
      if (there !== undefined) {
        const known = lastTermStart(decodeTimeline(there.bytes, key).history)
        if (known.term >= lastTermStart(timeline.history).term) return
      }
      const put =
        there === undefined
          ? await this.#store.putIfAbsent(key, bytes, options)
          : await this.#store.putIfMatch(key, there.etag, bytes, options)
      if (put.kind === 'stored') return
    }
  }
}

const encodeTimeline = ({ identity, timelineStartLsn, history }: RemoteTimeline): Uint8Array =>
  Buffer.from(
    JSON.stringify({
      version: FORMAT_VERSION,
      postgres: {
        major: identity.major,
        systemId: String(identity.systemId),
        pgTimelineId: identity.pgTimelineId,
        segmentBytes: identity.walSegmentBytes,
      },
      timelineStartLsn,
      history,
    }),
  )

function decodeTimeline(bytes: Uint8Array, key: string): RemoteTimeline {
  try {
    const { version, postgres, timelineStartLsn, history } = JSON.parse(Buffer.from(bytes).toString()) as {
      version: number
      postgres: Pick<PostgresIdentity, 'major' | 'pgTimelineId'> & { systemId: string; segmentBytes: number }
      timelineStartLsn: number
      history: { term: number; startLsn: number }[]
    }
    if (version !== FORMAT_VERSION) throw fail('bad_file', `its version is ${version}`)
    return {
      identity: {
        major: postgres.major,
        systemId: BigInt(postgres.systemId),
        pgTimelineId: postgres.pgTimelineId,
        walSegmentBytes: postgres.segmentBytes,
      },
      timelineStartLsn: lsn(timelineStartLsn),
      history: history.map(({ term, startLsn }) => ({ term, startLsn: lsn(startLsn) })),
    }
  } catch (cause) {
    if (isErrorCode(cause, 'bad_file')) throw cause
    throw fail('bad_file', `object "${key}" is damaged`, { cause })
  }
}

/** For a reader of WAL that is not kept here, where no store is known. */
export const onlyStored = (oldestLsn: Lsn): Error =>
  fail('unavailable', `WAL before ${formatLsn(oldestLsn)} is in the object store alone`, {
    hint: 'Start the safekeeper with --object-store; right after a start wait a moment.',
  })
