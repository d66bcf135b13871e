/**
 * A timeline's WAL in the object store as all that is left of it: where it ends, and a source of it for safekeepers
 * that begin with nothing.
 *
 * Whole segments end within records. WAL that is to follow begins at the last record end, so what is stored beyond
 * that end goes first: a segment is never stored twice, and would be taken for what follows.
 */
import {
  LSN_ZERO,
  advance,
  formatLsn,
  isErrorCode,
  maxLsn,
  minLsn,
  fail,
  segmentOf,
  segmentStart,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import { historyUpTo, lastTermStart } from '@understory/consensus'
import { decoderAt } from '../timeline/end-of-wal.ts'
import type { SourceStatus, WalSource } from './recovery.ts'
import type { RemoteTimeline, RemoteWal } from '../timeline/remote-wal.ts'

const PART_BYTES = 1024 * 1024

export interface StoredEnd {
  /** A record end. */
  readonly endLsn: Lsn
  /** Last term that is recorded for the WAL up to it. */
  readonly term: number
}

/**
 * Cuts the stored WAL of the timeline at the last whole record. No other node may be storing its WAL. Called again it
 * returns the same. Errors: `not_found` where no whole record is there.
 */
export async function closeStoredWal(remote: RemoteWal, signal: AbortSignal): Promise<StoredEnd> {
  const record = await readRecord(remote, signal)
  const { identity, timelineStartLsn, history } = record
  const wholeUntil = await remote.wholeUntil(identity, timelineStartLsn, signal)
  const partial = await remote.readPartial(identity, wholeUntil, signal)
  const endLsn = await lastRecordEnd(remote, record, wholeUntil, partial?.bytes, signal)
  if (endLsn === undefined) throw nothingStored()
  const { walSegmentBytes: segmentBytes } = identity
  const startLsn = segmentStart(segmentOf(endLsn, segmentBytes), segmentBytes)
  const kept =
    startLsn < wholeUntil
      ? await remote.read(identity, startLsn, endLsn)
      : partial?.bytes.subarray(0, endLsn - startLsn)
  await remote.cutAt(identity, endLsn, kept ?? new Uint8Array(0), signal)
  return { endLsn, term: lastTermStart(historyUpTo(history, endLsn)).term }
}

/** Undefined where no record is whole. Decoded from as far back as it takes to find one. */
async function lastRecordEnd(
  remote: RemoteWal,
  { identity, timelineStartLsn }: RemoteTimeline,
  wholeUntil: Lsn,
  partial: Uint8Array | undefined,
  signal: AbortSignal,
): Promise<Lsn | undefined> {
  const { walSegmentBytes: segmentBytes } = identity
  for (let back = 1; ; back *= 2) {
    const startLsn = maxLsn(timelineStartLsn, advance(wholeUntil, -Math.min(back * segmentBytes, wholeUntil)))
    const decoder = decoderAt(identity, { startLsn, findFirst: true })
    try {
      for (let at = startLsn; at < wholeUntil;) {
        signal.throwIfAborted()
        const to = minLsn(wholeUntil, advance(at, PART_BYTES))
        decoder.push(at, await remote.read(identity, at, to))
        while (decoder.next());
        at = to
      }
      if (partial !== undefined) decoder.push(wholeUntil, partial)
      while (decoder.next());
    } catch (error) {
      // Damaged: what is before it counts.
      if (!isErrorCode(error, 'bad_wal') && !isErrorCode(error, 'unknown_wal')) throw error
    }
    if (decoder.recordEndLsn > startLsn) return decoder.recordEndLsn
    if (startLsn === timelineStartLsn) return undefined
  }
}

async function readRecord(remote: RemoteWal, signal: AbortSignal): Promise<RemoteTimeline> {
  const record = await remote.readTimeline(signal)
  if (record === undefined) throw nothingStored()
  return record
}

const nothingStored = (): Error =>
  fail('not_found', 'the object store has no WAL of the timeline', {
    hint: 'Nothing of it was offloaded yet; name a safekeeper that is left.',
  })

/**
 * The object store as a source of WAL up to `endLsn`, which `closeStoredWal` gave. There `term` begins: a compute that
 * still runs, or a copy that comes back, knows by it that what it has beyond is of another history.
 */
export class StoredSource implements WalSource {
  readonly name = 'the object store'
  readonly #remote: RemoteWal
  readonly #endLsn: Lsn
  readonly #term: number
  #record: RemoteTimeline | undefined

  constructor(remote: RemoteWal, { endLsn, term }: StoredEnd) {
    this.#remote = remote
    this.#endLsn = endLsn
    this.#term = term
  }

  async status(signal: AbortSignal): Promise<SourceStatus> {
    this.#record ??= await readRecord(this.#remote, signal)
    const { identity, timelineStartLsn, history } = this.#record
    const { walSegmentBytes: segmentBytes } = identity
    const last = advance(this.#endLsn, -1)
    return {
      identity,
      timelineStartLsn,
      history: [
        ...historyUpTo(history, this.#endLsn).filter((entry) => entry.term < this.#term),
        { term: this.#term, startLsn: this.#endLsn },
      ],
      commitLsn: this.#endLsn,
      // The rest is read from the store on demand.
      oldestLsn: maxLsn(timelineStartLsn, segmentStart(segmentOf(last, segmentBytes), segmentBytes)),
    }
  }

  async *read(startLsn: Lsn, endLsn: Lsn, signal: AbortSignal): AsyncGenerator<Uint8Array, void, void> {
    const { identity } = (this.#record ??= await readRecord(this.#remote, signal))
    const { walSegmentBytes: segmentBytes } = identity
    const wholeUntil = segmentStart(segmentOf(this.#endLsn, segmentBytes), segmentBytes)
    let at = startLsn
    while (at < minLsn(endLsn, wholeUntil)) {
      const to = minLsn(minLsn(endLsn, wholeUntil), advance(at, PART_BYTES))
      yield await this.#remote.read(identity, at, to)
      at = to
    }
    if (at >= endLsn) return
    const partial = await this.#remote.readPartial(identity, wholeUntil, signal)
    if (partial === undefined || partial.endLsn < endLsn) {
      const there = formatLsn(partial?.endLsn ?? LSN_ZERO)
      throw fail('not_found', `the object store has WAL up to ${there}, not to ${formatLsn(endLsn)}`)
    }
    yield partial.bytes.subarray(at - wholeUntil, endLsn - wholeUntil)
  }
}
