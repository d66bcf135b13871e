/** Committed WAL of a timeline as it comes, byte for byte, from any safekeeper that answers. */
import { UnderstoryError, advance, formatLsn, lsnFromBigint, lsnToBigint, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { SafekeeperServiceClient } from '@understory/rpc'
import type { GetTimelineResponse, TimelineRef } from '@understory/rpc'
import type { WalPiece, WalTailOptions } from './api.ts'
import { readPosition, readSignal } from './arguments.ts'
import type { Calls, Try } from './calls.ts'
import { mayPass } from './retry.ts'
import { delay, joinSignals } from './signals.ts'
import { withHint } from './trouble.ts'

/** Of one read. */
const READ_BYTES_MAX = 4 * 1024 * 1024
const POLL_MS = 100
/** An answer takes milliseconds; a server that hangs is left for another. */
const ANSWER_MS_MAX = 5_000
/** A safekeeper may read from the object store before it sends. */
const READ_SILENCE_MS_MAX = 20_000
/** A safekeeper that has nothing new for so long may be cut off from the others. */
const STILL_MS_MAX = 5_000
/** Where no safekeeper has answered for so long the tail fails. */
const SILENCE_MS_MAX = 60_000

/** `findTimeline` is asked again whenever a safekeeper fails or does not advance: the members may have changed. */
export async function* tail(
  calls: Calls,
  findTimeline: (how: Pick<Try, 'deadlineMs' | 'signal'>) => Promise<GetTimelineResponse>,
  { fromLsn, toLsn, signal }: WalTailOptions,
): AsyncGenerator<WalPiece, void, void> {
  const to = toLsn === undefined ? undefined : readPosition(toLsn)
  let at = fromLsn === undefined ? undefined : readPosition(fromLsn)
  using joined = joinSignals(readSignal(signal), calls.closing)
  let heardAtMs = performance.now()
  for (let turn = 0; ; turn++) {
    try {
      const { timeline, safekeepers } = await findTimeline({
        deadlineMs: ANSWER_MS_MAX,
        signal: joined.signal,
      })
      const alive = safekeepers.filter((item) => item.alive)
      const safekeeper = alive[turn % Math.max(1, alive.length)]
      if (timeline?.timeline === undefined || safekeeper === undefined)
        throw fail('unavailable', 'no safekeeper of the timeline answers')
      const source = new Source(calls, safekeeper.address, timeline.timeline, joined.signal)
      for (let movedAtMs = performance.now(); performance.now() - movedAtMs < STILL_MS_MAX;) {
        const commit = await source.commitLsn()
        heardAtMs = performance.now()
        at ??= commit
        const end = to === undefined || to > commit ? commit : to
        if (at < end) {
          for await (const piece of source.read(at, Math.min(end, at + READ_BYTES_MAX) as Lsn)) {
            at = advance(at, piece.bytes.length)
            yield piece
            // The time that the reader took does not count as silence.
            heardAtMs = performance.now()
          }
          movedAtMs = performance.now()
        } else if (to !== undefined && at >= to) {
          return
        } else {
          await delay(POLL_MS, joined.signal)
        }
      }
    } catch (error) {
      if (!mayPassElsewhere(error) || performance.now() - heardAtMs > SILENCE_MS_MAX) throw withHint(error)
      await delay(POLL_MS, joined.signal)
    }
  }
}

/** A safekeeper that hangs says nothing of the others. */
const mayPassElsewhere = (error: unknown): boolean =>
  mayPass(error) || (error instanceof UnderstoryError && error.code === 'timeout')

class Source {
  readonly #calls: Calls
  readonly #client: SafekeeperServiceClient
  readonly #timeline: TimelineRef
  readonly #call: { readonly peer: string; readonly signal: AbortSignal }

  constructor(calls: Calls, address: string, timeline: TimelineRef, signal: AbortSignal) {
    this.#calls = calls
    this.#client = calls.to(SafekeeperServiceClient, address)
    this.#timeline = timeline
    this.#call = { peer: `the safekeeper at ${address}`, signal }
  }

  async commitLsn(): Promise<Lsn> {
    const ask = this.#client.getWalStatus.bind(this.#client)
    const how = { ...this.#call, deadlineMs: ANSWER_MS_MAX }
    return lsnFromBigint((await this.#calls.once(ask, { timeline: this.#timeline }, how)).commitLsn)
  }

  async *read(startLsn: Lsn, endLsn: Lsn): AsyncGenerator<WalPiece, void, void> {
    const request = {
      timeline: this.#timeline,
      startLsn: lsnToBigint(startLsn),
      endLsn: lsnToBigint(endLsn),
      term: 0n,
    }
    for await (const piece of this.#calls.stream(this.#client.readWal.bind(this.#client), request, {
      ...this.#call,
      silenceMsMax: READ_SILENCE_MS_MAX,
    })) {
      const start = lsnFromBigint(piece.startLsn)
      yield {
        startLsn: formatLsn(start),
        endLsn: formatLsn(advance(start, piece.wal.length)),
        bytes: Buffer.from(piece.wal),
      }
    }
  }
}
