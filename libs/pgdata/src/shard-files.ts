/**
 * The files of one shard as a stream that continues where it broke: each message says up to which place everything was
 * sent, and the next stream begins behind it. So a reset, a pageserver that starts again, or a shard that is still
 * taking in WAL costs the time that it takes, and not what was received already.
 */
import { LSN_ZERO, isErrorCode, lsnFromBigint, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { isRetryable } from '@understory/env'
import type { PageserverClient } from '@understory/protocol/clients'
import type { StreamFilesResponse } from '@understory/rpc'
import { Patience, patiently, seamsOf, shardRefOf } from './source.ts'
import type { PgdataSource } from './source.ts'

const STATUS_DEADLINE_MS = 5_000
const LOOK_MS = 1_000

export interface ShardSource {
  readonly number: number
  readonly client: PageserverClient
  /** Names its pageserver in errors. */
  readonly peer: string
}

/** The taker of the files. Errors of its own end the stream: nothing is tried again. */
export interface FilesTaker {
  /** Once, before the first piece. */
  begins(pagesTotal: number): void
  /** A piece may come twice. */
  take(piece: StreamFilesResponse['piece']): Promise<void>
  /** The stream broke, or could not begin, and is tried again. */
  broke(error: unknown): void
}

/**
 * Resolves when everything as of `atLsn` was taken. Error: the last one, when nothing came for as long as the patience
 * lasts.
 */
export async function receiveShardFiles(
  source: PgdataSource,
  shard: ShardSource,
  atLsn: Lsn,
  taker: FilesTaker,
): Promise<void> {
  const patience = new Patience(source)
  let place: Uint8Array = new Uint8Array(0)
  let hasBegun = false
  let isOwnFailure = false

  const receive = async (signal: AbortSignal): Promise<void> => {
    const ref = shardRefOf(source, shard.number)
    const messages = shard.client.streamFiles(source.timeline, ref, atLsn, place, { signal })
    for await (const message of messages) {
      isOwnFailure = true
      if (!hasBegun) taker.begins(Number(message.pagesTotal))
      hasBegun = true
      await taker.take(message.piece)
      isOwnFailure = false
      if (message.place.length > 0) place = message.place
      patience.renew()
    }
  }
  const mayRetry = (error: unknown): boolean =>
    !isOwnFailure &&
    (isRetryable(error) ||
      // A pageserver that lost its disk gets its shards back a moment later.
      isErrorCode(error, 'unknown_timeline') ||
      // By another than our caller: a proxy, a server that stops.
      (isErrorCode(error, 'cancelled') && source.signal?.aborted !== true))
  await whileShardMoves(source, shard, () => unlessStalled(source, shard, patience, receive), {
    patience,
    mayRetry,
    onRetry: (error) => taker.broke(error),
  })
}

/** Ends an attempt at which nothing comes for as long as the patience lasts: its server lives, but does not answer. */
async function unlessStalled(
  source: PgdataSource,
  { peer }: ShardSource,
  patience: Patience,
  receive: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stalled = new AbortController()
  const over = new AbortController()
  const watch = async (): Promise<void> => {
    while (!over.signal.aborted) {
      await seamsOf(source).clock.sleep(LOOK_MS, over.signal)
      if (patience.isOver) stalled.abort()
    }
  }
  const watching = watch().catch(() => undefined)
  try {
    const { signal } = source
    await receive(signal === undefined ? stalled.signal : AbortSignal.any([signal, stalled.signal]))
  } catch (error) {
    if (!stalled.signal.aborted || !isErrorCode(error, 'cancelled')) throw error
    throw fail('timeout', `${peer} sends no files`, { cause: error })
  } finally {
    over.abort()
    await watching
  }
}

/**
 * `patiently`, for as long as the shard gets on with its WAL: one that is far behind is waited for, one that stands
 * still is not.
 */
export function whileShardMoves<T>(
  source: PgdataSource,
  shard: ShardSource,
  work: () => Promise<T>,
  how: {
    readonly patience?: Patience
    readonly mayRetry?: (error: unknown) => boolean
    readonly onRetry?: (error: unknown) => void
  } = {},
): Promise<T> {
  const { patience = new Patience(source) } = how
  let ingestedLsn = LSN_ZERO
  const attempt = async (): Promise<T> => {
    try {
      return await work()
    } catch (error) {
      if (isErrorCode(error, 'timeout')) {
        const now = await readIngestedLsn(source, shard).catch(() => LSN_ZERO)
        if (now > ingestedLsn && ingestedLsn > LSN_ZERO) patience.renew()
        ingestedLsn = now > ingestedLsn ? now : ingestedLsn
      }
      throw error
    }
  }
  return patiently(source, attempt, { ...how, patience })
}

async function readIngestedLsn(source: PgdataSource, { number, client }: ShardSource): Promise<Lsn> {
  const call = { signal: source.signal, deadlineMs: STATUS_DEADLINE_MS }
  const shards = await client.shards(source.timeline, call)
  return lsnFromBigint(shards.find(({ shard }) => shard?.number === number)?.ingestedLsn ?? 0n)
}
