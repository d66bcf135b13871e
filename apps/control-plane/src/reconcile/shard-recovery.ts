/**
 * When a shard that has stopped is attached again. What ended it may be over (its layer is whole in the object store,
 * two pageservers had one generation) or not (WAL that this version does not know), and loading a shard is work: so at
 * once, and then with growing pauses.
 */
import type { Clock } from '@understory/env'
import type { ShardStatus } from '@understory/rpc'

const PAUSE_MS_MIN = 10_000
const PAUSE_MS_MAX = 600_000

interface Tries {
  readonly count: number
  readonly lastMs: number
}

export class ShardRecovery {
  readonly #clock: Clock
  readonly #tries = new Map<number, Tries>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Whether the shard, which has stopped, is to be attached again now; that counts as a try. */
  isDue(shard: number): boolean {
    const nowMs = this.#clock.nowMs()
    const tries = this.#tries.get(shard)
    if (tries !== undefined && nowMs < tries.lastMs + pauseMs(tries.count)) return false
    this.#tries.set(shard, { count: (tries?.count ?? 0) + 1, lastMs: nowMs })
    return true
  }

  /** So many times in a row; 0 where it has been well for long. */
  triesOf(shard: number): number {
    return this.#tries.get(shard)?.count ?? 0
  }

  /** It serves. A stopped one does so for a moment after each try: that is not a recovery yet. */
  noteServing(shard: number): void {
    const tries = this.#tries.get(shard)
    if (tries !== undefined && this.#clock.nowMs() > tries.lastMs + 2 * pauseMs(tries.count))
      this.#tries.delete(shard)
  }

  /** The cause that stops the shard, in words; empty where there is none. */
  problemOf(shard: number, { failure, stall, loading }: ShardStatus): string {
    const count = this.triesOf(shard)
    if (failure !== '') {
      return count === 0 ? failure : `${failure} (attached again ${count === 1 ? 'once' : `${count} times`})`
    }
    if (stall !== '') return `stalled: ${stall}`
    return loading ? 'loading its layers' : ''
  }
}

/** After so many tries in a row. */
const pauseMs = (count: number): number => Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** (count - 1))
