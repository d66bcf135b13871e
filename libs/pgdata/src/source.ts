/** Where the parts of a data directory come from: the shards' pageservers and the timeline's safekeepers. */
import { assert, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { isRetryable, realClock, realRng, retry } from '@understory/env'
import type { Clock, Rng } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { WalIdentity } from '@understory/postgres/wal'
import type { ClientContext, ShardRef, TimelineRef } from '@understory/rpc'

export interface PgdataSource {
  /** The context for calls to its servers. */
  readonly rpc: ClientContext
  readonly timeline: TimelineRef
  readonly postgres: PostgresIdentity
  /** Address of each shard's pageserver, by shard number. */
  readonly pageservers: readonly string[]
  readonly stripeBlocks: number
  /** Any of which may be down. */
  readonly safekeepers: readonly string[]
  /** How long storage may take to get to the LSN, and safekeepers to answer; 120,000 by default. */
  readonly patienceMs?: number
  readonly signal?: AbortSignal | undefined
  /** The real ones by default. */
  readonly seams?: { readonly clock: Clock; readonly rng: Rng }
}

const PATIENCE_DEFAULT_MS = 120_000

export const seamsOf = ({ seams }: PgdataSource): { readonly clock: Clock; readonly rng: Rng } =>
  seams ?? { clock: realClock, rng: realRng }

export function shardRefOf({ pageservers, stripeBlocks }: PgdataSource, number: number): ShardRef {
  return { number, count: pageservers.length, stripeBlocks }
}

export const walIdentityOf = ({ postgres }: PgdataSource): WalIdentity => ({
  major: postgres.major,
  systemId: postgres.systemId,
  timelineId: postgres.pgTimelineId,
  segmentBytes: postgres.walSegmentBytes,
})

/** How long storage is waited for that gets no further. */
export class Patience {
  readonly #clock: Clock
  readonly #patienceMs: number
  #untilMs: number

  constructor(source: PgdataSource) {
    this.#clock = seamsOf(source).clock
    this.#patienceMs = source.patienceMs ?? PATIENCE_DEFAULT_MS
    this.#untilMs = this.#clock.nowMs() + this.#patienceMs
  }

  get isOver(): boolean {
    return this.#clock.nowMs() >= this.#untilMs
  }
  /** It got further: the waiting begins again. */
  renew(): void {
    this.#untilMs = this.#clock.nowMs() + this.#patienceMs
  }
}

/**
 * Tries again while the obstacle passes by itself: a shard that is behind, a node that starts again.
 * `onRetry` gets each failure, and may renew the patience.
 */
export async function patiently<T>(
  source: PgdataSource,
  work: () => Promise<T>,
  {
    mayRetry = isRetryable,
    patience = new Patience(source),
    onRetry = () => undefined,
  }: {
    readonly mayRetry?: (error: unknown) => boolean
    readonly patience?: Patience
    readonly onRetry?: (error: unknown) => void
  } = {},
): Promise<T> {
  const options = {
    attemptsMax: Infinity,
    pauseMsMax: 1_000,
    isRetryable: (error: unknown): boolean => mayRetry(error) && !patience.isOver,
    onRetry,
    signal: source.signal,
  }
  return retry(seamsOf(source), options, work)
}

export function checkSource(source: PgdataSource, at: Lsn): void {
  assert(source.pageservers.length > 0, () => 'a timeline has at least one shard')
  if (source.safekeepers.length === 0) throw fail('bad_argument', 'no safekeeper is known for this timeline')
  if (at === 0) throw fail('bad_lsn', 'lsn 0/0 is not a position in WAL')
}
