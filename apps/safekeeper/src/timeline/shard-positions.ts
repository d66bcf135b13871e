/** How far each shard of a timeline has its WAL in the object store, as layers: as its subscriber last said. */
import { LSN_ZERO, maxLsn, minLsn } from '@understory/base'
import type { Lsn } from '@understory/base'

export class ShardPositions {
  readonly #byShard = new Map<number, Lsn>()

  /** Never goes back. */
  note(shard: number, lsn: Lsn): void {
    this.#byShard.set(shard, maxLsn(lsn, this.#byShard.get(shard) ?? LSN_ZERO))
  }

  /** Smallest of all shards that reported; 0/0 before the first. */
  get smallest(): Lsn {
    const [first = LSN_ZERO, ...rest] = this.#byShard.values()
    return rest.reduce(minLsn, first)
  }
}
