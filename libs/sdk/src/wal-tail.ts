/** Committed WAL of a timeline as it comes, byte for byte, from whichever safekeeper answers. */
import { advance, formatLsn, lsnFromBigint, lsnToBigint, parseLsn, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import { SafekeeperServiceClient, callServerStream, callUnary, createClient } from '@understory/rpc'
import type { CallOptions, ClientSecurity, GetTimelineResponse, TimelineRef } from '@understory/rpc'
import { delay, mayPass } from './retry.ts'

/** Of one read. */
const READ_BYTES_MAX = 4 * 1024 * 1024
const POLL_MS = 100
/** Where no safekeeper has answered for so long the tail fails. */
const SILENCE_MS_MAX = 60_000

export interface WalTailOptions {
  /** Name or id; `main` by default. */
  readonly timeline?: string
  /** First byte, such as `0/3A000148`; the commit position at the start by default. */
  readonly fromLsn?: string
  /** Ends there; goes on until it is left or cancelled by default. */
  readonly toLsn?: string
  readonly signal?: AbortSignal
}

export interface WalPiece {
  /** Position of the first byte. */
  readonly startLsn: string
  /** One past the last. */
  readonly endLsn: string
  readonly bytes: Buffer
}

/** `findTimeline` is asked again whenever a safekeeper fails: the members may have changed. */
export async function* tail(
  findTimeline: () => Promise<GetTimelineResponse>,
  options: WalTailOptions,
  security: ClientSecurity | undefined,
): AsyncGenerator<WalPiece, void, void> {
  const to = options.toLsn === undefined ? undefined : parseLsn(options.toLsn)
  let at = options.fromLsn === undefined ? undefined : parseLsn(options.fromLsn)
  let heardAtMs = performance.now()
  for (let turn = 0; ; turn++) {
    try {
      const { timeline, safekeepers } = await findTimeline()
      const alive = safekeepers.filter((item) => item.alive)
      const safekeeper = alive[turn % Math.max(1, alive.length)]
      if (timeline?.timeline === undefined || safekeeper === undefined)
        throw refuse('unavailable', 'no safekeeper of the timeline answers')
      const ref = timeline.timeline
      using source = new Source(safekeeper.address, ref, security, options.signal)
      for (;;) {
        const commit = await source.commitLsn()
        heardAtMs = performance.now()
        at ??= commit
        const end = to === undefined || to > commit ? commit : to
        if (at < end) {
          for await (const piece of source.read(at, Math.min(end, at + READ_BYTES_MAX) as Lsn)) {
            at = advance(at, piece.bytes.length)
            yield piece
          }
        } else if (to !== undefined && at >= to) {
          return
        } else {
          await delay(POLL_MS, options.signal)
        }
      }
    } catch (error) {
      if (!mayPass(error) || performance.now() - heardAtMs > SILENCE_MS_MAX) throw error
      await delay(POLL_MS, options.signal)
    }
  }
}

class Source implements Disposable {
  readonly #client: SafekeeperServiceClient
  readonly #timeline: TimelineRef
  readonly #call: CallOptions

  constructor(
    address: string,
    timeline: TimelineRef,
    security: ClientSecurity | undefined,
    signal: AbortSignal | undefined,
  ) {
    this.#client = createClient(SafekeeperServiceClient, address, security)
    this.#timeline = timeline
    this.#call = { peer: `the safekeeper at ${address}`, signal }
  }

  async commitLsn(): Promise<Lsn> {
    const ask = this.#client.getWalStatus.bind(this.#client)
    const { commitLsn } = await callUnary(ask, { timeline: this.#timeline }, this.#call)
    return lsnFromBigint(commitLsn)
  }

  async *read(startLsn: Lsn, endLsn: Lsn): AsyncGenerator<WalPiece, void, void> {
    const request = {
      timeline: this.#timeline,
      startLsn: lsnToBigint(startLsn),
      endLsn: lsnToBigint(endLsn),
      term: 0n,
    }
    const read = this.#client.readWal.bind(this.#client)
    for await (const piece of callServerStream(read, request, this.#call)) {
      const start = lsnFromBigint(piece.startLsn)
      yield {
        startLsn: formatLsn(start),
        endLsn: formatLsn(advance(start, piece.wal.length)),
        bytes: Buffer.from(piece.wal),
      }
    }
  }

  [Symbol.dispose](): void {
    this.#client.close()
  }
}
